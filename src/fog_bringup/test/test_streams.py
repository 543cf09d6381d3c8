"""Observations as ROS messages: do the bytes decode to what was observed?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from fog_bringup.robots import Observation, Robot, make_robot
from fog_bringup.robots.streams import observation_messages
from fog_bringup.tasks import find_task
from fog_world_model.data.images import decode_image
from fog_world_model.data.messages import deserialise, header_stamp_ns, read_fields


@pytest.fixture(scope="module")
def go2() -> Iterator[Robot]:
    robot = make_robot(find_task("reach_cube"))
    robot.reset(3)
    for _ in range(20):
        robot.step((0.5, 0.1, 0.4))
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def observation(go2: Robot) -> Observation:
    return go2.observe()


def decoded(robot: Robot, observation: Observation) -> dict[str, object]:
    return {
        t: deserialise(data, name) for t, name, data in observation_messages(robot, observation)
    }


def test_every_topic_of_the_task_is_there_with_its_type(
    go2: Robot, observation: Observation
) -> None:
    found = {topic: name for topic, name, _ in observation_messages(go2, observation)}
    task = find_task("reach_cube")
    wanted = {t: n for t, n in task.topics().items() if t != task.action.topic}
    assert wanted.items() <= found.items()
    assert set(found) - set(wanted) == {"/sim/cube_pose", "/sim/goal_pose"}


def test_values_survive(go2: Robot, observation: Observation) -> None:
    messages = decoded(go2, observation)
    joints = messages["/joint_states"]
    assert tuple(joints.name) == observation.joint_names
    np.testing.assert_array_equal(joints.position, observation.joint_position)
    np.testing.assert_array_equal(joints.velocity, observation.joint_velocity)
    np.testing.assert_array_equal(joints.effort, observation.joint_effort)
    knee = observation.joint_names.index("RL_calf_joint")
    assert read_fields(joints, ["position.RL_calf_joint"])[0] == pytest.approx(
        observation.joint_position[knee], rel=1e-6
    )

    imu, odometry = messages["/imu/data"], messages["/odom"]
    pose, twist = odometry.pose.pose, odometry.twist.twist
    for vector, expected in (
        (imu.angular_velocity, observation.angular_velocity),
        (imu.linear_acceleration, observation.linear_acceleration),
        (pose.position, observation.position),
        (twist.linear, observation.linear_velocity),
        (twist.angular, observation.angular_velocity),
    ):
        assert (vector.x, vector.y, vector.z) == tuple(expected)
    for quaternion in (imu.orientation, pose.orientation):
        q = quaternion.x, quaternion.y, quaternion.z, quaternion.w
        assert q == tuple(observation.orientation)
    assert odometry.child_frame_id == "base_link"

    assert messages["/task/reward"].data == pytest.approx(observation.reward, rel=1e-6)
    assert messages["/task/end"].data is observation.end
    assert messages["/task/episode"].data == observation.episode
    cube = messages["/sim/cube_pose"].pose
    yaw = 2 * math.atan2(cube.orientation.z, cube.orientation.w)
    assert (cube.position.x, cube.position.y) == observation.objects["cube"][:2]
    assert math.remainder(yaw - observation.objects["cube"][2], 2 * math.pi) == pytest.approx(0)


def test_stamps_and_frames(go2: Robot, observation: Observation) -> None:
    frames = {}
    for topic, message in decoded(go2, observation).items():
        if hasattr(message, "header"):
            assert header_stamp_ns(message) == observation.stamp_ns
            frames[topic] = message.header.frame_id
    assert frames == {
        "/odom": "odom",
        "/joint_states": "base_link",
        "/imu/data": "imu_link",
        "/sim/cube_pose": "odom",
        "/sim/goal_pose": "odom",
        "/camera/camera_info": "camera_optical_frame",
        "/camera/image_raw": "camera_optical_frame",
    }


def test_image_and_camera_info(go2: Robot, observation: Observation) -> None:
    messages = decoded(go2, observation)
    image, info = messages["/camera/image_raw"], messages["/camera/camera_info"]
    assert observation.image is not None
    np.testing.assert_array_equal(decode_image(image), observation.image)
    assert (image.encoding, image.step, image.is_bigendian) == ("rgb8", 288, 0)
    assert (info.height, info.width) == (96, 96)
    # 95 degrees vertically over 96 rows: 48 / tan(47.5 deg) = 43.9839
    np.testing.assert_allclose(
        info.k.reshape(3, 3), [[43.9839, 0, 47.5], [0, 43.9839, 47.5], [0, 0, 1]], atol=1e-3
    )
    np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], info.k.reshape(3, 3))


def test_without_a_picture_there_are_no_camera_topics(go2: Robot) -> None:
    topics = [topic for topic, *_ in observation_messages(go2, go2.observe(image=False))]
    assert not [topic for topic in topics if topic.startswith("/camera")]
    assert "/odom" in topics


def test_the_picture_comes_last(go2: Robot, observation: Observation) -> None:
    assert observation_messages(go2, observation)[-1][0] == "/camera/image_raw"


def test_pusht_has_neither_joints_nor_imu() -> None:
    task = find_task("pusht")
    robot = make_robot(task, image_height=64, image_width=64)
    robot.reset(0)
    observation = robot.observe()
    found = {topic: name for topic, name, _ in observation_messages(robot, observation)}
    robot.close()
    wanted = {t: n for t, n in task.topics().items() if t != task.action.topic}
    assert wanted.items() <= found.items()
    assert set(found) - set(wanted) == {"/sim/block_pose", "/sim/goal_pose"}
