"""What the policy node publishes, decoded again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fog_policy.encoding import ERROR, encode_command, encode_diagnostics
from fog_world_model.data import messages
from fog_world_model.task import TaskConfig


def test_a_command_goes_into_the_fields_that_the_task_names(tiny_task: TaskConfig) -> None:
    data = encode_command(tiny_task, np.array([0.1, -0.2, 0.3]), 5)
    message = messages.deserialise(data, "geometry_msgs/msg/Twist")
    values = (message.linear.x, message.linear.y, message.linear.z, message.angular.z)
    assert values == pytest.approx((0.1, -0.2, 0.0, 0.3))


def test_a_type_with_a_header_gets_the_time(tiny_task: TaskConfig) -> None:
    action = dataclasses.replace(
        tiny_task.action,
        type="geometry_msgs/msg/TwistStamped",
        fields=("twist.linear.x", "twist.linear.y", "twist.angular.z"),
    )
    task = dataclasses.replace(tiny_task, action=action)
    data = encode_command(task, np.array([0.1, -0.2, 0.3]), 1_500_000_000)
    message = messages.deserialise(data, "geometry_msgs/msg/TwistStamped")
    assert messages.header_stamp_ns(message) == 1_500_000_000
    assert message.twist.angular.z == pytest.approx(0.3)


def test_diagnostics_are_flat_text() -> None:
    data = encode_diagnostics(
        "node", ERROR, "it stopped", {"hz": 4.999999999, "stops": {"tilt": {"events": 2}}}, 7
    )
    array = messages.deserialise(data, "diagnostic_msgs/msg/DiagnosticArray")
    assert messages.header_stamp_ns(array) == 7
    (status,) = array.status
    assert (status.level, status.name, status.message) == (2, "node: control", "it stopped")
    assert {v.key: v.value for v in status.values} == {"hz": "5", "stops.tilt.events": "2"}
