"""What the policy node says on /diagnostics, in plain words for whoever looks after the robot."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

from fog_policy.encoding import ERROR, OK, WARN
from fog_policy.safety import Cause

LEVELS = {OK: "ok", WARN: "warn", ERROR: "error"}
"""Level of a DiagnosticStatus -> its name on the page; any other is ``unknown``."""
RELEASED = "released"
"""What the policy node's value ``emergency_stop`` is while it is not engaged."""

_WORDS: dict[str, tuple[str, str]] = {
    "image": ("no camera picture", "Look at the camera and its cable; it goes on by itself."),
    "proprioception": ("no valid robot state", "Look at the robot's driver and network."),
    "tilt": ("tilt too large or not known", "It goes on by itself once it stands upright."),
    "fall": ("it has fallen", "Set it upright, then reset."),
    "temperature": ("a joint too hot, or not known", "Let it cool down, then reset."),
    "battery": ("battery low or not known", "Charge it, then reset."),
    "geofence": ("outside its area, or place not known", "Bring it back by hand, then reset."),
    "out_of_distribution": ("it sees what it has not learned", "Look at camera and surroundings."),
    "deadman": ("the dead-man's switch is released", "Hold the button to go on."),
    "emergency_stop": ("emergency stop", "Look at the robot, then reset."),
    "policy": ("the policy failed or is late", "Look at the policy node's log."),
    "clock": ("its clock stands still", "Look at use_sim_time and /clock."),
}
_CAUSES = typing.get_args(Cause)
_NEXT_CAUSE = re.compile(rf"; (?=(?:{'|'.join(_CAUSES)}): )")


@dataclass(frozen=True)
class Status:
    """A DiagnosticStatus."""

    name: str
    level: int
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reason:
    """Why the robot does not move."""

    cause: str
    """Of :data:`fog_policy.safety.Cause`; empty where it is none of these."""
    what: str
    """In plain words."""
    detail: str
    """Topic, value and limit, as the node says them."""
    advice: str
    """What to do about it."""


@dataclass(frozen=True)
class Words:
    """A state in plain words."""

    level: str
    """``ok``, ``warn``, ``error`` or ``unknown``."""
    headline: str
    reasons: tuple[Reason, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """Two states with equal keys are the same, whatever their numbers."""
        return (self.level, self.reasons[0].what if self.reasons else self.headline)


def reasons(message: str) -> tuple[Reason, ...]:
    """Take the policy node's message apart.

    Args:
        message: ``cause: detail``, more of them after semicolons, as the node joins them.
    """
    found = []
    for part in _NEXT_CAUSE.split(message):
        cause, _, detail = part.partition(": ")
        if cause not in _CAUSES:
            found.append(Reason("", part, "", ""))
        else:
            found.append(_reason(cause, detail))
    return tuple(found)


def _reason(cause: str, detail: str) -> Reason:
    what, advice = _WORDS.get(cause, (cause, ""))
    latched = detail.partition(": ")[0]
    if cause == "emergency_stop" and latched in _WORDS:  # nobody pressed it: a fall did, say
        what, advice = _WORDS[latched]
    return Reason(cause, what, detail, advice)


def words(status: Status) -> Words:
    """A state of the policy node in plain words.

    Args:
        status: What it published.
    """
    level = LEVELS.get(status.level, "unknown")
    engaged = status.values.get("emergency_stop", RELEASED) != RELEASED
    if status.level == ERROR:
        # What only a person can lift comes first: the rest may be what it led to.
        why = sorted(reasons(status.message), key=lambda reason: reason.cause != "emergency_stop")
        more = len(why) - 1
        also = f", and {more} more reason{'' if more == 1 else 's'}" if more else ""
        return Words(level, f"Stopped: {why[0].what}{also}", tuple(why))
    if status.level == OK:
        shadow = status.values.get("shadow") == "True"
        return Words(level, "In shadow: somebody else drives" if shadow else "Driving")
    known = {
        "not configured": "Standing: no policy is loaded",
        "not active": "Standing: the policy is not active",
    }
    headline = known.get(status.message, status.message)
    if engaged:
        reason = _reason("emergency_stop", status.values["emergency_stop"])
        return Words("error", f"{headline}; {reason.what}", (reason,))
    return Words(level, headline)


def silent(age_s: float | None, node: str) -> Words:
    """The state where nothing is known.

    Args:
        age_s: Since the node's last word, s; None: it never said anything.
        node: Its name.
    """
    advice = "Take the remote control; see that the node runs, in this ROS_DOMAIN_ID."
    ever = "has said nothing yet" if age_s is None else "has fallen silent"
    return Words(
        "unknown",
        "Not known: no word from the policy",
        (Reason("", f"{node} {ever} on /diagnostics", "", advice),),
    )
