"""Two commands that follow one another, whoever publishes them and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_policy.command_outlet import CommandOutlet

MS = 1_000_000
SLEW = np.array([8.0, 4.0])


def test_the_change_is_bounded_by_the_time_since_the_last_one_was_out() -> None:
    outlet = CommandOutlet(SLEW, 0.2)
    # Before it there was none: 8 and 4 per second for 0.2 s at most.
    assert outlet.bounded(np.array([1.7, 0.5]), 0).tolist() == pytest.approx([1.6, 0.5])
    outlet.went_out(np.array([0.5, 0.5]), 100 * MS)
    # 1 ms later, whatever time both were computed for: 0.008 and 0.004.
    assert outlet.bounded(np.array([0.8, -1.0]), 101 * MS).tolist() == pytest.approx([0.508, 0.496])
    # A pause does not save up: 0.2 s at most.
    found = outlet.bounded(np.array([9.0, -9.0]), 9000 * MS)
    assert found.tolist() == pytest.approx([2.1, -0.3])


def test_a_stop_is_at_once_and_the_way_back_counts_from_it() -> None:
    outlet = CommandOutlet(SLEW, 0.2)
    outlet.went_out(np.array([0.8, 0.8]), 0)
    assert outlet.bounded(np.zeros(2), 1).tolist() == [0.0, 0.0]
    outlet.went_out(np.zeros(2), 1 * MS)
    assert outlet.bounded(np.array([0.8, 0.0]), 11 * MS).tolist() == pytest.approx([0.08, 0.0])


def test_a_clock_that_jumped_back_has_let_no_time_pass() -> None:
    outlet = CommandOutlet(SLEW, 0.2)
    outlet.went_out(np.array([0.5, 0.5]), 9000 * MS)
    assert outlet.bounded(np.array([0.8, 0.0]), 100 * MS).tolist() == [0.5, 0.5]
    outlet.went_out(np.array([0.5, 0.5]), 101 * MS)
    assert outlet.bounded(np.array([0.8, 0.5]), 111 * MS).tolist() == pytest.approx([0.58, 0.5])


WAITS = st.one_of(st.just(0), st.integers(0, 300_000))


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.tuples(st.floats(-1, 1), st.floats(-2, 2)), WAITS, WAITS, WAITS), max_size=25
    )
)
def test_by_the_times_at_which_they_are_really_published(
    steps: list[tuple[tuple[float, float], int, int, int]],
) -> None:
    """Waits in microseconds: before each command, until it is handed over, and after that."""
    outlet = CommandOutlet(SLEW, 0.2)
    now_us = 0
    before: tuple[int, np.ndarray] | None = None
    for wanted, first_us, way_us, back_us in steps:
        now_us += first_us
        command = outlet.bounded(np.array(wanted), now_us * 1000)
        now_us += way_us
        if before is not None and command.any():
            passed_s = (now_us - before[0]) / 1e6
            assert (np.abs(command - before[1]) <= SLEW * passed_s + 1e-12).all()
        before = now_us, command
        now_us += back_us
        outlet.went_out(command, now_us * 1000)
