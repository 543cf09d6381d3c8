"""One run of an experiment, with a learner made up: when it evaluates, and how it goes on."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fog_bringup.experiment_run import ExperimentRun, RunPlan
from fog_bringup.film import film_of
from fog_bringup.tasks import find_task
from fog_bringup.zero_shot import FIRST_SEED
from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_world_model.data.episodes import Normalisation
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import PRESETS, LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig

torch.set_num_threads(1)
UNIFORM = Normalisation.from_dict({"mean": [0.25, 0.25], "std": [0.1, 0.1]})


@pytest.fixture(scope="module")
def task() -> TaskConfig:
    """Push-T in episodes of three steps."""
    task = find_task("pusht_easy")
    return dataclasses.replace(task, episode=dataclasses.replace(task.episode, max_steps=3))


class Drifting:
    """A learner whose actor moves at random, by a generator that is part of its state."""

    def __init__(self, task: TaskConfig, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.local_model = LocalModel(LocalModelConfig(**task.sizes, **PRESETS["tiny"]))
        self.actor = Actor(ActorCriticConfig(self.local_model.features_size, 2, hidden=8))
        self.generator = torch.Generator().manual_seed(seed)
        self.imagined_steps = 0
        self.progress = 0.0
        self.seen: list[float] = []
        self.finished = False

    @property
    def policy(self) -> Actor:
        """The actor itself: no average."""
        return self.actor

    def update(self) -> dict[str, float]:
        self.seen.append(self.progress)
        with torch.no_grad():
            for value in self.actor.parameters():
                value.add_(0.5 * torch.randn(value.shape, generator=self.generator))
        self.imagined_steps += 10
        return {"reward": float(self.imagined_steps), "nothing": float("nan")}

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        return {
            "actor": self.actor.state_dict(),
            "local": self.local_model.state_dict(),
            "training": {"generator": self.generator.get_state()},
        }, {"steps": self.imagined_steps}

    def load_state(
        self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
    ) -> None:
        self.actor.load_state_dict(dict(tensors["actor"]))
        self.generator.set_state(tensors["training"]["generator"])
        self.imagined_steps = int(values["steps"])


def manifest(task: TaskConfig) -> dict[str, Any]:
    return {
        "kind": "policy", "method": "drifting", "task": task.to_dict(), "task_hash": task.hash,
        "data_hash": "ab", "normalisation": UNIFORM.to_dict(), "config": {"rate": 1},
        "made_from": {},
    }  # fmt: skip


PLAN = RunPlan(1e6, 100, evaluations=4, episodes=3, episodes_along=2)
SEEDS = range(FIRST_SEED, FIRST_SEED + 3)


def figures(content: dict[str, Any]) -> Any:
    """What does not depend on how fast the machine is."""
    rows = [{k: v for k, v in e.items() if k != "seconds"} for e in content["evaluations"]]
    log = [{k: v for k, v in row.items() if k != "seconds"} for row in content["log"]]
    return rows, log, content["updates"], content["imagined_steps"]


@pytest.fixture(scope="module")
def whole(task: TaskConfig, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What an uninterrupted run comes to."""
    run = ExperimentRun(tmp_path_factory.mktemp("run"), task, PLAN, SEEDS)
    content = run.go(Drifting(task), manifest(task))
    assert run.finished() == content
    return figures(content)


def test_evaluations_come_when_they_are_due(whole: Any) -> None:
    evaluations, log, updates, steps = whole
    # Ten steps an update and a hundred in all: shares of 0, 1/4 (after 3), 1/2, 3/4 (after 8), 1.
    assert [e["share"] for e in evaluations] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [e["updates"] for e in evaluations] == [0, 3, 5, 8, 10]
    assert [e["imagined_steps"] for e in evaluations] == [0, 30, 50, 80, 100]
    assert [e["episodes"] for e in evaluations] == [2, 2, 2, 2, 3]
    assert (updates, steps) == (10, 100)
    assert [row["reward"] for row in log] == [10.0 * k for k in range(1, 11)]
    assert all("nothing" not in row for row in log), "JSON has no NaN"


@pytest.mark.parametrize("moment", [0, 1, 4, 9, 13, 20])
def test_an_interrupted_run_goes_on(
    task: TaskConfig, tmp_path: Path, whole: Any, moment: int
) -> None:
    """Interrupted at the ``moment``-th question, among updates and amid evaluations."""
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked - 1 == moment

    run = ExperimentRun(tmp_path, task, PLAN, SEEDS)
    with pytest.raises(KeyboardInterrupt):
        run.go(Drifting(task), manifest(task), stopped=stopped)
    assert run.finished() is None
    learner = Drifting(task, seed=99)
    learner.local_model = Drifting(task).local_model  # given, not learned
    if moment < 3:  # before anything was saved
        learner = Drifting(task)
    assert figures(run.go(learner, manifest(task))) == whole
    assert not (tmp_path / "policy").exists()


def test_another_run_is_not_gone_on_with(task: TaskConfig, tmp_path: Path) -> None:
    run, calls = ExperimentRun(tmp_path, task, PLAN, SEEDS), iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        run.go(Drifting(task), manifest(task), stopped=lambda: next(calls) == 6)
    with pytest.raises(FogError, match=r"config\.rate was 1, is 2"):
        run.go(Drifting(task), {**manifest(task), "config": {"rate": 2}})


def test_schedules_follow_the_run_and_a_learner_may_finish(
    task: TaskConfig, tmp_path: Path
) -> None:
    learner = Drifting(task)
    ExperimentRun(tmp_path / "a", task, PLAN, SEEDS).go(learner, manifest(task))
    assert learner.seen == pytest.approx([k / 10 for k in range(10)])
    done = Drifting(task)
    done.finished = True
    content = ExperimentRun(tmp_path / "b", task, PLAN, SEEDS).go(done, manifest(task))
    assert (content["updates"], [e["share"] for e in content["evaluations"]]) == (0, [1.0])


def test_film() -> None:
    episodes = [np.full((n, 4, 6, 3), 40 * n, np.uint8) for n in (1, 5, 3)]
    with Image.open(io.BytesIO(film_of(episodes, 5.0, columns=2, quality=100))) as film:
        assert film.size == (2 * 6 + 2, 2 * 4 + 2)
        assert getattr(film, "n_frames", 1) == 1, "nothing moves: encoders drop equal frames"
    moving = [np.stack([np.full((8, 8, 3), 40 * k, np.uint8) for k in range(4)])]
    with Image.open(io.BytesIO(film_of(moving, 5.0))) as film:
        assert getattr(film, "n_frames", 1) == 4
