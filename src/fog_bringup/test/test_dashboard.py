"""The operator's page without ROS: what it is told, who may do what, the emergency stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fog_bringup.dashboard.board import Board
from fog_bringup.dashboard.camera import Camera
from fog_bringup.dashboard.operator import Answer, StopButton
from fog_bringup.dashboard.safety_words import Status, reasons, words
from fog_bringup.dashboard.server import MOST_VIEWERS, make_app
from fog_bringup.dashboard.stream import Stream
from fog_bringup.tasks import find_task
from fog_policy.safety import Reason
from fog_world_model.data import messages
from fog_world_model.task import TaskConfig, task_from_dict

HERE, WATCH = "http://127.0.0.1:8720", "ws://127.0.0.1:8720/watch"
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


class FakeRobot:
    """Answers when the test lets it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.futures: list[Future[Answer]] = []
        self.answer: Answer | None = Answer(True, "done")

    def _ask(self, what: str) -> Future[Answer]:
        future: Future[Answer] = Future()
        self.asked.append(what)
        self.futures.append(future)
        if self.answer is not None:
            # From another thread, as the node does.
            threading.Timer(0.01, future.set_result, [self.answer]).start()
        return future

    def stop(self) -> Future[Answer]:
        return self._ask("stop")

    def reset(self) -> Future[Answer]:
        return self._ask("reset")

    def change(self, transition: str) -> Future[Answer]:
        return self._ask(transition)


@pytest.fixture
def robot() -> FakeRobot:
    return FakeRobot()


@pytest.fixture
def client(board: Board, robot: FakeRobot) -> Iterator[TestClient]:
    app = make_app(board, robot, policy_node="/policy_node", notes=["<b>a note</b>"])
    with TestClient(app, base_url=HERE) as client:
        yield client


def image(pixels: Any, encoding: str = "rgb8", stamp_ns: int = 0) -> bytes:
    array = np.asarray(pixels, np.uint8)
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/Image",
            header=messages.header(stamp_ns, "camera"),
            height=array.shape[0],
            width=array.shape[1],
            encoding=encoding,
            step=array[0].size,
            data=array.reshape(-1),
        )
    )


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


def test_the_newest_picture_is_encoded_when_somebody_looks_and_once() -> None:
    camera = Camera(1.0)
    assert camera.picture() is None and camera.describe()["stale"]
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([4 * x, 5 * y, 0 * x + 30], -1).astype(np.uint8)
    camera.receive(image(0 * pixels), 0)
    camera.receive(image(pixels[..., ::-1], "bgr8"), 0)
    first = camera.picture()
    assert first is not None and (first.number, first.width, first.height) == (2, 64, 48)
    assert camera.picture() is first
    decoded = cv2.imdecode(np.frombuffer(first.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded[..., ::-1].astype(int) - pixels).mean() < 4  # red is red


def test_a_wide_picture_is_scaled_and_one_that_cannot_be_shown_is_named() -> None:
    camera = Camera(1.0, max_width=320)
    camera.receive(image(np.full((480, 1280, 3), 90)), 0)
    picture = camera.picture()
    assert picture is not None and (picture.width, picture.height) == (1280, 480)
    assert cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), 1).shape == (120, 320, 3)
    camera.receive(image(np.zeros((4, 8)), "bayer_rggb8"), 0)
    assert camera.picture() is None and "bayer_rggb8" in camera.describe()["problem"]
    camera.receive(image(np.zeros((4, 8, 3))), 0)
    assert camera.picture() is not None and camera.describe()["problem"] == ""


def test_the_age_of_a_picture_begins_with_its_stamp(time: Time) -> None:
    camera, now_ns = Camera(1.0, clock=time), 10**18
    camera.receive(image(np.zeros((4, 8, 3)), stamp_ns=now_ns - 400_000_000), now_ns)
    time.now += 0.5
    assert camera.describe()["age_s"] == pytest.approx(0.9) and not camera.describe()["stale"]
    time.now += 0.2
    assert camera.describe()["stale"]
    # Of another clock, or not stamped: from its arrival on.
    for stamp_ns in (0, now_ns - 3600 * 10**9, now_ns + 10**9):
        camera.receive(image(np.zeros((4, 8, 3)), stamp_ns=stamp_ns), now_ns)
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


# The emergency stop


def test_a_stop_that_is_confirmed_in_time_late_or_never(robot: FakeRobot) -> None:
    async def scenario() -> None:
        button = StopButton(robot, "/policy_node/emergency_stop", confirm_s=0.4)
        assert button.describe()["state"] == "none"
        confirmed = await button.press()
        assert confirmed["state"] == "confirmed" and 0 < confirmed["after_s"] < 0.4
        robot.answer = None
        lost = await button.press()
        assert lost["state"] == "unconfirmed" and "did not answer within 0.4 s" in lost["text"]
        # The one before answers after all: not the newest press's business.
        late = await button.press()
        robot.futures[1].set_result(Answer(True, "stopped"))
        await asyncio.sleep(0.02)
        assert button.describe()["state"] == late["state"] == "unconfirmed"
        robot.futures[2].set_result(Answer(True, "stopped"))
        await asyncio.sleep(0.02)
        assert button.describe()["state"] == "confirmed" and button.describe()["after_s"] > 0.4
        robot.answer = Answer(False, "nobody answers")
        assert (await button.press())["text"] == "nobody answers"
        button.clear()
        assert button.describe()["state"] == "none"

    asyncio.run(scenario())


