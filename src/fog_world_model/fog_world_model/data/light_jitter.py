"""Pictures under another light, for a model that is to see through it."""

from __future__ import annotations

import torch
from torch import Tensor

CHANNEL_SHARE = 0.25
"""How much the channels differ among themselves, of how much all of them change together."""


def light_jitter(image: Tensor, strength: float) -> Tensor:
    """Windows as if lamp, exposure and white balance were others, drawn once per window.

    A lamp does not change within a few seconds, and a model that is shown one that does could
    average over time what it has to see through at once.

    Args:
        image: ``[batch, time, channel, height, width]`` in [-1, 1].
        strength: All channels are multiplied by a factor that is uniform in 1 +- ``strength``, and
            each of them by one of its own in 1 +- ``strength`` / 4. The factors are of values in
            [0, 1], which saturate at 1, as a camera's do.

    Returns:
        New pictures of the same shape, in [-1, 1].
    """
    batch, _, channels = image.shape[:3]

    def factor(columns: int, half: float) -> Tensor:
        return 1 + half * (2 * torch.rand(batch, columns, device=image.device) - 1)

    light = factor(1, strength) * factor(channels, CHANNEL_SHARE * strength)
    return ((image + 1) * light[:, None, :, None, None] - 1).clamp_(max=1)
