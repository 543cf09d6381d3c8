"""Our actor and critic as the models that rsl_rl's PPO trains: the same weights, in place."""

from __future__ import annotations

import torch
from rsl_rl.models import MLPModel
from rsl_rl.modules import Distribution
from torch import Tensor, nn

from fog_policy.actor_critic import Actor, Critic, squashed_log_prob

FEATURES = "features"
"""The group of observations that both networks see."""


class SquashedGaussian(Distribution):
    """The tanh-Gaussian of :class:`.actor_critic.Actor` as a distribution of rsl_rl.

    What PPO takes for the action is the value before the tanh. Log-probabilities are nevertheless
    those of the squashed action, with its Jacobian; the inverse of the tanh, which has no
    precision near the bounds, is never needed. Ratios and KL are the same on both sides of it.
    """

    def __init__(self, actor: Actor) -> None:
        """Read the output of an actor's network as the actor does."""
        super().__init__(actor.config.action_size)
        self._gaussian = actor.gaussian

    @property
    def input_dim(self) -> int:
        """Numbers per action field that the network gives, of all fields together."""
        return 2 * int(self.output_dim)

    def update(self, mlp_output: Tensor) -> None:
        """Take over the output of the network, ``[batch, 2 * field]``."""
        self._mean, self._log_std = self._gaussian(mlp_output)

    def sample(self) -> Tensor:
        """Draw raw actions ``[batch, field]``, differentiably."""
        self._raw = self._mean + self._log_std.exp() * torch.randn_like(self._mean)
        return self._raw

    def deterministic_output(self, mlp_output: Tensor) -> Tensor:
        """Raw actions without noise, ``[batch, field]``."""
        return self._gaussian(mlp_output)[0]

    @property
    def mean(self) -> Tensor:
        """Of the raw actions, ``[batch, field]``."""
        return self._mean

    @property
    def std(self) -> Tensor:
        """Of the raw actions, ``[batch, field]``."""
        return self._log_std.exp()

    @property
    def entropy(self) -> Tensor:
        """Of the squashed actions, ``[batch]``, nats.

        It has no closed form; this is -log pi of the sample that was drawn last, which is right in
        the mean and has the right gradient (Haarnoja et al. 2018).
        """
        return -squashed_log_prob(self._raw, self._mean, self._log_std)

    @property
    def params(self) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, ``[batch, field]`` each."""
        return self._mean, self._log_std

    def log_prob(self, outputs: Tensor) -> Tensor:
        """Log-probability of the actions ``outputs.tanh()``, ``[batch]``, nats."""
        return squashed_log_prob(outputs, self._mean, self._log_std)

    def kl_divergence(
        self, old_params: tuple[Tensor, ...], new_params: tuple[Tensor, ...]
    ) -> Tensor:
        """KL(old || new), ``[batch]``, nats: that of the Gaussians, for tanh is one to one."""
        (old_mean, old), (new_mean, new) = old_params, new_params
        distance = ((old_mean - new_mean) * (-new).exp()).square()
        return (new - old + 0.5 * ((2 * (old - new)).exp() + distance - 1)).sum(-1)


class FeatureModel(MLPModel):
    """A network of ours in the place of the one that rsl_rl would build."""

    def __init__(self, network: Actor | Critic) -> None:
        """Train the network in place.

        Args:
            network: Reads features ``[batch, feature]``.
        """
        nn.Module.__init__(self)  # the parent's would build another network
        self.obs_groups = [FEATURES]
        self.obs_normalization = False
        self.obs_normalizer = nn.Identity()
        self.distribution = SquashedGaussian(network) if isinstance(network, Actor) else None
        self.mlp = network.body
