"""One imagined environment that is reset by a seed, or to a chosen place of a recording."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.imagination import ImaginedEnv, ImaginedStep


class _Contexts:
    """Draws contexts at random, unless one place was chosen."""

    def __init__(self, sampler: WindowSampler) -> None:
        self._sampler = sampler
        self.place: int | None = None
        """Row of the store."""

    @property
    def generator_state(self) -> Any:
        return self._sampler.generator_state

    @generator_state.setter
    def generator_state(self, state: Any) -> None:
        self._sampler.generator_state = state

    def sample(self, batch: int, device: torch.device | str) -> Windows:
        if self.place is None:
            return self._sampler.sample(batch, device)
        return self._sampler.at(np.full(batch, self.place, np.int64), device)


class ProgramEnv:
    """An :class:`.ImaginedEnv` of one world.

    It is made once, because a compiled model is, and then equals a new one at every reset.
    """

    def __init__(
        self,
        model: GlobalModel,
        store: EpisodeStore,
        sampler: WindowSampler,
        max_steps: int,
        device: torch.device,
    ) -> None:
        """Make the environment; call :meth:`reset` before the first step."""
        self._store, self._contexts = store, _Contexts(sampler)
        self._length = sampler.length
        self._env = ImaginedEnv(
            model,
            self._contexts,
            environments=1,
            max_steps=max_steps,
            seed=0,
            device=device,
        )

    def reset(
        self, seed: int | None = None, episode: int | None = None, row: int = 0
    ) -> tuple[Windows, Tensor, Tensor]:
        """Start another world.

        Args:
            seed: Of the imagination and of the contexts from now on.
            episode: Index in the store; a context is drawn unless it is given.
            row: First observation of the context in that episode.

        Returns:
            The context ``[1, time, ...]``, the image ``[1, channel, height, width]`` and the
            proprioception ``[1, field]``.

        Raises:
            ValueError: There is no such place.
        """
        self._contexts.place = None if episode is None else self._place(episode, row)
        if seed is not None:
            self._env.reseed(seed)
            self._contexts.generator_state = np.random.default_rng(seed).bit_generator.state
        windows = self._env.restart()
        self._env.age = torch.zeros_like(self._env.age)
        return windows, *self._env.observation

    def step(self, action: Tensor) -> tuple[ImaginedStep, bool]:
        """Imagine one step.

        Args:
            action: ``[1, field]`` in [-1, 1].

        Returns:
            The step, and whether the world is as old as it may become.
        """
        step = self._env.step(action)
        return step, bool(self._env.due[0])

    def _place(self, episode: int, row: int) -> int:
        if not 0 <= episode < len(self._store.episodes):
            raise ValueError(f"episode: expected 0 to {len(self._store.episodes) - 1}")
        room = int(self._store.lengths[episode]) - self._length
        if not 0 <= row <= room:
            raise ValueError(f"row: episode {episode} can be started from 0 to {room}")
        return int(self._store.starts[episode]) + row
