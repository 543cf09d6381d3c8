"""What nodes publish to a robot and about themselves, as bytes. No ROS here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from fog_world_model.data import messages
from fog_world_model.task import TaskConfig

OK, WARN, ERROR = 0, 1, 2
"""Levels of a diagnostic_msgs/msg/DiagnosticStatus."""


def encode_command(task: TaskConfig, command: npt.ArrayLike, now_ns: int) -> bytes:
    """Encode a command as the task's action message.

    Args:
        task: Names the type and its fields.
        command: ``[action]``, physical units.
        now_ns: Stamp for a type with a header (TwistStamped, say).
    """
    message = messages.make(task.action.type)
    if hasattr(message, "header"):
        message.header = messages.header(now_ns, "")
    messages.write_fields(message, task.action.fields, command)
    return messages.serialise(message)


def encode_diagnostics(
    node: str, level: int, text: str, values: Mapping[str, Any], now_ns: int
) -> bytes:
    """Encode one status as a diagnostic_msgs/msg/DiagnosticArray.

    Args:
        node: The node's name.
        level: :data:`OK`, :data:`WARN` or :data:`ERROR`.
        text: One line for a person.
        values: Shown below it; nested names are joined with dots.
        now_ns: Stamp.
    """
    status = messages.make(
        "diagnostic_msgs/msg/DiagnosticStatus",
        level=level,
        name=f"{node}: control",
        message=text,
        hardware_id=node,
        values=[
            messages.make("diagnostic_msgs/msg/KeyValue", key=key, value=value)
            for key, value in _flat(values).items()
        ],
    )
    array = messages.make(
        "diagnostic_msgs/msg/DiagnosticArray", header=messages.header(now_ns, ""), status=[status]
    )
    return messages.serialise(array)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return flat
