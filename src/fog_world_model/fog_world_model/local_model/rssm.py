"""The recurrent state-space model: a state with a deterministic and a Gaussian part.

Hafner et al. 2019 (PlaNet, arXiv 1811.04551), section 3; the loss on the state as in DreamerV3
(arXiv 2301.04104), equations 4 and 5. The stochastic part is Gaussian, not categorical: it is
reparameterised, so a Jacobian exists everywhere.

    deterministic   h_{t+1} = f(h_t, z_t, a_t)
    prior           z_{t+1} ~ p(z | h_{t+1})
    posterior       z_{t+1} ~ q(z | h_{t+1}, embedding of o_{t+1})
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fog_world_model.local_model.encoder import mlp


@dataclass(frozen=True)
class LatentState:
    """State of a batch of worlds."""

    deterministic: Tensor
    """``[..., deterministic]`` (h)."""
    stochastic: Tensor
    """``[..., stochastic]`` (z)."""

    @property
    def features(self) -> Tensor:
        """``[..., deterministic + stochastic]``: what the heads, the actor and the critic see."""
        return torch.cat([self.deterministic, self.stochastic], dim=-1)

    def detach(self) -> LatentState:
        """The same values without a gradient."""
        return LatentState(self.deterministic.detach(), self.stochastic.detach())

    def where(self, mask: Tensor, other: LatentState) -> LatentState:
        """Take the states of ``other`` where ``mask`` ``[batch]`` is true."""
        return LatentState(
            torch.where(mask[:, None], other.deterministic, self.deterministic),
            torch.where(mask[:, None], other.stochastic, self.stochastic),
        )


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian over the stochastic part."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Reparameterised sample; ``noise`` is standard normal, drawn when not given."""
        return self.mean + self.std * (torch.randn_like(self.mean) if noise is None else noise)

    def detach(self) -> Gaussian:
        """The same distribution without a gradient."""
        return Gaussian(self.mean.detach(), self.std.detach())


def kl_divergence(left: Gaussian, right: Gaussian) -> Tensor:
    """KL(left || right) summed over the last axis, nats."""
    ratio = left.std / right.std
    distance = ((left.mean - right.mean) / right.std) ** 2
    return 0.5 * (ratio**2 + distance - 1 - 2 * ratio.log()).sum(-1)


class RSSM(nn.Module):
    """Transition, prior and posterior."""

    def __init__(
        self,
        *,
        action_size: int,
        embedding: int,
        deterministic: int,
        stochastic: int,
        hidden: int,
        minimal_std: float = 0.1,
    ) -> None:
        """Build the three networks."""
        super().__init__()
        self.deterministic, self.stochastic = deterministic, stochastic
        self.minimal_std = minimal_std
        self.input = nn.Sequential(
            nn.Linear(stochastic + action_size, hidden), nn.LayerNorm(hidden), nn.SiLU()
        )
        self.cell = nn.GRUCell(hidden, deterministic)
        self.prior_head = mlp(deterministic, hidden, 2 * stochastic, layers=1)
        self.posterior_head = mlp(deterministic + embedding, hidden, 2 * stochastic, layers=1)

    def initial(self, batch: int) -> LatentState:
        """State before the first observation: zeros."""
        weight = next(self.parameters())
        return LatentState(
            weight.new_zeros(batch, self.deterministic), weight.new_zeros(batch, self.stochastic)
        )

    def advance(self, state: LatentState, action: Tensor) -> Tensor:
        """h_{t+1} from s_t and a_t, ``[batch, deterministic]``."""
        inputs = self.input(torch.cat([state.stochastic, action], dim=-1))
        deterministic: Tensor = self.cell(inputs, state.deterministic)
        return deterministic

    def prior(self, deterministic: Tensor) -> Gaussian:
        """p(z_{t+1} | h_{t+1})."""
        return self._gaussian(self.prior_head(deterministic))

    def posterior(self, deterministic: Tensor, embedding: Tensor) -> Gaussian:
        """q(z_{t+1} | h_{t+1}, embedding)."""
        return self._gaussian(self.posterior_head(torch.cat([deterministic, embedding], dim=-1)))

    def _gaussian(self, parameters: Tensor) -> Gaussian:
        mean, raw = parameters.chunk(2, dim=-1)
        return Gaussian(mean, F.softplus(raw) + self.minimal_std)
