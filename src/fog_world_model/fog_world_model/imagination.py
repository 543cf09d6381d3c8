"""The global model as a batched environment that starts from recorded contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fog_world_model.data.windows import Windows, WindowSampler
from fog_world_model.global_model.global_model import GlobalModel, WorldState


@dataclass(frozen=True)
class ImaginedStep:
    """What every environment shows after a step; see :class:`ImaginedEnv`."""

    image: Tensor
    """``[env, channel, height, width]`` in [-1, 1]: o_{t+1}."""
    proprioception: Tensor
    """``[env, field]``, normalised: p_{t+1}."""
    reward: Tensor
    """``[env]``: r_t."""
    end: Tensor
    """``[env]``, bool: d_t."""


class ImaginedEnv:
    """Environments that live in the global model; nothing in here has a gradient.

    Each starts from a context: a few consecutive recorded observations, which are also what a
    recurrent policy is warmed up on. An environment that has ended, or has been imagined for
    ``max_steps``, is started again from another context when :meth:`restart` is called.
    """

    def __init__(
        self,
        model: GlobalModel,
        contexts: WindowSampler,
        *,
        environments: int,
        max_steps: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Make the environments; call :meth:`restart` before the first step.

        Args:
            model: The world.
            contexts: Draws contexts of at least the model's ``context_frames`` observations.
            environments: How many run side by side.
            max_steps: Imagined steps after which an environment is due for a new context.
            seed: Seed of the imagination (the contexts have their own).
            device: Where the model is.
        """
        self.model, self.environments, self.max_steps = model.eval(), environments, max_steps
        self._contexts, self._device = contexts, torch.device(device)
        self._generator = torch.Generator(device=self._device).manual_seed(seed)
        self._state: WorldState | None = None
        # Staggered ages, so that environments do not all restart at the same moment.
        self.age = torch.arange(environments, device=self._device) * max_steps // environments
        self.steps = 0

    @property
    def due(self) -> Tensor:
        """``[env]``, bool: environments that have been imagined for ``max_steps``."""
        return self.age >= self.max_steps

    @property
    def observation(self) -> tuple[Tensor, Tensor]:
        """What every environment shows now, restarted ones their context's last observation.

        Returns:
            ``[env, channel, height, width]`` in [-1, 1] and ``[env, field]``, normalised.
        """
        if self._state is None:
            raise RuntimeError("ImaginedEnv.observation was read before ImaginedEnv.restart")
        return self._state.frames[:, -1], self._state.proprioception

    @torch.no_grad()
    def restart(self, which: Tensor | None = None) -> Windows:
        """Start environments from new contexts.

        Args:
            which: ``[env]``, bool; all when not given (ages stay staggered then).

        Returns:
            The contexts, ``[env, time, ...]`` for all environments; the rows of those that were
            not restarted have no meaning.
        """
        windows = self._contexts.sample(self.environments, self._device)
        fresh = self.model.start(windows)
        if which is None or self._state is None:
            self._state = fresh
        else:
            self._state = self._state.where(which, fresh)
            self.age = torch.where(which, 0, self.age)
        return windows

    def snapshot(self) -> tuple[object, ...]:
        """Everything that a step or a restart changes; give it to :meth:`restore`."""
        return (
            self._state,
            self.age,
            self.steps,
            self._generator.get_state(),
            self._contexts.generator_state,
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Go back to a snapshot: the same actions then give the same steps."""
        self._state, self.age, self.steps, noise, contexts = snapshot
        self._generator.set_state(noise)
        self._contexts.generator_state = contexts

    @torch.no_grad()
    def step(self, action: Tensor) -> ImaginedStep:
        """Imagine one step of every environment.

        Args:
            action: ``[env, field]`` in [-1, 1].
        """
        if self._state is None:
            raise RuntimeError("ImaginedEnv.step was called before ImaginedEnv.restart")
        self._state, outcome = self.model.step(self._state, action.detach(), self._generator)
        draw = torch.rand(self.environments, generator=self._generator, device=self._device)
        self.age = self.age + 1
        self.steps += self.environments
        return ImaginedStep(
            self._state.frames[:, -1],
            self._state.proprioception,
            outcome.reward,
            draw < outcome.end_probability,
        )
