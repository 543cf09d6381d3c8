"""Bounds, slew rate and jerk of a command from one step to the next. No ROS here.

One place for all who change a command: the safety filter, once in a control period, and the hold
that publishes in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fog_world_model.task import TaskConfig

Command = npt.NDArray[np.float64]
"""``[action]``, physical units."""


@dataclass(frozen=True)
class CommandLimits:
    """What a task allows a command to do."""

    low: Command
    """``[action]``: lower bound, physical units."""
    high: Command
    """``[action]``: upper bound."""
    slew_per_s: Command
    """``[action]``: largest rate of change, physical units per s, > 0."""
    jerk_per_s2: Command
    """``[action]``: largest change of that rate, physical units per s^2, > 0; infinite: not
    bounded."""

    @staticmethod
    def of(task: TaskConfig) -> CommandLimits:
        """The limits of a task."""
        jerk = np.asarray(task.safety.jerk(task.control_hz), np.float64)
        return CommandLimits(
            np.asarray(task.action.low, np.float64),
            np.asarray(task.action.high, np.float64),
            np.asarray(task.safety.slew_per_s, np.float64),
            np.where(jerk > 0, jerk, np.inf),
        )


def next_rate(
    change: Command,
    to_low: Command,
    to_high: Command,
    rate: Command,
    slew: Command,
    jerk: Command,
    step_s: float,
    cruise: Command | None = None,
) -> Command:
    """The rate of the coming step: fast towards the target, and always able to brake in time.

    A rate r that falls by jerk J per second covers no more than r^2 / 2J before it is zero,
    however the time is cut into steps. So a step of length h may end in a rate r with

        r h + r^2 / 2J <= D,   r <= 2D / (h + sqrt(h^2 + 2D / J)),

    where D is the distance to the bound. One who keeps this can brake by J alone in every later
    step and never meets the bound, so bounds, slew rate and jerk can all be kept at once.

    Args:
        change: Target minus last command.
        to_low: Last command minus the lower bound, not negative.
        to_high: Upper bound minus the last command, not negative.
        rate: Of the step before.
        slew: Largest rate.
        jerk: Largest change of the rate per second; may be infinite.
        step_s: Length of the step, above 0.
        cruise: Rate not to be exceeded without need, where that is less than the slew rate: one
            that is faster already slows down by the jerk.
    """

    def brakeable(distance: Command) -> Command:
        root = np.sqrt(step_s**2 + 2.0 * distance / jerk)
        with np.errstate(over="ignore"):  # a step of nearly no length: the slew rate decides
            return np.asarray(2.0 * distance / (step_s + root))

    speed = brakeable(np.abs(change))
    if cruise is not None:
        speed = np.minimum(speed, cruise)
    target = np.sign(change) * speed
    lowest = np.maximum(rate - jerk * step_s, np.maximum(-slew, -brakeable(to_low)))
    highest = np.minimum(rate + jerk * step_s, np.minimum(slew, brakeable(to_high)))
    return np.asarray(np.minimum(np.maximum(target, lowest), highest))
