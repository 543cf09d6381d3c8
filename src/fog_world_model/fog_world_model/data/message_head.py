"""What can be read off a serialised message without decoding it: stamps, sizes, where pixels lie.

Decoding an image copies it; an import looks at the stamps of far more images than it uses. Layout:
CDR as DDS writes it, four bytes that name the byte order and then the fields, each aligned to its
size from there on (OMG "Extensible and Dynamic Topic Types", section 7.4.3).
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass

from fog_world_model.data.messages import TYPESTORE
from fog_world_model.errors import FogError

Buffer = bytes | memoryview
HEAD_BYTES = 4096
"""Enough of an image message for all that is read here, but for pictures with long preambles."""

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG = b"\x89PNG\r\n\x1a\n"


@functools.cache
def has_header(typename: str) -> bool:
    """Whether messages of a type begin with a std_msgs/Header."""
    if typename not in TYPESTORE.types:
        return False
    fields = TYPESTORE.get_msgdef(typename).fields
    return bool(fields) and fields[0][0] == "header" and fields[0][1][1] == "std_msgs/msg/Header"


def stamp_ns(data: Buffer) -> int:
    """Stamp of a message whose type begins with a header, ns.

    Raises:
        FogError: The bytes are too few.
    """
    seconds, nanoseconds = _unpack("iI", data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


@dataclass(frozen=True)
class RawImage:
    """A sensor_msgs/msg/Image whose pixels stay where they are."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    """Bytes from one row to the next."""
    data: Buffer
    """The pixels; shorter than they should be when only the head of the message was given."""


def raw_image(data: Buffer) -> RawImage:
    """Take a serialised sensor_msgs/msg/Image apart without copying the pixels.

    Raises:
        FogError: The bytes are no such message.
    """
    at = _after_header(data)
    height, width = _unpack("II", data, at)
    encoding, at = _string(data, at + 8)
    (is_bigendian,) = _unpack("B", data, at)
    at = _aligned(at + 1)
    step, length = _unpack("II", data, at)
    return RawImage(
        height, width, encoding, is_bigendian, step, memoryview(data)[at + 8 : at + 8 + length]
    )


@dataclass(frozen=True)
class CompressedImage:
    """A sensor_msgs/msg/CompressedImage whose data stay where they are."""

    format: str
    data: Buffer


def compressed_image(data: Buffer) -> CompressedImage:
    """Take a serialised sensor_msgs/msg/CompressedImage apart without copying the data.

    Raises:
        FogError: The bytes are no such message.
    """
    name, at = _string(data, _after_header(data))
    at = _aligned(at)
    (length,) = _unpack("I", data, at)
    return CompressedImage(name, memoryview(data)[at + 4 : at + 4 + length])


def picture_size(data: Buffer) -> tuple[int, int] | None:
    """Height and width of a JPEG or PNG from its first bytes; None when they do not tell."""
    view = memoryview(data)
    if bytes(view[:8]) == _PNG:
        if len(view) < 24:
            return None
        width, height = struct.unpack_from(">II", view, 16)
        return int(height), int(width)
    if bytes(view[:2]) != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(view) and view[at] == 0xFF:
        marker = view[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", view, at + 5)
            return int(height), int(width)
        else:
            at += 2 + struct.unpack_from(">H", view, at + 2)[0]
    return None


def _unpack(kinds: str, data: Buffer, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(("<" if data[1] & 1 else ">") + kinds, data, at)
    except (struct.error, IndexError) as error:
        raise FogError(f"{len(data)} bytes do not decode: they end within a field") from error


def _string(data: Buffer, at: int) -> tuple[str, int]:
    """A string at an aligned place, and where it ends."""
    (length,) = _unpack("I", data, at)
    end = at + 4 + length
    if end > len(data):
        raise FogError(f"{len(data)} bytes do not decode: they end within a string")
    return bytes(data[at + 4 : end]).rstrip(b"\0").decode("utf-8", "replace"), end


def _aligned(at: int) -> int:
    """Next place that is a multiple of four; counted after the four bytes of the encapsulation."""
    return (at + 3) // 4 * 4


def _after_header(data: Buffer) -> int:
    """Where the field after the header lies, if it is aligned to four bytes."""
    return _aligned(_string(data, 12)[1])