def test_everybody_may_stop_and_is_told_whether_it_worked(
    client: TestClient, robot: FakeRobot
) -> None:
    answer = client.post("/api/emergency_stop")
    assert answer.status_code == 200 and answer.json()["state"] == "confirmed"
    robot.answer = Answer(False, "nobody answers")
    answer = client.post("/api/emergency_stop", headers={"origin": HERE})
    assert answer.status_code == 202 and answer.json()["state"] == "unconfirmed"
    assert client.get("/api/state").json()["stop"]["text"] == "nobody answers"
    # But no page of another site, and no name that was rebound to this machine.
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example:8720"}):
        assert client.post("/api/emergency_stop", headers=headers).status_code in (400, 403)
    assert robot.asked == ["stop", "stop"]


# Who may start


def token_of(client: TestClient) -> str:
    with client.websocket_connect(WATCH, headers={"origin": HERE}) as page:
        return str(page.receive_json()["token"])


def test_what_starts_movement_needs_the_token_of_the_page(
    client: TestClient, robot: FakeRobot
) -> None:
    paths = ("/api/lifecycle/activate", "/api/lifecycle/configure", "/api/reset")
    for path in paths:
        for authorization in (None, "Bearer ", "Bearer guessed", "Bearer ünknown".encode()):
            headers = {} if authorization is None else {"authorization": authorization}
            assert client.post(path, headers=headers).status_code == 401
        assert client.get(path).status_code in (404, 405)
    good = {"authorization": f"Bearer {token_of(client)}"}
    for path in paths:
        foreign = client.post(path, headers={**good, "origin": "http://evil.example"})
        assert foreign.status_code == 403
    assert robot.asked == []
    for path in paths:
        assert client.post(path, headers={**good, "origin": HERE}).json() == {"text": "done"}
    assert robot.asked == ["activate", "configure", "reset"]
    assert client.post("/api/lifecycle/shutdown", headers=good).status_code == 404
    robot.answer = Answer(False, "refused")
    answer = client.post("/api/reset", headers=good)
    assert answer.status_code == 502 and answer.json()["detail"] == "refused"


def test_the_token_is_not_for_pages_of_others(client: TestClient) -> None:
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example:8720"}):
        with (
            pytest.raises(WebSocketDisconnect) as refused,
            client.websocket_connect(WATCH, headers=headers),
        ):
            pass
        assert refused.value.code == 1008
    token = token_of(client)
    assert len(token) > 20 and token not in client.get("/api/state").text
    assert token not in client.get("/").text


def test_a_page_that_may_not_start_still_stops(board: Board, robot: FakeRobot) -> None:
    app = make_app(board, robot, policy_node="/policy_node", may_start=False)
    with TestClient(app, base_url=HERE) as client:
        assert token_of(client) == ""
        for path in ("/api/lifecycle/activate", "/api/reset"):
            answer = client.post(path, headers={"authorization": "Bearer "})
            assert answer.status_code == 403
        assert client.post("/api/emergency_stop").status_code == 200
    assert robot.asked == ["stop"]


def test_a_reset_and_an_activation_end_the_word_of_an_old_stop(
    client: TestClient, robot: FakeRobot
) -> None:
    good = {"authorization": f"Bearer {token_of(client)}"}
    for path in ("/api/reset", "/api/lifecycle/activate"):
        robot.answer = Answer(False, "nobody answers")
        client.post("/api/emergency_stop")
        assert client.post(path, headers=good).status_code == 502
        assert client.get("/api/state").json()["stop"]["state"] == "unconfirmed"
        robot.answer = Answer(True, "done")
        client.post(path, headers=good)
        assert client.get("/api/state").json()["stop"]["state"] == "none"


# Watching


def test_a_viewer_gets_the_next_state_once_it_has_shown_the_one_before(
    client: TestClient, board: Board
) -> None:
    with client.websocket_connect(WATCH) as page:
        hello = page.receive_json()
        assert hello["notes"] == ["<b>a note</b>"]
        assert hello["fields"][2] == {
            "name": "angular.z", "label": "turn left", "unit": "rad/s", "low": -1.2, "high": 1.2,
        }  # fmt: skip
        assert page.receive_json()["camera"]["picture"] is None
        for level in (50, 100, 200):  # only the newest will be sent
            board.camera.receive(image(np.full((48, 64, 3), level)), 0)
        board.command.put(twist(0.5, 0, 0))
        page.send_text("shown")
        state = page.receive_json()
        assert state["camera"]["picture"] == 3 and state["command"]["values"][0] == 0.5
        jpeg = cv2.imdecode(np.frombuffer(page.receive_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert abs(int(jpeg.mean()) - 200) <= 2
        page.send_text("shown")
        assert page.receive_json()["camera"]["picture"] is None  # it has that one
        assert client.get("/api/state").json()["viewers"] == 1


def test_several_may_watch_and_one_too_many_may_still_stop(
    client: TestClient, robot: FakeRobot
) -> None:
    pages = [client.websocket_connect(WATCH) for _ in range(MOST_VIEWERS)]
    for page in pages:
        assert page.__enter__().receive_json()["type"] == "hello"
    try:
        with client.websocket_connect(WATCH) as last:
            assert last.receive_json()["type"] == "full"
        assert client.post("/api/emergency_stop").status_code == 200
    finally:
        for page in pages:
            page.__exit__(None, None, None)
    with client.websocket_connect(WATCH) as again:
        assert again.receive_json()["type"] == "hello"


def test_everything_on_the_page_is_its_own(client: TestClient) -> None:
    own = ("", "dashboard.css", "dashboard.js", "view.js", "icon.svg")
    for name in (*own, "shared/theme.css", "shared/dom.js"):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
        elsewhere = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in elsewhere and "https://" not in elsewhere, name
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]
    for hidden in ("/docs", "/redoc", "/openapi.json", "/../server.py", "/%2e%2e/server.py"):
        assert client.get(hidden).status_code == 404, hidden
