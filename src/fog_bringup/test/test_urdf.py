"""The URDF against the simulated robot that the tasks' pictures and joints come from."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from fog_bringup.go2_conversions import JOINTS
from fog_bringup.robot_description import odometry_transform, robot_description
from fog_bringup.robots.go2_scene import Scene, build_model
from fog_bringup.robots.mujoco_gl import mujoco
from fog_bringup.robots.streams import BASE_FRAME, CAMERA_FRAME, IMU_FRAME, pinhole_camera_info
from fog_bringup.tasks import find_task
from fog_world_model.data import messages
from fog_world_model.errors import FogError

Array = npt.NDArray[np.float64]

PACKAGE = Path(__file__).parent.parent
ROBOT = ElementTree.parse(PACKAGE / "urdf" / "go2.urdf").getroot()
JOINT = {joint.attrib["name"]: joint for joint in ROBOT.findall("joint")}
OPTICAL_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])
"""MuJoCo's camera looks along its -z with y up; an optical frame (REP-103) along z with y down."""


def numbers(element: ElementTree.Element | None, name: str) -> Array:
    text = "0 0 0" if element is None else element.attrib.get(name, "0 0 0")
    return np.array([float(x) for x in text.split()])


def origin(joint: ElementTree.Element) -> Array:
    """Transform ``[4, 4]`` of a joint at zero, parent from child."""
    place = joint.find("origin")
    roll, pitch, yaw = numbers(place, "rpy")
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    transform = np.eye(4)
    transform[:3, :3] = about_z @ about_y @ about_x
    transform[:3, 3] = numbers(place, "xyz")
    return transform


def rotated(joint: ElementTree.Element, angle: float) -> Array:
    """Transform ``[4, 4]`` of a joint at an angle (rad), about its axis."""
    x, y, z = numbers(joint.find("axis"), "xyz")
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(4)
    turn[:3, :3] += math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return origin(joint) @ turn


def link_transform(link: str, angles: dict[str, float]) -> Array:
    """Transform ``[4, 4]`` of a link, base from link."""
    transform = np.eye(4)
    while link != BASE_FRAME:
        (joint,) = (j for j in JOINT.values() if name_of(j, "child") == link)
        moves = joint.attrib["type"] == "revolute"
        step = rotated(joint, angles[joint.attrib["name"]]) if moves else origin(joint)
        transform, link = step @ transform, name_of(joint, "parent")
    return transform


def name_of(joint: ElementTree.Element, side: str) -> str:
    found = joint.find(side)
    assert found is not None
    return found.attrib["link"]


@pytest.fixture(scope="module")
def simulated() -> tuple[Any, Any]:
    """Model and data of the push_cube scene, base at the origin, joints somewhere."""
    model = build_model(Scene.from_options(find_task("push_cube").options))
    data = mujoco.MjData(model)
    data.qpos[:7] = 0, 0, 0, 1, 0, 0, 0
    for i, name in enumerate(JOINTS):
        data.qpos[model.joint(name).qposadr[0]] = 0.1 * i - 0.4
    mujoco.mj_forward(model, data)
    return model, data


def test_frames_of_the_messages_are_links() -> None:
    links = {link.attrib["name"] for link in ROBOT.findall("link")}
    assert {BASE_FRAME, CAMERA_FRAME, IMU_FRAME, "camera_link"} <= links
    children = [name_of(j, "child") for j in JOINT.values()]
    assert sorted(children) == sorted(links - {BASE_FRAME}), "a tree with one root"


@pytest.mark.parametrize("task", ["push_cube", "reach_cube", "push_cube_markers"])
def test_camera_is_where_the_simulated_ones_is(task: str) -> None:
    model = build_model(Scene.from_options(find_task(task).options))
    data = mujoco.MjData(model)
    data.qpos[:7] = 0, 0, 0, 1, 0, 0, 0
    mujoco.mj_forward(model, data)
    camera = model.camera("ego").id
    found = link_transform(CAMERA_FRAME, {})
    np.testing.assert_allclose(found[:3, 3], data.cam_xpos[camera], atol=1e-9)
    optical = data.cam_xmat[camera].reshape(3, 3) @ OPTICAL_FROM_OPENGL
    np.testing.assert_allclose(found[:3, :3], optical, atol=1e-9)
    # camera_link looks along x, down by the tasks' pitch (REP-103: a turn about y is down).
    forward = link_transform("camera_link", {})[:3, 0]
    assert math.degrees(math.asin(-forward[2])) == pytest.approx(18.0)


