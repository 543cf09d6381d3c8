"""Bootstrap intervals against all resamples there are, and the summary by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fog_policy.evaluation import bootstrap_mean, summarise_returns


def test_two_values_by_hand() -> None:
    """Resamples of (0, 1) have the means 0, 1/2, 1 with weights 1/4, 1/2, 1/4."""
    wide = bootstrap_mean([0.0, 1.0], level=0.95)
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)
    # The 30th and the 70th percentile both lie in the middle half.
    narrow = bootstrap_mean([0.0, 1.0], level=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_against_all_resamples(level: float) -> None:
    """5^5 resamples of five values, enumerated."""
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    means = np.array([values[list(rows)].mean() for rows in itertools.product(range(5), repeat=5)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    found = bootstrap_mean(values, level=level, resamples=20_000)
    assert found.mean == pytest.approx(6.2)
    assert found.low == pytest.approx(low, abs=0.41)  # the means lie 0.2 or 0.4 apart
    assert found.high == pytest.approx(high, abs=0.41)


def test_many_values_as_the_normal_distribution_says() -> None:
    """Mean of 400 values: +-1.96 standard errors."""
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = bootstrap_mean(values)
    error = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_same_seed_same_interval_and_scale() -> None:
    values = np.random.default_rng(0).random(20)
    first = bootstrap_mean(values)
    assert first == bootstrap_mean(values)
    assert first != bootstrap_mean(values, seed=1)
    scaled = bootstrap_mean(10 * values - 3)
    assert scaled.low == pytest.approx(10 * first.low - 3)
    assert scaled.high == pytest.approx(10 * first.high - 3)


def test_one_value_has_no_spread() -> None:
    found = bootstrap_mean([2.5])
    assert (found.mean, found.low, found.high) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="bootstrap needs finite values"):
        bootstrap_mean(values)


def test_summary_by_hand() -> None:
    record: dict[str, Any] = {
        "episodes": [
            {"return": 3.0, "rewards": [1.0, 1.0, 1.0, 0.0]},
            {"return": 1.0, "rewards": [0.0, 0.0, 0.5, 0.5]},
        ]
    }
    found = summarise_returns(record)
    assert (found["episodes"], found["mean"], found["low"], found["high"]) == (2, 2.0, 1.0, 3.0)
    assert found["returns"] == [3.0, 1.0]
    assert found["reward_per_step"] == {"mean": 0.5, "low": 0.25, "high": 0.75}


def test_summary_of_nothing() -> None:
    with pytest.raises(ValueError, match="bootstrap needs finite values"):
        summarise_returns({"episodes": []})
