"""What is published between two decisions, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_policy.command_hold import CommandHold

MS = 1_000_000


def hold(*slew_per_s: float) -> CommandHold:
    return CommandHold(slew_per_s or (8.0, 4.0), ramp_s=0.05, timeout_s=0.4)


def test_a_command_is_approached_no_faster_than_its_slew_rate() -> None:
    held = hold()
    held.set(np.array([0.8, 0.2]), 1000 * MS)
    # 0.8 at 8 per second take 100 ms, 0.2 at 4 per second 50 ms: both arrive together.
    assert held.at(1000 * MS).tolist() == [0.0, 0.0]
    assert held.at(1050 * MS) == pytest.approx([0.4, 0.1])
    assert held.at(1100 * MS) == pytest.approx([0.8, 0.2])
    assert held.at(1400 * MS) == pytest.approx([0.8, 0.2])


def test_a_small_change_takes_the_ramp() -> None:
    held = hold()
    held.set(np.array([0.08, 0.0]), 0)
    assert held.at(25 * MS) == pytest.approx([0.04, 0.0])
    assert held.at(50 * MS) == pytest.approx([0.08, 0.0])


def test_the_next_command_goes_on_from_where_the_last_had_come() -> None:
    held = hold()
    held.set(np.array([0.8, 0.0]), 0)
    held.set(np.array([-0.4, 0.0]), 50 * MS)
    assert held.at(50 * MS) == pytest.approx([0.4, 0.0])
    # 0.8 back at 8 per second.
    assert held.at(100 * MS) == pytest.approx([0.0, 0.0])
    assert held.at(150 * MS) == pytest.approx([-0.4, 0.0])


def test_without_a_new_command_it_ends_in_zero() -> None:
    held = hold()
    assert not held.moving
    held.set(np.array([0.8, 0.2]), 0)
    assert held.moving and not held.expired(400 * MS)
    assert held.expired(401 * MS)
    assert held.at(401 * MS).tolist() == [0.0, 0.0]
    # A clock that jumped back must not hold the command until it has caught up.
    assert held.expired(-1 * MS)


def test_a_stop_is_at_once_and_the_next_start_is_from_rest() -> None:
    held = hold()
    held.set(np.array([0.8, 0.2]), 0)
    held.stop()
    assert not held.moving and not held.expired(1000 * MS)
    assert held.at(1 * MS).tolist() == [0.0, 0.0]
    held.set(np.array([0.8, 0.2]), 200 * MS)
    assert held.at(250 * MS) == pytest.approx([0.4, 0.1])


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-2, 2), st.integers(1, 500)), max_size=12),
)
def test_what_is_published_stays_within_bounds_and_slew(
    decisions: list[tuple[float, float, int]],
) -> None:
    held, now_ms = hold(8.0, 4.0), 0
    last = held.at(0)
    for x, z, wait_ms in decisions:
        held.set(np.array([x, z]), now_ms * MS)
        for _ in range(0, wait_ms, 20):
            now_ms += 20
            here = held.at(now_ms * MS)
            assert (np.abs(here) <= [1.0, 2.0]).all()
            if not held.expired(now_ms * MS):
                assert (np.abs(here - last) <= np.array([8.0, 4.0]) * 0.02 + 1e-9).all()
            last = here
