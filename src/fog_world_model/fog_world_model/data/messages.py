"""ROS messages without a ROS installation: one way to encode and decode them, used everywhere.

Recorded messages and live ones go through the same code: nodes subscribe to the serialised bytes
and decode them here, exactly as the bag reader does, so that what a policy sees on the robot is
what it was trained on.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.typesys import Stores, get_typestore

from fog_world_model.errors import FogError

TYPESTORE = get_typestore(Stores.ROS2_KILTED)
"""Definitions of the standard interfaces; they are equal in Humble, Jazzy and Kilted."""

_SCALARS: dict[str, Any] = {"bool": False, "string": "", "wstring": ""}
_JOINT_QUANTITIES = ("position", "velocity", "effort")


def make(typename: str, **fields: Any) -> Any:
    """Build a message; what is not given is zero, empty or false.

    Args:
        typename: Interface name such as ``sensor_msgs/msg/Image``.
        **fields: Values of top-level fields; nested messages are built with this function too.

    Raises:
        FogError: The interface or a field is unknown.
    """
    if typename not in TYPESTORE.types:
        raise FogError(f"{typename}: not one of the standard ROS 2 interfaces")
    definition = TYPESTORE.get_msgdef(typename)
    known = {name for name, _ in definition.fields}
    if unknown := set(fields) - known:
        raise FogError(f"{typename} has no field {', '.join(sorted(unknown))}")
    values = {
        name: fields[name] if name in fields else _zero(description)
        for name, description in definition.fields
    }
    return TYPESTORE.types[typename](**values)


def _zero(description: Any) -> Any:
    """Zero value of a field description of rosbags (node type, its argument)."""
    kind, argument = int(description[0]), description[1]
    if kind == 1:  # a scalar: (name, maximal length)
        name = argument[0]
        return _SCALARS.get(name, 0.0 if name.startswith("float") else 0)
    if kind == 2:  # another message
        return make(argument)
    (item_kind, item), length = argument
    count = length if kind == 3 else 0
    if int(item_kind) == 1 and item[0] not in ("string", "wstring"):
        name = {"octet": "uint8", "byte": "uint8", "char": "uint8"}.get(item[0], item[0])
        return np.zeros(count, dtype=np.dtype(name))
    return [_zero((item_kind, item)) for _ in range(count)]


def serialise(message: Any) -> bytes:
    """CDR bytes of a message, as they travel over DDS and lie in bags."""
    return bytes(TYPESTORE.serialize_cdr(message, message.__msgtype__))


def deserialise(data: bytes, typename: str) -> Any:
    """Message from its CDR bytes; array fields are NumPy arrays.

    Raises:
        FogError: The bytes are not a message of that type.
    """
    try:
        return TYPESTORE.deserialize_cdr(data, typename)
    except Exception as error:  # the parser fails in many ways on damaged bytes
        raise FogError(f"{len(data)} bytes do not decode as {typename}: {error}") from error


def header_stamp_ns(message: Any) -> int | None:
    """Stamp of the message's header in ns; None for types without a header."""
    header = getattr(message, "header", None)
    if header is None:
        return None
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def stamp(stamp_ns: int) -> Any:
    """``builtin_interfaces/msg/Time`` of a time in ns."""
    return make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def header(stamp_ns: int, frame_id: str) -> Any:
    """``std_msgs/msg/Header`` with a stamp in ns."""
    return make("std_msgs/msg/Header", stamp=stamp(stamp_ns), frame_id=frame_id)


def read_fields(message: Any, fields: Sequence[str]) -> npt.NDArray[np.float32]:
    """Read numeric fields of a message.

    Args:
        message: A decoded message.
        fields: Dotted paths, for example ``twist.twist.linear.x``; in a JointState
            ``position.NAME``, ``velocity.NAME`` and ``effort.NAME`` find the joint by name, so the
            order in which a driver lists its joints does not matter.

    Returns:
        ``[field]``, float32.

    Raises:
        FogError: A field or a joint is not in the message; the message lists what is.
    """
    if hasattr(message, "name") and hasattr(message, "effort"):
        return _joint_fields(message, fields)
    try:
        return np.array([float(_getter(path)(message)) for path in fields], np.float32)
    except (AttributeError, TypeError, ValueError) as error:
        raise FogError(
            f"{message.__msgtype__} has no number in one of {', '.join(fields)}: {error}"
        ) from error


def write_fields(message: Any, fields: Sequence[str], values: npt.ArrayLike) -> None:
    """Set numeric fields of a message; for types without joints the inverse of :func:`read_fields`.

    Args:
        message: A message to change.
        fields: Dotted paths, for example ``linear.x``.
        values: ``[field]``.
    """
    for path, value in zip(fields, np.asarray(values, np.float64), strict=True):
        owner, _, name = path.rpartition(".")
        setattr(_getter(owner)(message) if owner else message, name, float(value))


@functools.cache
def _getter(path: str) -> operator.attrgetter[Any]:
    return operator.attrgetter(path)


def _joint_fields(message: Any, fields: Sequence[str]) -> npt.NDArray[np.float32]:
    index = {name: i for i, name in enumerate(message.name)}
    values = np.empty(len(fields), np.float32)
    for i, path in enumerate(fields):
        quantity, _, joint = path.partition(".")
        array = getattr(message, quantity) if quantity in _JOINT_QUANTITIES else None
        if joint not in index or array is None or index[joint] >= len(array):
            raise FogError(
                f"JointState has no {path!r}; its joints are {', '.join(message.name) or 'none'} "
                f"and {quantity} has {0 if array is None else len(array)} values"
            )
        values[i] = array[index[joint]]
    return values
