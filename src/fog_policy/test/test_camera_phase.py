"""Ticks beside a camera that is late, loses images, drifts or has another rate."""

from __future__ import annotations

import pytest

from fog_policy.camera_phase import CameraPhase

MS = 1_000_000


def run(
    phase: CameraPhase,
    *,
    camera_ms: float,
    period_ms: float,
    first_tick_ms: float,
    seconds: float,
    correct: bool = True,
) -> list[float]:
    """Images from 0 ms on, and ticks; of each tick, how long ago the newest image came, ms."""
    ages, images = [], 0
    tick_ms = first_tick_ms
    while tick_ms < 1e3 * seconds:
        while images * camera_ms <= tick_ms:
            phase.came(round(images * camera_ms * MS))
            images += 1
        ages.append(tick_ms - (images - 1) * camera_ms)
        phase.tick(round(tick_ms * MS))
        drift_ns = phase.drift_ns()
        tick_ms += period_ms - (drift_ns / MS if correct else 0.0)
    return ages


def test_an_image_is_overdue_when_it_should_have_come_and_not_long_after() -> None:
    phase = CameraPhase(200 * MS, 20 * MS)
    for k in range(5):
        phase.came(100 * k * MS)
    assert not phase.overdue(505 * MS), "four intervals are too few to know the camera"
    phase.came(500 * MS)
    for now_ms, expected in ((520, False), (599, False), (600, True), (650, True), (651, False)):
        assert phase.overdue(now_ms * MS) is expected, now_ms
    phase.came(780 * MS)  # one was lost: the period is the median
    assert phase.overdue(881 * MS)


@pytest.mark.parametrize("ppm", [-200, 200])
def test_ticks_follow_a_camera_that_drifts(ppm: int) -> None:
    """200 ppm are 120 ms in ten minutes; uncorrected, images get as old as they come."""
    camera_ms = 100.0 * (1.0 + ppm * 1e-6)
    drive = {"camera_ms": camera_ms, "period_ms": 200.0, "first_tick_ms": 20.0, "seconds": 600.0}
    free = run(CameraPhase(200 * MS, 20 * MS), **drive, correct=False)
    assert max(free) > 95.0
    ages = run(CameraPhase(200 * MS, 20 * MS), **drive)
    # Corrected from half of what is wanted on, as soon as 20 ticks have shown it.
    assert min(ages) > 8.0 and max(ages) < 32.0


def test_the_phases_of_rates_that_do_not_divide_are_kept() -> None:
    """20 and 25 Hz: 5, 15, 25 and 35 ms; the ticks may slip by 2.5 ms before they are corrected."""
    camera_ms = 40.0 * (1.0 - 100e-6)
    phase = CameraPhase(50 * MS, 5 * MS)
    ages = run(phase, camera_ms=camera_ms, period_ms=50.0, first_tick_ms=5.0, seconds=600.0)
    assert min(ages) > 2.0 and max(ages) < 38.0
    found = {round(age / 10.0 - 0.5) for age in ages}
    assert found == {0, 1, 2, 3}


@pytest.mark.parametrize("camera_ms", [1000 / 29.0, 51.3, 7.1])
def test_nothing_is_corrected_where_ticks_come_in_every_phase(camera_ms: float) -> None:
    """As many phases as there are ticks, or images so close that the wanted phase is none."""
    phase = CameraPhase(50 * MS, 5 * MS)
    ages = run(phase, camera_ms=camera_ms, period_ms=50.0, first_tick_ms=5.0, seconds=60.0)
    steady = run(
        CameraPhase(50 * MS, 5 * MS),
        camera_ms=camera_ms, period_ms=50.0, first_tick_ms=5.0, seconds=60.0, correct=False,
    )  # fmt: skip
    assert ages == steady


def test_a_single_late_tick_is_no_drift() -> None:
    phase = CameraPhase(200 * MS, 20 * MS)
    for k in range(40):
        phase.came(200 * k * MS)
        phase.tick((200 * k + (90 if k % 4 == 0 else 20)) * MS)
        assert phase.drift_ns() == 0
