"""Playing a learned world, without a browser: controls, seat, doors, world, video, messages."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fog_bringup.play.server import make_app
from fog_bringup.play.video import encode_video, film_frames
from fog_bringup.play.worker import Worker
from fog_bringup.play.world import PlayedWorld
from fog_bringup.store_export_mp4 import psnr_db, read_video
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler, to_uint8_image
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel, preset

HERE, PAGE = "http://127.0.0.1:8710", "ws://127.0.0.1:8710/play"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Such a small model is faster without the other processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(store: EpisodeStore) -> GlobalModel:
    """Untrained, with random weights everywhere: a new model predicts no change at all."""
    torch.manual_seed(0)
    model = GlobalModel(preset("tiny", **store.task.sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    _end_logit(model).fill_(-20.0)  # it never ends by itself
    return model.eval().requires_grad_(False)


def _end_logit(model: GlobalModel) -> torch.Tensor:
    last = model.outcome.heads[-1]
    assert isinstance(last, torch.nn.Linear)
    return last.bias.data[model.config.outcome.bins]


@pytest.fixture
def world(model: GlobalModel, store: EpisodeStore) -> PlayedWorld:
    return PlayedWorld(model, store)


@pytest.fixture
def client(world: PlayedWorld) -> Iterator[TestClient]:
    with TestClient(make_app(world, Worker()), base_url=HERE) as client:
        yield client


def test_a_foreign_page_gets_no_socket_and_leaves_the_world_free(client: TestClient) -> None:
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example:8710"}):
        with (
            pytest.raises(WebSocketDisconnect) as refused,
            client.websocket_connect(PAGE, headers=headers),
        ):
            pass
        assert refused.value.code == 1008
    answer = client.post("/api/env", json={}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert client.get("/api/status").json()["taken"] is False
    with client.websocket_connect(PAGE, headers={"origin": HERE}) as page:
        assert page.receive_json()["type"] == "hello"


def test_everything_on_the_page_is_its_own(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    for name in ("index.html", "play.css", "play.js", "controls.js", "view.js", "icon.svg"):
        text = client.get(f"/{name}").text
        elsewhere = text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in elsewhere and "https://" not in elsewhere, name
    for hidden in ("/docs", "/redoc", "/openapi.json", "/../server.py", "/%2e%2e/server.py"):
        assert client.get(hidden).status_code == 404, hidden


def test_a_replay_is_the_model_on_the_recorded_window(
    world: PlayedWorld, model: GlobalModel, store: EpisodeStore
) -> None:
    length, row, seed = model.context_frames, 2, 7
    episode = int(np.argmax(store.lengths))
    context = world.start(episode, row, seed)
    assert context.recorded_steps == store.lengths[episode] - row - length
    steps = []
    while (step := world.replay_step()) is not None:
        steps.append(step)
    assert len(steps) == context.recorded_steps

    split = "validation" if store.episodes[episode].held_out else "training"
    sampler = WindowSampler(store, length=int(store.lengths[episode]) - row, split=split)
    window = sampler.at(np.array([store.starts[episode] + row]))
    state = model.start(type(window)(*(getattr(window, k)[:, :length] for k in vars(window))))
    generator = torch.Generator().manual_seed(seed)
    for t, step in enumerate(steps):
        state, outcome = model.step(state, window.action[:, length - 1 + t], generator)
        ends = torch.rand(1, generator=generator)[0] < outcome.end_probability[0]
        plain = to_uint8_image(state.frames[0, -1]).astype(int)
        assert np.abs(step.image - plain).max() <= 1  # another order of sums
        assert step.reward == pytest.approx(float(outcome.reward[0]), rel=1e-3, abs=1e-4)
        assert step.end == bool(ends)
        assert step.recorded_image is not None and step.psnr_db is not None
        np.testing.assert_array_equal(
            step.recorded_image, to_uint8_image(window.image[0, length + t])
        )
        assert step.recorded_reward == pytest.approx(float(window.reward[0, length - 1 + t]))
        assert step.psnr_db == pytest.approx(psnr_db(step.image, step.recorded_image))


def test_beginning_again_gives_the_same_world(world: PlayedWorld) -> None:
    world.start(world.choices[1].index, 1, seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
    first = [world.step(a).image for a in actions]
    world.again()
    np.testing.assert_array_equal(first, [world.step(a).image for a in actions])
    world.again()
    other = [world.step(-a).image for a in actions]
    assert (np.stack(first) != np.stack(other)).any()
    world.start(world.choices[1].index, 1, seed=4)
    assert (np.stack(first) != np.stack([world.step(a).image for a in actions])).any()


def test_a_start_that_does_not_exist_is_named(world: PlayedWorld, model: GlobalModel) -> None:
    choice = world.choices[0]
    last = choice.rows - model.context_frames
    assert world.start(choice.index, last).recorded_steps == 0
    assert world.replay_step() is None
    with pytest.raises(ValueError, match=f"from 0 to {last}"):
        world.start(choice.index, last + 1)
    with pytest.raises(ValueError, match="no episode 99"):
        world.start(99)


def test_a_store_of_short_episodes_is_refused(
    model: GlobalModel, store_of: Any, tmp_path: Path
) -> None:
    short = store_of(tmp_path / "short", (2, 2, 2))
    with pytest.raises(FogError, match=r"no episode is longer than .* \(the longest has 2\)"):
        PlayedWorld(model, short)


def test_the_video_shows_what_was_played(
    world: PlayedWorld, store: EpisodeStore, tmp_path: Path
) -> None:
    world.start(world.choices[0].index)
    replayed = [world.replay_step(), world.replay_step()]
    world.step(np.zeros(2, np.float32))
    context, steps = world.film()
    frames = list(film_frames(store.task, context, steps))
    assert len(frames) == len(context.images) + 3
    path = tmp_path / "play.mp4"
    path.write_bytes(encode_video(store.task, context, steps))
    decoded = read_video(path)
    assert decoded.shape == (len(frames), *frames[0].shape)
    # 24 x 32 pixels become 336 x 448; the recorded picture on the left, the imagined on the right.
    assert replayed[1] is not None and replayed[1].recorded_image is not None
    shown = decoded[len(context.images) + 1, :336]
    for picture, left in ((replayed[1].recorded_image, 0), (replayed[1].image, 448 + 8)):
        small = shown[:, left : left + 448].reshape(24, 14, 32, 14, 3).mean((1, 3))
        assert psnr_db(small.round().astype(np.uint8), picture) > 30
    assert decoded[-1, :336, :448].mean() < 20  # driven, so there is nothing beside it


def _receive(page: Any) -> dict[str, Any]:
    """The next message; the test client itself would wait for ever."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(page.receive_json)
        if not wait([answer], timeout=30.0).done:
            page.close()  # ends the thread
            raise AssertionError("nothing came within 30 s")
        message: dict[str, Any] = answer.result()
        return message


