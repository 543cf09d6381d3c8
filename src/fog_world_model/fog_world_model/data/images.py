"""Camera messages as arrays: one way for recordings and for live images.

The conversion is cv_bridge's where a ROS installation brings the genuine one, and a small one of
our own elsewhere. PyPI's ``cv-bridge`` 1.13 is neither: that port of the ROS 1 package fails with
current NumPy and reads 16UC1 wrongly, so it is never used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fog_world_model.errors import FogError

ImageArray = npt.NDArray[np.uint8]

DEPTH_ENCODING = "16UC1"
DEPTH_RANGE_MM = 10_000
"""Depth that becomes white: 16UC1 holds millimetres (REP 118), 0 where nothing was measured."""

OVERSAMPLING = 3
"""Images are halved before they are scaled where at least so many pixels remain for each pixel
wanted, in either direction: that takes half the time. Where the halves meet the borders of the
pixels wanted, the result differs from the mean over the area by no more than 1 of 255 levels;
elsewhere by 0.5 on average for textures a pixel fine, by 1.6 for uniform noise (test_images.py)."""

_BIG_ENDIAN = sys.byteorder == "big"
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, DEPTH_ENCODING: 1}


def decode_image(message: Any) -> ImageArray:
    """Read a ``sensor_msgs/msg/Image``.

    Args:
        message: A decoded message in rgb8, bgr8, rgba8, bgra8 (alpha is dropped), mono8 (repeated
            on three channels) or 16UC1: depth in millimetres, which becomes grey with 0 mm (and
            no measurement) black, :data:`DEPTH_RANGE_MM` and beyond white, linear between.

    Returns:
        ``[height, width, channel]`` uint8 RGB, contiguous, a copy of the message's data.

    Raises:
        FogError: The encoding is another one, or the message's sizes contradict each other.
    """
    check_layout(message)
    bridge = genuine_cv_bridge()
    return convert(message) if bridge is None else convert_with_cv_bridge(message, bridge)


def resize(image: ImageArray, height: int, width: int) -> ImageArray:
    """Scale an image to the size that the models see; the aspect ratio is not kept.

    Args:
        image: ``[height, width, channel]`` uint8.
        height: Rows wanted.
        width: Columns wanted.

    Returns:
        ``[height, width, channel]`` uint8, contiguous; every pixel is the mean of the area that it
        covers (``cv2.INTER_AREA``). An image of that size already comes back as it is. A much
        larger one is halved first, see :data:`OVERSAMPLING`.
    """
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    while (
        image.shape[0] % 2 == image.shape[1] % 2 == 0
        and image.shape[0] >= 2 * OVERSAMPLING * height
        and image.shape[1] >= 2 * OVERSAMPLING * width
    ):
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), np.uint8)
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(scaled, dtype=np.uint8)


def shrink(message: Any, height: int, width: int) -> ImageArray:
    """``resize(decode_image(message), height, width)``, without a copy in the recorded size.

    Args:
        message: As for :func:`decode_image`; its data may lie anywhere.
        height: Rows wanted.
        width: Columns wanted.

    Returns:
        ``[height, width, channel]`` uint8 RGB: the same values, since channels are scaled alone.

    Raises:
        FogError: As :func:`decode_image`.
    """
    check_layout(message)
    encoding, channels = message.encoding, _CHANNELS[message.encoding]
    if encoding == DEPTH_ENCODING:  # limited and rounded before it is averaged
        return resize(decode_image(message), height, width)
    pixels = _rows(message).reshape(message.height, message.width, channels)
    scaled = resize(pixels, height, width).reshape(height, width, channels)
    if channels == 1:
        return np.repeat(scaled, 3, axis=2)
    if encoding.startswith("bgr"):
        return np.ascontiguousarray(scaled[:, :, 2::-1])
    return np.array(scaled[:, :, :3], order="C")


def check_layout(message: Any) -> None:
    """Check that an Image's encoding is known and that its data are as long as it claims.

    Raises:
        FogError: They are not.
    """
    encoding = message.encoding
    if encoding not in _CHANNELS:
        raise FogError(
            f"image encoding {encoding!r} is not supported; have the camera driver publish one of "
            f"{', '.join(_CHANNELS)}"
        )
    height, width, step, length = message.height, message.width, message.step, len(message.data)
    row = width * _CHANNELS[encoding] * _item_size(encoding)
    if height == 0 or width == 0:
        raise FogError(f"the image is {width}x{height}: it has no pixels")
    if step < row or length < height * step:
        raise FogError(
            f"an image of {width}x{height} {encoding} has step {step} and {length} bytes; it needs "
            f"a step of at least {row} and height x step = {height * step} bytes"
        )


def convert(message: Any) -> ImageArray:
    """Our own conversion; arguments, result and errors as in :func:`decode_image`."""
    encoding, channels = message.encoding, _CHANNELS[message.encoding]
    pixels = _without_padding(message)
    if encoding == DEPTH_ENCODING:
        order = ">" if message.is_bigendian else "<"
        return depth_to_grey(pixels.view(f"{order}u2"))
    image = pixels.reshape(message.height, message.width, channels)
    if channels == 1:
        return np.repeat(image, 3, axis=2)
    if encoding.startswith("bgr"):
        return np.ascontiguousarray(image[:, :, 2::-1])
    return np.ascontiguousarray(image[:, :, :3])


def convert_with_cv_bridge(message: Any, bridge: Any) -> ImageArray:
    """Conversion by cv_bridge; arguments, result and errors as in :func:`decode_image`.

    Args:
        message: A decoded message.
        bridge: ``cv_bridge.CvBridge()``.
    """
    if message.encoding == DEPTH_ENCODING and bool(message.is_bigendian) != _BIG_ENDIAN:
        # cv_bridge swaps bytes with ndarray.newbyteorder, which NumPy 2 no longer has.
        return convert(message)
    pixels = _without_padding(message)
    packed = SimpleNamespace(
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=int(_BIG_ENDIAN),
        # cv_bridge skews images whose padding is not a whole number of pixels.
        step=pixels.shape[1],
        data=pixels.reshape(-1),
    )
    if message.encoding == DEPTH_ENCODING:
        return depth_to_grey(np.asarray(bridge.imgmsg_to_cv2(packed, "passthrough")))
    return np.array(bridge.imgmsg_to_cv2(packed, "rgb8"), dtype=np.uint8, order="C")


def depth_to_grey(depth: npt.NDArray[np.uint16]) -> ImageArray:
    """``[height, width]`` millimetres to ``[height, width, channel]``: see :func:`decode_image`."""
    nearer = np.minimum(depth.astype(np.float32), DEPTH_RANGE_MM)
    grey = np.rint(nearer * (255.0 / DEPTH_RANGE_MM)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


@functools.cache
def genuine_cv_bridge() -> Any | None:
    """``CvBridge()`` of a ROS installation; None where there is none that works."""
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    try:
        # ROS 2 packages carry versions from 2 on; the port on PyPI is 1.13.
        if importlib.metadata.version("cv-bridge").startswith("1."):
            return None
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        return importlib.import_module("cv_bridge").CvBridge()
    except (ImportError, AttributeError):  # built against another NumPy or OpenCV
        return None


def _rows(message: Any) -> npt.NDArray[np.uint8]:
    """The bytes of an image's pixels, ``[height, byte]``, where they lie.

    Drivers pad rows to a multiple of some power of two; only the first bytes are pixels.
    """
    row = message.width * _CHANNELS[message.encoding] * _item_size(message.encoding)
    rows = np.frombuffer(message.data, np.uint8, message.height * message.step)
    return rows.reshape(message.height, message.step)[:, :row]


def _without_padding(message: Any) -> npt.NDArray[np.uint8]:
    """Copy the bytes of an image's pixels, ``[height, byte]``."""
    return _rows(message).copy()


def _item_size(encoding: str) -> int:
    return 2 if encoding == DEPTH_ENCODING else 1
