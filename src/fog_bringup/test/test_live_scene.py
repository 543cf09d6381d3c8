from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fog_bringup.live_scene import POSE, ControlGrid, LiveScene, object_name, stamp_of
from fog_bringup.robots.robot import Observation
from fog_bringup.robots.streams import observation_messages

MS = 1_000_000


class StillRobot:
    """Gives the camera's geometry."""

    fovy_deg = 90.0
    has_inertial = True


def observed(stamp_ns: int, x: float) -> Observation:
    return Observation(
        stamp_ns=stamp_ns,
        image=np.zeros((16, 16, 3), np.uint8),
        position=np.array([x, 2.0, 0.3]),
        orientation=np.array([0.0, 0.0, math.sin(0.35), math.cos(0.35)]),
        linear_velocity=np.array([0.5, 0.1, 0.0]),
        angular_velocity=np.array([0.0, 0.0, -0.4]),
        linear_acceleration=np.zeros(3),
        reward=1.0,
        end=False,
        episode=3,
        objects={"cube": (1.0, -1.0, 2.5)},
    )


def messages_of(observation: Observation) -> dict[str, bytes]:
    robot: Any = StillRobot()
    return {topic: data for topic, _, data in observation_messages(robot, observation)}


@pytest.mark.parametrize("stamp_ns", [1_234_567_890, 1_700_000_000_000_000_001])
def test_stamps_are_read_without_decoding(stamp_ns: int) -> None:
    encoded = messages_of(observed(stamp_ns, 0.0))
    for topic in ("/odom", "/camera/image_raw", "/camera/camera_info", "/sim/cube_pose"):
        assert stamp_of(encoded[topic]) == stamp_ns


def test_the_scene_is_that_of_the_picture_not_a_later_one() -> None:
    scene = LiveScene()
    assert scene.observation(10**12) is None
    for k in range(3):
        encoded = messages_of(observed(k * 100 * MS, float(k)))
        scene.receive_odometry(encoded["/odom"])
        scene.receive_pose("cube", encoded["/sim/cube_pose"])
    found = scene.observation(150 * MS)
    assert found is not None
    assert found.stamp_ns == 100 * MS
    assert found.position.tolist() == [1.0, 2.0, 0.3]
    assert found.linear_velocity.tolist() == [0.5, 0.1, 0.0]
    assert 2 * math.atan2(found.orientation[2], found.orientation[3]) == pytest.approx(0.7)
    assert found.objects["cube"] == pytest.approx((1.0, -1.0, 2.5))


def test_ground_truth_topics_are_recognised() -> None:
    assert object_name("/sim/cube_pose", POSE) == "cube"
    assert object_name("/sim/cube_pose", "nav_msgs/msg/Odometry") is None
    assert object_name("/goal_pose", POSE) is None


def due(stamps: list[int], period_ms: int = 200) -> list[int]:
    grid = ControlGrid(period_ms * MS)
    return [stamp for stamp in stamps if grid.due(stamp * MS)]


def test_every_second_picture_of_10_hz_begins_a_step_of_5_hz() -> None:
    assert due([0, 100, 200, 300, 400, 500]) == [0, 200, 400]


def test_the_picture_nearest_to_the_grid_counts() -> None:
    thirty_hz = [round(k * 1000 / 30) for k in range(25)]
    assert due(thirty_hz) == [0, 200, 400, 600, 800]
    assert due([0, 97, 203, 301, 396, 502, 604]) == [0, 203, 396, 604]


def test_the_rate_does_not_drift_with_jitter() -> None:
    random = np.random.default_rng(0)
    stamps = [int(k * 100 + random.uniform(-8, 8)) for k in range(1000)]
    assert len(due(stamps)) == 500


def test_after_a_gap_the_grid_begins_anew() -> None:
    assert due([0, 100, 200, 530, 630, 730, 830]) == [0, 200, 530, 730]


def test_a_clock_that_starts_over_begins_anew() -> None:
    assert due([5000, 5100, 5200, 0, 100, 200]) == [5000, 5200, 0, 200]
