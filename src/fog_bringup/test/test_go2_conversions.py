"""Unitree's messages, made by hand, as standard ones; velocity commands as requests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from fog_bringup import go2_conversions as go2
from fog_bringup.robots.go2_scene import JOINTS as SIMULATED_JOINTS
from fog_world_model.data import messages
from fog_world_model.errors import FogError

NOW = 1_700_000_000_123_456_789
HALF = math.sqrt(0.5)


def motor(number: int) -> SimpleNamespace:
    return SimpleNamespace(q=number / 10, dq=-number, tau_est=2.0 * number, temperature=30)


def low_state() -> SimpleNamespace:
    return SimpleNamespace(motor_state=[motor(i) for i in range(20)])


def imu_state(w: float, x: float, y: float, z: float) -> SimpleNamespace:
    return SimpleNamespace(
        quaternion=[w, x, y, z], gyroscope=[0.1, 0.2, 0.3], accelerometer=[0.0, 0.5, 9.81]
    )


def test_joints_by_name() -> None:
    state = go2.joint_state(low_state(), NOW)
    assert state.name[:3] == ["FL_hip_joint", "FL_thigh_joint", "FL_calf_joint"]
    assert set(state.name) == set(SIMULATED_JOINTS)
    # Unitree counts the front right leg first, 0 to 2, then the front left, the rear right and,
    # with 9 to 11, the rear left one.
    found = dict(zip(state.name, state.position, strict=True))
    assert found["FR_hip_joint"] == 0.0
    assert found["FL_hip_joint"] == pytest.approx(0.3)
    assert found["RR_thigh_joint"] == pytest.approx(0.7)
    assert found["RL_calf_joint"] == pytest.approx(1.1)
    fields = ("velocity.FL_hip_joint", "effort.RL_calf_joint")
    assert messages.read_fields(state, fields).tolist() == [-3.0, 22.0]
    assert messages.header_stamp_ns(state) == NOW
    # What is published decodes again.
    assert messages.deserialise(messages.serialise(state), state.__msgtype__).name == state.name


def test_too_few_motors() -> None:
    with pytest.raises(FogError, match="has 3 motors, a Go2 has 12"):
        go2.joint_state(SimpleNamespace(motor_state=[motor(i) for i in range(3)]), NOW)


def test_imu_quaternion_ends_with_w() -> None:
    message = go2.imu(imu_state(HALF, 0.0, 0.0, HALF), NOW)  # turned left by 90 degrees
    q = message.orientation
    assert (q.x, q.y, q.z, q.w) == pytest.approx((0.0, 0.0, HALF, HALF))
    assert message.angular_velocity.y == pytest.approx(0.2)
    assert message.linear_acceleration.z == pytest.approx(9.81)
    messages.serialise(message)


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 0.0)])
def test_an_estimator_that_has_not_started(quaternion: tuple[float, ...]) -> None:
    with pytest.raises(FogError, match="quaternion"):
        go2.imu(imu_state(*quaternion), NOW)


def sport_state() -> SimpleNamespace:
    return SimpleNamespace(
        position=[1.0, 2.0, 0.3],
        velocity=[0.0, 0.5, 0.0],
        yaw_speed=0.7,
        imu_state=imu_state(HALF, 0.0, 0.0, HALF),
    )


def test_velocity_of_the_odometry_is_the_bases() -> None:
    # It looks along the world's y and moves along the world's y: straight ahead.
    message = go2.odometry(sport_state(), NOW, velocity_frame="odom")
    linear = message.twist.twist.linear
    assert (linear.x, linear.y, linear.z) == pytest.approx((0.5, 0.0, 0.0), abs=1e-12)
    assert message.twist.twist.angular.z == pytest.approx(0.7)
    assert message.pose.pose.position.y == 2.0
    assert (message.header.frame_id, message.child_frame_id) == ("odom", "base_link")
    as_it_is = go2.odometry(sport_state(), NOW, velocity_frame="base").twist.twist.linear
    assert (as_it_is.x, as_it_is.y) == (0.0, 0.5)
    messages.serialise(message)


def test_move_has_the_sport_modes_parameters() -> None:
    request = go2.move((0.3, -9.0, 0.5), (0.8, 0.4, 1.2))
    assert request.api_id == 1008
    assert json.loads(request.parameter) == {"x": 0.3, "y": -0.4, "z": 0.5}


LIMIT = (0.8, 0.4, 1.2)


def ids(gate: go2.MotionGate, times: list[float]) -> list[int]:
    return [r.api_id for r in map(gate.tick, times) if r is not None]


def test_silence_stops_and_then_gives_way() -> None:
    gate = go2.MotionGate(LIMIT, timeout_s=0.3)
    request = gate.command((0.5, 0.0, 0.0), 10.0)
    assert request is not None and request.api_id == 1008
    assert ids(gate, [10.1, 10.2, 10.29]) == []
    # At the first tick after the timeout, again twice against loss, and never after that.
    assert gate.tick(10.31) == go2.STOP
    assert ids(gate, [10.33, 10.42, 10.44, 10.53, 10.7, 12.0, 99.0]) == [1003, 1003]
    assert gate.silences == 1
    again = gate.command((0.5, 0.0, 0.0), 100.0)
    assert again is not None and again.api_id == 1008


def test_zero_stops_at_once() -> None:
    gate = go2.MotionGate(LIMIT, timeout_s=0.3)
    assert gate.command((0.0, 0.0, 0.0), 1.0) is None  # a robot that stands is left alone
    gate.command((0.5, 0.0, 0.0), 2.0)
    assert gate.command((0.0, 0.0, 0.0), 2.05) == go2.STOP
    assert not gate.moving
    # A command that comes while stops are repeated is not overtaken by the rest of them.
    gate.command((0.5, 0.0, 0.0), 2.06)
    assert ids(gate, [2.1, 2.2, 2.3]) == []


def test_nonsense_stops() -> None:
    gate = go2.MotionGate(LIMIT, timeout_s=0.3)
    gate.command((0.5, 0.0, 0.0), 1.0)
    with pytest.raises(FogError, match="not finite"):
        gate.command((math.nan, 0.0, 0.0), 1.1)
    assert gate.tick(1.1) == go2.STOP


def test_jpeg_video() -> None:
    pixels = np.full((180, 320, 3), (200, 30, 60), np.uint8)
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]))
    (found,) = go2.VideoDecoder()(data.tobytes())
    assert np.abs(found.astype(int) - pixels).max() <= 5
    message = go2.image(found, NOW)
    assert (message.height, message.width, message.encoding) == (180, 320, "rgb8")
    messages.serialise(message)


def test_video_that_cannot_be_shown() -> None:
    decoder = go2.VideoDecoder()
    with pytest.raises(FogError, match="neither JPEG nor"):
        decoder(b"\x12\x34")
    with pytest.raises(FogError, match="damaged"):
        decoder(b"\xff\xd8\xff")


def test_h264_video() -> None:
    """With a stream of the same library's encoder, where it is installed."""
    av = pytest.importorskip("av")
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 320, 180, "yuv420p"
    encoder.time_base = __import__("fractions").Fraction(1, 30)
    encoder.options = {"tune": "zerolatency"}
    pixels = np.full((180, 320, 3), (200, 30, 60), np.uint8)
    decoder, found = go2.VideoDecoder(), []
    for _ in range(5):
        for packet in encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
            found += decoder(bytes(packet))
    assert found
    assert np.abs(found[-1].astype(int) - pixels).max() <= 8


def test_calibration_file(tmp_path: Path) -> None:
    content = {
        "image_width": 640,
        "image_height": 360,
        "camera_matrix": {"data": [400, 0, 320, 0, 400, 180, 0, 0, 1]},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"data": [0.1, 0, 0, 0, 0]},
        "rectification_matrix": {"data": [1, 0, 0, 0, 1, 0, 0, 0, 1]},
        "projection_matrix": {"data": [400, 0, 320, 0, 0, 400, 180, 0, 0, 0, 1, 0]},
    }
    path = tmp_path / "front.yaml"
    path.write_text(yaml.safe_dump(content))
    info = go2.camera_info_from_file(str(path))
    assert (info.width, info.k[0], info.d[0]) == (640, 400.0, 0.1)
    messages.serialise(info)
    del content["camera_matrix"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(FogError, match="camera_matrix"):
        go2.camera_info_from_file(str(path))
