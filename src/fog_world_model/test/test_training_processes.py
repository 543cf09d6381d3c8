"""Training in child processes: interrupted, killed, out of disk, and divided over two of them."""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.training.checkpoint import open_checkpoint
from fog_world_model.training.train_world_models import load_global

sys.path.insert(0, str(Path(__file__).parent))  # child processes import it by its name too
training_child: Any = importlib.import_module("training_child")
Answer: Any = training_child.Answer
STEPS = 60
LOOP = {"max_steps": STEPS, "batch_size": 8, "threads": 1, "time_budget_s": 600.0}
Saved = tuple[list[dict[str, float]], dict[str, torch.Tensor]]


def children(
    store: EpisodeStore, output: Path, processes: int, kind: str = "local", **told: Any
) -> list[Answer]:
    told = {"store": str(store.path), "output": str(output), "kind": kind, "loop": LOOP, **told}
    folder = output.with_name("said")
    folder.mkdir(exist_ok=True)
    return training_child.train(told, folder, processes)


def child(store: EpisodeStore, output: Path, kind: str = "local", **told: Any) -> Answer:
    return children(store, output, 1, kind, **told)[0]


def curve(answer: Answer) -> list[dict[str, float]]:
    assert answer.status == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["step"] == STEPS
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found["curve"]]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(path, None)
    return {
        f"{name}.{key}": value
        for name in ("model", "ema", "training")
        for key, value in checkpoint.tensors(name).items()
    }


