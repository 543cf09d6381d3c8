"""Exponential moving averages of weights, of world models and of policies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def kept_share(decay: float, updates: int) -> float:
    """Share of the average that stays, in [0, 1): less while there were few updates.

    Args:
        decay: What it comes to.
        updates: How many there were, n: at most (1 + n) / (10 + n) stays, so that the weights that
            training began with do not linger.
    """
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def follow(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], keep: float) -> None:
    """Move an average towards weights, in place; what is no floating-point number is copied.

    Args:
        average: By name.
        weights: By the same names.
        keep: Share of the average that stays.
    """
    for name, value in weights.items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - keep)
        else:
            average[name].copy_(value)
