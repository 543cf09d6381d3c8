"""How the control ticks lie to the camera's images. No ROS here.

The policy was trained on actions that follow the image at once, so a tick is to come shortly after
an image. Two things get in the way. An image may be late by more than that, and the tick would take
the one before, which is older by a whole camera period. And a camera has a clock of its own: at 50
ppm it drifts by 30 ms in ten minutes, and ticks slip from just after an image to just before one.

Where the control period is no multiple of the camera's, ticks lie in several phases to the images:
at 20 and 25 Hz 0, 10, 20 and 30 ms later than the first. The smallest of these is what can be kept.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from statistics import median

_GAPS = 15
_FEWEST = 5
"""Images, or ticks, of which a median is believed."""
_TICKS = 20
_MOST_PHASES = 8
"""With more phases than this, one is as good as another."""
_TOLERANCE = 0.01
"""Two rates are in a ratio of small whole numbers where they are to within this share."""


class CameraPhase:
    """Follows the arrivals of images and the ticks.

    Args:
        period_ns: Control period.
        wanted_ns: So much later than an image a tick is to come.
    """

    def __init__(self, period_ns: int, wanted_ns: int) -> None:
        self._period_ns, self._wanted_ns = period_ns, wanted_ns
        self._gaps_ns: deque[int] = deque(maxlen=_GAPS)
        self._off_ns: deque[float] = deque(maxlen=_TICKS)
        self._came_ns: int | None = None

    def came(self, now_ns: int) -> None:
        """Note that an image has arrived, by a clock that does not jump."""
        if self._came_ns is not None:
            self._gaps_ns.append(now_ns - self._came_ns)
        self._came_ns = now_ns

    def overdue(self, now_ns: int) -> bool:
        """Whether an image should have arrived by now, and may still be on its way.

        One that is late by more than half of the camera's period is taken for lost.
        """
        camera_ns = self._camera_ns()
        if camera_ns is None or self._came_ns is None:
            return False
        return 0 <= now_ns - self._came_ns - camera_ns <= camera_ns / 2

    def tick(self, now_ns: int) -> None:
        """Note that a tick has come."""
        phase_ns = self._phase_ns()
        if phase_ns is None or self._came_ns is None:
            return
        off_ns = (now_ns - self._came_ns - self._wanted_ns) % phase_ns
        self._off_ns.append(off_ns if off_ns <= phase_ns / 2 else off_ns - phase_ns)

    def drift_ns(self) -> int:
        """By how much ticks come too late after the images; too early: negative.

        Returns:
            0 as long as it is too little to be corrected, or is not known well enough. Where it is
            not 0, the ticks are taken to be corrected by it, and counted anew.
        """
        if len(self._off_ns) < _TICKS:
            return 0
        drift_ns = round(median(self._off_ns))
        if abs(drift_ns) <= self._wanted_ns / 2:
            return 0
        self._off_ns.clear()
        return drift_ns

    def restart(self) -> None:
        """The ticks are aligned anew."""
        self._off_ns.clear()

    def _camera_ns(self) -> float | None:
        return median(self._gaps_ns) if len(self._gaps_ns) >= _FEWEST else None

    def _phase_ns(self) -> float | None:
        """After this time a tick lies as before to an image, though to another one; None: never."""
        camera_ns = self._camera_ns()
        if not camera_ns:
            return None
        ratio = self._period_ns / camera_ns
        near = Fraction(ratio).limit_denominator(_MOST_PHASES)
        if near == 0 or abs(float(near) / ratio - 1.0) > _TOLERANCE:
            return None
        phase_ns = camera_ns / near.denominator
        return phase_ns if phase_ns > 2 * self._wanted_ns * (1 - _TOLERANCE) else None
