"""Which observation hand-made messages make up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from control_bench import IMAGE, IMU, JOINTS, MS, ODOM, image, imu, joints, make_task, number

from fog_policy.observation_buffer import LiveObservation, ObservationBuffer
from fog_policy.safety import Reason
from fog_world_model.data import messages


def buffered(*received: tuple[str, bytes, int]) -> ObservationBuffer:
    buffer = ObservationBuffer(make_task())
    for topic, data, arrival_ms in received:
        buffer.receive(topic, data, arrival_ms * MS)
    return buffer


def test_each_topic_gives_its_newest_message_not_later_than_the_image() -> None:
    buffer = buffered(
        (JOINTS, joints(80, 1.0), 85),
        (JOINTS, joints(100, 2.0), 105),
        (JOINTS, joints(90, 3.0), 107),  # late: older than the one before it
        (IMAGE, image(100, 9), 110),
        (JOINTS, joints(101, 4.0), 111),  # later than the image
        (ODOM, number(1.0), 109),
        (ODOM, number(2.0), 125),  # without a stamp: 15 ms after the image's arrival, in the slack
        (ODOM, number(3.0), 131),  # 21 ms after it
    )
    observation = buffer.newest(140 * MS)
    assert isinstance(observation, LiveObservation)
    assert observation.stamp_ns == 100 * MS
    assert observation.proprioception.tolist() == [2.0, 0.5, 2.0]
    assert (observation.image == 9).all()


def test_an_image_that_cannot_be_completed_gives_way_to_an_older_one() -> None:
    buffer = buffered(
        (JOINTS, joints(100, 1.0), 100),
        (ODOM, number(0.0), 100),
        (IMAGE, image(100, 1), 100),
        (ODOM, number(0.0), 201),
        (IMAGE, image(201, 2), 201),  # its joints are 101 ms older than it
    )
    observation = buffer.newest(210 * MS)
    assert isinstance(observation, LiveObservation)
    assert observation.stamp_ns == 100 * MS
    # Once the older image is past the task's timeout of 0.5 s, there is nothing.
    reason = buffer.newest(601 * MS)
    assert isinstance(reason, Reason)
    assert reason.cause == "proprioception"
    assert "/joint_states is 0.101 s older than the image (limit 0.1 s)" in reason.detail


def test_no_image_and_no_message() -> None:
    reason = buffered().newest(0)
    assert isinstance(reason, Reason)
    assert reason.cause == "image"
    reason = buffered((IMAGE, image(100), 100), (JOINTS, joints(101), 101)).newest(110 * MS)
    assert isinstance(reason, Reason)
    assert "/joint_states has nothing as old as the newest image" in reason.detail


def test_the_reason_says_why_messages_cannot_be_used() -> None:
    other = messages.make(
        "sensor_msgs/msg/JointState",
        header=messages.header(100 * MS, ""),
        name=["ankle"],
        position=np.zeros(1),
    )
    buffer = buffered((IMAGE, image(100), 100), (JOINTS, messages.serialise(other), 100))
    reason = buffer.newest(100 * MS)
    assert isinstance(reason, Reason)
    assert "'position.knee'; its joints are ankle" in reason.detail
    buffer = buffered((IMAGE, image(9_000_000), 100))
    reason = buffer.newest(100 * MS)
    assert isinstance(reason, Reason)
    assert "stamped 8999.9 s ahead of this node's clock" in reason.detail
    reason = buffered((IMAGE, b"\x00\x01\x00", 100)).newest(0)
    assert isinstance(reason, Reason)
    assert "3 bytes do not decode as sensor_msgs/msg/Image" in reason.detail


def test_ages_are_those_of_the_newest_messages() -> None:
    buffer = buffered((JOINTS, joints(100), 130), (IMAGE, image(90), 131), (IMU, imu(95, 0.2), 132))
    assert buffer.image_age_s(200 * MS) == pytest.approx(0.11)
    assert buffer.proprioception_age_s(200 * MS) == {JOINTS: pytest.approx(0.1), ODOM: None}
    assert buffer.orientation_age_s(200 * MS) == pytest.approx(0.105)
    assert buffer.orientation() == pytest.approx([math.sin(0.1), 0, 0, math.cos(0.1)])
