"""The safety filter against numbers worked out by hand, and its promises on any input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fog_policy.safety import (
    EmergencyStop,
    Reason,
    Situation,
    check_limits,
    filter_command,
    is_held,
    stop_reasons,
    tilt_rad,
)
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict

UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def make_task(**safety: Any) -> TaskConfig:
    """5 Hz; bounds +-0.8, +-0.4, +-1.2; slew 1, 2 and 3 per second: 0.2, 0.4, 0.6 per step."""
    return task_from_dict(
        {
            "name": "test",
            "control_hz": 5.0,
            "image": {
                "topic": "/camera/image_raw",
                "camera_info_topic": "/camera/camera_info",
                "height": 32,
                "width": 32,
            },
            "proprioception": [
                {
                    "topic": "/joint_states",
                    "type": "sensor_msgs/msg/JointState",
                    "fields": ["position.knee"],
                }
            ],
            "action": {
                "topic": "/cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "linear.y", "angular.z"],
                "low": [-0.8, -0.4, -1.2],
                "high": [0.8, 0.4, 1.2],
            },
            "episode": {"max_steps": 60},
            "safety": {
                "slew_per_s": [1.0, 2.0, 3.0],
                "image_timeout_s": 0.5,
                "proprioception_timeout_s": 0.3,
                "tilt_topic": "/imu/data",
                "max_tilt_rad": 0.6,
                **safety,
            },
        }
    )


TASK = make_task()
FINE = Situation(
    image_age_s=0.05,
    proprioception_age_s={"/joint_states": 0.01},
    orientation=UPRIGHT,
    orientation_age_s=0.01,
)


def causes(situation: Situation, task: TaskConfig = TASK) -> list[str]:
    return [reason.cause for reason in stop_reasons(task, situation)]


def test_a_command_within_every_limit_passes_unchanged() -> None:
    verdict = filter_command(TASK, FINE, [0.3, -0.1, 0.5], [0.2, 0.1, 0.0], 0.2)
    np.testing.assert_allclose(verdict.command, [0.3, -0.1, 0.5])
    assert verdict.stops == ()
    assert verdict.limits == ()


@pytest.mark.parametrize(
    ("proposed", "previous", "dt_s", "expected", "limits"),
    [
        # Out of bounds, close enough for the slew rate.
        ([0.9, 0.0, -1.5], [0.7, 0.0, -1.0], 0.2, [0.8, 0.0, -1.2], ("bounds",)),
        # From rest one step reaches 1 x 0.2, 2 x 0.2 and 3 x 0.2.
        ([0.8, -0.4, 1.2], [0.0, 0.0, 0.0], 0.2, [0.2, -0.4, 0.6], ("slew",)),
        # Half a period: half of it.
        ([0.8, 0.4, 0.1], [0.0, 0.0, 0.0], 0.1, [0.1, 0.2, 0.1], ("slew",)),
        # A reversal is limited as well: 0.5 - 0.2, 0.3 - 0.4, -0.9 + 0.6.
        ([-0.8, -0.4, 1.2], [0.5, 0.3, -0.9], 0.2, [0.3, -0.1, -0.3], ("slew",)),
        # A pause of 10 s does not save up for a jump.
        ([0.8, 0.0, 0.0], [0.0, 0.0, 0.0], 10.0, [0.2, 0.0, 0.0], ("slew",)),
        # Out of bounds and too fast.
        ([2.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.2, [0.2, 0.0, 0.0], ("bounds", "slew")),
        # No time has passed, or the clock is broken: no change.
        ([0.8, 0.0, 0.0], [0.4, 0.0, 0.0], 0.0, [0.4, 0.0, 0.0], ("slew",)),
        ([0.8, 0.0, 0.0], [0.4, 0.0, 0.0], -1.0, [0.4, 0.0, 0.0], ("slew",)),
        ([0.8, 0.0, 0.0], [0.4, 0.0, 0.0], math.nan, [0.4, 0.0, 0.0], ("slew",)),
    ],
)
def test_bounds_and_slew(
    proposed: list[float],
    previous: list[float],
    dt_s: float,
    expected: list[float],
    limits: tuple[str, ...],
) -> None:
    verdict = filter_command(TASK, FINE, proposed, previous, dt_s)
    np.testing.assert_allclose(verdict.command, expected, atol=1e-12)
    assert verdict.limits == limits
    assert verdict.stops == ()


def test_an_extreme_action_of_float32_is_no_breach_of_the_bounds() -> None:
    proposed = TASK.action.to_physical(np.ones(3, np.float32))
    verdict = filter_command(TASK, FINE, proposed, [0.8, 0.4, 1.2], 0.2)
    assert verdict.limits == ()
    assert (verdict.command <= [0.8, 0.4, 1.2]).all()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image_age_s": None}, ["image"]),
        ({"image_age_s": 0.5}, []),
        ({"image_age_s": 0.51}, ["image"]),
        # A stamp from the future would hide that the camera has stopped.
        ({"image_age_s": -0.51}, ["image"]),
        ({"proprioception_age_s": {"/joint_states": None}}, ["proprioception"]),
        ({"proprioception_age_s": {"/joint_states": 0.31}}, ["proprioception"]),
        ({"proprioception_age_s": {"/joint_states": 0.3}}, []),
        ({"orientation": None, "orientation_age_s": None}, ["tilt"]),
        ({"orientation_age_s": 0.31}, ["tilt"]),
        ({"orientation": (0.0, 0.0, 0.0, 0.0)}, ["tilt"]),
        ({"orientation": (math.nan, 0.0, 0.0, 1.0)}, ["tilt"]),
        ({"emergency_stop": "somebody"}, ["emergency_stop"]),
        ({"faults": (Reason("policy", "it broke"),)}, ["policy"]),
        # One line for each stream: the fault says more than the age.
        ({"faults": (Reason("image", "yuv"),), "image_age_s": None}, ["image"]),
        (
            {"emergency_stop": "somebody", "image_age_s": 3.0, "orientation_age_s": 3.0},
            ["emergency_stop", "image", "tilt"],
        ),
    ],
)
def test_what_stops_the_robot(changes: dict[str, Any], expected: list[str]) -> None:
    situation = dataclasses.replace(FINE, **changes)
    assert causes(situation) == expected
    verdict = filter_command(TASK, situation, [0.3, 0.0, 0.0], [0.3, 0.0, 0.0], 0.2)
    # A stop is at once, whatever the slew rate.
    np.testing.assert_array_equal(verdict.command, [0.0, 0.0, 0.0] if expected else [0.3, 0.0, 0.0])


def test_reasons_name_topic_value_and_limit() -> None:
    (reason,) = stop_reasons(TASK, dataclasses.replace(FINE, image_age_s=1.25))
    assert str(reason) == "image: /camera/image_raw is 1.25 s old (limit 0.5 s)"
    (reason,) = stop_reasons(TASK, dataclasses.replace(FINE, image_age_s=-0.97))
    assert reason.detail == "/camera/image_raw is stamped 0.97 s ahead of now (limit 0.5 s)"
    (reason,) = stop_reasons(TASK, dataclasses.replace(FINE, image_age_s=1.7e9))
    assert "use_sim_time" in reason.detail


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_command_that_is_not_finite_stops(bad: float) -> None:
    verdict = filter_command(TASK, FINE, [0.1, bad, 0.1], [0.1, 0.1, 0.1], 0.2)
    np.testing.assert_array_equal(verdict.command, np.zeros(3))
    assert [reason.cause for reason in verdict.stops] == ["policy"]


def test_no_command_stops() -> None:
    verdict = filter_command(TASK, FINE, None, [0.1, 0.1, 0.1], 0.2)
    np.testing.assert_array_equal(verdict.command, np.zeros(3))
    assert [reason.cause for reason in verdict.stops] == ["policy"]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (UPRIGHT, 0.0),
        # Turning about the vertical is no tilt.
        ((0.0, 0.0, math.sin(1.0), math.cos(1.0)), 0.0),
        # Roll and pitch by 0.5 rad: half angles of 0.25.
        ((math.sin(0.25), 0.0, 0.0, math.cos(0.25)), 0.5),
        ((0.0, math.sin(-0.25), 0.0, math.cos(0.25)), 0.5),
        # On the back, and lying on the side.
        ((1.0, 0.0, 0.0, 0.0), math.pi),
        ((math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)), math.pi / 2),
        # Roll 0.5 then pitch 0.5: the axis ends at cos 0.5 x cos 0.5 = 0.7702, which is 0.6918 rad.
        (
            (
                math.sin(0.25) * math.cos(0.25),
                math.cos(0.25) * math.sin(0.25),
                -math.sin(0.25) * math.sin(0.25),
                math.cos(0.25) * math.cos(0.25),
            ),
            0.6918,
        ),
    ],
)
def test_tilt(orientation: Sequence[float], expected: float) -> None:
    assert tilt_rad(orientation) == pytest.approx(expected, abs=1e-4)


def test_tilt_limit() -> None:
    for angle, expected in ((0.59, []), (0.61, ["tilt"]), (-0.61, ["tilt"])):
        lying = (0.0, math.sin(angle / 2), 0.0, math.cos(angle / 2))
        assert causes(dataclasses.replace(FINE, orientation=lying)) == expected
    unwatched = make_task(tilt_topic="")
    lying = (1.0, 0.0, 0.0, 0.0)
    assert causes(dataclasses.replace(FINE, orientation=lying), unwatched) == []


def test_dead_mans_switch() -> None:
    task = make_task(deadman_topic="/joy", deadman_timeout_s=0.5)
    for age_s, expected in ((None, ["deadman"]), (0.5, []), (0.51, ["deadman"])):
        assert causes(dataclasses.replace(FINE, deadman_age_s=age_s), task) == expected
    assert causes(FINE) == []


def test_emergency_stop_latches_and_keeps_the_first_reason() -> None:
    stop = EmergencyStop()
    assert stop.reason is None
    stop.engage("first")
    stop.engage("second")
    assert stop.reason == "first"
    stop.reset()
    assert stop.reason is None


def test_a_task_that_cannot_stop_is_refused() -> None:
    check_limits(TASK)
    action = dataclasses.replace(TASK.action, low=(0.1, -0.4, -1.2))
    with pytest.raises(FogError, match=r"linear\.x is bounded to \[0\.1, 0\.8\]"):
        check_limits(dataclasses.replace(TASK, action=action))


def test_an_output_far_out_of_range_is_a_fault() -> None:
    """The range of linear.x is 1.6, so beyond 2.4 the policy is not believed."""
    assert filter_command(TASK, FINE, [2.39, 0.0, 0.0], [0.0] * 3, 0.2).stops == ()
    verdict = filter_command(TASK, FINE, [0.1, 0.0, -3.7], [0.1] * 3, 0.2)
    np.testing.assert_array_equal(verdict.command, np.zeros(3))
    # 3.7 is 2.5 beyond 1.2, of a range of 2.4.
    assert [str(r) for r in verdict.stops] == [
        "policy: angular.z -3.7 lies 1 ranges outside [-1.2, 1.2] (limit 1)"
    ]
    clipping = make_task(out_of_range=0.0)
    assert filter_command(clipping, FINE, [1e9, 0.0, 0.0], [0.0] * 3, 0.2).stops == ()
    (reason,) = filter_command(TASK, FINE, [0.1, 0.1], [0.0] * 3, 0.2).stops
    assert reason.detail == "(2,) is no command of 3 fields"


@pytest.mark.parametrize(
    ("proposed", "previous", "rate", "dt_s", "command", "next_rate", "limits"),
    [
        # From rest the rate may reach 2.5 x 0.2 = 0.5, then 1.0, which is the slew rate.
        (0.8, 0.0, 0.0, 0.2, 0.1, 0.5, ("slew", "jerk")),
        (0.8, 0.1, 0.5, 0.2, 0.3, 1.0, ("slew",)),
        # Half the time: half the rate, a quarter of the way.
        (0.8, 0.0, 0.0, 0.1, 0.025, 0.25, ("slew", "jerk")),
        # 0.15 before the bound: r 0.2 + r^2 / 5 = 0.15 has the root 0.5.
        (0.8, 0.65, 0.75, 0.2, 0.75, 0.5, ("jerk",)),
        # 0.05 before a target in the middle: 2.5 (sqrt(0.04 + 0.04) - 0.2) = 0.2071.
        (0.35, 0.3, 0.5, 0.2, 0.34142, 0.20711, ("jerk",)),
        # Turned round at full speed: the rate falls by 0.5 only, so the command still rises.
        (-0.8, 0.2, 1.0, 0.2, 0.3, 0.5, ("slew", "jerk")),
        # No time has passed: nothing changes.
        (0.8, 0.2, 1.0, 0.0, 0.2, 1.0, ("slew",)),
    ],
)
def test_jerk(
    proposed: float,
    previous: float,
    rate: float,
    dt_s: float,
    command: float,
    next_rate: float,
    limits: tuple[str, ...],
) -> None:
    task = make_task(jerk_per_s2=[2.5, 0.0, 0.0])
    verdict = filter_command(task, FINE, [proposed, 0, 0], [previous, 0, 0], dt_s, [rate, 0, 0])
    np.testing.assert_allclose(verdict.command, [command, 0, 0], atol=1e-5)
    np.testing.assert_allclose(verdict.rate, [next_rate, 0, 0], atol=1e-5)
    assert verdict.limits == limits


def test_the_default_jerk_is_hardly_felt_at_the_control_rate() -> None:
    """Slew 1 per s within 20 ms is 50 per s^2: 50 (sqrt(0.04 + 0.4 / 50) - 0.2) 0.2 = 0.1909."""
    verdict = filter_command(TASK, FINE, [0.2, 0, 0], [0, 0, 0], 0.2, [0, 0, 0])
    assert verdict.command[0] == pytest.approx(0.19089, abs=1e-5)
    # One command of a hold at 50 Hz builds up the whole rate, but from rest no more.
    verdict = filter_command(TASK, FINE, [0.8, 0, 0], [0, 0, 0], 0.02, [0, 0, 0])
    assert verdict.rate[0] == pytest.approx(1.0)
    verdict = filter_command(TASK, FINE, [0.8, 0, 0], [0, 0, 0], 0.01, [0, 0, 0])
    assert verdict.rate[0] == pytest.approx(0.5)


def test_a_stop_leaves_no_rate_and_an_empty_rate_is_none() -> None:
    stopped = filter_command(
        TASK, dataclasses.replace(FINE, emergency_stop="x"), [0.8] * 3, [0.8] * 3, 0.2, [1.0] * 3
    )
    np.testing.assert_array_equal(stopped.rate, np.zeros(3))
    task = make_task(jerk_per_s2=[2.5, 2.5, 2.5])
    verdict = filter_command(task, FINE, [0.8, 0, 0], np.zeros(3), 0.2, np.zeros(0))
    assert verdict.command[0] == pytest.approx(0.1)


def test_every_stream_may_have_its_own_timeout() -> None:
    task = make_task(timeouts_s={"/camera/image_raw": 0.2, "/joint_states": 0.05, "/imu/data": 0.1})
    just = dataclasses.replace(
        FINE,
        image_age_s=0.2,
        proprioception_age_s={"/joint_states": 0.05, "/odom": 0.3},
        orientation_age_s=0.1,
    )
    assert causes(just, task) == []
    late = dataclasses.replace(
        just,
        image_age_s=0.21,
        proprioception_age_s={"/joint_states": 0.06, "/odom": 0.31},
        orientation_age_s=0.11,
    )
    assert [str(r) for r in stop_reasons(task, late)] == [
        "image: /camera/image_raw is 0.21 s old (limit 0.2 s)",
        "proprioception: /joint_states is 0.06 s old (limit 0.05 s)",
        "proprioception: /odom is 0.31 s old (limit 0.3 s)",
        "tilt: /imu/data is 0.11 s old (limit 0.1 s)",
    ]


def test_a_picture_that_stays_too_long_stops_and_does_not_latch() -> None:
    (reason,) = stop_reasons(TASK, dataclasses.replace(FINE, picture_still_s=1.25))
    assert str(reason) == (
        "frozen_image: /camera/image_raw shows the same picture to the bit, though the robot has "
        "been told to move for 1.25 s (limit 1 s)"
    )
    assert not reason.latching
    assert causes(dataclasses.replace(FINE, picture_still_s=1.0)) == []
    still = dataclasses.replace(FINE, picture_still_s=99.0)
    assert causes(still, make_task(frozen_image_s=0.0)) == []
    assert causes(still, make_task(frozen_image_s=100.0)) == []


def test_a_fall_latches_and_a_tilt_does_not() -> None:
    def at(angle: float, **safety: Any) -> list[tuple[str, bool]]:
        lying = (math.sin(angle / 2), 0.0, 0.0, math.cos(angle / 2))
        situation = dataclasses.replace(FINE, orientation=lying)
        return [(r.cause, r.latching) for r in stop_reasons(make_task(**safety), situation)]

    assert at(0.99) == [("tilt", False)]
    assert at(1.01) == [("fall", True)]
    assert at(-1.01) == [("fall", True)]
    assert at(1.01, fall_tilt_rad=0.0) == [("tilt", False)]
    # A robot that may lean by 1.2 rad has not fallen at 1.1.
    assert at(1.1, max_tilt_rad=1.2) == []


HOT = {"topic": "/motor_temperatures", "type": "x/msg/Y", "fields": ["knee", "hip"], "max_c": 70.0}
WATCHED = make_task(
    temperature=HOT,
    battery={"topic": "/battery", "min_v": 25.0},
    geofence={"topic": "/odom", "x_m": [-1.0, 3.0], "y_m": [-2.0, 2.0]},
)
WATCHED_FINE = dataclasses.replace(
    FINE,
    temperature_c=(50.0, 70.0),
    temperature_age_s=5.0,
    battery_v=25.0,
    battery_age_s=5.0,
    position_m=(3.0, -2.0),
    position_age_s=0.5,
)


@pytest.mark.parametrize(
    ("changes", "expected", "latching"),
    [
        (
            {"temperature_c": (71.0, 20.0)},
            "temperature: /motor_temperatures knee is 71.0 C (limit 70 C)",
            True,
        ),
        (
            {"temperature_c": (20.0, math.nan)},
            "temperature: /motor_temperatures hip is not finite: nan",
            False,
        ),
        (
            {"temperature_age_s": 5.1},
            "temperature: /motor_temperatures is 5.10 s old (limit 5 s)",
            False,
        ),
        (
            {"temperature_c": None, "temperature_age_s": None},
            "temperature: nothing came on /motor_temperatures yet",
            False,
        ),
        ({"battery_v": 24.9}, "battery: /battery voltage is 24.90 V (limit 25 V)", True),
        ({"battery_v": math.nan}, "battery: /battery voltage is not finite: nan", False),
        ({"battery_age_s": 6.0}, "battery: /battery is 6.00 s old (limit 5 s)", False),
        ({"battery_age_s": None}, "battery: nothing came on /battery yet", False),
        ({"position_m": (3.01, 0.0)}, "geofence: /odom x is 3.01 m (limits [-1, 3] m)", True),
        ({"position_m": (0.0, -2.5)}, "geofence: /odom y is -2.50 m (limits [-2, 2] m)", True),
        ({"position_m": (math.inf, 0.0)}, "geofence: /odom x is not finite: inf", False),
        ({"position_age_s": 0.6}, "geofence: /odom is 0.60 s old (limit 0.5 s)", False),
        ({"position_m": None}, "geofence: no position came on /odom yet", False),
    ],
)
def test_temperature_battery_and_geofence(
    changes: dict[str, Any], expected: str, latching: bool
) -> None:
    assert stop_reasons(WATCHED, WATCHED_FINE) == ()
    situation = dataclasses.replace(WATCHED_FINE, **changes)
    (reason,) = stop_reasons(WATCHED, situation)
    assert str(reason) == expected
    assert reason.latching is latching
    # Off where the task names no topic.
    assert stop_reasons(TASK, situation) == ()


def test_which_button_is_held() -> None:
    assert is_held(TASK, [0, 0, 1])
    assert not is_held(TASK, [0, 0, 0])
    assert not is_held(TASK, [])
    fifth = make_task(deadman_topic="/joy", deadman_button=4)
    assert is_held(fifth, [0, 0, 0, 0, 1])
    assert not is_held(fifth, [1, 1, 1, 1, 0])
    assert not is_held(fifth, [1, 1])
    (reason,) = stop_reasons(fifth, FINE)
    assert str(reason) == "deadman: button 4 is not held on /joy"


def test_only_what_latches_engages_the_emergency_stop() -> None:
    stop = EmergencyStop()
    stop.obey(filter_command(TASK, dataclasses.replace(FINE, image_age_s=9.0), None, [0] * 3, 0.2))
    assert stop.reason is None
    fallen = dataclasses.replace(FINE, orientation=(1.0, 0.0, 0.0, 0.0))
    stop.obey(filter_command(TASK, fallen, [0.1] * 3, [0.0] * 3, 0.2))
    assert stop.reason == "fall: fallen: tilted by 3.14 rad (limit 1 rad)"


ANYTHING = st.floats(width=64, allow_nan=True, allow_infinity=True)
ORDINARY = st.floats(-3.0, 3.0)
AGES = st.one_of(st.none(), ANYTHING, st.floats(0.0, 0.6))
SITUATIONS = st.builds(
    Situation,
    image_age_s=AGES,
    proprioception_age_s=st.fixed_dictionaries({"/joint_states": AGES}),
    orientation=st.one_of(st.none(), st.tuples(*[ANYTHING] * 4), st.just(UPRIGHT)),
    orientation_age_s=AGES,
    deadman_age_s=AGES,
    emergency_stop=st.one_of(st.none(), st.just("test")),
    temperature_c=st.one_of(st.none(), st.tuples(ANYTHING, ANYTHING)),
    temperature_age_s=AGES,
    battery_v=st.one_of(st.none(), ANYTHING),
    battery_age_s=AGES,
    position_m=st.one_of(st.none(), st.tuples(ANYTHING, ANYTHING)),
    position_age_s=AGES,
)
VECTORS = st.lists(st.one_of(ORDINARY, ANYTHING), min_size=3, max_size=3)
JERKY = make_task(jerk_per_s2=[2.5, 8.0, 0.0])


# No deadline: a busy machine is no failure.
@settings(deadline=None)
@given(
    situation=st.one_of(SITUATIONS, st.just(FINE)),
    proposed=st.one_of(st.none(), st.lists(st.one_of(ORDINARY, ANYTHING), min_size=3, max_size=3)),
    previous=st.lists(st.one_of(ORDINARY, ANYTHING), min_size=3, max_size=3),
    dt_s=st.one_of(st.floats(0.0, 0.5), ANYTHING),
)
def test_every_command_is_finite_and_within_the_bounds(
    situation: Situation, proposed: list[float] | None, previous: list[float], dt_s: float
) -> None:
    verdict = filter_command(TASK, situation, proposed, previous, dt_s)
    assert np.isfinite(verdict.command).all()
    assert (verdict.command >= TASK.action.low).all()
    assert (verdict.command <= TASK.action.high).all()
    if verdict.stops:
        np.testing.assert_array_equal(verdict.command, np.zeros(3))


@settings(deadline=None)
@given(
    situation=st.one_of(SITUATIONS, st.just(FINE)),
    proposals=st.lists(
        st.lists(st.one_of(ORDINARY, ANYTHING), min_size=3, max_size=3), min_size=1, max_size=20
    ),
    dt_s=st.floats(0.0, 5.0),
)
def test_no_sequence_of_proposals_exceeds_the_slew_rate(
    situation: Situation, proposals: list[list[float]], dt_s: float
) -> None:
    previous = np.zeros(3)
    largest = np.asarray(TASK.safety.slew_per_s) * min(dt_s, 0.2)
    for proposed in proposals:
        verdict = filter_command(TASK, situation, proposed, previous, dt_s)
        if not verdict.stops:
            assert (np.abs(verdict.command - previous) <= largest + 1e-12).all()
        previous = verdict.command


@settings(deadline=None)
@given(age_s=st.one_of(ANYTHING, st.none()))
@example(math.nan)
def test_no_age_but_a_small_one_lets_the_robot_move(age_s: float | None) -> None:
    situation = dataclasses.replace(FINE, image_age_s=age_s)
    assert (causes(situation) == []) is (age_s is not None and -0.5 <= age_s <= 0.5)
    task = make_task(deadman_topic="/joy", deadman_timeout_s=0.5)
    situation = dataclasses.replace(FINE, deadman_age_s=age_s)
    assert (causes(situation, task) == []) is (age_s is not None and age_s <= 0.5)


@settings(deadline=None)
@given(
    task=st.sampled_from([TASK, JERKY]),
    steps=st.lists(
        st.tuples(
            st.one_of(st.just(FINE), st.just(FINE), SITUATIONS),
            VECTORS,
            st.one_of(st.floats(0.0, 0.3), st.just(0.2), st.just(0.02)),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_bounds_slew_and_jerk_hold_from_step_to_step(
    task: TaskConfig, steps: list[tuple[Situation, list[float], float]]
) -> None:
    """However the steps are cut; no limit is kept at another's cost."""
    slew, jerk = np.asarray(task.safety.slew_per_s), np.asarray(task.safety.jerk(5.0))
    jerk = np.where(jerk > 0, jerk, np.inf)
    previous, rate = np.zeros(3), np.zeros(3)
    for situation, proposed, dt_s in steps:
        verdict = filter_command(task, situation, proposed, previous, dt_s, rate)
        assert np.isfinite(verdict.command).all()
        assert np.isfinite(verdict.rate).all()
        assert (verdict.command >= task.action.low).all()
        assert (verdict.command <= task.action.high).all()
        if verdict.stops:
            np.testing.assert_array_equal(verdict.command, np.zeros(3))
            np.testing.assert_array_equal(verdict.rate, np.zeros(3))
        else:
            step_s = min(dt_s, 0.2)
            moved = verdict.command - previous
            assert (np.abs(moved) <= slew * step_s + 1e-9).all()
            np.testing.assert_allclose(moved, verdict.rate * step_s, atol=1e-9)
            with np.errstate(invalid="ignore"):
                largest = np.nan_to_num(jerk * step_s, nan=0.0, posinf=np.inf)
            unbounded = np.isinf(jerk)
            assert ((np.abs(verdict.rate - rate) <= largest + 1e-7) | unbounded).all()
        previous, rate = verdict.command, verdict.rate


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.one_of(st.just(WATCHED_FINE), SITUATIONS),
            VECTORS,
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_a_latched_stop_holds_until_the_reset(
    steps: list[tuple[Situation, list[float], bool]],
) -> None:
    stop, latched = EmergencyStop(), False
    previous, rate = np.zeros(3), np.zeros(3)
    for situation, proposed, reset in steps:
        if reset:
            stop.reset()
            latched = False
        now = dataclasses.replace(situation, emergency_stop=stop.reason)
        verdict = filter_command(WATCHED, now, proposed, previous, 0.2, rate)
        stop.obey(verdict)
        if latched:
            assert verdict.stops
        latched = latched or any(reason.latching for reason in verdict.stops)
        assert (stop.reason is not None) is latched
        if verdict.stops:
            np.testing.assert_array_equal(verdict.command, np.zeros(3))
        previous, rate = verdict.command, verdict.rate


@settings(deadline=None)
@given(proposed=VECTORS.filter(lambda v: bool(np.isfinite(v).all())))
def test_jerk_bounded_commands_reach_a_constant_target(proposed: list[float]) -> None:
    """Braking in time does not mean never arriving, and there is no overshoot on the way."""
    task = make_task(jerk_per_s2=[2.5, 8.0, 0.0], out_of_range=0.0)
    target = np.clip(proposed, task.action.low, task.action.high)
    previous, rate = np.zeros(3), np.zeros(3)
    for _ in range(30):
        verdict = filter_command(task, FINE, proposed, previous, 0.2, rate)
        assert (np.abs(verdict.command) <= np.abs(target) + 1e-9).all()
        previous, rate = verdict.command, verdict.rate
    np.testing.assert_allclose(previous, target, atol=1e-6)