def test_camera_info_maps_a_point_to_where_the_camera_frame_says(
    simulated: tuple[Any, Any],
) -> None:
    """A point straight ahead of the optical frame, 0.4 m right of and 0.2 m below its axis."""
    model, _ = simulated
    height, width = 48, 64
    info = pinhole_camera_info(height, width, float(model.camera("ego").fovy[0]))
    u, v, depth = info.k.reshape(3, 3) @ np.array([0.4, 0.2, 1.0])
    focal = 24 / math.tan(math.radians(47.5))
    assert (u / depth, v / depth) == pytest.approx((31.5 + 0.4 * focal, 23.5 + 0.2 * focal))


def test_joints_are_in_the_order_of_the_bridge() -> None:
    moving = tuple(n for n, j in JOINT.items() if j.attrib["type"] == "revolute")
    assert moving == JOINTS


@pytest.mark.parametrize("leg", ["FL", "FR", "RL", "RR"])
def test_legs_move_as_the_simulated_ones(simulated: tuple[Any, Any], leg: str) -> None:
    model, data = simulated
    angles = {name: float(data.qpos[model.joint(name).qposadr[0]]) for name in JOINTS}
    foot = link_transform(f"{leg}_foot", angles)[:3, 3]
    np.testing.assert_allclose(foot, data.geom_xpos[model.geom(leg).id], atol=1e-6)
    for part in ("hip", "thigh", "calf"):
        name = f"{leg}_{part}_joint"
        limit = JOINT[name].find("limit")
        assert limit is not None
        low, high = model.joint(name).range
        assert (float(limit.attrib["lower"]), float(limit.attrib["upper"])) == pytest.approx(
            (low, high)
        )


def test_imu_frame(simulated: tuple[Any, Any]) -> None:
    _, data = simulated
    site = simulated[0].site("imu").id
    np.testing.assert_allclose(link_transform(IMU_FRAME, {})[:3, 3], data.site_xpos[site])


def test_rviz_shows_what_is_published() -> None:
    config = yaml.safe_load((PACKAGE / "config" / "quadruped.rviz").read_text())
    manager = config["Visualization Manager"]
    displays = {d["Class"]: d for d in manager["Displays"]}
    assert manager["Global Options"]["Fixed Frame"] == "odom"
    assert displays["rviz_default_plugins/RobotModel"]["Description Topic"]["Value"] == (
        "/robot_description"
    )
    topics = find_task("push_cube").topics()
    camera = displays["rviz_default_plugins/Camera"]["Topic"]
    assert topics[camera["Value"]] == "sensor_msgs/msg/Image"
    # The robot's sensors are published best effort; a reliable subscription would get nothing.
    assert camera["Reliability Policy"] == "Best Effort"
    odometry = displays["rviz_default_plugins/Odometry"]["Topic"]
    assert topics[odometry["Value"]] == "nav_msgs/msg/Odometry"
    assert odometry["Reliability Policy"] == "Best Effort"


def test_camera_pitch_and_transform_are_those_asked_for() -> None:
    robot = ElementTree.fromstring(robot_description(5.0))
    (joint,) = (j for j in robot.findall("joint") if j.attrib["name"] == "camera_joint")
    forward = origin(joint)[:3, 0]
    assert math.degrees(math.asin(-forward[2])) == pytest.approx(5.0)
    assert forward[0] > 0.9
    with pytest.raises(FogError, match="-90 to 90"):
        robot_description(91.0)


def test_odometry_as_a_transform() -> None:
    odometry = messages.make(
        "nav_msgs/msg/Odometry", header=messages.header(5, "odom"), child_frame_id=BASE_FRAME
    )
    odometry.pose.pose.position.y, odometry.pose.pose.orientation.z = 2.0, 1.0
    data = messages.serialise(odometry_transform(odometry))
    (found,) = messages.deserialise(data, "tf2_msgs/msg/TFMessage").transforms
    assert (found.header.frame_id, found.child_frame_id) == ("odom", BASE_FRAME)
    assert messages.header_stamp_ns(found) == 5
    assert (found.transform.translation.y, found.transform.rotation.z) == (2.0, 1.0)
