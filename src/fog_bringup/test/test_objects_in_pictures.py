"""What is measured in pictures, against where the simulators say that the objects are."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fog_bringup.robots import make_robot
from fog_bringup.robots.ego_camera import CAMERA_POSITION
from fog_bringup.robots.pusht_frame import to_pixels
from fog_bringup.tasks import find_task
from fog_world_model.evaluation.object_position import object_finder


def test_the_block_of_pusht() -> None:
    """Centre of its area and angle; in px of a picture 64 px wide, whatever its own size is."""
    task = find_task("pusht")
    finder = object_finder(task)
    robot = make_robot(task, image_height=64, image_width=64)
    assert finder is not None
    try:
        found = 0
        for seed in range(12):
            robot.reset(seed)
            observation = robot.observe()
            assert observation.image is not None
            sight = finder.find(observation.image)
            if sight is None:  # covered by the pusher, or beyond the edge
                continue
            found += 1
            pose = observation.objects["block"]
            x, y = to_pixels(*pose[:2])  # the middle of the top edge; 9.5 / 7 bars on is the centre
            x, y = x + 9.5 / 7 * 30 * math.sin(pose[2]), y + 9.5 / 7 * 30 * math.cos(pose[2])
            assert sight.x == pytest.approx(x * 64 / 512, abs=0.25)
            assert sight.y == pytest.approx(y * 64 / 512, abs=0.25)
            assert sight.angle is not None
            assert math.cos(sight.angle + pose[2]) > math.cos(math.radians(4))
        assert found >= 10
    finally:
        robot.close()


def test_the_cube_of_the_quadruped() -> None:
    """The column that the cube's centre is projected to; none when it is behind."""
    task = find_task("reach_cube")
    task = dataclasses.replace(task, options={**task.options, "start_bearing_deg": 180.0})
    finder = object_finder(task)
    robot = make_robot(task, image_height=64, image_width=64)
    assert finder is not None
    pitch, focal = math.radians(18.0), 32.0 / math.tan(math.radians(95.0) / 2)
    try:
        ahead = behind = 0
        for seed in range(60):
            robot.reset(seed)
            observation = robot.observe(image=False)
            x, y, z, w = observation.orientation
            yaw = math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
            dx, dy = np.subtract(observation.objects["cube"][:2], observation.position[:2])
            forward = math.cos(yaw) * dx + math.sin(yaw) * dy - CAMERA_POSITION[0]
            left = math.cos(yaw) * dy - math.sin(yaw) * dx
            if forward < -0.3 and behind < 3:
                image = robot.observe().image
                assert image is not None
                assert finder.find(image) is None
                behind += 1
            if forward > 0.7 and abs(left) < 0.5 * forward and ahead < 8:
                image = robot.observe().image
                assert image is not None
                sight = finder.find(image)
                assert sight is not None
                below = observation.position[2] + CAMERA_POSITION[2] - 0.15
                depth = math.cos(pitch) * forward + math.sin(pitch) * below
                assert sight.x == pytest.approx(31.5 - focal * left / depth, abs=1.5)
                assert sight.area is not None
                # a face of 0.3 m, seen straight on or over the corner, and the top
                side = focal * 0.3 / depth
                assert 0.6 * side**2 < sight.area < 3.0 * side**2
                ahead += 1
        assert (ahead, behind) == (8, 3)
    finally:
        robot.close()
