"""Optimisers and imagined environments as tensors and JSON values, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import WorldState
from fog_world_model.imagination import Contexts, ImaginedEnv

_WORLD = ("frames", "actions", "proprioception", "recurrent")


@contextmanager
def fitting_state() -> Iterator[None]:
    """Turn what goes wrong while a state is put back into an error for the user.

    Raises:
        FogError: A part is missing, or has another shape.
    """
    try:
        yield
    except KeyError as error:
        raise FogError(
            f"the state of the training has no {error} (an earlier version made it, or not all of "
            "it is there); train anew in another folder"
        ) from error
    except (RuntimeError, ValueError) as error:  # what torch says of shapes and groups
        raise FogError(
            f"the state of the training does not fit: {error}; train anew in another folder"
        ) from error


def require_precision(values: Mapping[str, Any], precision: str) -> None:
    """Check that a state was made with the precision of the imagination here.

    Raises:
        FogError: With another one.
    """
    if (made := values.get("precision")) != precision:
        raise FogError(
            f"the run imagined in precision {made}, here it is {precision}; give the one that it "
            "was made with, or train anew in another folder"
        )


def optimiser_tensors(optimiser: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """The moments of an optimiser, as ``optimiser.NAME.PARAMETER.MOMENT``; not its settings."""
    return {
        f"optimiser.{name}.{number}.{key}": torch.as_tensor(value)
        for number, slot in optimiser.state_dict()["state"].items()
        for key, value in slot.items()
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, name: str, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimiser_tensors` returned, found among other tensors."""
    prefix = f"optimiser.{name}."
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            number, moment = key.removeprefix(prefix).split(".")
            slots.setdefault(int(number), {})[moment] = value.clone()  # it is changed in place
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})


def environment_tensors(env: ImaginedEnv) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that a step of imagined environments depends on, but for the contexts."""
    world, age, steps, generator, _, oldest = env.snapshot()
    assert isinstance(world, WorldState)
    assert isinstance(age, Tensor)
    assert isinstance(generator, Tensor)
    tensors = {f"env.{name}": getattr(world, name) for name in _WORLD}
    tensors |= {"env.age": age, "env.generator": generator}
    return tensors, {"oldest": oldest, "steps": steps}


def load_environment(
    env: ImaginedEnv,
    contexts: Contexts,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> None:
    """Put back what :func:`environment_tensors` returned; the environments must have begun."""
    device = env.age.device
    world = WorldState(*(tensors[f"env.{name}"].to(device) for name in _WORLD))
    age, generator = tensors["env.age"].to(device), tensors["env.generator"].cpu()
    steps, oldest = int(values["steps"]), int(values["oldest"])
    env.restore((world, age, steps, generator, contexts.generator_state, oldest))


def contexts_state(contexts: Contexts) -> tuple[dict[str, Tensor], Any]:
    """The random order of contexts: as a tensor, or as a JSON value."""
    drawn = contexts.generator_state
    return ({"contexts": drawn}, None) if isinstance(drawn, Tensor) else ({}, drawn)


def load_contexts(contexts: Contexts, tensors: Mapping[str, Tensor], value: Any) -> None:
    """Put back what :func:`contexts_state` returned."""
    contexts.generator_state = tensors["contexts"].cpu() if value is None else value
