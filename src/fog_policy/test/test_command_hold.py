"""What is published between two decisions, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_policy.command_hold import CommandHold
from fog_policy.command_limits import CommandLimits

MS = 1_000_000
LOW, HIGH, SLEW = np.array([-1.0, -2.0]), np.array([1.0, 2.0]), np.array([8.0, 4.0])
NO_JERK = (np.inf, np.inf)


def hold(*jerk_per_s2: float) -> CommandHold:
    jerk = np.array(jerk_per_s2 or NO_JERK)
    return CommandHold(CommandLimits(LOW, HIGH, SLEW, jerk), ramp_s=0.05, timeout_s=0.4)


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


def test_the_jerk_bound_by_hand() -> None:
    """Slew rate 8, jerk 200 per s^2, messages every 20 ms: the rate rises by 4 in each."""
    held = hold(200.0, 200.0)
    held.set(np.array([0.8, 0.0]), 0)
    # Rates 4, 8, 8, 8; then D = 0.24 is left: 2 x 0.24 / (0.02 + sqrt(0.02^2 + 2 x 0.24 / 200)) is
    # 0.48 / 0.072915 = 6.5830.
    expected = [0.08, 0.24, 0.4, 0.56, 0.56 + 6.5830 * 0.02]
    found = [float(held.at(20 * k * MS)[0]) for k in range(1, 6)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_command_that_turns_round_brakes_first() -> None:
    held = hold(200.0, np.inf)
    held.set(np.array([0.8, 0.0]), 0)
    held.at(20 * MS)
    assert held.at(40 * MS)[0] == pytest.approx(0.24)  # at rate 8
    held.set(np.array([-0.8, 0.0]), 40 * MS)
    # The rate falls by 4 in each message: 4, 0, -4, -8.
    found = [float(held.at((40 + 20 * k) * MS)[0]) for k in range(1, 5)]
    assert found == pytest.approx([0.32, 0.32, 0.24, 0.08])


def test_a_decision_beyond_the_bounds_ends_at_them() -> None:
    held = hold()
    held.set(np.array([9.0, -9.0]), 0)
    # 2 at 4 per second take 0.5 s, and the other field takes its time: 80 % of both.
    assert held.at(400 * MS) == pytest.approx([0.8, -1.6])
    held.set(np.array([9.0, -9.0]), 400 * MS)
    assert held.at(600 * MS).tolist() == [1.0, -2.0]


JERKS = st.sampled_from([NO_JERK, (400.0, 200.0), (60.0, np.inf), (20.0, 3.0)])
FIELDS = st.tuples(st.floats(-1.2, 1.2), st.floats(-2.4, 2.4))


@settings(deadline=None)
@given(
    jerks=JERKS,
    decisions=st.lists(
        st.tuples(
            FIELDS,
            st.booleans(),
            st.lists(st.one_of(st.just(20_000), st.integers(1, 90_000)), min_size=1, max_size=12),
        ),
        max_size=12,
    ),
)
def test_what_is_published_keeps_bounds_slew_and_jerk(
    jerks: tuple[float, float],
    decisions: list[tuple[tuple[float, float], bool, list[int]]],
) -> None:
    """Finite differences over messages at any times, whatever is decided and when; a stop is
    exempt, and the next start is from rest."""
    held, jerk = hold(*jerks), np.array(jerks)
    now_us = last_us = 0
    last, rate = np.zeros(2), np.zeros(2)
    for command, stop_first, waits_us in decisions:
        if stop_first or held.expired(now_us * 1000):
            held.stop()
            assert held.at(now_us * 1000).tolist() == [0.0, 0.0], "at once"
            last, rate, last_us = np.zeros(2), np.zeros(2), now_us
        held.set(np.array(command), now_us * 1000)
        for wait_us in waits_us:
            now_us += wait_us
            if held.expired(now_us * 1000):
                break
            here, step_s = held.at(now_us * 1000), (now_us - last_us) / 1e6
            change = here - last
            assert (here >= LOW).all() and (here <= HIGH).all()
            assert (np.abs(change) <= SLEW * step_s + 1e-9).all()
            # The difference of two rates, times the step: rounding in them is divided by it.
            assert (np.abs(change - rate * step_s) <= jerk * step_s**2 + 1e-9).all()
            last, rate, last_us = here, change / step_s, now_us


@settings(deadline=None)
@given(jerks=JERKS, decisions=st.lists(FIELDS, min_size=1, max_size=5))
def test_a_decision_that_stays_is_reached(
    jerks: tuple[float, float], decisions: list[tuple[float, float]]
) -> None:
    held, now_ms = hold(*jerks), 0
    for command in decisions:
        held.set(np.array(command), now_ms * MS)
        for _ in range(7):
            now_ms += 20
            held.at(now_ms * MS)
    # As a policy does that decides on the same again and again.
    for _ in range(40):
        held.set(np.array(decisions[-1]), now_ms * MS)
        for _ in range(10):
            now_ms += 20
            held.at(now_ms * MS)
    np.testing.assert_allclose(
        held.at(now_ms * MS), np.clip(decisions[-1], LOW, HIGH), atol=1e-6, rtol=0
    )
