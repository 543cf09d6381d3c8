"""The baseline without the global model: the same first-order update in the local model alone.

"No diffusion": values and gradients both come from the local model's prior, so steps are cheap
and only as right as the local model is. It is :class:`.fog_trainer.FogTrainer` in its first phase,
from the first update to the last. Nothing new is imagined in pictures, so there is nothing to
refresh the local model on: it stays as the recordings made it.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_world_model.data.windows import Windows, WindowSampler
from fog_world_model.global_model.global_model import GlobalModel, WorldState
from fog_world_model.global_model.outcome import Outcome
from fog_world_model.imagination import Contexts
from fog_world_model.local_model.local_model import LocalModel


class NoGlobalModel(GlobalModel):
    """Stands where a trainer has its global model; it has no weights, and asking it is an error."""

    def __init__(self) -> None:
        """Make none of the networks."""
        nn.Module.__init__(self)

    def start(self, windows: Windows) -> WorldState:
        """Never.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a learner in the local model alone asked for the global model")

    def step(
        self, state: WorldState, action: torch.Tensor, generator: torch.Generator
    ) -> tuple[WorldState, Outcome]:
        """Never.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a learner in the local model alone asked for the global model")


class LocalAloneLearner(FogTrainer):
    """Never sees the global model; a :class:`.learner.Learner`."""

    def __init__(
        self,
        local_model: LocalModel,
        contexts: Contexts,
        recordings: WindowSampler,
        config: FogConfig,
    ) -> None:
        """Set everything up.

        Args:
            local_model: Copied, and left as it is.
            contexts: Draws windows of ``config.context`` observations.
            recordings: As for :class:`.fog_trainer.FogTrainer`; nothing is drawn from it.
            config: Settings; those of the global model, of refreshing and of checks have no
                effect.
        """
        changed = dataclasses.replace(
            config, local_share=1.0, sampling_steps=0, refresh_steps=0, check_every=0
        )
        super().__init__(NoGlobalModel(), local_model, contexts, recordings, changed)
