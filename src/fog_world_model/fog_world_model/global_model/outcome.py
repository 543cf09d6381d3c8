"""The outcome head: reward, end and next proprioception of a transition between two frames.

As in DIAMOND (Alonso et al. 2024, section 3.3), a small ResNet and a recurrent cell beside the
diffusion model. Rewards are two-hot in symlog space (Hafner et al. 2023, DreamerV3, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class OutcomeConfig:
    """Size of the outcome head."""

    channels: int = 48
    hidden: int = 192
    bins: int = 63
    """Bins of the two-hot reward."""
    symlog_range: float = 3.0
    """Bins span symlog values +-this; 3 is a reward of +-19."""


@dataclass(frozen=True)
class Outcome:
    """What a transition brought."""

    reward: Tensor
    """``[batch]``."""
    end_probability: Tensor
    """``[batch]`` in [0, 1]."""
    proprioception: Tensor
    """``[batch, field]``, normalised, at o_{t+1}."""
    reward_logits: Tensor | None = None
    """``[batch, bin]``: of the two-hot symlog reward; none where only the mean is computed."""


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of :func:`symlog`."""
    return x.sign() * x.abs().expm1()


def two_hot(value: Tensor, bins: Tensor) -> Tensor:
    """Spread each value over its two neighbouring bins so that the mean over bins is the value.

    Args:
        value: ``[...]``; outside the bins it is clipped.
        bins: ``[bin]``, equally spaced, ascending.

    Returns:
        ``[..., bin]``, rows sum to 1.
    """
    place = (value.clamp(bins[0], bins[-1]) - bins[0]) / (bins[1] - bins[0])
    below = place.floor().long().clamp(max=len(bins) - 2)
    above_weight = (place - below).unsqueeze(-1)
    weights = F.one_hot(below, len(bins)) * (1 - above_weight)
    return weights + F.one_hot(below + 1, len(bins)) * above_weight


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.body(x)
        return x + change


class OutcomeHead(nn.Module):
    """(o_t, p_t, a_t, o_{t+1}) and a recurrent state -> reward, end, p_{t+1}."""

    bins: Tensor
    end_correction: Tensor

    def __init__(
        self,
        config: OutcomeConfig,
        *,
        height: int,
        width: int,
        action_size: int,
        proprioception_size: int,
    ) -> None:
        """Build the head for images of a size that is a multiple of 8."""
        super().__init__()
        self.config = config
        channels = config.channels
        self.frames = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(2 * 3 * 16, channels, 3, padding=1),
            _ResidualBlock(channels),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            _ResidualBlock(channels),
            nn.Flatten(),
            nn.Linear(channels * (height // 8) * (width // 8), config.hidden),
        )
        self.vector = nn.Linear(action_size + proprioception_size, config.hidden)
        self.cell = nn.GRUCell(config.hidden, config.hidden)
        self.heads = nn.Sequential(
            nn.LayerNorm(config.hidden),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.bins + 1 + proprioception_size),
        )
        bins = torch.linspace(-config.symlog_range, config.symlog_range, config.bins)
        self.register_buffer("bins", bins, persistent=False)
        # Scale and bias of the end's logit, fitted after training (evaluation/calibration.py).
        self.register_buffer("end_correction", torch.tensor([1.0, 0.0]))

    def initial(self, batch: int) -> Tensor:
        """Recurrent state before the first transition, ``[batch, hidden]``."""
        return self.bins.new_zeros(batch, self.config.hidden)

    def step(
        self, frame: Tensor, proprio: Tensor, action: Tensor, next_frame: Tensor, state: Tensor
    ) -> tuple[Outcome, Tensor]:
        """One transition; all arguments have a leading batch axis.

        Returns:
            The outcome (expected reward, probability of an end) and the new recurrent state.
        """
        features = self._features(frame, proprio, action, next_frame)
        state = self.cell(features, state)
        logits, end_logit, next_proprio = self._read(state, proprio)
        reward = symexp((logits.softmax(-1) * self.bins).sum(-1))
        scale, bias = self.end_correction
        end = (scale * end_logit + bias).sigmoid()
        return Outcome(reward, end, next_proprio, logits), state

    def correct_end(self, scale: float, bias: float) -> None:
        """Correct the end probability further: logit <- scale x logit + bias.

        Training does not see the correction; it is saved with the weights.
        """
        old_scale, old_bias = self.end_correction.tolist()
        self.end_correction.copy_(torch.tensor([scale * old_scale, scale * old_bias + bias]))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Weights that were saved before there was a correction have none."""
        state_dict.setdefault(f"{prefix}end_correction", torch.tensor([1.0, 0.0]))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def loss(
        self,
        frames: Tensor,
        proprio: Tensor,
        action: Tensor,
        next_frames: Tensor,
        reward: Tensor,
        end: Tensor,
        next_proprio: Tensor,
    ) -> dict[str, Tensor]:
        """Losses over a sequence of transitions, all ``[batch, time, ...]``."""
        batch, time = reward.shape
        features = self._features(
            frames.flatten(0, 1),
            proprio.flatten(0, 1),
            action.flatten(0, 1),
            next_frames.flatten(0, 1),
        ).unflatten(0, (batch, time))
        state, states = self.initial(batch), []
        for t in range(time):
            state = self.cell(features[:, t], state)
            states.append(state)
        logits, end_logit, predicted = self._read(torch.stack(states, 1), proprio)
        target = two_hot(symlog(reward), self.bins)
        return {
            "reward": -(target * logits.log_softmax(-1)).sum(-1).mean(),
            "end": F.binary_cross_entropy_with_logits(end_logit, end),
            "proprioception": F.mse_loss(predicted, next_proprio),
        }

    def _features(
        self, frame: Tensor, proprio: Tensor, action: Tensor, next_frame: Tensor
    ) -> Tensor:
        # The convolutions may have another precision than the rest (see worlds.py).
        precision = next(self.frames.parameters()).dtype
        frames = torch.cat([frame, next_frame - frame], dim=1).to(precision)
        seen = self.frames(frames).to(action.dtype)
        return F.silu(seen + self.vector(torch.cat([action, proprio], dim=-1)))

    def _read(self, state: Tensor, proprio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = [self.config.bins, 1, proprio.shape[-1]]
        logits, end, change = self.heads(state).split(size, dim=-1)
        return logits, end.squeeze(-1), proprio + change
