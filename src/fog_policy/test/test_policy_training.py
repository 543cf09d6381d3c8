"""The loop of policies: ends, interruptions, what it takes over, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fog_policy import policy_training
from fog_policy.actor_critic import Actor
from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.methods import Sources
from fog_policy.policy_training import PolicyLoopConfig, _Curve, train_learner
from fog_policy.train_policy import train_policy
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.task import task_from_dict
from fog_world_model.training.checkpoint import open_checkpoint
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import train_global, train_local

Make = Callable[..., FogTrainer]
NEVER = 1e9
WALL = {"seconds", "check_seconds"}
"""What of a log differs between two runs that compute the same."""


def loop(updates: int, **changes: Any) -> PolicyLoopConfig:
    return PolicyLoopConfig(time_budget_s=NEVER, max_updates=updates, **changes)


def files(path: Path) -> dict[str, dict[str, Tensor]]:
    return {file.stem: load_file(file) for file in path.glob("*.safetensors")}


def same(
    left: Mapping[str, Mapping[str, Tensor]], right: Mapping[str, Mapping[str, Tensor]]
) -> bool:
    """Bit for bit, and something of everything."""
    assert {"actor", "critic", "target", "local", "training", "refresh"} <= set(left)
    return {k: set(v) for k, v in left.items()} == {k: set(v) for k, v in right.items()} and all(
        torch.equal(tensor, right[file][name])
        for file, content in left.items()
        for name, tensor in content.items()
    )


def without_time(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in WALL} for row in curve]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sample_prior": True, "horizon": 2, "horizon_end": 5, "check_every": 3},
        {"local_share": 0.4, "precision": "bfloat16", "entropy_target": -0.5, "actor_passes": 2},
    ],
)
def test_a_run_in_two_parts_is_the_run_in_one(
    changes: dict[str, Any],
    tmp_path: Path,
    make_trainer: Make,
    tiny_config: FogConfig,
    manifest: dict[str, Any],
) -> None:
    """Weights, moments, generators, environments, buffer, temperature and logs, bit for bit.

    The first part is ended by a signal in the middle of an update. Between the two nothing is kept
    but the files.
    """
    config = replace(tiny_config, buffer_steps=100, **changes)
    whole = train_learner(make_trainer(config), loop(9), tmp_path / "whole", manifest)

    first = make_trainer(config)
    update = first.update

    def interrupted() -> dict[str, float]:
        if first.updates == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return update()

    first.update = interrupted  # type: ignore[method-assign]
    part = train_learner(first, loop(9), tmp_path / "parts", manifest)
    assert (part.updates, part.interrupted) == (5, True)
    torch.manual_seed(987)  # a new process begins with other random numbers
    second = make_trainer(config)
    torch.rand(3)
    rest = train_learner(second, loop(9), tmp_path / "parts", manifest, resume=True)
    assert (rest.updates, rest.interrupted) == (9, False)
    assert without_time(rest.curve) == without_time(whole.curve)
    assert same(files(tmp_path / "whole"), files(tmp_path / "parts"))
    if config.local_share:
        assert [row["local_steps"] for row in whole.curve[3:5]] == [48, 48]
    if config.horizon_end:
        assert [row["horizon"] for row in whole.curve] == [2, 2, 3, 3, 3, 4, 4, 4, 5]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_store: EpisodeStore) -> Path:
    folder = tmp_path_factory.mktemp("models")
    settings = LoopConfig(max_steps=2, batch_size=2, device="cpu")
    train_global(tiny_store, folder / "global", settings, preset="tiny")
    train_local(tiny_store, folder / "local", settings, preset="tiny", window=5)
    return folder


def test_a_killed_run_goes_on_bit_for_bit(
    tmp_path: Path, models: Path, tiny_store: EpisodeStore, tiny_config: FogConfig
) -> None:
    """A process of its own, killed while it runs, leaves a whole checkpoint of some update."""
    config = replace(tiny_config, context=5, buffer_steps=400)

    def train(output: Path, settings: PolicyLoopConfig, *, resume: bool) -> None:
        train_policy(
            "fog", Sources(tiny_store, models / "global", models / "local"), config, settings,
            output, output.with_suffix(".bundle"), resume=resume,
        )  # fmt: skip

    script = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1);"
        "from fog_policy.fog_config import FogConfig;"
        "from fog_policy.methods import Sources;"
        "from fog_policy.policy_training import PolicyLoopConfig;"
        "from fog_policy.train_policy import train_policy;"
        "from fog_world_model.data.episodes import EpisodeStore;"
        "store, models, output = map(Path, sys.argv[1:4]); torch.manual_seed(5);"
        "train_policy('fog', Sources(EpisodeStore(store), models / 'global', models / 'local'), "
        f"{config!r}, PolicyLoopConfig(time_budget_s=1e9, max_updates=100000, "
        "checkpoint_every_s=0.0), output, output.with_suffix('.bundle'))"
    )
    killed = tmp_path / "killed"
    arguments = [sys.executable, "-c", script, str(tiny_store.path), str(models), str(killed)]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 100
            while time.monotonic() < until and process.poll() is None:
                try:
                    if open_checkpoint(killed, "policy").manifest["updates"] >= 3:
                        break
                except FogError:
                    time.sleep(0.02)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    updates = int(open_checkpoint(killed, "policy").manifest["updates"])
    assert updates >= 3
    train(killed, loop(updates + 3), resume=True)
    train(tmp_path / "whole", loop(updates + 3), resume=False)
    assert same(files(tmp_path / "whole"), files(killed))


def test_full_pieces_of_the_buffer_are_written_once(
    tmp_path: Path, make_trainer: Make, tiny_config: FogConfig, manifest: dict[str, Any]
) -> None:
    made = make_trainer(replace(tiny_config, environments=40, horizon=1))
    train_learner(made, loop(6, checkpoint_every_s=0.0), tmp_path / "policy", manifest)
    first = tmp_path / "policy" / "buffer_00000000.safetensors"
    before, content = first.stat(), load_file(first)
    assert (tmp_path / "policy" / "buffer_newest.safetensors").exists()
    train_learner(made, loop(7), tmp_path / "policy", manifest, resume=True)
    assert first.stat().st_ino == before.st_ino, "the same file"
    assert len(made.buffer) == 280
    assert torch.equal(load_file(first)["image"], content["image"])
    # Another run in the same folder begins with other trajectories.
    other = make_trainer(replace(tiny_config, environments=40, horizon=1, seed=1))
    train_learner(other, loop(2), tmp_path / "policy", manifest)
    assert not torch.equal(load_file(first)["action"], content["action"])


def test_runs_end_where_they_are_told(
    tmp_path: Path, make_trainer: Make, tiny_config: FogConfig, manifest: dict[str, Any]
) -> None:
    made = make_trainer(tiny_config)
    result = train_learner(made, loop(3), tmp_path / "policy", manifest)
    assert (result.updates, result.imagined_steps, result.interrupted) == (3, 36, False)
    assert [row["update"] for row in result.curve] == [1, 2, 3]
    again = train_learner(
        made, PolicyLoopConfig(NEVER, max_imagined_steps=50), tmp_path / "policy", manifest,
        resume=True,
    )  # fmt: skip
    assert (again.updates, again.imagined_steps) == (5, 60)
    assert open_checkpoint(tmp_path / "policy", "policy").manifest["imagined_steps"] == 60
    nothing = train_learner(made, PolicyLoopConfig(0.0), tmp_path / "none", manifest)
    assert (nothing.updates, nothing.curve) == (0, [])


def test_time_spent_watching_is_not_counted(
    tmp_path: Path,
    make_trainer: Make,
    tiny_config: FogConfig,
    manifest: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An update takes 1 s, watching 100 s, by a clock that only they move."""
    now, made, seen = [1000.0], make_trainer(tiny_config), []
    monkeypatch.setattr(policy_training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    update = made.update

    def timed() -> dict[str, float]:
        now[0] += 1.0
        return update()

    def watch(row: dict[str, float]) -> None:
        now[0] += 100.0
        seen.append((row["update"], row["seconds"]))

    made.update = timed  # type: ignore[method-assign]
    settings = PolicyLoopConfig(time_budget_s=5.0)
    result = train_learner(made, settings, tmp_path / "policy", manifest, watch=watch)
    assert seen == [(i, float(i)) for i in range(1, 6)]
    assert result.seconds == 5.0
    more = PolicyLoopConfig(time_budget_s=7.0)
    result = train_learner(made, more, tmp_path / "policy", manifest, resume=True, watch=watch)
    assert seen[5:] == [(6, 6.0), (7, 7.0)]


def test_the_horizon_follows_the_updates_or_else_the_time() -> None:
    by_updates = PolicyLoopConfig(100.0, max_updates=10)
    assert by_updates.progress(5, 0, 99.0) == 0.5
    assert by_updates.done(5, 0, 99.0) == 0.99
    assert PolicyLoopConfig(100.0).progress(5, 0, 25.0) == 0.25
    assert PolicyLoopConfig(100.0, max_imagined_steps=200).progress(5, 150, 25.0) == 0.75
    schedule = FogConfig(horizon=16, horizon_end=64)
    assert [schedule.horizon_at(p) for p in (-1, 0, 0.25, 0.5, 1, 2)] == [16, 16, 28, 40, 64, 64]
    assert schedule.refresh_window == 16
    assert FogConfig(horizon=16, horizon_end=8).refresh_window == 8
    assert FogConfig(horizon=16).horizon_at(0.7) == 16


def test_another_run_is_refused_with_the_difference(
    tmp_path: Path, make_trainer: Make, tiny_config: FogConfig, manifest: dict[str, Any]
) -> None:
    path = tmp_path / "policy"
    about = {**manifest, "config": {"gamma": 0.97, "check_every": 5, "lambda_": 0.95}}
    made = make_trainer(tiny_config)
    train_learner(made, loop(1), path, {**about, "data_hash": "aaa"})

    def resume(changes: dict[str, Any]) -> None:
        train_learner(made, loop(2), path, {**about, "data_hash": "aaa", **changes}, resume=True)

    with pytest.raises(FogError, match=r"policy: does not belong to this run: config.gamma was "
                                       r"0.97, is 0.99. Give the options"):  # fmt: skip
        resume({"config": {"gamma": 0.99, "check_every": 7, "lambda_": 0.95}})
    with pytest.raises(FogError, match="data_hash was aaa, is bbb"):
        resume({"data_hash": "bbb"})
    other = task_from_dict({**manifest["task"], "name": "other"})
    with pytest.raises(FogError, match="was made for task 'tiny'"):
        resume({"task": other.to_dict()})
    resume({"config": {"gamma": 0.97, "check_every": 7, "lambda_": 0.95}})  # what may change


def test_a_checkpoint_of_another_version_is_refused(
    tmp_path: Path, make_trainer: Make, tiny_config: FogConfig, manifest: dict[str, Any]
) -> None:
    path = tmp_path / "policy"
    made = make_trainer(tiny_config)
    train_learner(made, loop(1), path, manifest)
    whole = json.loads((path / "manifest.json").read_text())

    def resume(content: dict[str, Any], **changes: Any) -> None:
        (path / "manifest.json").write_text(json.dumps(content))
        trainer = make_trainer(replace(tiny_config, **changes))
        train_learner(trainer, loop(2), path, manifest, resume=True)

    with pytest.raises(FogError, match=r"has no learner, files: an earlier version made it"):
        resume({k: v for k, v in whole.items() if k not in ("learner", "files")})
    missing = {k: v for k, v in whole["learner"].items() if k != "refresh"}
    with pytest.raises(FogError, match=r"policy: the state of the training has no 'refresh'"):
        resume({**whole, "learner": missing})
    with pytest.raises(FogError, match=r"imagined in precision bfloat16, here it is float32"):
        resume({**whole, "learner": {**whole["learner"], "precision": "bfloat16"}},
               precision="float32")  # fmt: skip
    (path / "critic.safetensors").unlink()
    with pytest.raises(FogError, match=r"critic.safetensors: cannot be read"):
        resume(whole)


def test_the_curve_is_thinned_but_not_its_checks() -> None:
    curve = _Curve()
    for update in range(1, 10_001):
        check = {"gradient_cosine": 0.5} if update % 75 == 0 else {}
        curve.add({"update": update, **check})
    updates = [row["update"] for row in curve.rows]
    assert len(updates) < 4001
    assert updates == sorted(updates)
    assert {75 * i for i in range(1, 134)} <= set(updates)
    assert {4 * i for i in range(1, 2501)} <= set(updates)


class Counting:
    """The least that a learner is: no schedule, no health, a state of one number."""

    def __init__(self, actor: Actor, local: LocalModel) -> None:
        self.actor, self.local_model, self.count = actor, local, 0

    @property
    def imagined_steps(self) -> int:
        return 10 * self.count

    def update(self) -> dict[str, float]:
        self.count += 1
        return {"loss": 1.0 / self.count}

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        local = self.local_model.state_dict()
        return {"actor": self.actor.state_dict(), "local": local}, {"count": self.count}

    def load_state(
        self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
    ) -> None:
        self.count = int(values["count"])


def test_any_learner_is_driven(
    tmp_path: Path, make_trainer: Make, tiny_config: FogConfig, manifest: dict[str, Any]
) -> None:
    other = make_trainer(tiny_config)
    learner = Counting(other.actor, other.local_model)
    train_learner(learner, loop(3), tmp_path / "policy", manifest)
    again = Counting(other.actor, other.local_model)
    result = train_learner(again, loop(5), tmp_path / "policy", manifest, resume=True)
    assert (result.updates, result.imagined_steps, again.count) == (5, 50, 5)
    assert [row["loss"] for row in result.curve] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
