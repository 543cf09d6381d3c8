"""Figures of closed-loop episodes, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Interval:
    """A mean, or a share, and its interval."""

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


def wilson(successes: int, trials: int, z: float = 1.959964) -> Interval:
    """Score interval of a share (Wilson 1927): unlike a bootstrap it is honest at 0 and at 1.

    Args:
        successes: How many.
        trials: Of how many, at least one.
        z: Quantile of the normal distribution; 1.96 for 95 %.
    """
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low, high = max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
    return Interval(share, 0.0 if successes == 0 else low, 1.0 if successes == trials else high)


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], z: float = 1.959964
) -> Interval:
    """Difference of two shares over the same trials, first minus second, with a score interval.

    Method 10 of Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", without continuity correction: Wilson's intervals of both
    shares, and how the two go together. Like those it is honest where nothing ever differs.

    Args:
        first: ``[trial]``, success of one.
        second: ``[trial]``, success of the other in the same trials, at least one.
        z: Quantile of the normal distribution; 1.96 for 95 %.
    """
    pairs = list(zip(map(bool, first), map(bool, second), strict=True))
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    one, other = pairs.count((True, False)), pairs.count((False, True))
    n = len(pairs)
    mine, theirs = wilson(both + one, n, z), wilson(both + other, n, z)
    margins = (both + one) * (other + neither) * (both + other) * (one + neither)
    phi = (both * neither - one * other) / math.sqrt(margins) if margins else 0.0
    difference = mine.mean - theirs.mean

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return Interval(
        difference,
        difference - reach(mine.mean - mine.low, theirs.high - theirs.mean),
        difference + reach(mine.high - mine.mean, theirs.mean - theirs.low),
    )


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
