"""What the safety filter watches beside the observation, out of real serialised messages."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fog_policy.safety import Situation, stop_reasons
from fog_policy.safety_inputs import SafetyInputs
from fog_world_model.data.messages import header, make, serialise
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict

SECOND = 1_000_000_000
SECTIONS: dict[str, Any] = {
    "temperature": {
        "topic": "/knee/temperature",
        "type": "sensor_msgs/msg/Temperature",
        "fields": ["temperature"],
        "max_c": 70.0,
    },
    "battery": {"topic": "/battery", "min_v": 25.0},
    "geofence": {"topic": "/odom", "x_m": [-1.0, 3.0], "y_m": [-2.0, 2.0]},
}


def watching(task: TaskConfig, **sections: Any) -> TaskConfig:
    content = task.to_dict()
    content["safety"].update(sections)
    return task_from_dict(content)


def odometry(x: float, y: float, stamp_ns: int) -> bytes:
    message = make("nav_msgs/msg/Odometry", header=header(stamp_ns, "odom"))
    message.pose.pose.position.x, message.pose.pose.position.y = x, y
    return serialise(message)


def test_values_and_ages(tiny_task: TaskConfig) -> None:
    task = watching(tiny_task, **SECTIONS)
    inputs = SafetyInputs(task)
    assert inputs.topics() == {
        "/knee/temperature": "sensor_msgs/msg/Temperature",
        "/battery": "sensor_msgs/msg/BatteryState",
        "/odom": "nav_msgs/msg/Odometry",
    }
    assert set(inputs.situation(0).values()) == {None}
    now = 100 * SECOND
    hot = make("sensor_msgs/msg/Temperature", header=header(99 * SECOND, ""), temperature=71.5)
    inputs.receive("/knee/temperature", serialise(hot), now)
    # A driver that leaves the stamp at zero: the time of arrival counts.
    inputs.receive("/battery", serialise(make("sensor_msgs/msg/BatteryState", voltage=26.5)), now)
    inputs.receive("/odom", odometry(1.5, -2.5, now), now)
    inputs.receive("/elsewhere", b"", now)
    found = inputs.situation(now + SECOND // 4)
    assert found == {
        "temperature_c": [71.5],
        "temperature_age_s": 1.25,
        "battery_v": 26.5,
        "battery_age_s": 0.25,
        "position_m": [1.5, -2.5],
        "position_age_s": 0.25,
    }
    seen = Situation(image_age_s=0.0, proprioception_age_s={"/odom": 0.0})
    reasons = stop_reasons(task, dataclasses.replace(seen, **found))
    assert [str(r) for r in reasons] == [
        "temperature: /knee/temperature temperature is 71.5 C (limit 70 C)",
        "geofence: /odom y is -2.50 m (limits [-2, 2] m)",
    ]
    inputs.clear()
    assert set(inputs.situation(now).values()) == {None}


def test_a_message_that_cannot_be_read_lets_the_value_grow_stale(tiny_task: TaskConfig) -> None:
    inputs = SafetyInputs(watching(tiny_task, geofence=SECTIONS["geofence"]))
    inputs.receive("/odom", odometry(1.0, 0.0, SECOND), SECOND)
    inputs.receive("/odom", b"\x00\x01\x00\x00\x07", 3 * SECOND)
    assert inputs.situation(3 * SECOND) == {"position_m": [1.0, 0.0], "position_age_s": 2.0}


def test_a_task_without_these_topics_watches_nothing(tiny_task: TaskConfig) -> None:
    inputs = SafetyInputs(tiny_task)
    assert inputs.topics() == {}
    assert inputs.situation(0) == {}


def test_a_topic_has_one_type(tiny_task: TaskConfig) -> None:
    battery = {**SECTIONS["battery"], "topic": "/odom"}
    with pytest.raises(FogError, match=r"topic /odom is named as nav_msgs.* as sensor_msgs"):
        SafetyInputs(watching(tiny_task, battery=battery))
