"""The bundle: what is deployed on the robot, and nothing else.

A folder with ``weights.safetensors`` (the local model's encoder and RSSM, and the actor) and
``manifest.json`` (task, normalisation, sizes, library versions, the hashes of the data and of the
models it came from, and the range of the local model's surprise on the recordings). The global
model never runs on the robot.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.recorded_surprise import has_range, surprise_of_store
from fog_policy.recurrent_controller import TorchController
from fog_policy.surprise import SurpriseRange, fit_range
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig
from fog_world_model.training.checkpoint import (
    MANIFEST,
    Checkpoint,
    open_checkpoint,
    save_checkpoint,
)

WEIGHTS = "weights"
_ONLY_TRAINING = (
    "curve", "curve_stride", "learner", "files", "versions", "commit", "dirty", "format",
)  # fmt: skip
"""What a bundle does not take over from the policy's checkpoint."""


class _Deployed(nn.Module):
    """The parts of the local model and of the policy that run on the robot."""

    def __init__(self, local: LocalModel, actor: Actor) -> None:
        super().__init__()
        self.encoder, self.rssm, self.actor = local.encoder, local.rssm, actor


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    checkpoint: Checkpoint

    @property
    def task(self) -> TaskConfig:
        """The task it acts in."""
        return self.checkpoint.task

    @property
    def manifest(self) -> dict[str, Any]:
        """Where it came from."""
        return self.checkpoint.manifest

    @property
    def surprise(self) -> SurpriseRange | None:
        """Range of the surprise on the recordings; None in a bundle that was made without it.

        Raises:
            FogError: What the manifest holds is no range.
        """
        content = self.manifest.get("surprise")
        if content is None:
            return None
        return SurpriseRange.from_dict(content, f"bundle {self.checkpoint.path}")

    def networks(self) -> tuple[LocalModel, Actor]:
        """Load the weights; of the local model, only what runs on the robot has any.

        Raises:
            FogError: The weights are missing, damaged, changed since export, or do not fit.
        """
        manifest = self.manifest
        file = self.checkpoint.path / f"{WEIGHTS}.safetensors"
        if not file.exists() or _sha256(file) != manifest["weights_sha256"]:
            raise FogError(
                f"bundle file {file}: missing, or not the file that was exported "
                "(its SHA-256 differs from the manifest's); export the policy again"
            )
        local = LocalModel(LocalModelConfig(**manifest["local_config"]))
        actor = Actor(ActorCriticConfig(**manifest["actor_critic"]))
        self.checkpoint.load_into(_Deployed(local, actor), WEIGHTS)
        return local, actor

    def controller(self, device: torch.device | str = "cpu") -> TorchController:
        """Load the weights and put them to work.

        Raises:
            FogError: The weights are missing, damaged, changed since export, or do not fit.
        """
        local, actor = self.networks()
        return TorchController(local, actor, self.checkpoint.normalisation, self.task, device)


def load_bundle(path: str | os.PathLike[str], task: TaskConfig | None = None) -> Bundle:
    """Open a bundle.

    Args:
        path: The bundle's folder.
        task: When given, the bundle must belong to this task.

    Raises:
        FogError: It is missing, damaged, not a bundle, or of another task.
    """
    if not Path(path).is_dir():
        raise FogError(f"bundle {path}: no such folder; 'fog train policy' writes one")
    bundle = Bundle(open_checkpoint(path, "bundle", task))
    if missing := {"weights_sha256", "local_config", "actor_critic"} - set(bundle.manifest):
        raise FogError(
            f"bundle {path}: {', '.join(sorted(missing))} is missing in its manifest; "
            "export the policy again"
        )
    bundle.surprise  # noqa: B018 - a range that cannot be read is found now, not on the robot
    return bundle


