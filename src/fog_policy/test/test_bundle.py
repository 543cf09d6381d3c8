"""The bundle: what was trained is what acts, and nothing else is let in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.bundle import add_surprise, export_bundle, load_bundle
from fog_policy.fog_config import FogConfig
from fog_policy.methods import Sources
from fog_policy.policy_training import PolicyLoopConfig
from fog_policy.recorded_surprise import surprise_of_store
from fog_policy.recurrent_controller import TorchController
from fog_policy.surprise import SurpriseGuard
from fog_policy.train_policy import train_policy
from fog_world_model.data.episodes import Episode, EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.task import task_from_dict
from fog_world_model.training.checkpoint import Checkpoint, open_checkpoint
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import train_global, train_local


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_store: EpisodeStore) -> Path:
    """``global``, ``local``, ``policy`` and ``bundle`` of two steps each."""
    folder = tmp_path_factory.mktemp("runs")
    loop = LoopConfig(max_steps=2, batch_size=2, device="cpu")
    train_global(tiny_store, folder / "global", loop, preset="tiny")
    train_local(tiny_store, folder / "local", loop, preset="tiny", window=5)
    config = FogConfig(environments=3, horizon=3, context=3, refresh_batch=2, device="cpu")
    train_policy(
        "fog",
        Sources(tiny_store, folder / "global", folder / "local"),
        config,
        PolicyLoopConfig(max_updates=2),
        folder / "policy",
        folder / "bundle",
    )
    return folder


@pytest.fixture
def bundle(runs: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    shutil.copytree(runs / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def networks(checkpoint: Checkpoint) -> tuple[LocalModel, Actor]:
    """Local model and actor straight from the policy's checkpoint."""
    local = LocalModel(LocalModelConfig(**checkpoint.manifest["local_config"]))
    actor = Actor(ActorCriticConfig(**checkpoint.manifest["actor_critic"]))
    checkpoint.load_into(local, "local")
    checkpoint.load_into(actor, "average")  # of the actor: what is deployed
    return local.eval(), actor.eval()


def drive(controller: TorchController, episode: Episode) -> np.ndarray:
    """Answers to the observations of an episode, told the actions that were recorded."""
    controller.reset()
    previous, answers = np.zeros(3, np.float32), []
    for t in range(len(episode)):
        answers.append(controller.act(episode.image[t], episode.proprioception[t], previous))
        previous = episode.action[t]
    return np.stack(answers)


def test_controller_equals_filtering_with_the_local_model(
    runs: Path, tiny_store: EpisodeStore
) -> None:
    """From uint8 images and physical units, one step at a time, against the windows of training."""
    local, actor = networks(open_checkpoint(runs / "policy", "policy"))
    index = int(tiny_store.split("training")[0])
    episode = tiny_store.episode(index)
    sampler = WindowSampler(tiny_store, length=len(episode))
    windows = sampler.at(np.asarray([tiny_store.starts[index]]))
    with torch.no_grad():
        states, _, _ = local.filter(windows, sample=False)
        expected = actor.mode(states.features[0]).numpy()
    controller = load_bundle(runs / "bundle", tiny_store.task).controller()
    answers = drive(controller, episode)
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert answers.dtype == np.float32
    assert answers.std(axis=0).max() > 1e-3, "the comparison must not be of constants"
    # After a reset nothing of the past is left.
    np.testing.assert_array_equal(drive(controller, episode), answers)


def test_state_and_previous_action_matter(runs: Path, tiny_store: EpisodeStore) -> None:
    episode = tiny_store.episode(0)
    controller = load_bundle(runs / "bundle").controller()

    def last(previous: float, first: int) -> np.ndarray:
        controller.reset()
        controller.act(episode.image[first], episode.proprioception[first], np.zeros(3))
        return controller.act(episode.image[5], episode.proprioception[5], np.full(3, previous))

    assert not np.array_equal(last(0.0, 0), last(0.9, 0))
    assert not np.array_equal(last(0.0, 0), last(0.0, 1))


def test_what_is_in_a_bundle(runs: Path, tiny_store: EpisodeStore) -> None:
    assert sorted(p.name for p in (runs / "bundle").iterdir()) == [
        "manifest.json",
        "weights.safetensors",
    ]
    bundle = load_bundle(runs / "bundle", tiny_store.task)
    assert bundle.task == tiny_store.task
    parts = {name.split(".")[0] for name in bundle.checkpoint.tensors("weights")}
    assert parts == {"encoder", "rssm", "actor"}
    manifest = bundle.manifest
    assert manifest["data_hash"] == tiny_store.data_hash
    assert manifest["made_from"]["global"]["preset"] == "tiny"
    assert manifest["made_from"]["transitions"] == tiny_store.transitions
    assert len(manifest["weights_sha256"]) == 64
    assert "torch" in manifest["versions"]
    np.testing.assert_allclose(manifest["normalisation"]["mean"], tiny_store.normalisation.mean)


def test_surprise_of_the_controller_is_what_its_range_was_made_of(
    runs: Path, tiny_store: EpisodeStore
) -> None:
    bundle = load_bundle(runs / "bundle")
    controller = bundle.controller()
    assert controller.surprise is None
    local, _ = bundle.networks()
    index = int(tiny_store.split("validation")[0])
    (expected,) = surprise_of_store(
        local.eval(), bundle.checkpoint.normalisation, tiny_store, [index]
    )
    episode, previous, found = tiny_store.episode(index), np.zeros(3, np.float32), []
    for t in range(len(episode)):
        controller.act(episode.image[t], episode.proprioception[t], previous)
        found.append(controller.surprise)
        previous = episode.action[t]
    np.testing.assert_allclose(np.asarray(found, float), expected, rtol=1e-3, atol=1e-5)
    controller.reset()
    assert controller.surprise is None


