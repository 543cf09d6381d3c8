"""The local model alone: it is FoG's first phase, and needs no global model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.local_alone import LocalAloneLearner, NoGlobalModel
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel


def alone(store: EpisodeStore, local: LocalModel, config: FogConfig) -> LocalAloneLearner:
    return LocalAloneLearner(
        local,
        ContextBank.load(store, length=config.context, count=50, seed=0),
        WindowSampler(store, length=config.refresh_window + 1, seed=1),
        config,
    )


def test_is_the_first_phase_of_the_trainer(
    make_trainer: Callable[..., FogTrainer],
    tiny_store: EpisodeStore,
    tiny_local: LocalModel,
    tiny_config: FogConfig,
) -> None:
    """The same updates to the bit as a trainer that would go to the global model later."""
    fog = make_trainer(replace(tiny_config, local_share=0.9))
    expected = [fog.update() for _ in range(3)]
    made = alone(tiny_store, tiny_local, replace(tiny_config, check_every=1))
    assert [made.update() for _ in range(3)] == expected
    assert made.imagined_steps == 3 * 4 * 3
    assert expected[-1]["imagined_steps"] == 0, "no step of the global model"
    assert expected[-1]["local_steps"] == 36


def test_stays_there_and_leaves_the_local_model_as_it_is(
    tiny_store: EpisodeStore, tiny_local: LocalModel, tiny_config: FogConfig
) -> None:
    made = alone(tiny_store, tiny_local, replace(tiny_config, sampling_steps=2))
    before = copy.deepcopy(made.actor.state_dict())
    for made.progress in (0.0, 0.5, 1.0):
        log = made.update()
    assert not made.in_global
    assert "local_loss" not in log
    assert any(not torch.equal(before[k], v) for k, v in made.actor.state_dict().items())
    assert all(
        torch.equal(v, made.local_model.state_dict()[k]) for k, v in tiny_local.state_dict().items()
    )
    with pytest.raises(RuntimeError, match="asked for the global model"):
        made.enter_global()
    assert not list(NoGlobalModel().parameters())


def test_what_is_not_finite_stops(
    tiny_store: EpisodeStore, tiny_local: LocalModel, tiny_config: FogConfig
) -> None:
    with torch.no_grad():
        tiny_local.rssm.cell.weight_ih[0, 0] = float("nan")
    with pytest.raises(FogError, match=r"^update 0: the local model's state is not finite"):
        alone(tiny_store, tiny_local, tiny_config).update()
