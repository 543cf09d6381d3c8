"""Actor and critic on the state of the local world model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fog_world_model.local_model.encoder import mlp


@dataclass(frozen=True)
class ActorCriticConfig:
    """Size of the two networks."""

    features: int
    """Width of the local model's state."""
    action_size: int
    hidden: int = 256
    layers: int = 2
    log_std_min: float = -3.0
    log_std_max: float = 0.5


class Actor(nn.Module):
    """A tanh-squashed Gaussian over actions, reparameterised (Haarnoja et al. 2018, app. C)."""

    def __init__(self, config: ActorCriticConfig) -> None:
        """Build an actor whose mean starts near zero."""
        super().__init__()
        self.config = config
        self.body = mlp(
            config.features, config.hidden, 2 * config.action_size, layers=config.layers
        )
        last = self.body[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Sample actions, differentiably in the features and the parameters.

        Args:
            features: ``[batch, feature]``.
            noise: ``[batch, field]`` standard normal.

        Returns:
            Actions ``[batch, field]`` in (-1, 1) and their log-probability ``[batch]``.
        """
        mean, log_std = self._gaussian(features)
        raw = mean + log_std.exp() * noise
        return raw.tanh(), _squashed_log_prob(raw, noise, log_std)

    def mode(self, features: Tensor) -> Tensor:
        """The action without noise, ``[batch, field]``: what is deployed."""
        return self._gaussian(features)[0].tanh()

    def log_prob(self, features: Tensor, raw: Tensor) -> Tensor:
        """Log-probability of the actions ``raw.tanh()``, ``[batch]``, nats.

        Args:
            features: ``[batch, feature]``.
            raw: ``[batch, field]``: actions before they are squashed, where they are exact.
        """
        return squashed_log_prob(raw, *self._gaussian(features))

    def _gaussian(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.gaussian(self.body(features))

    def gaussian(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, from the output of :attr:`body`."""
        mean, raw = output.chunk(2, dim=-1)
        low, high = self.config.log_std_min, self.config.log_std_max
        # A soft clamp keeps the gradient; it starts at the middle of the range.
        return mean, low + (high - low) * torch.sigmoid(raw)


def squashed_log_prob(raw: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability of ``raw.tanh()`` where ``raw`` is Gaussian, summed over the last axis.

    Args:
        raw: ``[..., field]``: actions before they are squashed.
        mean: ``[..., field]``.
        log_std: ``[..., field]``.

    Returns:
        ``[...]``, nats.
    """
    return _squashed_log_prob(raw, (raw - mean) * (-log_std).exp(), log_std)


def _squashed_log_prob(raw: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    log_normal = -0.5 * (noise**2 + math.log(2 * math.pi)) - log_std
    # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)), without cancellation.
    log_slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return (log_normal - log_slope).sum(-1)


class Critic(nn.Module):
    """State value."""

    def __init__(self, config: ActorCriticConfig) -> None:
        """Build a critic."""
        super().__init__()
        self.body = mlp(config.features, config.hidden, 1, layers=config.layers)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., feature]`` -> ``[...]``."""
        value: Tensor = self.body(features)
        return value.squeeze(-1)


def td_lambda(
    rewards: Tensor, ends: Tensor, next_values: Tensor, *, gamma: float, lambda_: float
) -> Tensor:
    """TD(lambda) targets (Sutton and Barto 2018, section 12.1, in recursive form).

    G_t = r_t + gamma (1 - d_t) [(1 - lambda) V(s_{t+1}) + lambda G_{t+1}], with G_T = V(s_T).

    Args:
        rewards: ``[time, env]``.
        ends: ``[time, env]``, 1 where the transition ended the episode.
        next_values: ``[time, env]``, V(s_{t+1}).
        gamma: Discount.
        lambda_: Mixing of horizons: 0 is one-step, 1 is the whole rollout.

    Returns:
        ``[time, env]``.
    """
    following = next_values[-1]
    targets = []
    for t in reversed(range(len(rewards))):
        mixed = (1 - lambda_) * next_values[t] + lambda_ * following
        following = rewards[t] + gamma * (1 - ends[t]) * mixed
        targets.append(following)
    return torch.stack(targets[::-1])