def _next(page: Any, kind: str) -> dict[str, Any]:
    """The next message of a type; steps on the way are confirmed."""
    while True:
        message = _receive(page)
        if message["type"] == "step":
            page.send_json({"type": "shown", "step": message["step"]})
        if message["type"] == kind:
            return message


def _picture(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(24, 32, 3)


def test_a_person_drives_and_resets(client: TestClient, store: EpisodeStore) -> None:
    with client.websocket_connect(PAGE) as page:
        hello = _next(page, "hello")
        assert hello["task"] == "made_up" and len(hello["episodes"]) == len(store.episodes)
        assert hello["episodes"][0]["held_out"]
        context = _next(page, "context")
        recorded = store.episode(context["episode"]).image
        np.testing.assert_array_equal(_picture(context["images"][0]), recorded[0])
        assert _next(page, "mode")["mode"] == "stopped"

        page.send_json({"type": "drive", "deflection": [1.0, -0.5], "input": True})
        page.send_json({"type": "run"})
        assert _next(page, "mode")["mode"] == "driving"
        step = _next(page, "step")
        # The bounds are [-1, 1] and [0, 4]: nothing is below 0.
        assert step["step"] == 1 and step["command"] == pytest.approx([1.0, 0.0])
        assert _picture(step["image"]).shape == (24, 32, 3)
        assert [_next(page, "step")["step"] for _ in range(3)] == [2, 3, 4]
        page.send_json({"type": "stop"})
        assert _next(page, "mode")["mode"] == "stopped"
        page.send_json({"type": "once"})
        assert _next(page, "step")["step"] > 4

        page.send_json({"type": "reset", "episode": 3, "row": 2, "seed": 5})
        again = _next(page, "context")
        assert (again["episode"], again["row"], again["seed"]) == (3, 2, 5)
        np.testing.assert_array_equal(
            _picture(again["images"][-1]), store.episode(3).image[2 + len(again["images"]) - 1]
        )


def test_time_is_held_where_the_world_ends(client: TestClient, model: GlobalModel) -> None:
    _end_logit(model).fill_(20.0)
    try:
        with client.websocket_connect(PAGE) as page:
            page.send_json({"type": "run"})
            step = _next(page, "step")
            assert step["end"] and step["end_probability"] > 0.999
            assert "ends here" in _next(page, "mode")["why"]
            page.send_json({"type": "run"})  # to see what comes after
            assert _next(page, "step")["step"] == 2
    finally:
        _end_logit(model).fill_(-20.0)


def test_the_page_is_told_what_it_got_wrong(client: TestClient) -> None:
    with client.websocket_connect(PAGE) as page:
        for text in ("nonsense", "[]", '{"type": "fly"}', '{"type": "drive", "deflection": [1]}',
                     '{"type": "reset", "episode": 77}', '{"type": "drive"}'):  # fmt: skip
            page.send_text(text)
            assert "not understood" in _next(page, "error")["text"], text
        page.send_json({"type": "once"})
        assert _next(page, "step")["step"] == 1


def test_a_page_that_shows_nothing_holds_the_world(client: TestClient) -> None:
    with client.websocket_connect(PAGE) as page:
        page.send_json({"type": "run"})
        while _receive(page)["type"] != "step":
            pass
        assert _receive(page)["step"] == 2
        time.sleep(1.0)  # five more would be due
        page.send_json({"type": "stop"})
        assert _receive(page)["type"] == "mode"


def test_a_replay_ends_where_the_recording_does_and_can_be_taken_over(client: TestClient) -> None:
    with client.websocket_connect(PAGE) as page:
        page.send_json({"type": "reset", "episode": 2, "row": 0, "seed": 0})
        _next(page, "context")
        recorded = _next(page, "context")["recorded_steps"]
        assert _next(page, "mode")["mode"] == "stopped"
        page.send_json({"type": "replay"})
        assert _next(page, "mode")["mode"] == "replaying"
        steps = [_next(page, "step") for _ in range(recorded)]
        assert all(s["recorded_image"] and s["psnr_db"] > 0 for s in steps)
        # The made-up episodes end with an end.
        assert "ends here" in _next(page, "mode")["why"]
        page.send_json({"type": "replay"})
        _next(page, "step")
        page.send_json({"type": "drive", "deflection": [0.5, 0.5], "input": True})
        assert _next(page, "mode")["mode"] == "driving"
        assert _next(page, "step")["recorded_image"] is None


def test_the_world_is_taken_until_the_first_visitor_leaves(client: TestClient) -> None:
    with client.websocket_connect(PAGE) as first:
        _next(first, "hello")
        with client.websocket_connect(PAGE) as second:
            assert "A person has had this world" in second.receive_json()["text"]
            with pytest.raises(WebSocketDisconnect) as ended:
                second.receive_json()
            assert ended.value.code == 4001
        program = client.post("/api/env", json={})
        assert program.status_code == 409 and "A person" in program.json()["detail"]
    with client.websocket_connect(PAGE) as third:
        assert third.receive_json()["type"] == "hello"


def test_a_world_that_fails_says_so_and_is_free(
    client: TestClient, world: PlayedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(action: object) -> None:
        raise RuntimeError("CUDA error: the device is lost")

    with client.websocket_connect(PAGE) as page:
        _next(page, "mode")
        monkeypatch.setattr(world, "step", fail)
        page.send_json({"type": "run"})
        error = _next(page, "error")
        assert error["fatal"] and "the device is lost" in error["text"]
        with pytest.raises(WebSocketDisconnect) as ended:
            _receive(page)
        assert ended.value.code == 1011
    assert client.get("/api/status").json()["taken"] is False


def test_a_visitor_who_does_nothing_is_sent_away(world: PlayedWorld) -> None:
    with TestClient(make_app(world, Worker(), idle_timeout_s=0.5), base_url=HERE) as client:
        with client.websocket_connect(PAGE) as page:
            page.send_json({"type": "run"})
            # That time goes on, and is watched, is not something that they do.
            assert _next(page, "idle")["seconds"] == 0.5
            with pytest.raises(WebSocketDisconnect):
                page.receive_json()
        opened = client.post("/api/env", json={}).json()
        time.sleep(0.7)
        headers = {"Authorization": f"Bearer {opened['token']}"}
        late = client.post("/api/env/reset", json={}, headers=headers)
        assert late.status_code == 401 and "loses it" in late.json()["detail"]
        assert client.post("/api/env", json={}).status_code == 200


def test_only_who_plays_can_save_the_video(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/play/video").status_code == 401
    with client.websocket_connect(PAGE) as page:
        token = _next(page, "hello")["token"]
        context = _next(page, "context")
        page.send_json({"type": "once"})
        _next(page, "step")
        assert client.get("/play/video", headers={"Authorization": "Bearer x"}).status_code == 401
        answer = client.get("/play/video", headers={"Authorization": f"Bearer {token}"})
        assert answer.headers["content-type"] == "video/mp4"
        path = tmp_path / "play.mp4"
        path.write_bytes(answer.content)
        assert len(read_video(path)) == len(context["images"]) + 1


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/api/env/step", {"action": [0.0, 0.0]}, 422, "reset the environment"),
        ("/api/env/step", {"action": [0.0]}, 422, None),
        ("/api/env/reset", {"seed": -1}, 422, None),
        ("/api/env/reset", {"seed": 3}, 200, None),
        ("/api/env/step", {"action": [0.0, 1.5]}, 422, r"2 numbers in [-1, 1]"),
        ("/api/env/step", {"action": [0.0, 1.0]}, 200, None),
    ],
)
def test_a_program_is_told_what_it_got_wrong(
    client: TestClient, path: str, body: dict[str, Any], status: int, says: str | None
) -> None:
    token = client.post("/api/env", json={"split": "training"}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    if (says is not None and "numbers" in says) or (path.endswith("step") and status == 200):
        client.post("/api/env/reset", json={}, headers=headers)
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == status
    if says is not None:
        assert says in answer.json()["detail"]
    assert client.post(path, json=body).status_code in (401, 422)
