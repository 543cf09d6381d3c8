"""The safety filter: between what the policy proposes and what the robot gets.

Pure functions without ROS. A tick describes its :class:`Situation`; :func:`filter_command` turns
the proposed command into the one to publish. Whatever speaks against moving gives a zero command
at once, with every reason named; otherwise the command is clipped to the task's bounds and its
change limited to the task's slew rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

Command = npt.NDArray[np.float64]

Cause = Literal["image", "proprioception", "tilt", "deadman", "emergency_stop", "policy", "clock"]
"""What can stop the robot: the keys under which stops are counted."""

_OTHER_CLOCK_S = 10.0
"""An age beyond this is rather a stamp of another clock than a late message."""


@dataclass(frozen=True)
class Reason:
    """Why the command is zero."""

    cause: Cause
    detail: str
    """For a person: the topic, the value and the limit."""

    def __str__(self) -> str:
        """Cause and detail in one line."""
        return f"{self.cause}: {self.detail}"


@dataclass(frozen=True)
class Situation:
    """What is known at one control tick. An age of None means that nothing ever came."""

    image_age_s: float | None
    """Now minus the stamp of the newest image."""
    proprioception_age_s: Mapping[str, float | None]
    """Topic -> now minus the stamp of its newest message."""
    orientation: Sequence[float] | None = None
    """Newest quaternion ``[x, y, z, w]`` of the base on the tilt topic."""
    orientation_age_s: float | None = None
    """Now minus that message's stamp."""
    deadman_age_s: float | None = None
    """Seconds since the dead-man's switch said that a button is held; None: it is released."""
    emergency_stop: str | None = None
    """Who stopped the robot, as long as nobody has reset it (:class:`EmergencyStop`)."""
    faults: tuple[Reason, ...] = ()
    """What the caller found wrong itself (an observation that is not complete, say)."""


@dataclass(frozen=True)
class Verdict:
    """What to publish, and why."""

    command: Command
    """``[action]``, physical units."""
    stops: tuple[Reason, ...] = ()
    """Not empty: the command is zero for these reasons."""
    limits: tuple[str, ...] = ()
    """``bounds`` or ``slew`` where the proposed command was changed."""


class EmergencyStop:
    """A latch: once engaged, only a reset lets the robot move again."""

    def __init__(self) -> None:
        """Start released."""
        self.reason: str | None = None

    def engage(self, reason: str) -> None:
        """Stop; the first reason is kept until the reset."""
        if self.reason is None:
            self.reason = reason

    def reset(self) -> None:
        """Let the robot move again."""
        self.reason = None


def check_limits(task: TaskConfig) -> None:
    """Check that a stop is possible within the task's bounds.

    Raises:
        FogError: Zero lies outside the bounds of an action field.
    """
    for name, low, high in zip(task.action.fields, task.action.low, task.action.high, strict=True):
        if not low <= 0.0 <= high:
            raise FogError(
                f"task '{task.name}': action {name} is bounded to [{low}, {high}], but stopping "
                "publishes 0; choose action.low and action.high around 0"
            )


def filter_command(
    task: TaskConfig,
    situation: Situation,
    proposed: npt.ArrayLike | None,
    previous: npt.ArrayLike,
    dt_s: float,
) -> Verdict:
    """Turn a proposed command into the one to publish.

    Args:
        task: Bounds, slew rates and timeouts.
        situation: What is known at this tick.
        proposed: ``[action]`` in physical units; None when the policy was not asked.
        previous: ``[action]``: what was published last.
        dt_s: Seconds since then. More than one control period permits no larger step, so that a
            pause does not save up for a jump.

    Returns:
        A finite command within the bounds. It differs from ``previous`` by no more than the slew
        rate allows, except where it is zero because of ``stops``.
    """
    zero = np.zeros(task.action_size)
    stops = stop_reasons(task, situation)
    if proposed is None:
        if not stops:
            stops = (Reason("policy", "no command was computed"),)
        return Verdict(zero, stops)
    wanted = np.asarray(proposed, np.float64)
    if not np.isfinite(wanted).all():
        stops = (*stops, Reason("policy", f"the command is not finite: {wanted.tolist()}"))
    if stops:
        return Verdict(zero, stops)

    low, high = np.asarray(task.action.low), np.asarray(task.action.high)
    limits = []
    within = np.clip(wanted, low, high)
    # What is printed as a bound may lie one float32 rounding beside it: not worth a report.
    if np.abs(within - wanted).max() > 1e-6 * (high - low).max():
        limits.append("bounds")
    last = np.clip(np.nan_to_num(np.asarray(previous, np.float64)), low, high)
    step_s = min(dt_s, 1.0 / task.control_hz) if dt_s > 0 else 0.0
    largest = np.asarray(task.safety.slew_per_s) * step_s
    change = np.clip(within - last, -largest, largest)
    command = np.clip(last + change, low, high)
    if np.abs(command - within).max() > 1e-9:
        limits.append("slew")
    return Verdict(command, limits=tuple(limits))


