"""Figures of closed-loop episodes, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: npt.ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: ``[episode]``.
        level: Coverage of the interval.
        resamples: Bootstrap samples.
        seed: Seed of the resampling.

    Raises:
        ValueError: There is no value, or one is not finite.
    """
    data = np.asarray(values, np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"bootstrap needs finite values, got {data.tolist()}")
    rows = np.random.default_rng(seed).integers(len(data), size=(resamples, len(data)))
    means = data[rows].mean(axis=1)
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(data.mean()), float(low), float(high))


def summarise_returns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns of a closed-loop record.

    Args:
        record: What ``fog_bringup.closed_loop`` writes: ``episodes`` with a ``return`` and a list
            of ``rewards`` each.

    Returns:
        ``episodes`` (their number), ``mean``, ``low`` and ``high`` of the return (95 % bootstrap
        over episodes), the same per step as ``reward_per_step``, and the ``returns`` themselves.
    """
    episodes: Sequence[Mapping[str, Any]] = record["episodes"]
    returns = [float(e["return"]) for e in episodes]
    interval = bootstrap_mean(returns)
    steps = max(1, *(len(e["rewards"]) for e in episodes))
    return {
        "episodes": len(returns),
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "reward_per_step": {k: v / steps for k, v in vars(interval).items()},
        "returns": returns,
    }
