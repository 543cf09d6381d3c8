"""Commands at a steady rate between the policy's decisions. No ROS here.

The policy decides a few times a second; a robot's velocity controller wants to hear something more
often, in even steps, and has to be told to stand when the decisions cease.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fog_policy.safety import Command


class CommandHold:
    """Moves from one decided command to the next, holds it for a while, and then stops.

    A new command is approached in a straight line, no field faster than its slew rate allows: the
    safety filter bounds the change from one decision to the next, this bounds it in between. A stop
    takes effect at once.

    Args:
        slew_per_s: ``[action]``: largest change of each field per second, physical units, > 0.
        ramp_s: The approach takes at least this long, s. Long ramps delay what the policy has
            learned to expect at once.
        timeout_s: A command older than this, s, gives way to zero.
    """

    def __init__(self, slew_per_s: Sequence[float], *, ramp_s: float, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._slew_per_s = np.asarray(slew_per_s, np.float64)
        self._ramp_s = ramp_s
        self._zero: Command = np.zeros(len(slew_per_s))
        self.stop()

    @property
    def moving(self) -> bool:
        """Whether a command is in force that a stop would end."""
        return self._set_ns is not None

    def stop(self) -> None:
        """Zero from now on, until the next command."""
        self._from = self._to = self._zero
        self._set_ns: int | None = None
        self._approach_s = 0.0

    def set(self, command: Command, now_ns: int) -> None:
        """Approach a command.

        Args:
            command: ``[action]``, physical units.
            now_ns: By a clock that does not jump, as for :meth:`at`.
        """
        self._from = self.at(now_ns)
        self._to = np.array(command, np.float64)
        needed_s = np.abs(self._to - self._from) / self._slew_per_s
        self._approach_s = max(self._ramp_s, float(needed_s.max(initial=0.0)))
        self._set_ns = now_ns

    def expired(self, now_ns: int) -> bool:
        """Whether a command is in force that is too old, or seems to lie in the future."""
        if self._set_ns is None:
            return False
        return not 0 <= now_ns - self._set_ns <= self.timeout_s * 1e9

    def at(self, now_ns: int) -> Command:
        """The command of this instant, ``[action]``, physical units; zero once expired."""
        if self._set_ns is None or self.expired(now_ns):
            return self._zero
        elapsed_s = (now_ns - self._set_ns) / 1e9
        if elapsed_s >= self._approach_s:
            return self._to
        return self._from + (self._to - self._from) * (elapsed_s / self._approach_s)
