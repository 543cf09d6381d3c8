"""Counts the control ticks that led to no decision in time. No ROS here.

A tick begins a control period and is due to be answered within it: its deadline is the moment at
which the next tick is due. It is met by its own decision alone, published by then. A tick is missed
when its decision comes later or never, when the policy was not asked because it was still busy, and
when the tick itself never came because the process was kept waiting. When in its period the
decision comes does not matter here: the intervals between decisions, which tell that, are reported
beside it.
"""

from __future__ import annotations


class Deadlines:
    """Follows the ticks of one activation.

    Args:
        period_ns: Control period.
    """

    def __init__(self, period_ns: float) -> None:
        self.missed = 0
        """Ticks without a decision in time."""
        self._period_ns = period_ns
        self._due_ns: int | None = None
        self._open = False
        """Whether the newest tick still waits for its decision."""

    def tick(self, due_ns: int) -> None:
        """Note that a tick has come.

        Args:
            due_ns: Its deadline, by the schedule of the ticks; however late the tick itself is.
        """
        if self._due_ns is not None:
            never_came = round((due_ns - self._due_ns) / self._period_ns) - 1
            self.missed += self._open + max(0, never_came)
        self._due_ns, self._open = due_ns, True

    def decided(self, due_ns: int, now_ns: int) -> None:
        """Note that a decision was published.

        Args:
            due_ns: Deadline of the tick that it belongs to.
            now_ns: When.
        """
        if due_ns == self._due_ns and now_ns <= due_ns:
            self._open = False

    def restart(self) -> None:
        """The schedule begins anew with the next tick; an open tick is not counted."""
        self._due_ns, self._open = None, False

    def end(self, now_ns: int) -> None:
        """Count what no later tick will show.

        Args:
            now_ns: When the loop ended. Of a period that is not over yet nothing is known.
        """
        if self._due_ns is not None and now_ns >= self._due_ns:
            self.missed += self._open + int((now_ns - self._due_ns) // self._period_ns)
        self.restart()