def test_range_of_the_surprise_is_kept_in_the_manifest(
    bundle: Path, tiny_store: EpisodeStore
) -> None:
    """With the weights untouched; and a bundle without it loads, and its guard is off."""
    exported = load_bundle(bundle).surprise
    edit_manifest(bundle, lambda m: m.pop("surprise"))
    before = load_bundle(bundle)
    assert before.surprise is None
    assert SurpriseGuard(before.surprise).off is not None
    after = add_surprise(before, tiny_store)
    assert after.surprise is not None
    assert after.surprise == exported, "training exports it with the range"
    # Two held-out episodes of 31 steps: 26 after the warm-up, 24 threes in a row.
    assert (after.surprise.judged, after.surprise.episodes) == (48, 2)
    assert after.surprise.data_hash == tiny_store.data_hash
    assert SurpriseGuard(after.surprise).off is None
    kept = {k: v for k, v in after.manifest.items() if k != "surprise"}
    assert kept == before.manifest
    after.controller()


def test_recordings_of_another_task_give_no_range(bundle: Path, tiny_store: EpisodeStore) -> None:
    content = tiny_store.task.to_dict()
    content["control_hz"] = 10.0
    edit_manifest(bundle, lambda m: m.update(task=content, task_hash=task_from_dict(content).hash))
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(FogError, match=r"episode store .* was made for task"):
        add_surprise(load_bundle(bundle), tiny_store)
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("image", "proprioception"),
    [((16, 24, 3), 2), ((16, 16), 2), ((3, 16, 16), 2), ((16, 16, 3), 3)],
)
def test_observation_of_another_size(
    runs: Path, image: tuple[int, ...], proprioception: int
) -> None:
    controller = load_bundle(runs / "bundle").controller()
    with pytest.raises(
        FogError, match=r"policy input: image .*, expected \(16, 16, 3\) and \(2,\)"
    ):
        controller.act(np.zeros(image, np.uint8), np.zeros(proprioception), np.zeros(3))


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content))


def flip_a_bit(bundle: Path) -> None:
    file = bundle / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (flip_a_bit, r"weights\.safetensors: missing, or not the file that was exported"),
        (lambda b: (b / "weights.safetensors").unlink(), r"weights\.safetensors: missing"),
        (lambda b: edit_manifest(b, lambda m: m.update(weights_sha256="")), "not the file"),
        (
            lambda b: edit_manifest(b, lambda m: m.pop("weights_sha256")),
            "weights_sha256 is missing",
        ),
        (lambda b: edit_manifest(b, lambda m: m.update(surprise={"steps": 3})), "surprise in the"),
        (lambda b: edit_manifest(b, lambda m: m.pop("local_config")), "local_config is missing"),
        (lambda b: edit_manifest(b, lambda m: m["actor_critic"].update(hidden=8)), "does not fit"),
        (lambda b: edit_manifest(b, lambda m: m.update(kind="policy")), "kind is 'policy'"),
        (lambda b: edit_manifest(b, lambda m: m.update(format=9)), "format is 9, expected 1"),
        (lambda b: edit_manifest(b, lambda m: m.pop("task")), "task is missing"),
        (lambda b: (b / "manifest.json").write_text("{"), r"manifest\.json: not valid JSON"),
        (lambda b: (b / "manifest.json").unlink(), r"has no manifest\.json"),
    ],
)
def test_spoilt_bundle(bundle: Path, spoil: Callable[[Path], object], expected: str) -> None:
    spoil(bundle)
    with pytest.raises(FogError, match=rf"{bundle}.*{expected}"):
        load_bundle(bundle).controller()


def test_bundle_of_another_task(bundle: Path, tiny_store: EpisodeStore) -> None:
    safety = replace(tiny_store.task.safety, max_tilt_rad=0.1)
    with pytest.raises(
        FogError, match=rf"{bundle} was made for task.*safety.max_tilt_rad: 0.6 there"
    ):
        load_bundle(bundle, replace(tiny_store.task, safety=safety))


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(FogError, match=r"bundle .*nothing: no such folder"):
        load_bundle(tmp_path / "nothing")


def test_other_checkpoints_are_no_bundles_and_no_policies(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(FogError, match="kind is 'policy', expected 'bundle'"):
        load_bundle(runs / "policy")
    with pytest.raises(FogError, match="kind is 'local', expected 'policy'"):
        export_bundle(runs / "local", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_export_again_replaces_and_is_the_same(runs: Path, bundle: Path) -> None:
    before = load_bundle(bundle).manifest["weights_sha256"]
    flip_a_bit(bundle)
    again = export_bundle(runs / "policy", bundle)
    assert again.manifest["weights_sha256"] == before
    again.controller()


def test_export_to_a_folder_that_cannot_be_written(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FogError, match=r"file/bundle: cannot be written"):
        export_bundle(runs / "policy", tmp_path / "file" / "bundle")


def test_policy_of_models_of_another_task(
    runs: Path, tmp_path: Path, tiny_store: EpisodeStore
) -> None:
    """A store of another task stops before anything is trained."""
    other = EpisodeStore(tiny_store.path)
    other.task = task_from_dict({**tiny_store.task.to_dict(), "name": "other"})
    with pytest.raises(FogError, match=r"global was made for task 'tiny'"):
        train_policy(
            "fog",
            Sources(other, runs / "global", runs / "local"),
            FogConfig(device="cpu"),
            PolicyLoopConfig(max_updates=1),
            tmp_path / "policy",
            tmp_path / "bundle",
        )
    assert list(tmp_path.iterdir()) == []
