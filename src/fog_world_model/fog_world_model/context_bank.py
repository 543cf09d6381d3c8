"""Contexts that imagined environments start from, chosen once and kept on the device."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler, to_uint8_image
from fog_world_model.errors import FogError


@dataclass(frozen=True)
class ContextFilter:
    """Which episodes contexts are taken from; what is not given does not matter."""

    split: str = "training"
    """``training`` or ``validation``."""
    episodes: Collection[int] | None = None
    """Their indices in the store."""
    outcome: str | None = None
    """What the one who recorded them said: ``success``, ``failure``, or ``unmarked``."""
    source: str | None = None
    """Text that the name of the bag contains."""

    def __str__(self) -> str:
        """Say it in words."""
        parts = [f"split {self.split}"]
        if self.episodes is not None:
            parts.append(f"indices {sorted(self.episodes)}")
        if self.outcome is not None:
            parts.append(f"outcome {self.outcome}")
        if self.source is not None:
            parts.append(f"source with '{self.source}'")
        return ", ".join(parts)

    def choose(self, store: EpisodeStore) -> list[int]:
        """Indices of the episodes that fit, ascending.

        Raises:
            FogError: An index does not exist.
        """
        wanted = None if self.episodes is None else {int(i) for i in self.episodes}
        if wanted and not wanted <= set(range(len(store.episodes))):
            raise FogError(
                f"episode store {store.path}: has the episodes 0 to {len(store.episodes) - 1}; "
                f"asked for {sorted(wanted)}"
            )
        outcome = "" if self.outcome == "unmarked" else self.outcome
        return [
            int(i)
            for i in store.split(self.split)
            if (wanted is None or i in wanted)
            and (outcome is None or store.episodes[i].outcome == outcome)
            and (self.source is None or self.source in store.episodes[i].source)
        ]


class ContextBank:
    """Windows on the device, drawn from there without a way through the host.

    Takes the place of a :class:`.windows.WindowSampler` in :class:`.imagination.ImaginedEnv`.
    Images are kept as bytes, a quarter of what the models read.
    """

    def __init__(self, windows: Windows, *, seed: int, episodes: Tensor | None = None) -> None:
        """Keep windows, on the device that they are on.

        Args:
            windows: ``[context, time, ...]``.
            seed: Seed of the order in which they are drawn.
            episodes: ``[context]``: which episode of the store each is from, if known.
        """
        self._image = torch.from_numpy(to_uint8_image(windows.image)).to(windows.image.device)
        self._image = self._image.movedim(-1, -3).contiguous()
        self._windows = Windows(
            windows.image[:0],  # kept as bytes
            windows.proprioception,
            windows.action,
            windows.reward,
            windows.end,
        )
        self.episodes = episodes
        self._generator = torch.Generator(device=self._image.device).manual_seed(seed)

    @classmethod
    def load(
        cls,
        store: EpisodeStore,
        *,
        length: int,
        count: int = 1024,
        which: ContextFilter | None = None,
        within: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> ContextBank:
        """Preload contexts of chosen episodes.

        Args:
            store: The recorded episodes.
            length: Observations in a context, at least the model's ``context_frames``.
            count: Most contexts that are kept; where more fit they are drawn without replacement.
            which: Episodes; those of the training split unless given.
            within: Contexts end within the first so many steps of an episode, as what follows
                begins there on the robot; 0: anywhere.
            seed: Seed of the choice and of the order.
            device: Where they are kept.

        Raises:
            FogError: No episode fits, none is long enough, or ``within`` has no room for one.
        """
        if 0 < within < length:
            raise FogError(
                f"contexts of {length} steps do not end within the first {within} of an episode; "
                f"expected at least {length}, or 0 for anywhere"
            )
        which = which or ContextFilter()
        places, numbers = [], []
        chosen = which.choose(store)
        for index in chosen:
            start, steps = int(store.starts[index]), int(store.lengths[index])
            room = (min(steps, within) if within else steps) - length + 1
            places += list(range(start, start + room))
            numbers += [index] * max(room, 0)
        if not places:
            longest = max((int(store.lengths[i]) for i in chosen), default=0)
            raise FogError(
                f"episode store {store.path}: no context of {length} steps in the episodes chosen "
                f"({which}): {len(chosen)} fit, the longest has {longest} steps"
            )
        order = np.random.default_rng(seed).permutation(len(places))[:count]
        sampler = WindowSampler(store, length=length, split=which.split, seed=seed)
        windows = sampler.at(np.asarray(places, np.int64)[order], device)
        return cls(windows, seed=seed, episodes=torch.tensor(numbers)[torch.from_numpy(order)])

    def __len__(self) -> int:
        """Number of contexts."""
        return len(self._image)

    @property
    def generator_state(self) -> Tensor:
        """State of the random order."""
        return self._generator.get_state()

    @generator_state.setter
    def generator_state(self, state: Tensor) -> None:
        self._generator.set_state(state)

    def reseed(self, seed: int) -> None:
        """Begin the random order anew."""
        self._generator.manual_seed(seed)

    def draw(self, batch: int) -> Tensor:
        """Numbers of contexts, ``[batch]``, drawn with replacement."""
        return torch.randint(
            len(self), (batch,), generator=self._generator, device=self._image.device
        )

    def sample(self, batch: int, device: torch.device | str | None = None) -> Windows:
        """Draw contexts with replacement, ``[batch, time, ...]``, on the device of the bank."""
        return self.at(self.draw(batch))

    def at(self, chosen: Tensor) -> Windows:
        """Contexts by their numbers ``[batch]``."""
        kept = self._windows
        return Windows(
            image=self._image[chosen].float().div_(127.5).sub_(1.0),
            proprioception=kept.proprioception[chosen],
            action=kept.action[chosen],
            reward=kept.reward[chosen],
            end=kept.end[chosen],
        )
