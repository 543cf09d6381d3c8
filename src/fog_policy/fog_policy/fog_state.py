"""All that a :class:`.fog_trainer.FogTrainer` remembers, as tensors and JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fog_policy.imagined_buffer import PIECE
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import WorldState
from fog_world_model.local_model.rssm import LatentState
from fog_world_model.training import random_state

if TYPE_CHECKING:
    from fog_policy.fog_trainer import FogTrainer

_WORLD = ("frames", "actions", "proprioception", "recurrent")


def capture(trainer: FogTrainer) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """Tensors by file and name, and JSON values.

    ``actor``, ``critic``, ``target`` and ``local`` are networks, ``training`` holds optimisers,
    generators and environments, and ``buffer_...`` the imagined trajectories.
    """
    rest: dict[str, Tensor] = {
        "log_temperature": trainer.log_temperature,
        "noise": trainer.noise.get_state(),
        **random_state.capture(trainer.device),
    }
    for name, optimiser in trainer.optimisers.items():
        for number, slot in optimiser.state_dict()["state"].items():
            for key, value in slot.items():
                rest[f"optimiser.{name}.{number}.{key}"] = torch.as_tensor(value)
    drawn: Any = trainer.contexts.generator_state
    values: dict[str, Any] = {
        "updates": trainer.updates,
        "progress": trainer.progress,
        "precision": trainer.precision,
        "phase": "global" if trainer.in_global else "local",
        "steps": {"global": trainer.env.steps, "local": trainer.alone.steps},
        "clipped": trainer.clipped,
        "recordings": trainer.recordings.generator_state,
        "contexts": None if isinstance(drawn, Tensor) else drawn,
        "buffer": trainer.buffer.state(),
        "health": trainer.health.state(),
    }
    if isinstance(drawn, Tensor):
        rest["contexts"] = drawn
    if trainer.in_global:
        world, age, _, generator, _, oldest = trainer.env.snapshot()
        assert isinstance(world, WorldState)
        assert isinstance(age, Tensor)
        assert isinstance(generator, Tensor)
        rest |= {f"env.{name}": getattr(world, name) for name in _WORLD}
        rest |= {"env.age": age, "env.generator": generator}
        values["oldest"] = oldest
    rest |= {f"alone.{name}": value for name, value in trainer.alone.snapshot().items()}
    state = trainer.phase.state
    rest |= {"state.deterministic": state.deterministic, "state.stochastic": state.stochastic}
    files: dict[str, Mapping[str, Tensor]] = {
        "actor": trainer.actor.state_dict(),
        "critic": trainer.critic.state_dict(),
        "target": trainer.target.state_dict(),
        "local": trainer.local_model.state_dict(),
        "training": rest,
    }
    return files | trainer.buffer.pieces(), values


def restore(
    trainer: FogTrainer, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> None:
    """Put back what :func:`capture` returned.

    Raises:
        FogError: Something is missing or of another shape, or the precision is another.
    """
    if (made := values.get("precision")) != trainer.precision:
        raise FogError(
            f"the run imagined in precision {made}, here it is {trainer.precision}; give the one "
            "that it was made with, or train anew in another folder"
        )
    try:
        _restore(trainer, tensors, values)
    except KeyError as error:
        raise FogError(
            f"the state of the training has no {error} (an earlier version made it, or not all of "
            "it is there); train anew in another folder"
        ) from error
    except RuntimeError as error:  # what torch says of shapes
        raise FogError(
            f"the state of the training does not fit: {error}; train anew in another folder"
        ) from error


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
    with torch.no_grad():
        trainer.log_temperature.copy_(rest["log_temperature"])
    for name, optimiser in trainer.optimisers.items():
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in rest.items():
            if key.startswith(f"optimiser.{name}."):
                number, field = key.removeprefix(f"optimiser.{name}.").split(".")
                slots.setdefault(int(number), {})[field] = value
        content = optimiser.state_dict()
        optimiser.load_state_dict({**content, "state": slots})
    trainer.updates, trainer.progress = int(values["updates"]), float(values["progress"])
    trainer.clipped = [int(n) for n in values["clipped"]]
    trainer.recordings.generator_state = values["recordings"]
    pieces = {name: piece for name, piece in tensors.items() if name.startswith(PIECE)}
    trainer.buffer.load(pieces, values["buffer"], device)
    trainer.health.load(values["health"])
    if values["phase"] == "global":
        trainer.enter_global()  # which starts environments; they are then put where they were
        world = WorldState(*(rest[f"env.{name}"].to(device) for name in _WORLD))
        drawn = trainer.contexts.generator_state
        generator, age = rest["env.generator"].cpu(), rest["env.age"].to(device)
        trainer.env.restore((world, age, 0, generator, drawn, int(values["oldest"])))
    trainer.alone.restore(
        {name.removeprefix("alone."): v for name, v in rest.items() if name.startswith("alone.")}
    )
    trainer.phase.state = LatentState(
        rest["state.deterministic"].to(device), rest["state.stochastic"].to(device)
    )
    trainer.env.steps, trainer.alone.steps = (int(values["steps"][k]) for k in ("global", "local"))
    trainer.contexts.generator_state = (
        rest["contexts"].cpu() if values["contexts"] is None else values["contexts"]
    )
    trainer.noise.set_state(rest["noise"].cpu())
    random_state.restore(rest, device)  # last: what came before may have drawn
