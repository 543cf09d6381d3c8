"""The safety filter: between what the policy proposes and what the robot gets.

Pure functions without ROS. A tick describes its :class:`Situation`; :func:`filter_command` turns
the proposed command into the one to publish. Whatever speaks against moving gives a zero command
at once, with every reason named; otherwise the command is clipped to the task's bounds, and its
change is limited to the task's slew rate and jerk.

What runs the filter keeps three things from tick to tick and does no more than

    verdict = filter_command(task, situation, proposed, previous, dt_s, rate)
    previous, rate = verdict.command, verdict.rate
    emergency_stop.obey(verdict)

The last line makes a stop that only a person may lift (a fall, say) stay until the reset.
A rule that needs a topic is off where the task names none; where it names one, the field of the
situation that goes with it must be filled in, for "nothing came yet" is a stop as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from fog_policy.command_limits import Command, CommandLimits, next_rate
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

Cause = Literal[
    "image", "frozen_image", "proprioception", "tilt", "fall", "temperature", "battery",
    "geofence", "out_of_distribution", "deadman", "emergency_stop", "policy", "clock",
]  # fmt: skip
"""What can stop the robot: the keys under which stops are counted."""

_OTHER_CLOCK_S = 10.0
"""An age beyond this is rather a stamp of another clock than a late message."""


@dataclass(frozen=True)
class Reason:
    """Why the command is zero."""

    cause: Cause
    detail: str
    """For a person: the topic, the value and the limit."""
    latching: bool = False
    """Whether the robot stays stopped once this is over, until a person resets it."""

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
    """What the caller found wrong itself: an observation that is not complete, or what
    :class:`fog_policy.surprise.SurpriseGuard` says."""
    temperature_c: Sequence[float] | None = None
    """Newest values of ``safety.temperature.fields``, degrees Celsius."""
    temperature_age_s: float | None = None
    """Now minus that message's stamp."""
    battery_v: float | None = None
    """Newest value of ``safety.battery.field``, V."""
    battery_age_s: float | None = None
    """Now minus that message's stamp."""
    position_m: Sequence[float] | None = None
    """Newest ``[x, y]`` on the geofence's odometry topic (``pose.pose.position``)."""
    position_age_s: float | None = None
    """Now minus that message's stamp."""
    picture_still_s: float = 0.0
    """How long the robot has been told to move while the picture stayed the same
    (:class:`fog_policy.still_picture.StillPicture`)."""


@dataclass(frozen=True)
class Verdict:
    """What to publish, and why."""

    command: Command
    """``[action]``, physical units."""
    stops: tuple[Reason, ...] = ()
    """Not empty: the command is zero for these reasons."""
    limits: tuple[str, ...] = ()
    """``bounds``, ``slew`` or ``jerk`` where the proposed command was changed."""
    rate: Command = field(default_factory=lambda: np.zeros(0))
    """``[action]``: rate of change with which ``command`` was reached, physical units per second;
    zero after a stop. To be given to the next call. Empty, which is zero, where no filter
    computed it."""


