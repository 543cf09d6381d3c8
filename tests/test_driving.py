"""When a tick asks the policy, and about what: late images, a policy that is late, a clock."""

from __future__ import annotations

import pytest
from driving_rig import Rig


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """In real time, with ticks at 5 Hz; no time passes but what a test lets pass."""
    return Rig(monkeypatch, [0])


def asked(rig: Rig) -> bool:
    """Whether the policy computes something."""
    return rig.machine.busy


def camera(rig: Rig, images: int) -> None:
    """Images at 10 Hz, the last one now."""
    for image in range(images):
        if image:
            rig.machine.pass_by(100_000)
        rig.image()


def cycle(rig: Rig) -> None:
    """An image, a tick 20 ms later, and its answer."""
    rig.image()
    rig.machine.pass_by(20_000)
    rig.do("tick")
    rig.machine.pass_by(1000)
    rig.do("answer")


def age_ms(rig: Rig) -> float:
    """Of the newest image that the policy was shown, at its tick."""
    return rig.loop.report.series()["image_age_ms"][-1]


def test_a_tick_waits_a_moment_for_an_image_that_is_overdue(rig: Rig) -> None:
    camera(rig, 7)
    rig.machine.pass_by(120_000)  # the eighth is late by 20 ms
    rig.do("tick")
    assert not asked(rig)
    rig.machine.pass_by(5000)
    rig.image()
    assert asked(rig)
    rig.do("answer")
    assert age_ms(rig) == 0.0, "otherwise 120 ms"
    assert rig.loop.report.waits == 1
    assert rig.loop.report.missed_deadlines == 0


def test_it_does_not_wait_for_long(rig: Rig) -> None:
    camera(rig, 7)
    rig.machine.pass_by(120_000)
    rig.do("tick")
    assert not asked(rig)
    rig.machine.pass_by(20_000)
    rig.do("patience")
    assert asked(rig)
    rig.do("answer")
    assert age_ms(rig) == 140.0
    rig.do("patience")
    assert not asked(rig), "once"


def test_it_waits_neither_for_one_that_is_not_due_nor_for_one_that_is_lost(rig: Rig) -> None:
    camera(rig, 7)
    for wait_us in (20_000, 160_000):
        rig.machine.pass_by(wait_us)
        rig.do("tick")
        assert asked(rig)
        rig.do("answer")
    assert rig.loop.report.waits == 0


def test_a_simulated_robot_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, [0], simulated=True)
    camera(rig, 7)
    rig.machine.pass_by(120_000)
    rig.do("tick")
    assert asked(rig)


def test_a_policy_that_is_late_is_asked_again_as_soon_as_it_has_answered(rig: Rig) -> None:
    """The tick that found it busy may still have its decision in time, about a newer image."""
    rig.image()
    rig.do("tick")  # due within 200 ms
    rig.machine.pass_by(200_000)
    rig.image()
    rig.do("tick")
    rig.machine.pass_by(40_000)
    rig.image()
    rig.machine.pass_by(10_000)
    rig.do("answer")
    assert asked(rig)
    rig.machine.pass_by(30_000)
    rig.do("answer")
    assert age_ms(rig) == 10.0
    report = rig.loop.report
    assert (report.overruns, report.commands) == (1, 2)
    rig.machine.pass_by(120_000)
    rig.driving.end()
    assert report.missed_deadlines == 1, "the first; the second has met its own deadline"


def test_a_clock_that_jumps_back_is_a_stop_with_its_reason(rig: Rig) -> None:
    for _ in range(4):
        cycle(rig)
        rig.machine.pass_by(179_000)
    assert rig.machine.sent[-1][1].any()
    rig.image()
    rig.do("tick")
    rig.do("back")
    rig.do("held")
    assert not rig.machine.sent[-1][1].any()
    assert str(rig.shown[-1].stops[0]).startswith(
        "clock: the node's time has jumped back by 3.00 s"
    )
    sent = len(rig.machine.sent)
    rig.do("answer")  # to what was asked before
    assert len(rig.machine.sent) == sent
    rig.machine.pass_by(20_000)
    cycle(rig)
    rig.machine.pass_by(20_000)
    rig.do("held")
    assert rig.machine.sent[-1][1].any(), "it goes on by itself"
    assert not rig.shown[-1].stops
