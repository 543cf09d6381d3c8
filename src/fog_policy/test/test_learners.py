"""What every learner owes its driver: to go on bit for bit, and a bundle that acts as it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_policy.behaviour_cloning import BehaviourCloning
from fog_policy.bundle import export_bundle, load_bundle
from fog_policy.cloning_config import CloningConfig
from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.learner import Learner
from fog_policy.local_alone import LocalAloneLearner
from fog_policy.policy_training import LearnerCheckpoint, PolicyLoopConfig, train_learner
from fog_policy.ppo_baseline import PpoLearner
from fog_policy.ppo_config import PpoConfig
from fog_policy.recurrent_controller import TorchController
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel

Make = Callable[[], Learner]
METHODS = ("fog", "fog with an anchor", "ppo", "ppo with a frozen local model", "local", "bc")


@pytest.fixture(params=METHODS)
def make(
    request: pytest.FixtureRequest,
    make_trainer: Callable[..., FogTrainer],
    make_ppo: Callable[..., PpoLearner],
    tiny_store: EpisodeStore,
    tiny_local: LocalModel,
    tiny_config: FogConfig,
    tiny_ppo: PpoConfig,
) -> Make:
    """Makes a learner of each kind, always the same one."""

    def local() -> Learner:
        contexts = ContextBank.load(tiny_store, length=3, count=50, seed=0)
        return LocalAloneLearner(
            tiny_local, contexts, WindowSampler(tiny_store, length=4, seed=1), tiny_config
        )

    kinds: dict[str, Make] = {
        "fog": lambda: make_trainer(tiny_config),
        "fog with an anchor": lambda: make_trainer(replace(tiny_config, anchor=0.1)),
        "ppo": lambda: make_ppo(tiny_ppo),
        "ppo with a frozen local model": lambda: make_ppo(replace(tiny_ppo, refresh_steps=0)),
        "local": local,
        "bc": lambda: BehaviourCloning(
            tiny_store, tiny_local, CloningConfig(share=0.5, batch=64, device="cpu")
        ),
    }
    return kinds[str(request.param)]


def everything(learner: Learner) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors, values = learner.state()
    assert {"actor", "local"} <= set(tensors)
    copied = {
        f"{file}.{name}": tensor.detach().clone()
        for file, content in tensors.items()
        for name, tensor in content.items()
    }
    return copied, values


def test_goes_on_bit_for_bit(tmp_path: Path, make: Make, manifest: dict[str, Any]) -> None:
    """Through files, into a learner that has been elsewhere meanwhile."""
    first = make()
    for _ in range(2):
        first.update()
    LearnerCheckpoint(tmp_path / "policy", manifest).save(first, updates=2, seconds=0.0, curve=[])
    logs = [first.update() for _ in range(3)]

    second = make()
    second.update()
    torch.manual_seed(99)
    LearnerCheckpoint(tmp_path / "policy", manifest).load(second)
    assert [second.update() for _ in range(3)] == logs
    assert first.imagined_steps == second.imagined_steps
    (left, left_values), (right, right_values) = everything(first), everything(second)
    assert left_values == right_values
    assert set(left) == set(right)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_exports_a_bundle_that_acts_the_same(
    tmp_path: Path, make: Make, manifest: dict[str, Any], tiny_store: EpisodeStore
) -> None:
    learner = make()
    train_learner(
        learner, PolicyLoopConfig(time_budget_s=1e9, max_updates=2), tmp_path / "policy", manifest
    )
    export_bundle(tmp_path / "policy", tmp_path / "bundle")
    deployed = load_bundle(tmp_path / "bundle", tiny_store.task).controller()
    own = TorchController(
        learner.local_model, learner.policy, tiny_store.normalisation, tiny_store.task
    )
    episode, previous = tiny_store.episode(0), np.zeros(3, np.float32)
    for image, vector in zip(episode.image[:6], episode.proprioception[:6], strict=True):
        action = deployed.act(image, vector, previous)
        np.testing.assert_array_equal(action, own.act(image, vector, previous))
        assert float(np.abs(action - previous).max()) > 0
        previous = action


def test_a_state_of_something_else_is_refused(make: Make) -> None:
    learner = make()
    tensors, values = learner.state()
    lacking = {name: content for name, content in tensors.items() if name != "actor"}
    with pytest.raises(FogError, match="has no 'actor'"):
        learner.load_state(lacking, values)
    wrong = {**tensors, "actor": {"body.0.weight": torch.zeros(2, 2)}}
    with pytest.raises(FogError, match="does not fit"):
        learner.load_state(wrong, values)
