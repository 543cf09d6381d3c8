"""Windows of consecutive steps for training; never across the border of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore, Place
from fog_world_model.data.image_sources import ImageSource, image_source
from fog_world_model.data.picture_change import chances_by_change, picture_change
from fog_world_model.errors import FogError


@dataclass(frozen=True)
class Windows:
    """A batch of windows; row t holds o_t and the transition to o_{t+1}.

    The transition of the last row of a window may be the unused one that closes an episode, so
    losses look at transitions ``[:, :-1]``.
    """

    image: Tensor
    """``[batch, time, channel, height, width]``, float in [-1, 1]."""
    proprioception: Tensor
    """``[batch, time, field]``, normalised."""
    action: Tensor
    """``[batch, time, field]`` in [-1, 1]."""
    reward: Tensor
    """``[batch, time]``."""
    end: Tensor
    """``[batch, time]``, 0 or 1."""


def to_float_image(image: Tensor) -> Tensor:
    """Scale uint8 ``[..., height, width, channel]`` to [-1, 1], channel before height."""
    return image.movedim(-1, -3).float().div_(127.5).sub_(1.0).contiguous()


def to_uint8_image(image: Tensor) -> npt.NDArray[np.uint8]:
    """Inverse of :func:`to_float_image`; values outside [-1, 1] are clipped."""
    scaled = image.detach().float().clamp(-1, 1).add(1.0).mul(127.5).round().to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


_LEVELS = to_float_image(torch.arange(256, dtype=torch.uint8).view(256, 1, 1)).flatten().numpy()
"""What each value of a pixel becomes."""


def _to_float(windows: Sequence[npt.NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Scale ``[time, channel, height, width]`` each to [-1, 1], and stack them.

    The values are those of :func:`to_float_image`. On the processor they are looked up, which
    passes over the floats once, not three times; another device gets the bytes, a quarter as many.
    """
    if device.type != "cpu":
        return torch.from_numpy(np.stack(windows)).to(device).float().div_(127.5).sub_(1.0)
    time, channel, height, width = windows[0].shape
    found = np.empty((len(windows), time, channel, height, width), np.float32)
    for window, target in zip(windows, found, strict=True):
        cv2.LUT(window.reshape(-1, width), _LEVELS, dst=target.reshape(-1, width))
    return torch.from_numpy(found)


