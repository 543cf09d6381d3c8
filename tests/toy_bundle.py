"""A genuine bundle for tests: an untrained local model, an actor that always answers the same."""

from __future__ import annotations

from pathlib import Path

import torch

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.bundle import write_bundle
from fog_world_model.local_model.local_model import PRESETS, LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig


def write_toy_bundle(task: TaskConfig, path: Path, action: tuple[float, ...]) -> Path:
    """Write it.

    Args:
        task: The task that it belongs to.
        path: The bundle's folder.
        action: The answer, in [-1, 1].

    Returns:
        ``path``.
    """
    torch.manual_seed(0)
    config = LocalModelConfig(
        height=task.image.height,
        width=task.image.width,
        action_size=task.action_size,
        proprioception_size=task.proprioception_size,
        **PRESETS["tiny"],
    )
    local = LocalModel(config)
    sizes = ActorCriticConfig(features=local.features_size, action_size=task.action_size, hidden=16)
    actor = Actor(sizes)
    last = actor.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias[: task.action_size] = torch.atanh(torch.tensor(action))
    size = task.proprioception_size
    manifest = {
        "task": task.to_dict(),
        "task_hash": task.hash,
        "normalisation": {"mean": [0.0] * size, "std": [1.0] * size},
        "local_config": vars(config),
        "actor_critic": vars(sizes),
    }
    write_bundle(local, actor, path, manifest)
    return path
