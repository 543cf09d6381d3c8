"""What does not fit between a bundle and a robot, on hand-made messages."""

from __future__ import annotations

import numpy as np

from fog_policy.bundle_fit import messages_misfit, sizes_misfit
from fog_world_model.data import messages
from fog_world_model.task import TaskConfig, task_from_dict

MS = 1_000_000
IMAGE, JOINTS = "/camera/image_raw", "/joint_states"


def make_task() -> TaskConfig:
    """5 Hz, one joint."""
    return task_from_dict(
        {
            "name": "test",
            "control_hz": 5.0,
            "image": {
                "topic": IMAGE,
                "camera_info_topic": "/camera/camera_info",
                "height": 16,
                "width": 24,
            },
            "proprioception": [
                {
                    "topic": JOINTS,
                    "type": "sensor_msgs/msg/JointState",
                    "fields": ["position.knee"],
                }
            ],
            "action": {
                "topic": "/cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "angular.z"],
                "low": [-1.0, -2.0],
                "high": [1.0, 2.0],
            },
            "episode": {"max_steps": 60},
            "safety": {"slew_per_s": [100.0, 100.0]},
        }
    )


def joints(stamp_ms: int, name: str = "knee") -> bytes:
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/JointState",
            header=messages.header(stamp_ms * MS, "base"),
            name=[name],
            position=np.zeros(1),
        )
    )


def image(stamp_ms: int, encoding: str = "rgb8") -> bytes:
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/Image",
            header=messages.header(stamp_ms * MS, "camera"),
            height=2,
            width=2,
            encoding=encoding,
            step=6,
            data=np.zeros(12, np.uint8),
        )
    )


def test_what_fits_is_passed() -> None:
    sizes = {"height": 16, "width": 24, "action_size": 2, "proprioception_size": 1, "depth": 8}
    assert sizes_misfit(make_task(), sizes) == []
    times = range(1000, 2600, 200)
    samples = {IMAGE: [image(t) for t in times], JOINTS: [joints(t) for t in times], "/other": []}
    assert messages_misfit(make_task(), samples) == []
    assert messages_misfit(make_task(), {}) == []


def test_networks_of_another_size() -> None:
    sizes = {"height": 24, "width": 16, "action_size": 2, "proprioception_size": 1}
    assert sizes_misfit(make_task(), sizes) == [
        "its networks have height 24, but its task 'test' has 16",
        "its networks have width 16, but its task 'test' has 24",
    ]


def test_a_joint_of_another_name_and_an_unknown_encoding() -> None:
    samples = {IMAGE: [image(1000, "no_such")], JOINTS: [joints(1000, "ankle")]}
    picture, joint = messages_misfit(make_task(), samples)
    assert picture.startswith(f"{IMAGE}: ") and "no_such" in picture
    assert "'position.knee'; its joints are ankle" in joint


def test_a_stream_that_is_too_slow() -> None:
    # 400 ms apart: 2.5 Hz for a policy that decides 5 times a second.
    slow = [image(t) for t in range(1000, 3000, 400)]
    (problem,) = messages_misfit(make_task(), {IMAGE: slow})
    assert problem.startswith("/camera/image_raw comes at 2.5 Hz, but task 'test' decides at 5 Hz")
    # Three stamps are too few to speak of a rate, and one lost message is not a low rate.
    assert messages_misfit(make_task(), {IMAGE: slow[:3]}) == []
    lost = [image(t) for t in (1000, 1200, 1600, 1800, 2000)]
    assert messages_misfit(make_task(), {IMAGE: lost}) == []
