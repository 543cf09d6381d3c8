"""The local world model as the differentiable half of the decoupled gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fog_world_model.data.windows import Windows
from fog_world_model.imagination import Contexts, ImaginedStep
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


class LocalAlone(LatentWorld):
    """The local model as both worlds ("no diffusion"): values and gradients from its prior.

    Cheap, and only as right as the local model is: a baseline, and a start for the policy before
    the global model takes over. It has the interface of an imagined environment as well.
    """

    def __init__(
        self,
        model: LocalModel,
        contexts: Contexts,
        *,
        environments: int,
        max_steps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """Make the environments; the arguments are those of an imagined environment."""
        super().__init__(model)
        self.environments, self.max_steps, self.steps = environments, max_steps, 0
        self._contexts, self._device = contexts, device
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self.age = torch.arange(environments, device=device) * max_steps // environments
        self._state = model.rssm.initial(environments)
        self._noise = torch.zeros_like(self._state.stochastic)

    @property
    def due(self) -> Tensor:
        """``[env]``, bool: environments that have been imagined for ``max_steps``."""
        return self.age >= self.max_steps

    @torch.no_grad()
    def restart(self, which: Tensor | None = None) -> Windows:
        """Start environments from new contexts, all unless ``which`` ``[env]`` says which."""
        contexts = self._contexts.sample(self.environments, self._device)
        fresh = self.start(contexts)
        if which is None:
            self._state = fresh
        else:
            self._state = self._state.where(which, fresh)
            self.age = torch.where(which, 0, self.age)
        return contexts

    def snapshot(self) -> dict[str, Tensor]:
        """Everything that a step or a restart changes but for :attr:`steps` and the contexts."""
        return {
            "deterministic": self._state.deterministic,
            "stochastic": self._state.stochastic,
            "noise": self._noise,
            "age": self.age,
            "generator": self._generator.get_state(),
        }

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to a snapshot: the same actions then give the same steps.

        Raises:
            KeyError: A part is missing.
        """
        self._generator.set_state(snapshot["generator"].cpu())
        found = {name: value.to(self._device) for name, value in snapshot.items()}
        self._state = LatentState(found["deterministic"], found["stochastic"])
        self._noise, self.age = found["noise"], found["age"]

    @torch.no_grad()
    def step(self, action: Tensor) -> ImaginedStep:
        """Step all environments; there are no pictures to show."""
        shape = self._state.stochastic.shape
        self._noise = torch.randn(shape, generator=self._generator, device=self._device)
        self._state = self.predict(self._state, action)
        end = 1 - self.model.continue_head(self._state.features).squeeze(-1).sigmoid()
        draw = torch.rand(len(end), generator=self._generator, device=self._device)
        self.age = self.age + 1
        self.steps += self.environments
        nothing = action.new_zeros(self.environments, 0)
        return ImaginedStep(nothing, nothing, self.reward(self._state), draw < end)

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """A sample of the prior, with the noise that :meth:`step` has drawn.

        Samples, not the mean: the mean of an uncertain prior is a state that never occurs, and a
        policy finds the ones among them whose reward looks good.
        """
        deterministic = self.model.rssm.advance(state, action)
        prior = self.model.rssm.prior(deterministic)
        return LatentState(deterministic, prior.sample(self._noise))

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        """Nothing to correct with: the prediction is the truth."""
        return predicted
