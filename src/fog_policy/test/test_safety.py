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
        ([5.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.2, [0.2, 0.0, 0.0], ("bounds", "slew")),
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
)


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
