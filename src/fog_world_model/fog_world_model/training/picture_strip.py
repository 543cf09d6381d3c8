"""A picture of what the global model has learned: real frames above imagined ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler, to_uint8_image
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel

_GAP = 2
"""Pixels between pictures; twice as many between pairs of rows."""


class PictureStrip:
    """Imagines the same few recorded windows each time it is called.

    Held-out episodes are shown when there are any that are long enough, else training ones.
    """

    def __init__(
        self,
        model: GlobalModel,
        store: EpisodeStore,
        device: torch.device,
        *,
        windows: int = 4,
        horizon: int = 16,
    ) -> None:
        """Load the windows.

        Args:
            model: What imagines.
            store: Episodes to show.
            device: Where the model will be.
            windows: Pairs of rows, evenly spread over the episodes.
            horizon: Imagined frames in a row; fewer when no episode is that long.

        Raises:
            FogError: No episode is long enough for a single imagined frame.
        """
        self._model, self._device = model, device
        sampler = _longest(store, model.context_frames, horizon)
        self._horizon = sampler.length - model.context_frames
        places = sampler.every(max(1, len(sampler) // windows))[:windows]
        self._windows = sampler.at(places)

    @torch.no_grad()
    def __call__(self) -> npt.NDArray[np.uint8]:
        """Imagine along the recorded actions.

        Returns:
            ``[height, width, 3]``: for every window a row of recorded frames, the last frame of
            the context first, and below it the imagined ones.
        """
        context = self._model.context_frames
        data = Windows(*(v.to(self._device) for v in vars(self._windows).values()))
        generator = torch.Generator(device=self._device).manual_seed(0)
        state = self._model.start(_first(data, context))
        imagined = [data.image[:, context - 1]]
        for t in range(self._horizon):
            action = data.action[:, context - 1 + t]
            state, _ = self._model.step(state, action, generator)
            imagined.append(state.frames[:, -1].clone())
        return strip(data.image[:, context - 1 :], torch.stack(imagined, 1))


def strip(real: Tensor, imagined: Tensor) -> npt.NDArray[np.uint8]:
    """Lay frames out in pairs of rows.

    Args:
        real: ``[window, time, channel, height, width]`` in [-1, 1].
        imagined: The same moments.

    Returns:
        ``[window * 2 * height + gaps, time * width + gaps, 3]`` on white.
    """
    pairs = np.stack([to_uint8_image(real), to_uint8_image(imagined)], axis=1)
    windows, rows, time, height, width, _ = pairs.shape
    tall = windows * (rows * (height + _GAP) + _GAP) - 2 * _GAP
    picture = np.full((tall, time * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for w in range(windows):
        for r in range(rows):
            top = w * (rows * (height + _GAP) + _GAP) + r * (height + _GAP)
            for t in range(time):
                left = t * (width + _GAP)
                picture[top : top + height, left : left + width] = pairs[w, r, t]
    return picture


def _longest(store: EpisodeStore, context: int, horizon: int) -> WindowSampler:
    """Windows of held-out episodes, as long as there are, else of training ones."""
    for split in ("validation", "training"):
        episodes = store.split(split)
        longest = int(store.lengths[episodes].max()) if len(episodes) else 0
        length = min(context + horizon, longest)
        if length > context:
            return WindowSampler(store, length=length, split=split)
    raise FogError(
        f"episode store {store.path}: no episode has {context + 1} steps; nothing to picture"
    )


def _first(data: Windows, count: int) -> Windows:
    return Windows(*(v[:, :count] for v in vars(data).values()))