class EmergencyStop:
    """A latch: once engaged, only a reset lets the robot move again."""

    def __init__(self) -> None:
        """Start released."""
        self.reason: str | None = None

    def engage(self, reason: str) -> None:
        """Stop; the first reason is kept until the reset."""
        if self.reason is None:
            self.reason = reason

    def obey(self, verdict: Verdict) -> None:
        """Engage when the verdict stops the robot for a reason that latches."""
        for reason in verdict.stops:
            if reason.latching:
                self.engage(str(reason))

    def reset(self) -> None:
        """Let the robot move again; what latches and still holds stops it at the next tick."""
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
    previous_rate: npt.ArrayLike | None = None,
) -> Verdict:
    """Turn a proposed command into the one to publish.

    Args:
        task: Bounds, slew rates, jerks and timeouts.
        situation: What is known at this tick.
        proposed: ``[action]`` in physical units; None when the policy was not asked.
        previous: ``[action]``: what was published last.
        dt_s: Seconds since then. More than one control period permits no larger step, so that a
            pause does not save up for a jump; less is right for a command hold that publishes
            more often than the policy acts.
        previous_rate: ``[action]``: ``rate`` of the verdict before; zeros at the start. None: the
            jerk is not bounded.

    Returns:
        A finite command within the bounds. Except where it is zero because of ``stops``, it
        differs from ``previous`` by no more than the slew rate allows, and its rate from
        ``previous_rate`` by no more than the jerk allows.
    """
    size = task.action_size
    stops = stop_reasons(task, situation)
    wanted = np.zeros(size)
    if proposed is not None:
        wanted = np.asarray(proposed, np.float64)
        stops += _output_reasons(task, wanted)
    elif not stops:
        stops = (Reason("policy", "no command was computed"),)
    if stops:
        return Verdict(np.zeros(size), stops, rate=np.zeros(size))

    allowed = CommandLimits.of(task)
    low, high, slew = allowed.low, allowed.high, allowed.slew_per_s
    limits = []
    within = np.clip(wanted, low, high)
    # What is printed as a bound may lie one float32 rounding beside it: not worth a report.
    if np.abs(within - wanted).max() > 1e-6 * (high - low).max():
        limits.append("bounds")
    last = np.clip(_finite(previous), low, high)
    step_s = min(dt_s, 1.0 / task.control_hz) if dt_s > 0 else 0.0
    slewed = last + np.clip(within - last, -slew * step_s, slew * step_s)
    if np.abs(slewed - within).max() > 1e-9:
        limits.append("slew")
    jerk, rate = np.full(size, np.inf), np.zeros(size)
    if previous_rate is not None:
        rate = np.clip(_finite(previous_rate), -slew, slew) if np.size(previous_rate) else rate
        jerk = allowed.jerk_per_s2
    if step_s > 0:
        rate = next_rate(within - last, last - low, high - last, rate, slew, jerk, step_s)
    command = np.clip(last + rate * step_s, low, high)
    # Dividing by the step and multiplying by it again is no reason to miss the target by a bit.
    command = np.where(np.abs(command - slewed) < 1e-12, np.clip(slewed, low, high), command)
    if np.abs(command - slewed).max() > 1e-9:
        limits.append("jerk")
    return Verdict(command, limits=tuple(limits), rate=rate)


def _finite(values: npt.ArrayLike) -> Command:
    return np.nan_to_num(np.asarray(values, np.float64))


def _output_reasons(task: TaskConfig, wanted: Command) -> tuple[Reason, ...]:
    """What is wrong with the policy's output itself, ``[action]`` in physical units."""
    action, tolerance = task.action, task.safety.out_of_range
    if wanted.shape != (task.action_size,):
        return (Reason("policy", f"{wanted.shape} is no command of {task.action_size} fields"),)
    if not np.isfinite(wanted).all():
        return (Reason("policy", f"the command is not finite: {wanted.tolist()}"),)
    reasons = []
    values = wanted.tolist()
    for name, value, low, high in zip(action.fields, values, action.low, action.high, strict=True):
        beyond = max(value - high, low - value) / (high - low)
        if tolerance > 0 and beyond > tolerance:
            detail = (
                f"{name} {value:.3g} lies {beyond:.2g} ranges outside [{low:g}, {high:g}] (limit "
                f"{tolerance:g})"
            )
            reasons.append(Reason("policy", detail))
    return tuple(reasons)


def stop_reasons(task: TaskConfig, situation: Situation) -> tuple[Reason, ...]:
    """Everything in the situation that speaks against moving; empty when nothing does."""
    safety = task.safety
    reasons = list(situation.faults)
    if situation.emergency_stop is not None:
        reasons.append(Reason("emergency_stop", f"{situation.emergency_stop}; reset it to go on"))
    # A fault says more than the age of the same stream would.
    known = {reason.cause for reason in reasons}
    if "image" not in known:
        limit_s = safety.timeouts_s.get(task.image.topic, safety.image_timeout_s)
        reasons += _age_reasons("image", task.image.topic, situation.image_age_s, limit_s)
    reasons += _frozen_reasons(task, situation)
    if "proprioception" not in known:
        for topic, age_s in situation.proprioception_age_s.items():
            limit_s = safety.timeouts_s.get(topic, safety.proprioception_timeout_s)
            reasons += _age_reasons("proprioception", topic, age_s, limit_s)
    if safety.tilt_topic:
        reasons += _tilt_reasons(task, situation)
    reasons += _temperature_reasons(task, situation)
    reasons += _battery_reasons(task, situation)
    reasons += _geofence_reasons(task, situation)
    if safety.deadman_topic:
        held_s = situation.deadman_age_s
        if held_s is None or not held_s <= safety.deadman_timeout_s:
            limit_s = safety.deadman_timeout_s
            button = safety.deadman_button
            detail = "no button is held" if button < 0 else f"button {button} is not held"
            detail += f" on {safety.deadman_topic}"
            if held_s is not None:
                detail += f": nothing came for {held_s:.2f} s (limit {limit_s:g} s)"
            reasons.append(Reason("deadman", detail))
    return tuple(reasons)