def stop_reasons(task: TaskConfig, situation: Situation) -> tuple[Reason, ...]:
    """Everything in the situation that speaks against moving; empty when nothing does."""
    safety = task.safety
    reasons = list(situation.faults)
    if situation.emergency_stop is not None:
        reasons.append(Reason("emergency_stop", f"{situation.emergency_stop}; reset it to go on"))
    # A fault says more than the age of the same stream would.
    known = {reason.cause for reason in reasons}
    if "image" not in known:
        reasons += _age_reasons(
            "image", task.image.topic, situation.image_age_s, safety.image_timeout_s
        )
    if "proprioception" not in known:
        for topic, age_s in situation.proprioception_age_s.items():
            reasons += _age_reasons("proprioception", topic, age_s, safety.proprioception_timeout_s)
    if safety.tilt_topic:
        reasons += _tilt_reasons(task, situation)
    if safety.deadman_topic:
        held_s = situation.deadman_age_s
        if held_s is None or not held_s <= safety.deadman_timeout_s:
            silent = "" if held_s is None else f": nothing came for {held_s:.2f} s"
            reasons.append(
                Reason("deadman", f"no button is held on {safety.deadman_topic}{silent}")
            )
    return tuple(reasons)


def tilt_rad(orientation: Sequence[float]) -> float:
    """Angle between the base's vertical axis and the world's, from a quaternion ``[x, y, z, w]``.

    Returns:
        Radians in [0, pi]; NaN when the quaternion is not of unit length (within 5 %), as from an
        IMU that does not estimate its orientation and sends zeros.
    """
    x, y, z, w = (float(v) for v in orientation)
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    if not 0.95 < norm < 1.05:
        return math.nan
    # The lower right entry of the rotation matrix: cosine of the angle between the z axes.
    cosine = 1.0 - 2.0 * (x * x + y * y) / (norm * norm)
    return math.acos(max(-1.0, min(1.0, cosine)))


def _age_reasons(cause: Cause, topic: str, age_s: float | None, limit_s: float) -> list[Reason]:
    if age_s is None:
        return [Reason(cause, f"nothing came on {topic} yet")]
    # A stamp far in the future is as useless as an old one: it would hide that the stream stopped.
    if -limit_s <= age_s <= limit_s:
        return []
    where = f"{age_s:.2f} s old" if not age_s < 0 else f"stamped {-age_s:.2f} s ahead of now"
    detail = f"{topic} is {where} (limit {limit_s:g} s)"
    if abs(age_s) > _OTHER_CLOCK_S:
        detail += "; do its clock and this node's agree (use_sim_time)?"
    return [Reason(cause, detail)]


def _tilt_reasons(task: TaskConfig, situation: Situation) -> list[Reason]:
    safety = task.safety
    # What looks after the robot's balance is proprioception, wherever the policy looks itself.
    late = _age_reasons(
        "tilt", safety.tilt_topic, situation.orientation_age_s, safety.proprioception_timeout_s
    )
    if late or situation.orientation is None:
        return late or [Reason("tilt", f"no orientation came on {safety.tilt_topic} yet")]
    tilt = tilt_rad(situation.orientation)
    if math.isnan(tilt):
        quaternion = [round(float(v), 3) for v in situation.orientation]
        return [
            Reason("tilt", f"{safety.tilt_topic} has no orientation: {quaternion} is no rotation")
        ]
    if tilt > safety.max_tilt_rad:
        return [Reason("tilt", f"tilted by {tilt:.2f} rad (limit {safety.max_tilt_rad:g} rad)")]
    return []
