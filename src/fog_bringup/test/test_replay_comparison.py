"""The comparison of a replay, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fog_bringup.replay_comparison import compare_commands
from fog_world_model.errors import FogError

MS = 1_000_000


def test_a_case_by_hand() -> None:
    # The policy's fourth command has no recorded one within 100 ms.
    comparison = compare_commands(
        ("linear.x", "angular.z"),
        [0, 200 * MS, 400 * MS],
        [[0.5, 0.0], [0.1, 1.0], [-0.3, 1.0]],
        [10 * MS, 190 * MS, 450 * MS, 900 * MS],
        [[0.7, 0.0], [0.1, 1.0], [0.1, -1.0], [9.0, 9.0]],
        tolerance_ns=100 * MS,
    )
    assert (comparison.pairs, comparison.policy_commands, comparison.recorded_commands) == (3, 4, 3)
    x, z = comparison.fields
    assert x.recorded_mean == pytest.approx(0.1)
    assert x.policy_mean == pytest.approx(0.3)
    assert x.mean_absolute_difference == pytest.approx(0.2)  # 0.2, 0, 0.4
    assert x.rms_difference == pytest.approx(math.sqrt(0.2 / 3))
    assert x.largest_difference == pytest.approx(0.4)
    assert x.same_sign == pytest.approx(2 / 3)
    # deviations 0.4, 0, -0.4 and 0.4, -0.2, -0.2: 0.24 / sqrt(0.32 * 0.24)
    assert x.correlation == pytest.approx(0.24 / math.sqrt(0.32 * 0.24))
    assert z.same_sign == pytest.approx(1 / 2)
    table = comparison.table().splitlines()
    assert len(table) == 4 and table[2].split()[:3] == ["linear.x", "0.100", "0.300"]
    assert comparison.to_dict()["fields"]["linear.x"]["same_sign"] == pytest.approx(2 / 3)


def test_equal_commands_differ_by_nothing() -> None:
    random = np.random.default_rng(0)
    times, values = np.arange(50) * 200 * MS, random.normal(size=(50, 1))
    (field,) = compare_commands(("v",), times, values, times, values, tolerance_ns=100 * MS).fields
    assert field.largest_difference == 0.0
    assert field.correlation == pytest.approx(1.0)
    assert field.same_sign == 1.0


def test_nothing_to_compare() -> None:
    comparison = compare_commands(("v",), [0], [[1.0]], [], [], tolerance_ns=1)
    assert comparison.pairs == 0
    assert comparison.fields[0].correlation is None
    assert "-" in comparison.table()


def test_zero_commands_are_counted() -> None:
    comparison = compare_commands(("v",), [0], [[1.0]], [0, 1], [[0.0], [1.0]], tolerance_ns=5)
    assert (comparison.policy_zero, comparison.pairs) == (1, 2)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(FogError, match="not finite"):
        compare_commands(("v",), [0], [[math.nan]], [0], [[1.0]], tolerance_ns=1)
    with pytest.raises(FogError, match="do not agree"):
        compare_commands(("v",), [0, 1], [[1.0]], [0], [[1.0]], tolerance_ns=1)
