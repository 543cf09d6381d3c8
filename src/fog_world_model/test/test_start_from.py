"""Training that starts from another checkpoint's weights, and models that read one another."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.errors import FogError
from fog_world_model.evaluation.evaluate_global import training
from fog_world_model.global_model.global_model import GlobalChanges
from fog_world_model.task import TaskConfig, task_from_dict
from fog_world_model.training.checkpoint import open_checkpoint
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import (
    load_global,
    load_local,
    load_worlds,
    on_scale_of,
    train_global,
    train_local,
)

LOOP = LoopConfig(max_steps=6, batch_size=4, device="cpu")
STILL = dataclasses.replace(LOOP, max_steps=1, learning_rate=0.0)
"""One step that changes nothing."""


@pytest.fixture
def store_of(
    tmp_path: Path, tiny_task: TaskConfig, make_coded_episode: Callable[[int, int], Episode]
) -> Callable[[str, range], EpisodeStore]:
    """Write episodes of certain numbers, which are what one of the proprioceptive fields shows."""

    def write(name: str, numbers: range) -> EpisodeStore:
        writer = EpisodeWriter(tmp_path / f"{name}.episodes", tiny_task)
        for number in numbers:
            episode = make_coded_episode(number, 9)
            episode.image[4:, :, :, 2] = 90  # something happens now and then
            writer.append(episode, source=f"coded#{number}")
        return writer.finish(validation_fraction=0.25, report={})

    return write


@pytest.fixture
def first(store_of: Callable[[str, range], EpisodeStore]) -> EpisodeStore:
    return store_of("first", range(4))


@pytest.fixture
def second(store_of: Callable[[str, range], EpisodeStore]) -> EpisodeStore:
    """Other recordings, whose proprioception is spread otherwise."""
    return store_of("second", range(10, 30, 5))


def test_weights_scale_and_size_are_the_parents(
    first: EpisodeStore, second: EpisodeStore, tmp_path: Path
) -> None:
    own = second.normalisation.to_dict()
    changes = GlobalChanges(context_noise=0.25)
    train_global(first, tmp_path / "a", LOOP, preset="tiny", changes=changes)
    train_global(second, tmp_path / "b", STILL, start_from=tmp_path / "a")
    train_local(first, tmp_path / "la", LOOP, preset="tiny", window=5)
    train_local(second, tmp_path / "lb", STILL, window=5, start_from=tmp_path / "la")
    for load, parent, child in ((load_global, "a", "b"), (load_local, "la", "lb")):
        (old, of_old), (new, of_new) = load(tmp_path / parent), load(tmp_path / child)
        assert old.config == new.config
        for name, value in old.state_dict().items():
            assert torch.equal(value, new.state_dict()[name]), name
        assert of_new.normalisation.to_dict() == of_old.normalisation.to_dict() != own
        origin = of_new.manifest["started_from"]
        assert origin["data_hash"] == first.data_hash != of_new.manifest["data_hash"]
        assert (origin["step"], origin["started_from"]) == (6, None)
        assert of_new.manifest["preset"] == "tiny"


def test_the_weight_of_the_reward_is_the_parents_unless_given(
    first: EpisodeStore, tmp_path: Path
) -> None:
    train_local(first, tmp_path / "a", STILL, preset="tiny", window=5)
    train_local(first, tmp_path / "b", STILL, preset="tiny", window=5, reward_std=0.03)
    train_local(first, tmp_path / "c", STILL, window=5, start_from=tmp_path / "b")
    again = {"window": 5, "start_from": tmp_path / "b", "reward_std": 0.5}
    train_local(first, tmp_path / "d", STILL, **again)
    found = {name: load_local(tmp_path / name) for name in "abcd"}
    weights = {name: model.config.reward_std for name, (model, _) in found.items()}
    assert weights == {"a": 0.1, "b": 0.03, "c": 0.03, "d": 0.5}
    assert found["d"][1].manifest["config"]["reward_std"] == 0.5
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(FogError, match=r"^--reward-std .*: expected more than 0$"):
            train_local(first, tmp_path / "e", STILL, preset="tiny", reward_std=wrong)


def test_the_cost_is_that_of_all_runs(
    first: EpisodeStore, second: EpisodeStore, tmp_path: Path
) -> None:
    train_global(first, tmp_path / "a", LOOP, preset="tiny")
    small = dataclasses.replace(LOOP, max_steps=3, batch_size=2)
    train_global(second, tmp_path / "b", small, start_from=tmp_path / "a")
    train_global(second, tmp_path / "c", small, start_from=tmp_path / "b")
    runs = [open_checkpoint(tmp_path / name, "global") for name in "abc"]
    found = training(runs[-1], second)
    assert found["steps"] == 6 + 3 + 3
    assert found["samples"] == 6 * 4 + 3 * 2 + 3 * 2
    assert found["seconds"] == pytest.approx(sum(run.manifest["seconds"] for run in runs))
    assert found["runs"] == 3


def test_what_does_not_fit_is_refused(
    first: EpisodeStore, second: EpisodeStore, content: dict[str, Any], tmp_path: Path
) -> None:
    train_global(first, tmp_path / "a", LOOP, preset="tiny")
    content["image"]["width"] = 24
    second.task = task_from_dict(content)
    with pytest.raises(FogError, match=r"its width is 16, task 'tiny' has 24"):
        train_global(second, tmp_path / "b", LOOP, start_from=tmp_path / "a")
    with pytest.raises(FogError, match=r"does not fit the model"):
        train_global(first, tmp_path / "b", LOOP, preset="diamond", start_from=tmp_path / "a")
    with pytest.raises(FogError, match=r"trained with residual True, and is to go on with False"):
        train_global(
            first,
            tmp_path / "b",
            LOOP,
            start_from=tmp_path / "a",
            changes=GlobalChanges(residual=False),
        )
    assert not (tmp_path / "b").exists()


def test_resuming_needs_the_same_parent_and_share(first: EpisodeStore, tmp_path: Path) -> None:
    train_global(first, tmp_path / "a", LOOP, preset="tiny")
    train_global(first, tmp_path / "b", LOOP, start_from=tmp_path / "a")
    longer = dataclasses.replace(LOOP, max_steps=8)
    with pytest.raises(FogError, match=r"started_from was \{.*is None"):
        train_global(first, tmp_path / "b", longer, preset="tiny", resume=True)
    with pytest.raises(FogError, match=r"moving_windows was 0\.0, is 0\.5"):
        train_global(
            first, tmp_path / "b", longer, start_from=tmp_path / "a", moving=0.5, resume=True
        )
    result = train_global(first, tmp_path / "b", longer, start_from=tmp_path / "a", resume=True)
    assert result.step == 8
    # What an earlier version wrote says nothing of either, and had neither.
    file = tmp_path / "a" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["moving_windows"], manifest["started_from"]
    file.write_text(json.dumps(manifest))
    assert train_global(first, tmp_path / "a", longer, preset="tiny", resume=True).step == 8


def test_both_models_and_the_store_are_on_one_scale(
    first: EpisodeStore, second: EpisodeStore, tmp_path: Path
) -> None:
    train_global(first, tmp_path / "global", STILL, preset="tiny")
    train_local(first, tmp_path / "local", STILL, preset="tiny", window=5)
    train_local(second, tmp_path / "stranger", STILL, preset="tiny", window=5)
    vector = np.array([[1.0, 2.0]], np.float32)
    assert not np.array_equal(second.normalisation.apply(vector), first.normalisation.apply(vector))
    with pytest.raises(FogError, match=r"proprioception of different scales.*--scale-from"):
        load_worlds(tmp_path / "global", tmp_path / "stranger", second)
    scaled = on_scale_of(tmp_path / "stranger", first)
    train_global(scaled, tmp_path / "fitting", STILL, preset="tiny")
    _, _, seen = load_worlds(tmp_path / "fitting", tmp_path / "stranger", first)
    assert seen.normalisation.to_dict() == second.normalisation.to_dict()
    with pytest.raises(FogError, match=r"on another scale; give --scale-from"):
        train_global(
            first,
            tmp_path / "fitting",
            dataclasses.replace(STILL, max_steps=2),
            preset="tiny",
            resume=True,
        )
    own = second.normalisation.to_dict()
    worlds, _, seen = load_worlds(tmp_path / "global", tmp_path / "local", second)
    assert seen.normalisation.to_dict() == worlds[1].normalisation.to_dict() != own
    assert second.normalisation.to_dict() == own, "the store that was given is as it was"
    np.testing.assert_array_equal(
        seen.normalisation.apply(vector), first.normalisation.apply(vector)
    )
