"""The operator's page without ROS: who may do what, the emergency stop, watching."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fog_bringup.dashboard.board import Board
from fog_bringup.dashboard.operator import Answer, StopButton
from fog_bringup.dashboard.server import MOST_VIEWERS, make_app
from fog_bringup.tasks import find_task
from fog_world_model.data import messages

HERE, WATCH = "http://127.0.0.1:8720", "ws://127.0.0.1:8720/watch"


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
def board() -> Board:
    return Board(find_task("reach_cube"), "/dog/policy_node")


@pytest.fixture
def robot() -> FakeRobot:
    return FakeRobot()


@pytest.fixture
def client(board: Board, robot: FakeRobot) -> Iterator[TestClient]:
    app = make_app(board, robot, policy_node="/policy_node", notes=["<b>a note</b>"])
    with TestClient(app, base_url=HERE) as client:
        yield client


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
    client: TestClient, board: Board, image_message: Callable[..., bytes]
) -> None:
    with client.websocket_connect(WATCH) as page:
        hello = page.receive_json()
        assert hello["notes"] == ["<b>a note</b>"]
        assert hello["fields"][2] == {
            "name": "angular.z", "label": "turn left", "unit": "rad/s", "low": -1.2, "high": 1.2,
        }  # fmt: skip
        assert page.receive_json()["camera"]["picture"] is None
        for level in (50, 100, 200):  # only the newest will be sent
            board.camera.receive(image_message(np.full((48, 64, 3), level)), 0)
        ahead = messages.make("geometry_msgs/msg/Vector3", x=0.5)
        twist = messages.make("geometry_msgs/msg/Twist", linear=ahead)
        board.command.put(messages.serialise(twist))
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
