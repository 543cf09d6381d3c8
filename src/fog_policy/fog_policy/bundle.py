"""The bundle: what is deployed on the robot, and nothing else.

A folder with ``weights.safetensors`` (the local model's encoder and RSSM, and the actor) and
``manifest.json`` (task, normalisation, sizes, library versions, and the hashes of the data and of
the models it came from). The global model never runs on the robot.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_world_model.data.episodes import Normalisation
from fog_world_model.data.windows import to_float_image
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.task import FloatArray, TaskConfig
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


class Controller:
    """Filters observations into the local model's state and acts on it."""

    def __init__(
        self,
        local: LocalModel,
        actor: Actor,
        normalisation: Normalisation,
        task: TaskConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        """Put the networks to work on a device; call :meth:`reset` before every episode."""
        self.task, self._normalisation = task, normalisation
        self._device = torch.device(device)
        self._local = local.to(self._device).eval()
        self._actor = actor.to(self._device).eval()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observation is the first of an episode."""
        self._state = self._local.rssm.initial(1)

    @torch.no_grad()
    def act(
        self,
        image: npt.NDArray[np.uint8],
        proprioception: npt.ArrayLike,
        previous_action: npt.ArrayLike,
    ) -> FloatArray:
        """Take in one observation and answer with an action.

        Args:
            image: ``[height, width, 3]`` RGB at the task's size.
            proprioception: ``[field]``, physical units, in the task's order.
            previous_action: ``[field]`` in [-1, 1] that was carried out since the last
                observation; zeros at the start of an episode.

        Returns:
            ``[field]`` in [-1, 1], without noise.

        Raises:
            FogError: The image or the proprioception has another size.
        """
        expected = (self.task.image.height, self.task.image.width, 3)
        vector = np.asarray(proprioception, np.float32)
        if image.shape != expected or vector.shape != (self.task.proprioception_size,):
            raise FogError(
                f"policy input: image {image.shape} and proprioception {vector.shape}, expected "
                f"{expected} and ({self.task.proprioception_size},)"
            )
        frame = to_float_image(torch.from_numpy(np.ascontiguousarray(image)).to(self._device))
        normalised = torch.from_numpy(self._normalisation.apply(vector)).to(self._device)
        action = torch.from_numpy(np.asarray(previous_action, np.float32)).to(self._device)
        embedding = self._local.encoder(frame[None], normalised[None])
        self._state, _, _ = self._local.observe(self._state, action[None], embedding, sample=False)
        return np.asarray(self._actor.mode(self._state.features)[0].cpu().numpy(), np.float32)


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

    def controller(self, device: torch.device | str = "cpu") -> Controller:
        """Load the weights and put them to work.

        Raises:
            FogError: The weights are missing, damaged, changed since export, or do not fit.
        """
        local, actor = self.networks()
        return Controller(local, actor, self.checkpoint.normalisation, self.task, device)


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
    return bundle


def export_bundle(policy: str | os.PathLike[str], output: str | os.PathLike[str]) -> Bundle:
    """Make a bundle from a policy checkpoint.

    Args:
        policy: Checkpoint written by :class:`fog_policy.fog_trainer.FogTrainer`.
        output: The bundle's folder; an older bundle there is replaced.

    Raises:
        FogError: The checkpoint cannot be read, or the bundle cannot be written.
    """
    checkpoint = open_checkpoint(policy, "policy")
    manifest = checkpoint.manifest
    local = LocalModel(LocalModelConfig(**manifest["local_config"]))
    actor = Actor(ActorCriticConfig(**manifest["actor_critic"]))
    checkpoint.load_into(local, "local")
    checkpoint.load_into(actor, "actor")
    return write_bundle(
        local,
        actor,
        output,
        {k: v for k, v in manifest.items() if k not in _ONLY_TRAINING},
    )


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
    weights = _Deployed(local, actor).state_dict()
    content = {**manifest, "kind": "bundle", "weights_sha256": ""}
    # The hash is that of the file, so the file is written first, in the same swap.
    save_checkpoint(output, {WEIGHTS: weights}, content)
    file = Path(output) / f"{WEIGHTS}.safetensors"
    manifest_file = Path(output) / MANIFEST
    part = manifest_file.with_suffix(".json.part")
    try:
        written = json.loads(manifest_file.read_text(encoding="utf-8"))
        part.write_text(json.dumps({**written, "weights_sha256": _sha256(file)}, indent=1))
        part.rename(manifest_file)
    except OSError as error:
        raise FogError(f"bundle {output}: cannot be written: {error}") from error
    return load_bundle(output)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
