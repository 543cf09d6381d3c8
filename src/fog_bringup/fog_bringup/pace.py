"""Holds the pace of a simulated robot against the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_LAG_NS = 250_000_000
"""A delay up to this much robot time is made up for; a longer one (a stalled machine) is skipped,
so that no burst follows, which nobody could keep up with."""


class Pace:
    """Deadlines on an absolute schedule, so that no error adds up.

    Args:
        speed: Robot seconds per wall second; 0: as fast as possible.
        quantum_ns: What is skipped is a multiple of this robot time, ns.
        clock: Wall clock, s.
    """

    def __init__(
        self, speed: float, quantum_ns: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.speed = speed
        self.skipped_s = 0.0
        """Wall time given up so far because the machine was too slow, s."""
        self.quantum_ns, self._clock = quantum_ns, clock
        self._origin_wall = self._mark_wall = clock()
        self._origin_ns = self._mark_ns = 0

    def start(self, robot_ns: int, *, delay_s: float = 0.0) -> None:
        """Make ``robot_ns`` due ``delay_s`` wall seconds from now."""
        self._origin_wall, self._origin_ns = self._clock() + delay_s, robot_ns
        self._mark_wall, self._mark_ns = self._origin_wall, robot_ns

    def remaining_s(self, robot_ns: int) -> float:
        """Wall seconds until ``robot_ns`` is due; negative when it is late."""
        if self.speed <= 0:
            return 0.0
        due = self._origin_wall + (robot_ns - self._origin_ns) * 1e-9 / self.speed
        return due - self._clock()

    def skip_lag(self, robot_ns: int) -> int:
        """Give up what cannot be made up for.

        Returns:
            By how much robot time falls back behind the wall clock, ns: 0, or whole quanta.
        """
        lag_ns = -self.remaining_s(robot_ns) * 1e9 * self.speed
        if lag_ns <= MAX_LAG_NS:
            return 0
        skipped_ns = int(lag_ns / self.quantum_ns) * self.quantum_ns
        self.hold(skipped_ns * 1e-9 / self.speed)
        self.skipped_s += skipped_ns * 1e-9 / self.speed
        return skipped_ns

    def hold(self, seconds: float) -> None:
        """Robot time has been held for some wall time, which is not made up for."""
        self._origin_wall += seconds

    def jump(self, by_ns: int) -> None:
        """Robot time jumps ahead, without waiting for the wall clock to follow."""
        self._origin_ns += by_ns
        self._mark_ns += by_ns

    def factor(self, robot_ns: int) -> float:
        """Robot seconds per wall second since the last call (or the start)."""
        wall = self._clock()
        elapsed = wall - self._mark_wall
        factor = (robot_ns - self._mark_ns) * 1e-9 / elapsed if elapsed > 0 else 0.0
        self._mark_wall, self._mark_ns = wall, robot_ns
        return factor
