"""Which keys, sticks and touch pads move which field of the action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fog_bringup.action_fields import field_label, field_unit
from fog_world_model.task import ActionConfig, FloatArray


@dataclass(frozen=True)
class FieldControl:
    """How a person moves one field.

    Keys are named by where they sit on the keyboard (``KeyboardEvent.code``), so that they form
    the same cross on every layout.
    """

    field: str
    """Of the task's action."""
    label: str
    """For people."""
    unit: str
    low: float
    """Physical value of full deflection downwards."""
    high: float
    """Physical value of full deflection upwards."""
    up: tuple[str, ...]
    """Keys that push the field up."""
    down: tuple[str, ...]
    """Keys that push it down."""
    pad: int
    """Which touch pad, and which stick of a gamepad (0 left, 1 right)."""
    axis: str
    """``x`` or ``y`` of that pad or stick."""
    sign: int
    """1 where right (x) or up (y) pushes the field up, -1 where it pushes it down."""


_W, _A, _S, _D, _Q, _E = (f"Key{letter}" for letter in "WASDQE")
# Field -> keys up, keys down, pad, axis, sign. As fog_driver_node has it: W and S drive, A and D
# turn, Q and E go sideways; y and the turn are positive to the left (REP-103).
_BASE = {
    "linear.x": ((_W, "ArrowUp"), (_S, "ArrowDown"), 0, "y", 1),
    "linear.y": ((_Q,), (_E,), 0, "x", -1),
    "angular.z": ((_A, "ArrowLeft"), (_D, "ArrowRight"), 1, "x", -1),
}
# Seen from above, x to the right and y up in the picture.
_TABLE = {
    "linear.x": ((_D, "ArrowRight"), (_A, "ArrowLeft"), 0, "x", 1),
    "linear.y": ((_W, "ArrowUp"), (_S, "ArrowDown"), 0, "y", 1),
}
_ANY = (
    ((_W, "ArrowUp"), (_S, "ArrowDown")),
    ((_D, "ArrowRight"), (_A, "ArrowLeft")),
    ((_E,), (_Q,)),
    (("KeyR",), ("KeyF",)),
    (("KeyT",), ("KeyG",)),
    (("KeyY",), ("KeyH",)),
    (("KeyU",), ("KeyJ",)),
    (("KeyI",), ("KeyK",)),
    (("KeyO",), ("KeyL",)),
)


def field_controls(action: ActionConfig) -> list[FieldControl]:
    """Keys, pads and sticks for each field of an action, in the task's order.

    A base that turns and a point on a table get their usual keys; any other action gets pairs of
    keys in the order of its fields (from the tenth field on only a touch pad).
    """
    known = next((k for k in (_BASE, _TABLE) if set(action.fields) <= set(k)), None)
    if known is _BASE and "angular.z" not in action.fields and "linear.y" in action.fields:
        known = _TABLE
    found = []
    for index, (name, low, high) in enumerate(
        zip(action.fields, action.low, action.high, strict=True)
    ):
        if known is not None:
            up, down, pad, axis, sign = known[name]
        else:
            up, down = _ANY[index] if index < len(_ANY) else ((), ())
            pad, axis, sign = index // 2, "yx"[index % 2], 1
        label = field_label(name)
        if known is _TABLE:
            label = {"linear.x": "right", "linear.y": "up"}[name]
        unit = field_unit(name)
        found.append(FieldControl(name, label, unit, low, high, up, down, pad, axis, sign))
    return found


def action_of(deflection: Sequence[float], action: ActionConfig) -> FloatArray:
    """What deflections mean.

    Args:
        deflection: Per field in [-1, 1]; beyond it is clipped.
        action: Its bounds are full deflection; no deflection is a command of zero, or what is
            nearest to it within the bounds.

    Returns:
        ``[field]`` in [-1, 1] between the bounds, as models take it.

    Raises:
        ValueError: Another number of fields than the action has, or a value that is not finite.
    """
    values = np.asarray(deflection, np.float32)
    if values.shape != (len(action.fields),) or not np.isfinite(values).all():
        raise ValueError(f"expected {len(action.fields)} finite numbers, got {deflection!r}")
    values = values.clip(-1.0, 1.0)
    low, high = np.asarray(action.low), np.asarray(action.high)
    return action.to_normalised(np.where(values >= 0, values * high, -values * low))
