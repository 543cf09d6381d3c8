"""Checks every command that a robot is sent against the task's bounds and slew rates. No ROS here.

It knows nothing of the node that sends them: the limits are read from the task, the times are those
at which the middleware was handed the messages.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fog_world_model.task import TaskConfig

SLEW_SLACK_S = 0.02
"""A command may be this much late or early on its way to the middleware: one command period."""
_WINDOW_NS = 200_000_000
"""The slew rate is looked at over up to this long, so that the slack matters less."""
_SILENCE_NS = 500_000_000
"""After so long without a command a robot stands: the next one counts from zero."""
_EPSILON = 1e-6
"""Of a field's range: bounds are float32 inside the policy."""


@dataclass
class Tally:
    """What was seen so far."""

    commands: int = 0
    zeros: int = 0
    out_of_bounds: int = 0
    """Commands that were not finite, outside the bounds, or beyond the slew rate."""
    unseen: int = 0
    """Commands that were published and did not arrive here, by the middleware's numbers."""
    fastest: float = 0.0
    """Largest change, as a share of what the slew rate allowed (with the slack)."""


class CommandWatch:
    """Looks at one command after the other.

    Args:
        task: Its bounds and slew rates.
    """

    def __init__(self, task: TaskConfig) -> None:
        self.tally = Tally()
        self.moving = False
        """Whether the newest command is not zero."""
        self._fields = task.action.fields
        self._low, self._high = np.asarray(task.action.low), np.asarray(task.action.high)
        self._slack = _EPSILON * (self._high - self._low)
        self._slew = np.asarray(task.safety.slew_per_s)
        self._recent: deque[tuple[int, npt.NDArray[np.float64]]] = deque()
        self._numbers: dict[bytes, int] = {}

    def see(
        self,
        time_ns: int,
        command: npt.ArrayLike,
        *,
        publisher: bytes = b"",
        number: int | None = None,
    ) -> list[str]:
        """Take in a command.

        Args:
            time_ns: When it was published, ns, in order.
            command: ``[action]``, physical units.
            publisher: Who published it.
            number: Which of its commands this is, counted from 1; None: not known. A publisher's
                first ones are lost until it has been discovered, and how a command follows on one
                that was not seen cannot be judged.

        Returns:
            What is wrong with it, in words; empty when nothing is.
        """
        values = np.asarray(command, np.float64)
        self.tally.commands += 1
        unseen = 0
        if number is not None:
            unseen = max(0, number - self._numbers.get(publisher, 0) - 1)
            self.tally.unseen += unseen
            self._numbers[publisher] = number
        if not np.isfinite(values).all():
            self._recent.clear()
            self.moving = True
            self.tally.out_of_bounds += 1
            return [f"not finite: {values.tolist()}"]
        self.moving = bool(values.any())
        self.tally.zeros += not self.moving
        problems = [
            f"{name} is {value:.4g}, outside [{low:g}, {high:g}]"
            for name, value, low, high, slack in zip(
                self._fields, values, self._low, self._high, self._slack, strict=True
            )
            if not low - slack <= value <= high + slack
        ]
        if self._recent and time_ns - self._recent[-1][0] > _SILENCE_NS:
            self._recent.clear()
        while len(self._recent) > 1 and time_ns - self._recent[0][0] > _WINDOW_NS:
            self._recent.popleft()
        if self.moving and not unseen:
            problems += self._too_fast(time_ns, values)
        else:  # a stop takes effect at once; either way the next change counts from here
            self._recent.clear()
        self._recent.append((time_ns, values))
        self.tally.out_of_bounds += bool(problems)
        return problems

    def _too_fast(self, time_ns: int, values: npt.NDArray[np.float64]) -> list[str]:
        before = self._recent or [(time_ns, np.zeros_like(values))]
        worst: tuple[float, str] = (0.0, "")
        for then_ns, then in before:
            seconds = max(0, time_ns - then_ns) / 1e9
            allowed = self._slew * (seconds + SLEW_SLACK_S) + self._slack
            shares = np.abs(values - then) / allowed
            k = int(shares.argmax())
            if shares[k] > worst[0]:
                text = (
                    f"{self._fields[k]} changed by {values[k] - then[k]:.4g} in {seconds:.3f} s, "
                    f"its slew rate is {self._slew[k]:g}/s"
                )
                worst = float(shares[k]), text
        self.tally.fastest = max(self.tally.fastest, worst[0])
        return [worst[1]] if worst[0] > 1.0 else []
