"""Heads of messages against the library that decodes all of them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from fog_world_model.data.message_head import (
    compressed_image,
    has_header,
    picture_size,
    raw_image,
    stamp_ns,
)
from fog_world_model.data.messages import header, make, serialise
from fog_world_model.errors import FogError

STORE = get_typestore(Stores.ROS2_KILTED)


def image(stamp: int, frame: str, encoding: str, size: tuple[int, int], step: int) -> Any:
    height, width = size
    return make(
        "sensor_msgs/msg/Image",
        header=header(stamp, frame),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=1,
        step=step,
        data=np.random.default_rng(0).integers(0, 256, height * step, np.uint8),
    )


@given(
    st.integers(0, 2**31 * 10**9 - 1),
    st.text(max_size=9),
    st.sampled_from(["rgb8", "mono8", "16UC1", "bgra8"]),
    st.booleans(),
)
def test_raw_image(stamp: int, frame: str, encoding: str, little_endian: bool) -> None:
    message = image(stamp, frame.replace("\0", ""), encoding, (3, 5), 40)
    data = bytes(STORE.serialize_cdr(message, message.__msgtype__, little_endian=little_endian))
    found = raw_image(data)
    assert stamp_ns(data) == stamp
    assert (found.height, found.width, found.step, found.is_bigendian) == (3, 5, 40, 1)
    assert found.encoding == encoding
    assert bytes(found.data) == message.data.tobytes()
    # The head alone tells the same, but for the pixels.
    head = raw_image(data[: len(data) - 100])
    assert (head.height, head.width, head.encoding) == (3, 5, encoding)


@given(st.text(max_size=9), st.text(max_size=20), st.binary(max_size=50), st.booleans())
def test_compressed_image(frame: str, name: str, content: bytes, little_endian: bool) -> None:
    message = make(
        "sensor_msgs/msg/CompressedImage",
        header=header(5, frame.replace("\0", "")),
        format=name.replace("\0", ""),
        data=np.frombuffer(content, np.uint8),
    )
    data = bytes(STORE.serialize_cdr(message, message.__msgtype__, little_endian=little_endian))
    found = compressed_image(memoryview(data))
    assert found.format == message.format
    assert bytes(found.data) == content


@pytest.mark.parametrize("length", [0, 3, 7, 11, 15, 20, 30])
def test_bytes_that_end_too_early(length: int) -> None:
    data = serialise(image(1, "a_camera_frame", "rgb8", (2, 2), 6))[:length]
    with pytest.raises(FogError, match=f"^{length} bytes do not decode"):
        raw_image(data)


def test_which_types_have_a_header() -> None:
    with_header = ("sensor_msgs/msg/Imu", "geometry_msgs/msg/TwistStamped", "nav_msgs/msg/Odometry")
    without = ("geometry_msgs/msg/Twist", "std_msgs/msg/Float32", "no_such/msg/Type")
    assert all(map(has_header, with_header))
    assert not any(map(has_header, without))


@pytest.mark.parametrize("shape", [(48, 64, 3), (17, 33), (1, 1, 3), (600, 20, 3)])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", []),
        (".jpg", []),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
    ],
)
def test_size_of_a_picture(shape: tuple[int, ...], suffix: str, options: list[int]) -> None:
    _, data = cv2.imencode(suffix, np.full(shape, 77, np.uint8), options)
    assert picture_size(data.tobytes()) == shape[:2]
    assert picture_size(data.tobytes()[:10]) is None
    # Behind a comment, as phones write it, and with fill bytes before a marker.
    if suffix == ".jpg":
        content = data.tobytes()
        long = content[:2] + b"\xff\xfe\x01\x02" + b"x" * 256 + b"\xff" + content[2:]
        assert picture_size(long) == shape[:2]


@given(st.binary(max_size=200))
def test_size_of_anything_does_not_fail(content: bytes) -> None:
    assert picture_size(content) is None
    picture_size(b"\xff\xd8" + content)
    picture_size(b"\x89PNG\r\n\x1a\n" + content)