@pytest.fixture(scope="module")
def whole(coded_store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The curve and everything saved of a run that nothing happened to."""
    path = tmp_path_factory.mktemp("whole") / "local"
    answer = child(coded_store, path)
    return curve(answer), tensors(path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_signal_at_any_step_changes_nothing(
    name: str,
    tmp_path: Path,
    coded_store: EpisodeStore,
    whole: Saved,
) -> None:
    """Bit for bit: weights, averages, optimiser, random states and the curve of the losses."""
    path, call = tmp_path / "local", random.randrange(2, STEPS)
    print("interrupted in step", call)
    often = {**LOOP, "checkpoint_every_s": 0.0}
    first = child(coded_store, path, at={call: name}, loop=often)
    assert first.status == {"SIGINT": 130, "SIGTERM": 130, "SIGKILL": -9}[name], first.stderr
    saved = open_checkpoint(path, "local").manifest["step"]
    assert saved == (call - 1 if name == "SIGKILL" else call)  # the step it came in is finished
    second = child(coded_store, path, resume=True)
    expected_curve, expected = whole
    assert curve(second) == expected_curve
    found = tensors(path)
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def test_killed_while_it_writes(tmp_path: Path, coded_store: EpisodeStore) -> None:
    """Killed anywhere, mostly in the middle of a checkpoint, with the next run going on."""
    path, before = tmp_path / "global", 0
    told = {
        "store": str(coded_store.path), "output": str(path), "kind": "global",
        "loop": {**LOOP, "max_steps": 100_000, "checkpoint_every_s": 0.0},
    }  # fmt: skip
    for attempt in range(8):
        (running,) = training_child.start({**told, "resume": attempt > 0}, tmp_path)
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                if path.exists() and open_checkpoint(path, "global").manifest["step"] > before:
                    break
                time.sleep(0.01)
            time.sleep(0.2 * random.random())
        finally:
            running.kill()
            running.join()
        checkpoint = open_checkpoint(path, "global")
        assert checkpoint.manifest["step"] > before
        before = checkpoint.manifest["step"]
        load_global(path)
        assert all(checkpoint.tensors(name) for name in ("model", "ema", "training"))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, coded_store: EpisodeStore) -> None:
    """No file may grow beyond a size that the weights exceed: written bytes are refused."""
    path = tmp_path / "global"
    assert child(coded_store, path, kind="global", loop={**LOOP, "max_steps": 3}).status == 0
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    answer = child(coded_store, path, kind="global", resume=True, largest_file=100_000)
    assert answer.status == 2, answer.stderr
    assert f"fog: checkpoint {path}: cannot be written" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "global", "global.tensorboard", "said",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["global", "local"])
def test_two_processes_are_one_but_for_rounding(
    kind: str, tmp_path: Path, coded_store: EpisodeStore
) -> None:
    """The losses of every step enter the averages, so that one wrong random number would show.

    The local model's batch is divided over two processes and two parts in each.
    """
    loop = {**LOOP, **({"pictures_every_s": 0.3} if kind == "global" else {"accumulate": 2})}
    one = curve(child(coded_store, tmp_path / "one", kind))
    first, second = children(coded_store, tmp_path / "two", 2, kind, loop=loop)
    assert second.status == 0, second.stderr
    assert second.stdout == ""
    assert [line for line in second.stderr.splitlines() if "Warning" not in line] == []
    for mine, theirs in zip(one, curve(first), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    left, right = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert torch.equal(left["training.random.torch"], right["training.random.torch"])
    sampler = [open_checkpoint(tmp_path / n, kind).manifest["sampler"] for n in ("one", "two")]
    assert sampler[0] == sampler[1]
    assert open_checkpoint(tmp_path / "two", kind).manifest["processes"] == 2
    # A weight whose gradient is nothing but rounding is moved by Adam all the same.
    apart = torch.cat([(left[k] - right[k]).abs().flatten() for k in left if k.startswith("ema")])
    assert apart.quantile(0.99) < 1e-4
    assert bool((tmp_path / "two.pictures").exists()) == (kind == "global")


def test_a_signal_to_one_of_two_ends_both(
    tmp_path: Path, coded_store: EpisodeStore, whole: Saved
) -> None:
    """And one process alone goes on from what the two have saved."""
    path = tmp_path / "local"
    answers = children(coded_store, path, 2, rank=1, at={17: "SIGTERM"})
    assert [answer.status for answer in answers] == [130, 130]
    assert open_checkpoint(path, "local").manifest["step"] == 17
    found = curve(child(coded_store, path, resume=True))
    assert found == [pytest.approx(row, rel=1e-4) for row in whole[0]]


def test_one_of_two_fails_and_ends_both(tmp_path: Path, coded_store: EpisodeStore) -> None:
    path = tmp_path / "local"
    often = {**LOOP, "checkpoint_every_s": 0.0}
    first, second = children(coded_store, path, 2, rank=1, at={9: "out of memory"}, loop=often)
    assert (first.status, second.status) == (2, 2)
    assert "training process 1 of 2: out of CPU memory with 4 windows at a time" in second.stderr
    assert "raise --accumulate to 2" in second.stderr
    assert "training process 0 of 2: lost the others" in first.stderr
    assert "Traceback" not in first.stderr + second.stderr
    assert open_checkpoint(path, "local").manifest["step"] == 8
    assert open_checkpoint(path, "local").tensors("training")


def test_a_loss_of_one_of_two_is_no_number(tmp_path: Path, coded_store: EpisodeStore) -> None:
    """Row 1 of the second process is row 5 of the batch; the main process names its place."""
    path = tmp_path / "local"
    answers = children(coded_store, path, 2, rank=1, at={4: "not a number"})
    assert [answer.status for answer in answers] == [2, 2]
    sampler = WindowSampler(coded_store, length=5)
    for _ in range(4):
        sampler.sample(LOOP["batch_size"])
    said = answers[0].stderr
    assert "fog: training step 3: the loss is not finite" in said
    named = said[said.index("; windows at fault: ") :]
    assert sampler.describe([5])[0] in named
    assert named.count("episode ") == sum(
        place == sampler.describe([5])[0] for place in sampler.describe(range(8))
    )
    checkpoint = open_checkpoint(path, "local")
    assert checkpoint.manifest["step"] == 3
    assert all(bool(torch.isfinite(v).all()) for v in checkpoint.tensors("model").values())
