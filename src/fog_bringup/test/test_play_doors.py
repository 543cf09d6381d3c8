"""Playing a learned world: controls, the seat, who is let in, which store and port."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from fog_bringup.play.controls import action_of, field_controls
from fog_bringup.play.find_store import find_store
from fog_bringup.play.seat import Seat, SeatTakenError
from fog_bringup.play.session import Session
from fog_bringup.web.guard import Guard
from fog_bringup.web.server import listen
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.task import ActionConfig, TaskConfig, task_from_dict
from fog_world_model.training.checkpoint import Checkpoint, open_checkpoint, save_checkpoint

HERE, PAGE = "http://127.0.0.1:8710", "ws://127.0.0.1:8710/play"


def _action(fields: tuple[str, ...], low: tuple[float, ...], high: tuple[float, ...]) -> Any:
    return ActionConfig("/cmd_vel", "geometry_msgs/msg/Twist", fields, low, high)


def test_full_deflection_is_the_bound_of_its_side() -> None:
    action = _action(("a", "b"), (-1.0, 0.5), (3.0, 2.5))
    # a: 0 lies a quarter of the way from -1 to 3. b: 0 is out of bounds, 0.5 is nearest.
    np.testing.assert_allclose(action_of([0.0, 0.0], action), [-0.5, -1.0])
    np.testing.assert_allclose(action_of([1.0, 1.0], action), [1.0, 1.0])
    np.testing.assert_allclose(action_of([-1.0, -1.0], action), [-1.0, -1.0])
    np.testing.assert_allclose(action_of([0.5, 9.0], action), [0.25, 1.0])  # 1.5 of [-1, 3]
    for nonsense in ([0.0], [0.0, float("nan")], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="2 finite numbers"):
            action_of(nonsense, action)


@pytest.mark.parametrize(
    "fields",
    [
        ("linear.x", "linear.y", "angular.z"),
        ("linear.x", "linear.y"),
        ("linear.x", "angular.z"),
        tuple(f"data[{i}]" for i in range(12)),
    ],
)
def test_no_key_and_no_axis_moves_two_fields(fields: tuple[str, ...]) -> None:
    n = len(fields)
    controls = field_controls(_action(fields, (-1.0,) * n, (1.0,) * n))
    assert [c.field for c in controls] == list(fields)
    keys = [key for c in controls for key in (*c.up, *c.down)]
    assert len(keys) == len(set(keys))
    # Those of the page itself.
    assert not {"Space", "Period", "KeyB", "KeyN", "KeyP", "KeyV"} & set(keys)
    assert len({(c.pad, c.axis) for c in controls}) == n
    assert all(c.up and c.down for c in controls[:9])


def test_left_and_up_are_where_the_eye_expects_them() -> None:
    base = field_controls(_action(("linear.x", "angular.z"), (-1, -1), (1, 1)))
    assert "KeyA" in base[1].up and base[1].sign == -1  # REP-103: a turn to the left is positive
    table = field_controls(_action(("linear.x", "linear.y"), (-1, -1), (1, 1)))
    assert "ArrowRight" in table[0].up and "ArrowUp" in table[1].up
    assert [(c.axis, c.sign) for c in table] == [("x", 1), ("y", 1)]


def test_one_visitor_at_a_time_and_idle_ones_lose_the_seat() -> None:
    now = 100.0
    seat = Seat(30.0, clock=lambda: now)
    first = seat.take("person")
    now = 120.0
    with pytest.raises(SeatTakenError, match=r"A person .* for 20 s and last .* 20 s ago"):
        seat.take("program")
    assert seat.of(first.token) is first and seat.of("guessed") is None
    seat.touch(first)
    now = 150.0
    assert seat.visitor is first  # exactly the limit
    now = 150.1
    second = seat.take("program")
    assert first.ended.is_set() and seat.of(first.token) is None
    seat.leave(first)  # too late: the seat is another's
    assert seat.visitor is second
    seat.leave(second)
    assert seat.visitor is None


@pytest.mark.parametrize(
    ("public", "host", "origin", "status"),
    [
        (False, "127.0.0.1:8710", None, 200),
        (False, "localhost:8710", "http://localhost:8710", 200),
        (False, "[::1]:8710", "http://[::1]:8710", 200),
        (False, "lab-pc:8710", None, 200),
        (False, "evil.example:8710", None, 400),  # a name that was rebound to 127.0.0.1
        (False, "evil.example:8710", "http://evil.example:8710", 400),
        (False, "192.168.1.7:8710", None, 400),
        (False, "", None, 400),
        (False, "127.0.0.1:8710", "http://evil.example", 403),
        (False, "127.0.0.1:8710", "http://127.0.0.1:3000", 403),  # another program's page
        (False, "127.0.0.1:8710", "http://localhost:8710", 403),
        (False, "127.0.0.1:8710", "null", 403),
        (True, "192.168.1.7:8710", "http://192.168.1.7:8710", 200),
        (True, "evil.example:8710", None, 400),
    ],
)
def test_strangers_are_refused(public: bool, host: str, origin: str | None, status: int) -> None:
    app = Guard(PlainTextResponse("in"), names=["lab-pc"], public=public)
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    response = TestClient(app).get("/", headers=headers)
    assert response.status_code == status
    assert (response.text == "in") == (status == 200)
    if status == 200:
        assert "default-src 'self'" in response.headers["content-security-policy"]


def _checkpoint(path: Path, task: TaskConfig, data_hash: str) -> Checkpoint:
    size = task.proprioception_size
    manifest = {
        "kind": "global",
        "task": task.to_dict(),
        "task_hash": task.hash,
        "data_hash": data_hash,
        "normalisation": {"mean": [0.0] * size, "std": [2.0] * size},
    }
    save_checkpoint(path, {}, manifest)
    return open_checkpoint(path, "global")


def test_the_store_is_found_near_the_checkpoint(store_of: Any, tmp_path: Path) -> None:
    task = store_of(tmp_path / "elsewhere" / "deep" / "down" / "s").task
    checkpoint = _checkpoint(tmp_path / "lab" / "models" / "global", task, "unknown")
    with pytest.raises(FogError, match=r"--store is needed: near .* no episode store of task"):
        find_store(checkpoint, None)
    first = store_of(tmp_path / "lab" / "store" / "first")
    found = find_store(checkpoint, None)
    assert found.path == first.path
    # As the model was trained, whatever this store's own statistics are.
    np.testing.assert_array_equal(found.normalisation.std, [2.0, 2.0, 2.0])
    second = store_of(tmp_path / "lab" / "store" / "second", (9, 8, 7))
    with pytest.raises(FogError, match="more than one fits") as error:
        find_store(checkpoint, None)
    assert str(first.path) in str(error.value) and str(second.path) in str(error.value)
    trained = _checkpoint(tmp_path / "lab" / "models" / "of_second", task, second.data_hash)
    assert find_store(trained, None).path == second.path
    assert find_store(trained, first.path).path == first.path


def test_a_store_of_another_task_is_refused(store: EpisodeStore, tmp_path: Path) -> None:
    other = task_from_dict({**store.task.to_dict(), "control_hz": 10.0})
    checkpoint = _checkpoint(tmp_path / "global", other, "")
    with pytest.raises(FogError, match=r"control_hz: 5\.0 there, 10\.0 here"):
        find_store(checkpoint, store.path)
    with pytest.raises(FogError, match=r"--store .*missing: no such folder"):
        find_store(checkpoint, tmp_path / "missing")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(FogError, match=f"--port {port}: taken"):
            listen("127.0.0.1", port)
    for host, port, says in (
        ("no.such.host.invalid", 0, "--host no.such.host.invalid"),
        ("192.0.2.1", 0, "--host 192.0.2.1: cannot be bound"),
        ("127.0.0.1", 70_000, "70000"),
    ):
        with pytest.raises(FogError, match=says):
            listen(host, port)


def test_a_visitor_whose_loss_a_send_finds_out_first() -> None:
    """What listens then ends quietly: there is nothing to be read from such a socket."""

    async def scenario() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            if message["type"] == "websocket.send":
                raise OSError("connection reset")

        socket = WebSocket({"type": "websocket"}, receive, send)
        await socket.accept()
        task = SimpleNamespace(action_size=2, control_hz=5.0)
        world: Any = SimpleNamespace(store=SimpleNamespace(task=task))
        nobody: Any = None
        session = Session(socket, world, nobody, nobody, nobody, [])
        await session._send({"type": "hello"})
        with pytest.raises(RuntimeError):
            await socket.receive_text()
        await asyncio.wait_for(session._listen(), 5.0)

    asyncio.run(scenario())
