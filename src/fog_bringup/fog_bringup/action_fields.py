"""Names and units, for people, of the fields of an action (REP-103)."""

from __future__ import annotations

_LABELS = {
    "linear.x": "forwards",
    "linear.y": "to the left",
    "linear.z": "up",
    "angular.x": "roll",
    "angular.y": "pitch",
    "angular.z": "turn left",
}
_UNITS = {"linear": "m/s", "angular": "rad/s"}


def field_label(name: str) -> str:
    """What a field does when it is positive; its own name where that is not known.

    Args:
        name: Dotted path such as ``linear.x`` or ``twist.linear.x``.
    """
    return _LABELS.get(_short(name), name)


def field_unit(name: str) -> str:
    """Unit of a field; empty where it is not known.

    Args:
        name: As for :func:`field_label`.
    """
    return _UNITS.get(_short(name).split(".")[0], "")


def _short(name: str) -> str:
    """A TwistStamped has its velocities below ``twist``."""
    return name.removeprefix("twist.")
