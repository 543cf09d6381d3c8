"""The operator's page without ROS: pictures, words, and the state that is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from fog_bringup.dashboard.board import Board
from fog_bringup.dashboard.camera import Camera
from fog_bringup.dashboard.safety_words import Status, reasons, words
from fog_bringup.dashboard.stream import Stream
from fog_bringup.tasks import find_task
from fog_policy.safety import Reason
from fog_world_model.data import messages
from fog_world_model.task import TaskConfig, task_from_dict

NAME = "policy_node: control"


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def task() -> TaskConfig:
    return find_task("reach_cube")


@pytest.fixture
def board(task: TaskConfig, time: Time) -> Board:
    return Board(task, "/dog/policy_node", clock=time)


def twist(x: float, y: float, z: float) -> bytes:
    vector = "geometry_msgs/msg/Vector3"
    return messages.serialise(
        messages.make(
            "geometry_msgs/msg/Twist",
            linear=messages.make(vector, x=x, y=y),
            angular=messages.make(vector, z=z),
        )
    )


# Streams and pictures


def test_rate_and_age_of_a_topic(time: Time) -> None:
    stream = Stream(time)
    assert stream.age_s() is None and stream.rate_hz() is None
    for _ in range(11):
        stream.put(b"x", travelled_s=0.5)
        time.now += 0.25
    # Eleven messages within 2.5 s; the newest was half a second old when it came.
    assert stream.rate_hz() == pytest.approx(4.0)
    assert stream.age_s() == pytest.approx(0.75)
    time.now += 10.0
    assert stream.rate_hz() == 0.0
    assert stream.newest is not None and stream.newest.number == 11


def test_the_newest_picture_is_encoded_when_somebody_looks_and_once(
    image_message: Callable[..., bytes],
) -> None:
    camera = Camera(1.0)
    assert camera.picture() is None and camera.describe()["stale"]
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([4 * x, 5 * y, 0 * x + 30], -1).astype(np.uint8)
    camera.receive(image_message(0 * pixels), 0)
    camera.receive(image_message(pixels[..., ::-1], "bgr8"), 0)
    first = camera.picture()
    assert first is not None and (first.number, first.width, first.height) == (2, 64, 48)
    assert camera.picture() is first
    decoded = cv2.imdecode(np.frombuffer(first.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded[..., ::-1].astype(int) - pixels).mean() < 4  # red is red


def test_a_wide_picture_is_scaled_and_one_that_cannot_be_shown_is_named(
    image_message: Callable[..., bytes],
) -> None:
    camera = Camera(1.0, max_width=320)
    camera.receive(image_message(np.full((480, 1280, 3), 90)), 0)
    picture = camera.picture()
    assert picture is not None and (picture.width, picture.height) == (1280, 480)
    assert cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), 1).shape == (120, 320, 3)
    camera.receive(image_message(np.zeros((4, 8)), "bayer_rggb8"), 0)
    assert camera.picture() is None and "bayer_rggb8" in camera.describe()["problem"]
    camera.receive(image_message(np.zeros((4, 8, 3))), 0)
    assert camera.picture() is not None and camera.describe()["problem"] == ""


def test_the_age_of_a_picture_begins_with_its_stamp(
    time: Time, image_message: Callable[..., bytes]
) -> None:
    camera, now_ns = Camera(1.0, clock=time), 10**18
    camera.receive(image_message(np.zeros((4, 8, 3)), stamp_ns=now_ns - 400_000_000), now_ns)
    time.now += 0.5
    assert camera.describe()["age_s"] == pytest.approx(0.9) and not camera.describe()["stale"]
    time.now += 0.2
    assert camera.describe()["stale"]
    # Of another clock, or not stamped: from its arrival on.
    for stamp_ns in (0, now_ns - 3600 * 10**9, now_ns + 10**9):
        camera.receive(image_message(np.zeros((4, 8, 3)), stamp_ns=stamp_ns), now_ns)
        assert camera.describe()["age_s"] == pytest.approx(0.0)


# Words


def test_a_message_of_the_filter_is_taken_apart_again() -> None:
    given = (
        Reason("image", "/camera/image_raw is 0.70 s old (limit 0.5 s); do its clock agree?"),
        Reason("tilt", "tilted by 0.70 rad"),
    )
    found = reasons("; ".join(str(reason) for reason in given))  # as the policy node joins them
    assert [(r.cause, r.detail) for r in found] == [(r.cause, r.detail) for r in given]
    assert all(r.what and r.advice for r in found)
    (odd,) = reasons("something: nobody knows")
    assert (odd.cause, odd.what) == ("", "something: nobody knows")


@pytest.mark.parametrize(
    ("level", "message", "values", "expected"),
    [
        (0, "driving", {}, ("ok", "Driving")),
        (0, "driving", {"shadow": "True"}, ("ok", "In shadow: somebody else drives")),
        (1, "not active", {}, ("warn", "Standing: the policy is not active")),
        (
            1,
            "not active",
            {"emergency_stop": "stopped by service"},
            ("error", "Standing: the policy is not active; emergency stop"),
        ),
        (2, "image: nothing came", {}, ("error", "Stopped: no camera picture")),
        (
            2,
            "tilt: 1; emergency_stop: stopped by service; reset it to go on",
            {},
            ("error", "Stopped: emergency stop, and 1 more reason"),
        ),
        # Nobody pressed it: the fall latched.
        (2, "emergency_stop: fall: fallen: 1.2 rad", {}, ("error", "Stopped: it has fallen")),
        (7, "?", {}, ("unknown", "?")),
    ],
)
def test_states_in_plain_words(
    level: int, message: str, values: dict[str, str], expected: tuple[str, str]
) -> None:
    found = words(Status(NAME, level, message, values))
    assert (found.level, found.headline) == expected


# The board


def test_since_when_a_state_holds(board: Board, time: Time) -> None:
    def say(level: int, message: str) -> Any:
        board.diagnostics([Status(NAME, level, message)])
        return board.snapshot()["safety"]

    assert board.snapshot()["safety"]["level"] == "unknown"
    assert say(0, "driving")["since_s"] == 0.0
    time.now += 2.0
    say(0, "driving")
    time.now += 2.0
    assert board.snapshot()["safety"]["since_s"] == 4.0
    assert say(2, "image: 0.6 s old")["since_s"] == 0.0
    time.now += 1.0
    assert say(2, "image: 1.6 s old; tilt: 1 rad")["since_s"] == 1.0  # still for the image
    time.now += 3.5
    lost = board.snapshot()["safety"]
    assert (lost["level"], lost["since_s"]) == ("unknown", 3.5)
    assert "policy_node has fallen silent" in lost["reasons"][0]["what"]
    assert lost["emergency_stop"] is None  # nobody knows
    assert say(2, "image: 9 s old")["since_s"] == 0.0


def test_commands_figures_and_lifecycle(board: Board, time: Time) -> None:
    board.command.put(twist(0.4, -0.2, float("nan")))
    board.proposed.put(b"nonsense")
    values = {
        "achieved_hz": "4.97",
        "latency_ms.p50": "None",
        "missed_deadlines": "3",
        "shadow": "False",
        "stops.image.events": "2",
        "stops.image.commands": "40",
        "emergency_stop": "released",
    }
    board.diagnostics([Status(NAME, 0, "driving", values)])
    board.lifecycle("active")
    found = board.snapshot()
    np.testing.assert_allclose(found["command"]["values"][:2], [0.4, -0.2], rtol=1e-6)
    assert found["command"]["values"][2] is None  # JSON has no NaN
    assert found["proposed"]["values"] is None
    figures = found["figures"]
    assert (figures["achieved_hz"], figures["latency_ms.p50"]) == (4.97, None)
    assert (figures["missed_deadlines"], figures["stops"]) == (3, {"image": 2})
    assert found["lifecycle"]["state"] == "active"
    assert found["safety"]["emergency_stop"] is False
    time.now += 4.0
    late = board.snapshot()
    assert late["command"]["stale"] and late["lifecycle"]["state"] == "unknown"
    assert late["figures"]["achieved_hz"] is None
    board.transition("activate")  # it is busy and answers later
    assert board.snapshot()["lifecycle"] == {
        "state": "active",
        "transition": "activate",
        "age_s": 4.0,
    }


def test_the_battery_from_its_topic_or_the_robot_s_driver(board: Board, task: TaskConfig) -> None:
    assert board.snapshot()["battery"] is None
    driver = {"battery_v": "28.9", "battery_percent": "77"}
    board.diagnostics([Status("go2_bridge_node: robot", 0, "all streams come", driver)])
    found = board.snapshot()["battery"]
    assert (found["voltage"], found["percent"], found["min_v"]) == (28.9, 77.0, None)
    state = messages.make("sensor_msgs/msg/BatteryState", voltage=25.0, percentage=0.5)
    board.battery.put(messages.serialise(state))
    found = board.snapshot()["battery"]
    assert (found["voltage"], found["percent"]) == (25.0, 50.0)
    content = task.to_dict()
    content["safety"]["battery"] = {"topic": "/power", "min_v": 21.5}
    other = Board(task_from_dict(content), "policy_node")
    other.battery.put(messages.serialise(state))
    assert other.snapshot()["battery"]["min_v"] == 21.5


def test_nothing_grows_with_time(board: Board, time: Time) -> None:
    for number in range(300):
        board.diagnostics([Status(f"node {number}", 0, "well")])
        board.command.put(twist(0, 0, 0))
    assert len(board.snapshot()["others"]) <= 12
    time.now += 61.0
    board.diagnostics([Status("another", 1, "here")])
    assert [other["name"] for other in board.snapshot()["others"]] == ["another"]
