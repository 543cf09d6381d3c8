"""Notices when a regular command is overdue, so that a simulation can wait for a slow computer."""

from __future__ import annotations


class Lockstep:
    """Expects one command per control period, at whatever phase the first ones came.

    A simulation that runs faster than real time, or on a busy machine, would otherwise run ahead
    of the policy: what is computed in time on a robot would come too late here.

    Args:
        period_ns: Control period.
        slack_ns: How much later than at its earliest a command may come.
    """

    def __init__(self, period_ns: int, slack_ns: int) -> None:
        self._period_ns, self._slack_ns = period_ns, slack_ns
        self._count = 0
        self._expecting = False
        self._start_ns = self._earliest_ns = 0

    def restart(self, start_ns: int) -> None:
        """An episode begins; its first command may take a whole period."""
        self._start_ns, self._count = start_ns, 0

    def came(self, now_ns: int) -> None:
        """A command has come at robot time ``now_ns``."""
        phase_ns = now_ns - self._count * self._period_ns
        self._earliest_ns = min(self._earliest_ns, phase_ns) if self._count else phase_ns
        self._count += 1
        self._expecting = True

    def overdue(self, now_ns: int) -> bool:
        """Whether robot time should wait at ``now_ns``."""
        if not self._expecting:
            return False
        if self._count == 0:
            return now_ns >= self._start_ns + self._period_ns
        due_ns = self._earliest_ns + self._count * self._period_ns
        return now_ns >= due_ns + self._slack_ns

    def give_up(self) -> None:
        """Nobody commands any more: wait for nothing until the next command."""
        self._expecting, self._count = False, 0
