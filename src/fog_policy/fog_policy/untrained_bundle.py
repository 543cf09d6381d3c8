"""A genuine bundle that nobody has trained, for measurements and tests of what runs one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict

import torch

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.bundle import Bundle, write_bundle
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import PRESETS, LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig


def write_answering(
    task: TaskConfig,
    folder: str | os.PathLike[str],
    answer: Sequence[float],
    *,
    preset: str = "small",
    hidden: int = 256,
    steady: bool = False,
) -> Bundle:
    """Write random networks whose actor answers around a given action.

    Args:
        task: The task.
        folder: The bundle's.
        answer: ``[field]`` in (-1, 1).
        preset: Size of the local model.
        hidden: Width of the actor.
        steady: Answer exactly so whatever is seen, not only around it.

    Raises:
        FogError: No such preset, or the bundle cannot be written.
    """
    if preset not in PRESETS:
        raise FogError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    torch.manual_seed(0)
    local = LocalModel(LocalModelConfig(**task.sizes, **PRESETS[preset]))
    actor = Actor(ActorCriticConfig(local.features_size, task.action_size, hidden=hidden))
    last = actor.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        if steady:
            last.weight.zero_()
        last.bias[: task.action_size] = torch.atanh(torch.tensor(answer))
    size = task.proprioception_size
    manifest = {
        "task": task.to_dict(),
        "task_hash": task.hash,
        "normalisation": {"mean": [0.0] * size, "std": [1.0] * size},
        "local_config": asdict(local.config),
        "actor_critic": asdict(actor.config),
    }
    return write_bundle(local, actor, folder, manifest)
