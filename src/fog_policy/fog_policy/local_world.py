"""The local world model as the differentiable half of the decoupled gradient."""

from __future__ import annotations

from torch import Tensor

from fog_world_model.data.windows import Windows
from fog_world_model.imagination import ImaginedStep
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState


class LatentWorld:
    """Prior, posterior and reward of an RSSM behind :class:`.decoupled_gradient.LocalWorld`."""

    def __init__(self, model: LocalModel, *, sample_prior: bool = False) -> None:
        """Wrap a model.

        Args:
            model: The local model.
            sample_prior: Send the gradient through a sample of the prior instead of its mean.
        """
        self.model, self.sample_prior = model, sample_prior

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """s_hat from the prior, differentiable."""
        return self.model.imagine(state, action, sample=self.sample_prior)

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        """s_post: the mean of the posterior, as on the robot."""
        embedding = self.model.encoder(step.image, step.proprioception)
        posterior = self.model.rssm.posterior(predicted.deterministic, embedding)
        return LatentState(predicted.deterministic, posterior.mean)

    def reward(self, state: LatentState) -> Tensor:
        """Reward head, ``[env]``."""
        return self.model.reward(state)

    def start(self, contexts: Windows) -> LatentState:
        """Filter a context from the initial state."""
        states, _, _ = self.model.filter(contexts, sample=False)
        return LatentState(states.deterministic[:, -1], states.stochastic[:, -1])
