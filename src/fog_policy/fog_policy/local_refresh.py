"""Fit the local model to what the policy does now, between two updates of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fog_policy.imagined_buffer import PIECE, ImaginedBuffer, joined
from fog_policy.learner_state import load_optimiser, optimiser_tensors
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel


class LocalRefresh:
    """A buffer of the policy's imagined trajectories, and the optimiser of the local model."""

    def __init__(
        self,
        model: LocalModel,
        recordings: WindowSampler,
        buffer: ImaginedBuffer,
        *,
        batch: int,
        rate: float,
        gradient_clip: float,
    ) -> None:
        """Begin with an empty buffer.

        Args:
            model: Fitted in place.
            recordings: Draws windows that are mixed in.
            buffer: Whoever holds this adds the trajectories.
            batch: Imagined trajectories in a step; as many recorded windows are mixed in.
            rate: Learning rate.
            gradient_clip: Largest norm of a gradient.
        """
        self.model, self.recordings, self.buffer = model, recordings, buffer
        self._batch, self._clip = batch, gradient_clip
        self._optimiser = torch.optim.Adam(model.parameters(), lr=rate)

    def fit(self, steps: int, *, update: int) -> dict[str, float]:
        """Take steps.

        Args:
            steps: How many.
            update: Number of the policy's update, for the message.

        Returns:
            ``local_loss`` of the last step; nothing while the buffer is empty.

        Raises:
            FogError: The gradient is not finite.
        """
        log: dict[str, float] = {}
        device = next(self.model.parameters()).device
        self.model.requires_grad_(True)
        for _ in range(steps if len(self.buffer) else 0):
            imagined = self.buffer.sample(self._batch)
            recorded = self.recordings.sample(self._batch, device)
            loss = self.model.loss(joined(imagined, recorded))["total"]
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
            if not bool(norm.isfinite()):
                raise FogError(
                    f"update {update}: the gradient of the local model is not finite (norm "
                    f"{float(norm)}, loss {float(loss.detach())}); lower refresh_rate"
                )
            self._optimiser.step()
            log["local_loss"] = float(loss.detach())
        self.model.requires_grad_(False)
        return log

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By file: the buffer's pieces, and ``refresh`` with the optimiser."""
        return self.buffer.pieces() | {"refresh": optimiser_tensors(self._optimiser, "local")}

    def values(self) -> dict[str, Any]:
        """JSON values."""
        return {"buffer": self.buffer.state(), "recordings": self.recordings.generator_state}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
        """Put back what :meth:`tensors` and :meth:`values` returned."""
        device = next(self.model.parameters()).device
        pieces = {name: piece for name, piece in tensors.items() if name.startswith(PIECE)}
        self.buffer.load(pieces, values["buffer"], device)
        self.recordings.generator_state = values["recordings"]
        load_optimiser(self._optimiser, "local", tensors["refresh"])
