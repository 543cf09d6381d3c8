"""sensor_msgs/msg/CompressedImage: JPEG and PNG, decoded no larger than needed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fog_world_model.data.images import OVERSAMPLING, ImageArray, depth_to_grey, resize
from fog_world_model.data.message_head import Buffer, picture_size
from fog_world_model.errors import FogError


class DamagedPicture(FogError):
    """One picture does not decode; cameras on a bad cable send such, and the next one is whole."""


_REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_compressed(message: Any) -> ImageArray:
    """Read a ``sensor_msgs/msg/CompressedImage`` at its full size.

    Args:
        message: With ``format`` and ``data``: JPEG or PNG as ``image_transport`` writes them; an
            8-bit picture is colour or grey, a 16-bit grey one is depth in millimetres and becomes
            grey as in :func:`fog_world_model.data.images.decode_image`.

    Returns:
        ``[height, width, channel]`` uint8 RGB.

    Raises:
        FogError: The format is another one.
        DamagedPicture: The data are cut or damaged.
    """
    return _decode(message, cv2.IMREAD_COLOR)


def shrink_compressed(message: Any, height: int, width: int) -> ImageArray:
    """Read a picture at the size that the models see.

    Args:
        message: As for :func:`decode_compressed`.
        height: Rows wanted.
        width: Columns wanted.

    Returns:
        ``[height, width, channel]`` uint8 RGB. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size
        where that leaves at least :data:`fog_world_model.data.images.OVERSAMPLING` pixels per
        pixel wanted, in either direction. The decoder then averages in the frequency domain
        instead of in the pixels: the result differs from ``resize(decode_compressed(message))``
        by up to two of 255 levels in the mean on the finest texture, by 0.6 on coarse ones
        (test_compressed_images.py).

    Raises:
        FogError: As :func:`decode_compressed`.
    """
    flag = cv2.IMREAD_COLOR
    size = None if _is_png(message.data) else picture_size(message.data)
    for factor in (2, 4, 8):
        if size is not None and (
            size[0] >= factor * OVERSAMPLING * height and size[1] >= factor * OVERSAMPLING * width
        ):
            flag = _REDUCED[factor]
    return resize(_decode(message, flag), height, width)


def require_supported(message: Any) -> None:
    """Check a picture's format without decoding it.

    Raises:
        FogError: It is neither JPEG nor PNG.
        DamagedPicture: It says that it is, but it does not begin like one.
    """
    start = bytes(message.data[:8])
    if "compressedDepth" in message.format:
        raise FogError(
            f"image format {message.format!r}: image_transport's compressedDepth is not supported; "
            "record the depth image raw (16UC1), or as PNG with image_transport's 'compressed'"
        )
    if start.startswith((b"\xff\xd8", b"\x89PNG")):
        return
    if any(name in message.format.lower() for name in ("jpeg", "jpg", "png")):
        raise DamagedPicture(f"a picture of {len(message.data)} bytes has no beginning")
    raise FogError(
        f"image format {message.format!r}: its {len(message.data)} bytes are neither JPEG nor PNG"
    )


def _decode(message: Any, flag: int) -> ImageArray:
    require_supported(message)
    data = np.frombuffer(message.data, np.uint8)
    deep = _is_png(message.data) and len(data) > 25 and data[24] == 16
    # OpenCV fills what is missing of a cut JPEG with grey, without a word.
    if (b"IEND" if _is_png(message.data) else b"\xff\xd9") not in data[-4096:].tobytes():
        raise DamagedPicture(f"a picture of {len(data)} bytes is cut")
    try:
        found = cv2.imdecode(data, cv2.IMREAD_UNCHANGED if deep else flag)
    except cv2.error as error:
        raise DamagedPicture(f"a picture of {len(data)} bytes is damaged: {error}") from error
    if found is None:
        raise DamagedPicture(f"a picture of {len(data)} bytes does not decode")
    if deep:
        if found.ndim != 2:
            raise FogError(
                f"image format {message.format!r}: 16 bits are for depth, one channel; this "
                f"picture has {found.shape[2]}"
            )
        depth: npt.NDArray[np.uint16] = np.asarray(found, np.uint16)
        return depth_to_grey(depth)
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)


def _is_png(data: Buffer) -> bool:
    return bytes(data[:4]) == b"\x89PNG"
