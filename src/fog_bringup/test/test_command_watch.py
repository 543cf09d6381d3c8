"""The judge of commands, with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_bringup.benchmarks.command_watch import SLEW_SLACK_S, CommandWatch
from fog_bringup.tasks import find_task

MS = 1_000_000
TASK = find_task("reach_cube")  # bounds 0.8, 0.4, 1.2; slew rates 8, 4, 12 a second


def see(watch: CommandWatch, *commands: tuple[int, float]) -> list[str]:
    """Commands ``(milliseconds, linear.x)``; what was wrong with the last."""
    problems: list[str] = []
    for at, value in commands:
        problems = watch.see(at * MS, [value, 0.0, 0.0])
    return problems


def test_bounds_are_inclusive_and_a_float32_bound_is_no_fault() -> None:
    watch = CommandWatch(TASK)
    assert see(watch, (0, 0.0), (100, float(np.float32(0.8)))) == []
    watch = CommandWatch(TASK)
    assert see(watch, (0, 0.0), (100, 0.801)) == ["linear.x is 0.801, outside [-0.8, 0.8]"]
    assert watch.tally.out_of_bounds == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_wrong(value: float) -> None:
    watch = CommandWatch(TASK)
    assert "not finite" in see(watch, (0, 0.1), (20, value))[0]
    assert watch.moving


def test_slew_rate_with_one_period_of_slack() -> None:
    # Within 20 ms and the slack of 20 ms, 8/s allow a change of 0.32.
    assert SLEW_SLACK_S == 0.02
    assert see(CommandWatch(TASK), (0, 0.0), (20, 0.319)) == []
    found = see(CommandWatch(TASK), (0, 0.0), (20, 0.321))
    assert found == ["linear.x changed by 0.321 in 0.020 s, its slew rate is 8/s"]


def test_what_follows_on_a_command_that_was_not_seen_is_not_judged() -> None:
    """A new publisher's first commands are lost until it has been discovered."""

    def step(watch: CommandWatch, at: int, value: float, publisher: bytes, number: int) -> bool:
        command = [value, 0.0, 0.0]
        return bool(watch.see(at * MS, command, publisher=publisher, number=number))

    watch = CommandWatch(TASK)
    assert not step(watch, 0, 0.8, b"a", 4), "three were lost before"
    assert not step(watch, 20, 0.6, b"a", 5)
    assert step(watch, 40, 0.2, b"a", 6), "this one follows: 0.4 in 20 ms are more than 0.32"
    assert not step(watch, 60, 0.7, b"a", 8)
    assert step(watch, 80, 0.1, b"b", 1), "somebody else's first: the robot gets it all the same"
    assert not step(watch, 800, 0.5, b"c", 3)
    assert step(watch, 820, 0.9, b"c", 5), "bounds are judged whatever came before"
    assert (watch.tally.unseen, watch.tally.out_of_bounds) == (3 + 1 + 2 + 1, 3)


def test_steps_that_each_use_the_slack_add_up() -> None:
    # Four steps of 0.2 in 20 ms each: every one is within 0.32, but 0.8 in 80 ms is not within
    # 8 * (0.06 + 0.02) = 0.64 from the first to the fourth.
    watch = CommandWatch(TASK)
    assert see(watch, (0, -0.4), (500, -0.4), (520, -0.2), (540, 0.0001)) == []
    assert see(watch, (560, 0.3)) != []


def test_a_stop_takes_effect_at_once_and_the_way_back_counts_from_zero() -> None:
    watch = CommandWatch(TASK)
    assert see(watch, (0, 0.2), (500, 0.8), (520, 0.0)) == []
    assert not watch.moving
    assert see(watch, (540, 0.8)) != []
    assert (watch.tally.commands, watch.tally.zeros) == (4, 1)


def test_after_a_silence_a_robot_stands() -> None:
    # A node that was killed at full speed and comes back may not jump there.
    watch = CommandWatch(TASK)
    see(watch, (0, 0.2), (100, 0.8))
    assert see(watch, (5000, 0.8)) != []
    assert see(watch, (10_000, 0.15)) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.8, 0.8), min_size=2, max_size=6), st.floats(-0.009, 0.009))
def test_ramps_at_the_slew_rate_pass_with_late_messages(
    targets: list[float], late_s: float
) -> None:
    """At 50 Hz, every other message late or early by up to 9 ms."""
    watch, value = CommandWatch(TASK), 0.0
    step = TASK.safety.slew_per_s[0] * 0.02
    for k, target in enumerate(targets):
        for tick in range(10):
            value += float(np.clip(target - value, -step, step))
            published_ns = (200 * k + 20 * tick) * MS + round(late_s * 1e9) * (tick % 2)
            assert watch.see(published_ns + 10**9, [value, 0.0, 0.0]) == []
