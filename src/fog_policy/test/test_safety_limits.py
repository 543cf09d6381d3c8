"""Bounds, slew rate and jerk of the safety filter, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from safety_situations import FINE, TASK, make_task

from fog_policy.safety import (
    check_limits,
    filter_command,
)
from fog_world_model.errors import FogError


def test_a_command_within_every_limit_passes_unchanged() -> None:
    verdict = filter_command(TASK, FINE, [0.3, -0.1, 0.5], [0.2, 0.1, 0.0], 0.2)
    np.testing.assert_allclose(verdict.command, [0.3, -0.1, 0.5])
    assert verdict.stops == ()
    assert verdict.limits == ()


@pytest.mark.parametrize(
    ("proposed", "previous", "dt_s", "expected", "limits"),
    [
        # Out of bounds, close enough for the slew rate.
        ([0.9, 0.0, -1.5], [0.7, 0.0, -1.0], 0.2, [0.8, 0.0, -1.2], ("bounds",)),
        # From rest one step reaches 1 x 0.2, 2 x 0.2 and 3 x 0.2.
        ([0.8, -0.4, 1.2], [0.0, 0.0, 0.0], 0.2, [0.2, -0.4, 0.6], ("slew",)),
        # Half a period: half of it.
        ([0.8, 0.4, 0.1], [0.0, 0.0, 0.0], 0.1, [0.1, 0.2, 0.1], ("slew",)),
        # A reversal is limited as well: 0.5 - 0.2, 0.3 - 0.4, -0.9 + 0.6.
        ([-0.8, -0.4, 1.2], [0.5, 0.3, -0.9], 0.2, [0.3, -0.1, -0.3], ("slew",)),
        # A pause of 10 s does not save up for a jump.
        ([0.8, 0.0, 0.0], [0.0, 0.0, 0.0], 10.0, [0.2, 0.0, 0.0], ("slew",)),
        # Out of bounds and too fast.
        ([2.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.2, [0.2, 0.0, 0.0], ("bounds", "slew")),
        # No time has passed, or the clock is broken: no change.
        ([0.8, 0.0, 0.0], [0.4, 0.0, 0.0], 0.0, [0.4, 0.0, 0.0], ("slew",)),
        ([0.8, 0.0, 0.0], [0.4, 0.0, 0.0], -1.0, [0.4, 0.0, 0.0], ("slew",)),
        ([0.8, 0.0, 0.0], [0.4, 0.0, 0.0], math.nan, [0.4, 0.0, 0.0], ("slew",)),
    ],
)
def test_bounds_and_slew(
    proposed: list[float],
    previous: list[float],
    dt_s: float,
    expected: list[float],
    limits: tuple[str, ...],
) -> None:
    verdict = filter_command(TASK, FINE, proposed, previous, dt_s)
    np.testing.assert_allclose(verdict.command, expected, atol=1e-12)
    assert verdict.limits == limits
    assert verdict.stops == ()


def test_an_extreme_action_of_float32_is_no_breach_of_the_bounds() -> None:
    proposed = TASK.action.to_physical(np.ones(3, np.float32))
    verdict = filter_command(TASK, FINE, proposed, [0.8, 0.4, 1.2], 0.2)
    assert verdict.limits == ()
    assert (verdict.command <= [0.8, 0.4, 1.2]).all()


def test_a_task_that_cannot_stop_is_refused() -> None:
    check_limits(TASK)
    action = dataclasses.replace(TASK.action, low=(0.1, -0.4, -1.2))
    with pytest.raises(FogError, match=r"linear\.x is bounded to \[0\.1, 0\.8\]"):
        check_limits(dataclasses.replace(TASK, action=action))


@pytest.mark.parametrize(
    ("proposed", "previous", "rate", "dt_s", "command", "next_rate", "limits"),
    [
        # From rest the rate may reach 2.5 x 0.2 = 0.5, then 1.0, which is the slew rate.
        (0.8, 0.0, 0.0, 0.2, 0.1, 0.5, ("slew", "jerk")),
        (0.8, 0.1, 0.5, 0.2, 0.3, 1.0, ("slew",)),
        # Half the time: half the rate, a quarter of the way.
        (0.8, 0.0, 0.0, 0.1, 0.025, 0.25, ("slew", "jerk")),
        # 0.15 before the bound: r 0.2 + r^2 / 5 = 0.15 has the root 0.5.
        (0.8, 0.65, 0.75, 0.2, 0.75, 0.5, ("jerk",)),
        # 0.05 before a target in the middle: 2.5 (sqrt(0.04 + 0.04) - 0.2) = 0.2071.
        (0.35, 0.3, 0.5, 0.2, 0.34142, 0.20711, ("jerk",)),
        # Turned round at full speed: the rate falls by 0.5 only, so the command still rises.
        (-0.8, 0.2, 1.0, 0.2, 0.3, 0.5, ("slew", "jerk")),
        # No time has passed: nothing changes.
        (0.8, 0.2, 1.0, 0.0, 0.2, 1.0, ("slew",)),
    ],
)
def test_jerk(
    proposed: float,
    previous: float,
    rate: float,
    dt_s: float,
    command: float,
    next_rate: float,
    limits: tuple[str, ...],
) -> None:
    task = make_task(jerk_per_s2=[2.5, 0.0, 0.0])
    verdict = filter_command(task, FINE, [proposed, 0, 0], [previous, 0, 0], dt_s, [rate, 0, 0])
    np.testing.assert_allclose(verdict.command, [command, 0, 0], atol=1e-5)
    np.testing.assert_allclose(verdict.rate, [next_rate, 0, 0], atol=1e-5)
    assert verdict.limits == limits


def test_the_default_jerk_is_hardly_felt_at_the_control_rate() -> None:
    """Slew 1 per s within 20 ms is 50 per s^2: 50 (sqrt(0.04 + 0.4 / 50) - 0.2) 0.2 = 0.1909."""
    verdict = filter_command(TASK, FINE, [0.2, 0, 0], [0, 0, 0], 0.2, [0, 0, 0])
    assert verdict.command[0] == pytest.approx(0.19089, abs=1e-5)
    # One command of a hold at 50 Hz builds up the whole rate, but from rest no more.
    verdict = filter_command(TASK, FINE, [0.8, 0, 0], [0, 0, 0], 0.02, [0, 0, 0])
    assert verdict.rate[0] == pytest.approx(1.0)
    verdict = filter_command(TASK, FINE, [0.8, 0, 0], [0, 0, 0], 0.01, [0, 0, 0])
    assert verdict.rate[0] == pytest.approx(0.5)


def test_a_stop_leaves_no_rate_and_an_empty_rate_is_none() -> None:
    stopped = filter_command(
        TASK, dataclasses.replace(FINE, emergency_stop="x"), [0.8] * 3, [0.8] * 3, 0.2, [1.0] * 3
    )
    np.testing.assert_array_equal(stopped.rate, np.zeros(3))
    task = make_task(jerk_per_s2=[2.5, 2.5, 2.5])
    verdict = filter_command(task, FINE, [0.8, 0, 0], np.zeros(3), 0.2, np.zeros(0))
    assert verdict.command[0] == pytest.approx(0.1)
