"""All that a :class:`.fog_trainer.FogTrainer` remembers, as tensors and JSON values, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fog_policy.learner_state import (
    contexts_state,
    environment_tensors,
    fitting_state,
    load_contexts,
    load_environment,
    load_optimiser,
    optimiser_tensors,
    require_precision,
)
from fog_world_model.local_model.rssm import LatentState
from fog_world_model.training import random_state

if TYPE_CHECKING:
    from fog_policy.fog_trainer import FogTrainer


def capture(trainer: FogTrainer) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """Tensors by file and name, and JSON values.

    ``actor``, ``average``, ``critic``, ``target`` and ``local`` are networks, ``training`` holds
    optimisers, generators and environments, ``refresh`` and ``buffer_...`` are of the local model's
    refreshing.
    """
    drawn, contexts = contexts_state(trainer.contexts)
    state = trainer.phase.state
    rest: dict[str, Tensor] = {
        "log_temperature": trainer.log_temperature,
        "noise": trainer.noise.get_state(),
        "state.deterministic": state.deterministic,
        "state.stochastic": state.stochastic,
        **drawn,
        **random_state.capture(trainer.device),
    }
    for name, optimiser in trainer.optimisers.items():
        rest |= optimiser_tensors(optimiser, name)
    rest |= {f"alone.{name}": value for name, value in trainer.alone.snapshot().items()}
    values: dict[str, Any] = {
        "updates": trainer.updates,
        "progress": trainer.progress,
        "precision": trainer.precision,
        "phase": "global" if trainer.in_global else "local",
        "local_steps": trainer.alone.steps,
        "clipped": trainer.clipped,
        "contexts": contexts,
        "refresh": trainer.refresh.values(),
        "health": trainer.health.state(),
    }
    if trainer.in_global:
        tensors, values["environment"] = environment_tensors(trainer.env)
        rest |= tensors
    files: dict[str, Mapping[str, Tensor]] = {
        "actor": trainer.actor.state_dict(),
        "critic": trainer.critic.state_dict(),
        "target": trainer.target.state_dict(),
        "local": trainer.local_model.state_dict(),
        "training": rest,
    }
    if trainer.anchor is not None:
        files["anchor"] = trainer.anchor.state_dict()
    averaged, count = trainer.average.state()
    return files | averaged | trainer.refresh.tensors(), values | count


def restore(
    trainer: FogTrainer, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> None:
    """Put back what :func:`capture` returned.

    Raises:
        FogError: Something is missing or of another shape, or the precision is another.
    """
    require_precision(values, trainer.precision)
    with fitting_state():
        _restore(trainer, tensors, values)


def _restore(
    trainer: FogTrainer, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> None:
    device, rest = trainer.device, dict(tensors["training"])
    modules = {
        "actor": trainer.actor,
        "critic": trainer.critic,
        "target": trainer.target,
        "local": trainer.local_model,
    }
    for name, module in modules.items():
        module.load_state_dict(tensors[name])
    trainer.average.load(tensors, values)
    if "anchor" in tensors:
        trainer.anchor = copy.deepcopy(trainer.actor).requires_grad_(False)
        trainer.anchor.load_state_dict(tensors["anchor"])
    with torch.no_grad():
        trainer.log_temperature.copy_(rest["log_temperature"])
    for name, optimiser in trainer.optimisers.items():
        load_optimiser(optimiser, name, rest)
    trainer.updates, trainer.progress = int(values["updates"]), float(values["progress"])
    trainer.clipped = [int(n) for n in values["clipped"]]
    trainer.refresh.load(tensors, values["refresh"])
    trainer.health.load(values["health"])
    if values["phase"] == "global":
        trainer.enter_global()  # which starts environments; they are then put where they were
        load_environment(trainer.env, trainer.contexts, rest, values["environment"])
    trainer.alone.restore(
        {name.removeprefix("alone."): v for name, v in rest.items() if name.startswith("alone.")}
    )
    trainer.alone.steps = int(values["local_steps"])
    trainer.phase.state = LatentState(
        rest["state.deterministic"].to(device), rest["state.stochastic"].to(device)
    )
    load_contexts(trainer.contexts, rest, values["contexts"])
    trainer.noise.set_state(rest["noise"].cpu())
    random_state.restore(rest, device)  # last: what came before may have drawn
