"""What the safety filter stops for, at which limit and in which words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from safety_situations import FINE, TASK, UPRIGHT, WATCHED, WATCHED_FINE, causes, make_task

from fog_policy.safety import (
    EmergencyStop,
    Reason,
    filter_command,
    is_held,
    stop_reasons,
    tilt_rad,
)


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
