"""What foretells the frames after a context: a global model, and the two that it has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fog_world_model.data.episodes import Normalisation
from fog_world_model.evaluation.held_out_windows import HeldOutBatch
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState


@dataclass(frozen=True)
class Prediction:
    """One step of every window."""

    frame: Tensor
    """``[window, channel, height, width]`` in [-1, 1]: o_{t+1}."""
    reward: Tensor
    """``[window]``: r_t."""


def imagine(
    model: GlobalModel,
    normalisation: Normalisation,
    batch: HeldOutBatch,
    actions: Tensor,
    seed: int,
) -> Iterator[Prediction]:
    """What the global model imagines.

    Args:
        model: The model.
        normalisation: Of the proprioception that it was trained on.
        batch: Windows; only their contexts are looked at.
        actions: ``[window, step, field]``: what is done.
        seed: Of the sampler's noise: the same batch and seed give the same frames.
    """
    generator = torch.Generator(device=actions.device).manual_seed(seed + batch.first)
    state = model.start(batch.seen(normalisation))
    for action in actions.unbind(1):
        state, outcome = model.step(state, action, generator)
        yield Prediction(state.frames[:, -1].clamp(-1, 1), outcome.reward)


def repeat_last(batch: HeldOutBatch, steps: int) -> Iterator[Prediction]:
    """The last frame of the context, and the last reward that was seen, for ever."""
    last = batch.context - 1
    for _ in range(steps):
        yield Prediction(batch.data.image[:, last], batch.data.reward[:, last - 1])


def dream(
    local: LocalModel, normalisation: Normalisation, batch: HeldOutBatch
) -> Iterator[Prediction]:
    """What the local model alone foretells: its prior's means, decoded."""
    states, _, _ = local.filter(batch.seen(normalisation), sample=False)
    latent = LatentState(states.deterministic[:, -1], states.stochastic[:, -1])
    for action in batch.actions.unbind(1):
        latent = local.imagine(latent, action)
        frame = local.decoder(latent.features)[0].clamp(-1, 1)
        yield Prediction(frame, local.reward(latent))
