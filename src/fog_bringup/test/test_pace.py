from __future__ import annotations

import pytest

from fog_bringup.pace import Pace


class WallClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


def test_deadlines_lie_on_an_absolute_schedule(clock: WallClock) -> None:
    pace = Pace(4.0, 1, clock)
    pace.start(5_000_000_000)
    clock.now += 0.003  # the first step took 3 ms: the second deadline does not move
    assert pace.remaining_s(5_020_000_000) == pytest.approx(0.020 / 4 - 0.003)
    clock.now = 100.0 + 0.25 * 30
    assert pace.remaining_s(5_000_000_000 + 30_000_000_000) == pytest.approx(0.0)


def test_speed_0_never_waits(clock: WallClock) -> None:
    pace = Pace(0.0, 1, clock)
    pace.start(0)
    assert pace.remaining_s(10**12) == 0.0
    assert pace.skip_lag(0) == 0


def test_a_short_lag_is_made_up_for(clock: WallClock) -> None:
    pace = Pace(1.0, 1, clock)
    pace.start(0)
    clock.now += 0.22
    assert pace.skip_lag(20_000_000) == 0
    assert pace.remaining_s(20_000_000) == pytest.approx(-0.2)


def test_a_long_lag_is_skipped_in_whole_quanta(clock: WallClock) -> None:
    pace = Pace(1.0, 200_000_000, clock)
    pace.start(0)
    clock.now += 1.05
    assert pace.skip_lag(0) == 1_000_000_000
    assert pace.skipped_s == pytest.approx(1.0)
    assert pace.remaining_s(0) == pytest.approx(-0.05)


def test_lag_is_judged_in_robot_time(clock: WallClock) -> None:
    pace = Pace(4.0, 1, clock)
    pace.start(0)
    clock.now += 0.1  # 0.4 s of robot time
    assert pace.skip_lag(0) == pytest.approx(400_000_000)
    assert pace.remaining_s(0) == pytest.approx(0.0, abs=1e-6)


def test_factor_counts_since_the_last_call(clock: WallClock) -> None:
    pace = Pace(4.0, 1, clock)
    pace.start(0)
    clock.now += 2.0
    assert pace.factor(6_000_000_000) == pytest.approx(3.0)
    clock.now += 1.0
    assert pace.factor(10_000_000_000) == pytest.approx(4.0)


def test_time_held_is_not_made_up_for(clock: WallClock) -> None:
    pace = Pace(1.0, 1, clock)
    pace.start(0)
    clock.now += 0.5
    pace.hold(0.5)
    assert pace.remaining_s(20_000_000) == pytest.approx(0.02)


def test_a_jump_of_robot_time_is_neither_waited_for_nor_counted(clock: WallClock) -> None:
    pace = Pace(2.0, 1, clock)
    pace.start(0)
    clock.now += 1.0
    pace.jump(600_000_000)
    assert pace.remaining_s(2_620_000_000) == pytest.approx(0.01)
    assert pace.factor(2_600_000_000) == pytest.approx(2.0)
