"""What can go wrong with a stream of messages, done to their bytes. No ROS here.

Each fault takes the messages of one topic as they come and gives those that go on instead.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fog_world_model.data import messages
from fog_world_model.errors import FogError

CORRUPTIONS = ("cut", "short", "encoding", "empty")
"""Ways to damage an image: the message's bytes end too soon, pixels are missing, the encoding is
unknown, the size is 0 x 0."""


class StreamFault(Protocol):
    """Something that is wrong with one topic."""

    def apply(self, data: bytes, now_ns: int) -> list[bytes]:
        """Take a message.

        Args:
            data: As it was published.
            now_ns: Time of arrival.

        Returns:
            What goes on at this moment: nothing, this message in another form, older ones.
        """


class Silent:
    """Nothing goes on."""

    def apply(self, data: bytes, now_ns: int) -> list[bytes]:
        """Drop it."""
        return []


class Frozen:
    """A camera that repeats one picture, with fresh stamps: the driver lives, the sensor does not.

    Args:
        typename: Of the messages; it has a header.
    """

    def __init__(self, typename: str) -> None:
        self._typename = typename
        self._kept: Any = None

    def apply(self, data: bytes, now_ns: int) -> list[bytes]:
        """Put the new header before the old content."""
        message = messages.deserialise(data, self._typename)
        if self._kept is None:
            self._kept = message
        frozen = copy.copy(self._kept)
        frozen.header = message.header
        return [messages.serialise(frozen)]


class Delayed:
    """Every message comes late, with its own stamp.

    Args:
        seconds: By how much at least: it goes on with the next one that arrives after that.
    """

    def __init__(self, seconds: float) -> None:
        self._delay_ns = round(seconds * 1e9)
        self._waiting: deque[tuple[int, bytes]] = deque()

    def apply(self, data: bytes, now_ns: int) -> list[bytes]:
        """Keep it, and let go what has waited for long enough."""
        self._waiting.append((now_ns, data))
        due = []
        while self._waiting and now_ns - self._waiting[0][0] >= self._delay_ns:
            due.append(self._waiting.popleft()[1])
        return due


class Shifted:
    """The publisher's clock has jumped.

    Args:
        typename: Of the messages; without a header they stay as they are.
        seconds: Added to every stamp.
    """

    def __init__(self, typename: str, seconds: float) -> None:
        self._typename, self._shift_ns = typename, round(seconds * 1e9)

    def apply(self, data: bytes, now_ns: int) -> list[bytes]:
        """Move the stamp."""
        message = messages.deserialise(data, self._typename)
        stamp_ns = messages.header_stamp_ns(message)
        if stamp_ns is None:
            return [data]
        message.header.stamp = messages.stamp(stamp_ns + self._shift_ns)
        return [messages.serialise(message)]


class NotFinite:
    """Some numbers are NaN or infinite.

    Args:
        typename: Of the messages.
        fields: Paths as in a task's stream.
        value: What they become.
    """

    def __init__(self, typename: str, fields: Sequence[str], value: float) -> None:
        self._typename, self._fields, self._value = typename, tuple(fields), value

    def apply(self, data: bytes, now_ns: int) -> list[bytes]:
        """Spoil the fields."""
        message = messages.deserialise(data, self._typename)
        if self._typename == "sensor_msgs/msg/JointState":
            for path in self._fields:
                quantity, _, joint = path.partition(".")
                values = np.array(getattr(message, quantity))
                values[list(message.name).index(joint)] = self._value
                setattr(message, quantity, values)
        else:
            values = np.full(len(self._fields), self._value)
            messages.write_fields(message, self._fields, values)
        return [messages.serialise(message)]


class Corrupted:
    """Images that are none.

    Args:
        how: One of :data:`CORRUPTIONS`.
    """

    def __init__(self, how: str) -> None:
        if how not in CORRUPTIONS:
            raise FogError(f"corruption {how!r}: expected one of {', '.join(CORRUPTIONS)}")
        self._how = how

    def apply(self, data: bytes, now_ns: int) -> list[bytes]:
        """Damage it."""
        if self._how == "cut":
            return [data[: len(data) // 2]]
        message = messages.deserialise(data, "sensor_msgs/msg/Image")
        if self._how == "short":
            message.data = message.data[: len(message.data) // 2]
        elif self._how == "encoding":
            message.encoding = "rgb7"
        else:
            message.height = message.width = message.step = 0
            message.data = np.zeros(0, np.uint8)
        return [messages.serialise(message)]


def make_fault(spec: Mapping[str, Any], typename: str) -> StreamFault:
    """Make a fault of its description, as it is sent to a relay.

    Args:
        spec: ``kind`` (silent, frozen, delayed, shifted, not_finite, corrupted) and what that
            class needs: ``seconds``, ``fields`` and ``value`` (a float's name: JSON has no NaN),
            ``how``.
        typename: Of the topic's messages.

    Raises:
        FogError: No such fault.
    """
    kind = spec["kind"]
    if kind == "silent":
        return Silent()
    if kind == "frozen":
        return Frozen(typename)
    if kind == "delayed":
        return Delayed(float(spec["seconds"]))
    if kind == "shifted":
        return Shifted(typename, float(spec["seconds"]))
    if kind == "not_finite":
        return NotFinite(typename, spec["fields"], float(spec["value"]))
    if kind == "corrupted":
        return Corrupted(spec["how"])
    raise FogError(f"fault {kind!r}: no such fault of a stream")
