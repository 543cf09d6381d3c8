"""Interfaces that are not among the standard ones: read from the packages that are installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rosbags.typesys import get_types_from_msg

from fog_world_model.data.messages import TYPESTORE
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import find_share

_NAME: Final = 2
"""rosbags' mark of a field that is another message."""


def learn_interface(typename: str) -> None:
    """Make an interface known to bags and decoders of this process, with all that it is made of.

    Every ROS package installs its ``.msg`` files below ``share/<package>/msg``; a sourced workspace
    has them on ``AMENT_PREFIX_PATH``. Known interfaces are left as they are.

    Args:
        typename: Interface name, for example ``unitree_go/msg/LowState``.

    Raises:
        FogError: A definition is missing or cannot be read.
    """
    found: dict[str, Any] = {}
    wanted = [typename]
    while wanted:
        name = wanted.pop()
        if name in TYPESTORE.types or name in found:
            continue
        found[name] = definition = _read(name)
        wanted += [part for _, field in definition[1] for part in _parts(field)]
    if found:
        TYPESTORE.register(found)


def _read(typename: str) -> Any:
    """Constants and fields of an interface, as rosbags has them."""
    package, _, name = typename.partition("/msg/")
    path = find_share(package, f"msg/{name}.msg")
    if path is None:
        raise FogError(
            f"{typename}: neither a standard interface nor installed: no share/{package}/msg/"
            f"{name}.msg on AMENT_PREFIX_PATH. Source the workspace that has the package."
        )
    try:
        return get_types_from_msg(path.read_text(encoding="utf-8"), typename)[typename]
    except Exception as error:  # the parser fails in many ways
        raise FogError(f"{path}: cannot be read as an interface: {error}") from error


def _parts(field: Any) -> Iterator[str]:
    """Names of the messages that a field is made of."""
    kind, argument = int(field[0]), field[1]
    if kind == _NAME:
        yield argument
    elif kind > _NAME:  # an array or a sequence
        yield from _parts(argument[0])