def is_held(task: TaskConfig, buttons: Sequence[int]) -> bool:
    """Whether a sensor_msgs/msg/Joy says that the dead-man's switch is held.

    Args:
        task: Names the button, or any.
        buttons: ``buttons`` of the message; a joystick without the button never holds it.
    """
    wanted = task.safety.deadman_button
    return any(buttons) if wanted < 0 else wanted < len(buttons) and bool(buttons[wanted])


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


def _frozen_reasons(task: TaskConfig, situation: Situation) -> list[Reason]:
    limit_s, still_s = task.safety.frozen_image_s, situation.picture_still_s
    if limit_s <= 0 or still_s <= limit_s:
        return []
    # It does not latch: as with a stream that fell silent, the cause is gone when it changes.
    detail = (
        f"{task.image.topic} shows the same picture to the bit, though the robot has been told to "
        f"move for {still_s:.2f} s (limit {limit_s:g} s)"
    )
    return [Reason("frozen_image", detail)]


def _tilt_reasons(task: TaskConfig, situation: Situation) -> list[Reason]:
    safety, topic = task.safety, task.safety.tilt_topic
    # What looks after the robot's balance is proprioception, wherever the policy looks itself.
    limit_s = safety.timeouts_s.get(topic, safety.proprioception_timeout_s)
    late = _age_reasons("tilt", topic, situation.orientation_age_s, limit_s)
    if late or situation.orientation is None:
        return late or [Reason("tilt", f"no orientation came on {topic} yet")]
    tilt = tilt_rad(situation.orientation)
    if math.isnan(tilt):
        quaternion = [round(float(v), 3) for v in situation.orientation]
        return [Reason("tilt", f"{topic} has no orientation: {quaternion} is no rotation")]
    # A task that lets the robot tilt further than this does not call it a fall.
    fall_rad = max(safety.fall_tilt_rad, safety.max_tilt_rad)
    if safety.fall_tilt_rad > 0 and tilt > fall_rad:
        detail = f"fallen: tilted by {tilt:.2f} rad (limit {fall_rad:g} rad)"
        return [Reason("fall", detail, latching=True)]
    if tilt > safety.max_tilt_rad:
        return [Reason("tilt", f"tilted by {tilt:.2f} rad (limit {safety.max_tilt_rad:g} rad)")]
    return []


def _temperature_reasons(task: TaskConfig, situation: Situation) -> list[Reason]:
    watch, found = task.safety.temperature, situation.temperature_c
    if watch is None:
        return []
    late = _age_reasons("temperature", watch.topic, situation.temperature_age_s, watch.max_age_s)
    if late or found is None or len(found) != len(watch.fields):
        return late or [Reason("temperature", f"no temperature came on {watch.topic} yet")]
    reasons = []
    for name, value in zip(watch.fields, found, strict=True):
        if not math.isfinite(value):
            reasons.append(Reason("temperature", f"{watch.topic} {name} is not finite: {value}"))
        elif value > watch.max_c:
            detail = f"{watch.topic} {name} is {value:.1f} C (limit {watch.max_c:g} C)"
            reasons.append(Reason("temperature", detail, latching=True))
    return reasons


def _battery_reasons(task: TaskConfig, situation: Situation) -> list[Reason]:
    watch, found = task.safety.battery, situation.battery_v
    if watch is None:
        return []
    late = _age_reasons("battery", watch.topic, situation.battery_age_s, watch.max_age_s)
    if late or found is None:
        return late or [Reason("battery", f"no voltage came on {watch.topic} yet")]
    if not math.isfinite(found):
        return [Reason("battery", f"{watch.topic} {watch.field} is not finite: {found}")]
    if found < watch.min_v:
        # The voltage recovers as soon as the load is gone: without a latch it would go on and off.
        detail = f"{watch.topic} {watch.field} is {found:.2f} V (limit {watch.min_v:g} V)"
        return [Reason("battery", detail, latching=True)]
    return []


def _geofence_reasons(task: TaskConfig, situation: Situation) -> list[Reason]:
    fence, found = task.safety.geofence, situation.position_m
    if fence is None:
        return []
    late = _age_reasons("geofence", fence.topic, situation.position_age_s, fence.max_age_s)
    if late or found is None or len(found) < 2:
        return late or [Reason("geofence", f"no position came on {fence.topic} yet")]
    reasons = []
    for name, value, (low, high) in zip("xy", found, (fence.x_m, fence.y_m), strict=False):
        if not math.isfinite(value):
            reasons.append(Reason("geofence", f"{fence.topic} {name} is not finite: {value}"))
        elif not low <= value <= high:
            detail = f"{fence.topic} {name} is {value:.2f} m (limits [{low:g}, {high:g}] m)"
            reasons.append(Reason("geofence", detail, latching=True))
    return reasons
