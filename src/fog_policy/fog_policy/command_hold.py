"""Commands at a steady rate between the policy's decisions. No ROS here.

The policy decides a few times a second; a robot's velocity controller wants to hear something more
often, in even steps, and has to be told to stand when the decisions cease.

A decision is a step by nature, so that the safety filter bounds it, and its change since the one
before, but not the jerk. That is bounded here: what is published keeps the task's bounds, changes
from one message to the next by no more than the slew rate times the time between them, and its rate
of change by no more than the jerk times that time. A stop is exempt: it is zero at once. Where
there is no hold, as in simulated time, decisions are published as they are, in steps.
"""

from __future__ import annotations

import numpy as np

from fog_policy.command_limits import Command, CommandLimits, next_rate


class CommandHold:
    """Moves from one decided command to the next, holds it for a while, and then stops.

    A new command is approached so that all fields arrive about together; from rest and without a
    bound on the jerk, in a straight line.

    Args:
        limits: Of the command.
        ramp_s: The approach takes at least this long, s. Long ramps delay what the policy has
            learned to expect at once.
        timeout_s: A command older than this, s, gives way to zero.
    """

    def __init__(self, limits: CommandLimits, *, ramp_s: float, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._limits = limits
        self._ramp_s = ramp_s
        self._zero: Command = np.zeros(len(limits.slew_per_s))
        self.stop()

    @property
    def moving(self) -> bool:
        """Whether a command is in force that a stop would end."""
        return self._set_ns is not None

    def stop(self) -> None:
        """Zero from now on, until the next command."""
        self._here = self._rate = self._to = self._cruise = self._zero
        self._set_ns: int | None = None
        self._here_ns = 0

    def set(self, command: Command, now_ns: int) -> None:
        """Approach a command.

        Args:
            command: ``[action]``, physical units; beyond the bounds it is clipped.
            now_ns: By a clock that does not jump, as for :meth:`at`.
        """
        if self.expired(now_ns):
            self.stop()
        here, limits = self.at(now_ns), self._limits
        self._to = np.clip(np.asarray(command, np.float64), limits.low, limits.high)
        # Where it would come to rest: a command that has to turn round goes further than it seems.
        rest = here + self._rate * np.abs(self._rate) / (2.0 * limits.jerk_per_s2)
        distance = np.maximum(np.abs(self._to - here), np.abs(self._to - rest))
        needed_s = max(self._ramp_s, float((distance / limits.slew_per_s).max(initial=0.0)))
        self._cruise = distance / needed_s
        self._set_ns = self._here_ns = now_ns

    def went_out(self, command: Command, now_ns: int) -> None:
        """The way goes on from what was published, and the time for it counts from then.

        Args:
            command: ``[action]``: from :meth:`at`, or what may be published instead.
            now_ns: Taken just after it was published.
        """
        if self._set_ns is not None:
            self._here, self._here_ns = command, max(now_ns, self._here_ns)

    def expired(self, now_ns: int) -> bool:
        """Whether a command is in force that is too old, or seems to lie in the future."""
        if self._set_ns is None:
            return False
        return not 0 <= now_ns - self._set_ns <= self.timeout_s * 1e9

    def at(self, now_ns: int) -> Command:
        """The command of this instant, ``[action]``, physical units; zero once expired.

        Args:
            now_ns: Not before the time of the call before, or nothing changes.
        """
        if self._set_ns is None or self.expired(now_ns):
            return self._zero
        step_s = (now_ns - self._here_ns) / 1e9
        if step_s > 0:
            self._here, self._here_ns = self._after(step_s), now_ns
        return self._here

    def _after(self, step_s: float) -> Command:
        limits, here = self._limits, self._here
        self._rate = next_rate(
            self._to - here,
            here - limits.low,
            limits.high - here,
            self._rate,
            limits.slew_per_s,
            limits.jerk_per_s2,
            step_s,
            self._cruise,
        )
        there = np.clip(here + self._rate * step_s, limits.low, limits.high)
        # Arriving to within rounding is arriving.
        return np.where(np.abs(there - self._to) < 1e-12, self._to, there)