def add_surprise(
    bundle: Bundle,
    store: EpisodeStore,
    *,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> Bundle:
    """Measure the local model's surprise on recordings, and keep its range in the bundle.

    Args:
        bundle: The bundle; its manifest is replaced.
        store: Recordings of the bundle's task; those held out are used, if there are any.
        progress: Called with the fraction done and a text.

    Raises:
        FogError: The store belongs to another task, its episodes are too short, or the manifest
            cannot be written; the bundle is then as it was.
    """
    bundle.task.require_same(store.task, f"episode store {store.path}")
    local, _ = bundle.networks()
    nats = surprise_of_store(
        local.eval(), bundle.checkpoint.normalisation, store, progress=progress
    )
    found = fit_range(nats, data_hash=store.data_hash)
    _edit_manifest(bundle.checkpoint.path, {"surprise": found.to_dict()})
    return load_bundle(bundle.checkpoint.path)


def export_bundle(
    policy: str | os.PathLike[str],
    output: str | os.PathLike[str],
    store: EpisodeStore | None = None,
) -> Bundle:
    """Make a bundle from a policy checkpoint.

    Args:
        policy: Checkpoint written by :class:`fog_policy.fog_trainer.FogTrainer`.
        output: The bundle's folder; an older bundle there is replaced.
        store: Recordings on which the range of the surprise is measured (:func:`add_surprise`);
            None, or episodes that are too short for it: the bundle holds none, and the
            out-of-distribution guard says that it is off.

    Raises:
        FogError: The checkpoint cannot be read, or the bundle cannot be written.
    """
    checkpoint = open_checkpoint(policy, "policy")
    kept = {k: v for k, v in checkpoint.manifest.items() if k not in _ONLY_TRAINING}
    bundle = write_bundle(*policy_networks(checkpoint), output, kept)
    if store is None or not has_range(store):
        return bundle
    return add_surprise(bundle, store)


def policy_networks(policy: Checkpoint) -> tuple[LocalModel, Actor]:
    """Load the whole local model and the policy of a checkpoint: the actor's average if it has one.

    Raises:
        FogError: The weights are missing, damaged, or do not fit.
    """
    local = LocalModel(LocalModelConfig(**policy.manifest["local_config"]))
    actor = Actor(ActorCriticConfig(**policy.manifest["actor_critic"]))
    policy.load_into(local, "local")
    averaged = "average" in policy.manifest.get("files", ())
    policy.load_into(actor, "average" if averaged else "actor")
    return local, actor


def write_bundle(
    local: LocalModel,
    actor: Actor,
    output: str | os.PathLike[str],
    manifest: dict[str, Any],
) -> Bundle:
    """Write networks as a bundle.

    Args:
        local: The local model; only what runs on the robot is kept.
        actor: The policy.
        output: The bundle's folder.
        manifest: Needs ``task``, ``task_hash``, ``normalisation``, ``local_config`` and
            ``actor_critic``; the rest says where the bundle came from.

    Raises:
        FogError: It cannot be written.
    """
    return write_weights(_Deployed(local, actor).state_dict(), output, manifest)


def write_weights(
    weights: Mapping[str, Tensor], output: str | os.PathLike[str], manifest: dict[str, Any]
) -> Bundle:
    """Write weights as a bundle, in the precision that they have.

    Args:
        weights: Those of encoder, RSSM and actor, under the names that they have in a bundle.
        output: The bundle's folder.
        manifest: See :func:`write_bundle`.

    Raises:
        FogError: It cannot be written.
    """
    content = {**manifest, "kind": "bundle", "weights_sha256": ""}
    # The hash is that of the file, so the file is written first, in the same swap.
    save_checkpoint(output, {WEIGHTS: weights}, content)
    file = Path(output) / f"{WEIGHTS}.safetensors"
    _edit_manifest(Path(output), {"weights_sha256": _sha256(file)})
    return load_bundle(output)


def _edit_manifest(bundle: Path, changes: dict[str, Any]) -> None:
    """Replace entries of the manifest in one go."""
    manifest_file = bundle / MANIFEST
    part = manifest_file.with_suffix(".json.part")
    try:
        written = json.loads(manifest_file.read_text(encoding="utf-8"))
        part.write_text(json.dumps({**written, **changes}, indent=1))
        part.rename(manifest_file)
    except OSError as error:
        raise FogError(f"bundle {bundle}: cannot be written: {error}") from error


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
