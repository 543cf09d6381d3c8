"""Bootstrap intervals against all resamples there are, and the summary by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from fog_policy.evaluation import bootstrap_mean, paired_difference, summarise_returns, wilson


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


def test_wilson_by_hand() -> None:
    # Brown, Cai and DasGupta 2001: of n = 10, none: [0, 0.278]; five: [0.237, 0.763].
    none, half = wilson(0, 10), wilson(5, 10)
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(10, 10).high == 1.0


def table(both: int, one: int, other: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + one) + [False] * (other + neither)
    second = [True] * both + [False] * one + [True] * other + [False] * neither
    return first, second


def test_paired_difference_by_hand() -> None:
    # 4 both, 3 one, 1 other, 2 neither of 10: shares 0.7 and 0.5, phi = (8 - 3) / sqrt(7*3*5*5).
    found = paired_difference(*table(4, 3, 1, 2))
    mine, theirs, phi = wilson(7, 10), wilson(5, 10), 5 / math.sqrt(525)
    a, b = 0.7 - mine.low, theirs.high - 0.5
    assert found.mean == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - math.sqrt(a * a + b * b - 2 * phi * a * b))
    a, b = mine.high - 0.7, 0.5 - theirs.low
    assert found.high == pytest.approx(0.2 + math.sqrt(a * a + b * b - 2 * phi * a * b))
    turned = paired_difference(*table(4, 3, 1, 2)[::-1])
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_paired_difference_of_equals_is_no_point_where_nothing_is_known_for_sure() -> None:
    always = paired_difference([True] * 50, [True] * 50)
    assert always.mean == 0.0
    # as far as Wilson's interval of 50 of 50 goes down, on either side
    assert always.low == pytest.approx(-(1 - wilson(50, 50).low))
    assert always.high == pytest.approx(1 - wilson(50, 50).low)
    # Success that never differs tells of a small difference more surely than independent ones.
    same, mixed = paired_difference(*table(25, 0, 0, 25)), paired_difference(*table(13, 12, 12, 13))
    assert same.high - same.low < 0.3 * (mixed.high - mixed.low)


def test_paired_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    random, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        hard = random.random(50)  # how hard an episode is, for both
        first = 0.6 * hard + 0.4 * random.random(50) < 0.55
        second = 0.6 * hard + 0.4 * random.random(50) < 0.45
        found = paired_difference(first.tolist(), second.tolist())
        hits += found.low <= TRUE_DIFFERENCE <= found.high
    assert 0.925 < hits / 1000 < 0.985


TRUE_DIFFERENCE = 1 / 6
"""Both thresholds lie between 0.4 and 0.6, where the density of 0.6 U + 0.4 V is 1 / 0.6."""
