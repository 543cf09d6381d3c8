from __future__ import annotations

from fog_bringup.lockstep import Lockstep

MS = 1_000_000
PERIOD, SLACK = 200 * MS, 20 * MS


def test_nothing_is_expected_before_the_first_command() -> None:
    lockstep = Lockstep(PERIOD, SLACK)
    lockstep.restart(0)
    assert not lockstep.overdue(10**12)


def test_a_command_is_overdue_one_slack_after_its_usual_phase() -> None:
    lockstep = Lockstep(PERIOD, SLACK)
    lockstep.restart(0)
    lockstep.came(30 * MS)
    assert not lockstep.overdue(249 * MS)
    assert lockstep.overdue(250 * MS)
    lockstep.came(250 * MS)  # late; the phase stays that of the earliest
    assert not lockstep.overdue(449 * MS)
    assert lockstep.overdue(450 * MS)


def test_lateness_does_not_add_up() -> None:
    lockstep = Lockstep(PERIOD, SLACK)
    lockstep.restart(0)
    for step in range(50):
        lockstep.came(step * PERIOD + (0 if step == 0 else SLACK))
    assert lockstep.overdue(50 * PERIOD + SLACK)
    assert not lockstep.overdue(50 * PERIOD + SLACK - 1)


def test_the_first_command_of_an_episode_may_take_a_period() -> None:
    lockstep = Lockstep(PERIOD, SLACK)
    lockstep.restart(0)
    lockstep.came(30 * MS)
    lockstep.restart(1000 * MS)
    assert not lockstep.overdue(1199 * MS)
    assert lockstep.overdue(1200 * MS)


def test_who_stops_commanding_is_waited_for_once() -> None:
    lockstep = Lockstep(PERIOD, SLACK)
    lockstep.restart(0)
    lockstep.came(30 * MS)
    assert lockstep.overdue(300 * MS)
    lockstep.give_up()
    assert not lockstep.overdue(10**12)
    lockstep.came(5000 * MS)
    assert not lockstep.overdue(5219 * MS)
    assert lockstep.overdue(5220 * MS)
