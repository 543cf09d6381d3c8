"""`fog play` as a process: a program in another process, what it says and how it ends."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from processes import NodeProcess, ros_environment
from toy_world import start_play, url_of

from fog_bringup.cli import main
from fog_bringup.play.client import ImaginedEnvClient, WorldTakenError
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.training.train_world_models import load_global


@pytest.fixture(scope="module")
def local(toy_world: tuple[Path, Path]) -> Iterator[NodeProcess]:
    """`fog play` as it comes."""
    with start_play(toy_world) as process:
        yield process


@pytest.fixture(scope="module")
def server(local: NodeProcess) -> str:
    """Where it answers."""
    return url_of(local)


_PROGRAM = """
import sys
import numpy as np
from fog_bringup.cli import main
from fog_bringup.play.client import ImaginedEnvClient

assert "torch" not in sys.modules
found = {}
with ImaginedEnvClient(sys.argv[1], max_steps=3, images="float32") as env:
    actions = np.random.default_rng(5).uniform(-1, 1, (2, 4, *env.action_space.shape))
    for round in range(2):
        observation, info = env.reset(seed=11 if round == 0 else None)
        rows = [[observation["image"], observation["proprioception"], 0.0, False, False]]
        for action in actions[round].astype(np.float32):
            observation, *rest, _ = env.step(action)
            rows.append([observation["image"], observation["proprioception"], *rest])
        for name, column in zip(("image", "proprioception", "reward", "end", "cut"), zip(*rows)):
            found[f"{name}{round}"] = np.stack(column)
        found[f"context{round}"] = info["context"]["image"]
np.savez(sys.argv[2], actions=actions, **found)
"""


def test_a_program_in_another_process_gets_what_an_imagined_env_gives(
    server: str, toy_world: tuple[Path, Path], tmp_path: Path
) -> None:
    result = tmp_path / "result.npz"
    command = [sys.executable, "-c", _PROGRAM, server, str(result)]
    subprocess.run(command, check=True, timeout=120, env=ros_environment())
    found = np.load(result)

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the server; the order of sums depends on it
    try:
        model, _ = load_global(toy_world[1])
        contexts = WindowSampler(EpisodeStore(toy_world[0]), length=model.context_frames, seed=11)
        env = ImaginedEnv(model, contexts, environments=1, max_steps=3, seed=11)
        for number in range(2):
            windows = env.restart()
            np.testing.assert_array_equal(found[f"context{number}"], windows.image[0])
            image, proprioception = env.observation
            np.testing.assert_array_equal(found[f"image{number}"][0], image[0])
            np.testing.assert_array_equal(found[f"proprioception{number}"][0], proprioception[0])
            for t, action in enumerate(found["actions"][number].astype(np.float32), start=1):
                step = env.step(torch.from_numpy(action)[None])
                np.testing.assert_array_equal(found[f"image{number}"][t], step.image[0])
                np.testing.assert_array_equal(
                    found[f"proprioception{number}"][t], step.proprioception[0]
                )
                assert found[f"reward{number}"][t] == float(step.reward[0])
                assert found[f"end{number}"][t] == bool(step.end[0])
                assert found[f"cut{number}"][t] == (t >= 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*infinity")  # proprioception has no bounds
def test_the_client_is_a_gymnasium_environment(server: str) -> None:
    with ImaginedEnvClient(server, split="validation") as env:
        # Before anything else was done: the seed is drawn.
        assert (env.reset()[0]["image"] == env.render()).all()
        assert env.task.name == "reach_cube"
        check_env(env, skip_render_check=True)
        with pytest.raises(FogError, match=r"3 numbers in \[-1, 1\]"):
            env.step(np.full(3, 1.5, np.float32))
        with pytest.raises(WorldTakenError, match="A program"):
            ImaginedEnvClient(server)
    env.close()  # a second time
    # It was given back.
    ImaginedEnvClient(server).close()
    wrapped = gymnasium.wrappers.TimeLimit(ImaginedEnvClient(server), 2)
    wrapped.reset(seed=0)
    wrapped.step(wrapped.action_space.sample())
    assert wrapped.step(wrapped.action_space.sample())[3]
    wrapped.close()


def test_a_program_starts_where_it_wants(server: str, toy_world: tuple[Path, Path]) -> None:
    store = EpisodeStore(toy_world[0])
    with ImaginedEnvClient(server) as env:
        observation, info = env.reset(seed=1, options={"episode": 4, "row": 6})
        length = len(info["context"]["image"])
        recorded = store.episode(4)
        np.testing.assert_array_equal(info["context"]["image"], recorded.image[6 : 6 + length])
        np.testing.assert_array_equal(observation["image"], recorded.image[6 + length - 1])
        np.testing.assert_array_equal(info["context"]["action"], recorded.action[6 : 6 + length])
        action = np.full(3, 0.5, np.float32)
        first = env.step(action)
        env.step(action)
        env.reset(seed=1, options={"episode": 4, "row": 6})
        again = env.step(action)
        np.testing.assert_array_equal(first[0]["image"], again[0]["image"])
        assert first[1] == again[1]
        room = int(store.lengths[4]) - length
        with pytest.raises(FogError, match=f"episode 4 can be started from 0 to {room}"):
            env.reset(options={"episode": 4, "row": room + 1})
        with pytest.raises(FogError, match="episode: expected 0 to 5"):
            env.reset(options={"episode": 6})
        with pytest.raises(FogError, match="options: rows: known are episode and row"):
            env.reset(options={"rows": 6})


def test_nobody_there_is_said(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(FogError, match=r"no answer .* is 'fog play' running there"):
        ImaginedEnvClient(f"http://127.0.0.1:{port}", timeout_s=5.0)
    with pytest.raises(FogError, match="expected an address"):
        ImaginedEnvClient("127.0.0.1:8710")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("port", r"--port \d+: taken by another program"),
        ("checkpoint", r"missing: no such folder, .* known are .*pusht.*fog train global"),
        ("store", r"--store .*: no such folder; make one with 'fog import'"),
        ("empty", "not an episode store"),
        ("idle", r"--idle-timeout soon: expected a duration"),
    ],
)
def test_what_the_user_can_put_right_is_said_with_status_2(
    toy_world: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    says: str,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        checkpoint = tmp_path / "missing" if change == "checkpoint" else toy_world[1]
        port = other.getsockname()[1] if change == "port" else 0
        command = ["play", str(checkpoint), "--port", str(port)]
        if change == "store":
            command += ["--store", str(tmp_path / "missing")]
        elif change == "empty":
            command += ["--store", str(tmp_path)]
        elif change == "idle":
            command += ["--idle-timeout", "soon"]
        assert main(command) == 2
    assert re.search(says, capsys.readouterr().err)


def test_it_says_loudly_that_the_network_can_reach_it(
    toy_world: tuple[Path, Path], local: NodeProcess
) -> None:
    assert "EVERYBODY" not in local.output()
    with start_play(toy_world, "--host", "0.0.0.0") as process:
        url_of(process)
        assert "EVERYBODY who reaches this" in process.output()
