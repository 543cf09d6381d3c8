"""The last thing that a command passes on its way to the robot. No ROS here.

Two commands follow one another whoever asks for them: a decision, the hold between decisions, a
stop. Each of these bounds the change by the time for which it was computed. But a command is
published later than that, by a process that may be kept waiting in between, and the next one may
follow at once: then less time has really passed than both have reckoned with. So the change is
bounded here once more, for any two consecutive commands, by the time that has passed for certain.
"""

from __future__ import annotations

import numpy as np

from fog_policy.command_limits import Command


class CommandOutlet:
    """Remembers what went out last, and bounds the next command's change.

    Args:
        slew_per_s: ``[action]``: largest rate of change, physical units per s, > 0.
        longest_s: A pause counts for no longer than this, s, so that it does not save up for a
            jump; a command before which there was none is bounded by this, too.
    """

    def __init__(self, slew_per_s: Command, longest_s: float) -> None:
        self._slew = np.asarray(slew_per_s, np.float64)
        self._longest_s = longest_s
        self._last: Command = np.zeros(len(self._slew))
        self._out_ns: int | None = None

    def bounded(self, command: Command, now_ns: int) -> Command:
        """What may be published instead of a command.

        Args:
            command: ``[action]``, physical units. Zero is a stop, and passes as it is.
            now_ns: Taken just before it is published, by the clock of :meth:`went_out`.

        Returns:
            ``[action]``: the command, or the nearest to it for each field that may follow.
        """
        if not np.any(command):
            return command
        since_s = self._longest_s
        if self._out_ns is not None:
            # After a jump of the clock nothing is known about the time that has passed.
            since_s = min(max(0.0, (now_ns - self._out_ns) / 1e9), self._longest_s)
        reach = self._slew * since_s
        return np.clip(command, self._last - reach, self._last + reach)

    def went_out(self, command: Command, now_ns: int) -> None:
        """Note what has been published.

        Args:
            command: ``[action]``, physical units.
            now_ns: Taken just after it was published: the next one is later by at least what has
                passed since then.
        """
        self._last, self._out_ns = np.asarray(command, np.float64), now_ns