class WindowSampler:
    """Draw random windows from the episodes of one split.

    Windows are drawn uniformly over all places where one fits, or a share of them by how much
    moves in them, by a generator of its own, so that the order of the data is a function of the
    seed and of the number of batches drawn, whether the images come from memory or from the disk.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        length: int,
        split: str = "training",
        seed: int = 0,
        images: Place | ImageSource | None = None,
        moving: float = 0.0,
    ) -> None:
        """Load a split.

        Args:
            store: Where the episodes are.
            length: Observations in a window.
            split: ``training`` or ``validation``.
            seed: Seed of the order.
            images: Where images are read from, see :func:`.image_sources.image_source`, or what
                to read them with; by default as the store was opened.
            moving: Share of the windows that are drawn by how much the picture changes in them,
                see :func:`.picture_change.chances_by_change`; all images are looked at once to find
                out.

        Raises:
            FogError: No episode of the split is that long, ``moving`` is not within 0 to 1 or the
                picture never changes, or the store is damaged.
        """
        self.length = length
        self._generator = np.random.default_rng(seed)
        episodes = store.split(split)
        starts, lengths = store.starts[episodes], store.lengths[episodes]
        places = [np.arange(s, s + n - length + 1) for s, n in zip(starts, lengths, strict=True)]
        self._places = np.concatenate(places) if places else np.zeros(0, np.int64)
        if not len(self._places):
            raise FogError(
                f"episode store {store.path}: no {split} episode has {length} steps (the longest "
                f"has {lengths.max() if len(lengths) else 0}); record longer episodes or choose a "
                "shorter window"
            )
        if not 0.0 <= moving <= 1.0:
            raise FogError(f"--moving-windows {moving:g}: expected a share from 0 to 1")
        self._moving = moving
        self._images = (
            image_source(store, split, images)
            if images is None or isinstance(images, str)
            else images
        )
        if moving:
            rows = int(store.lengths.sum())
            change = picture_change(self._images, starts, lengths, rows)
            self._chances = chances_by_change(change, self._places, length)
        self._drawn = np.zeros(0, np.int64)
        self._starts, self._sources = store.starts, [e.source for e in store.episodes]
        proprioception = store.normalisation.apply(store.column("proprioception"))
        self._proprioception = torch.from_numpy(proprioception)
        self._action = torch.from_numpy(store.column("action"))
        self._reward = torch.from_numpy(store.column("reward"))
        self._end = torch.from_numpy(store.column("end").astype(np.float32))

    def __len__(self) -> int:
        """Number of distinct windows."""
        return len(self._places)

    @property
    def generator_state(self) -> dict[str, object]:
        """State of the random order, for checkpoints (plain JSON values)."""
        return dict(self._generator.bit_generator.state)

    @generator_state.setter
    def generator_state(self, state: dict[str, object]) -> None:
        self._generator.bit_generator.state = state

    def sample(
        self, batch: int, device: torch.device | str = "cpu", share: slice = slice(None)
    ) -> Windows:
        """Draw ``batch`` windows with replacement, and load those of them that ``share`` names.

        Processes that divide a batch among them draw the same places and load different ones.
        """
        self._drawn = self._draw(self._generator, batch)
        chosen = self._drawn[share]
        images = self._images.windows(chosen, self.length)
        if self._images.ahead:
            # A copy of the generator looks ahead, so that the order never depends on it.
            later = np.random.default_rng()
            later.bit_generator.state = self._generator.bit_generator.state
            expected = [self._draw(later, batch)[share] for _ in range(self._images.ahead)]
            self._images.expect(expected, self.length)
        return self._windows(chosen, images, device)

    def _draw(self, generator: np.random.Generator, batch: int) -> npt.NDArray[np.int64]:
        chosen = generator.integers(len(self._places), size=batch)
        if self._moving:
            by_change = np.searchsorted(self._chances, generator.random(batch), side="right")
            chosen = np.where(generator.random(batch) < self._moving, by_change, chosen)
        return self._places[chosen]

    def describe(self, rows: Sequence[int]) -> list[str]:
        """Where rows of the last batch that was drawn come from: episodes and steps of the store.

        Args:
            rows: Places in the whole batch, from 0.
        """
        found = []
        for row in rows:
            first = int(self._drawn[row])
            episode = int(np.searchsorted(self._starts, first, side="right")) - 1
            step = first - int(self._starts[episode])
            source = self._sources[episode]
            found.append(f"episode {episode} ({source}) steps {step} to {step + self.length - 1}")
        return found

    def at(self, first_rows: npt.NDArray[np.int64], device: torch.device | str = "cpu") -> Windows:
        """Windows that start at given rows of the store."""
        return self._windows(first_rows, self._images.windows(first_rows, self.length), device)

    def _windows(
        self,
        first_rows: npt.NDArray[np.int64],
        images: Sequence[npt.NDArray[np.uint8]],
        device: torch.device | str,
    ) -> Windows:
        rows = torch.from_numpy(first_rows[:, None] + np.arange(self.length)[None])
        return Windows(
            image=_to_float(images, torch.device(device)),
            proprioception=self._proprioception[rows].to(device),
            action=self._action[rows].to(device),
            reward=self._reward[rows].to(device),
            end=self._end[rows].to(device),
        )

    def every(self, stride: int) -> npt.NDArray[np.int64]:
        """First rows of windows that tile the split with a stride, for evaluation."""
        return self._places[::stride]
