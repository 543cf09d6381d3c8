"""Compress images on their way into a bag, as image_transport would."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from fog_world_model.data.images import DEPTH_ENCODING, check_layout
from fog_world_model.data.message_head import compressed_image, picture_size, raw_image
from fog_world_model.data.messages import deserialise, make, serialise
from fog_world_model.errors import FogError

ImageFormat = Literal["raw", "jpeg", "png"]

IMAGE: Final = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"

_COLOURS: Final[dict[str, int | None]] = {
    "rgb8": cv2.COLOR_RGB2BGR,
    "bgr8": None,
    "rgba8": cv2.COLOR_RGBA2BGR,
    "bgra8": cv2.COLOR_BGRA2BGR,
    "mono8": None,
}
"""Encoding of 8 bits -> what makes OpenCV's BGR (or grey) of it."""
_PATIENCE_S: Final = 0.4
"""No image waits longer for a worker: what a killed recorder loses is bounded by it."""


def compressed_topic(topic: str) -> str:
    """Where image_transport publishes the compressed images of a topic."""
    return f"{topic}/compressed"


def size_of(data: bytes, typename: str) -> tuple[int, int] | None:
    """Width and height of a serialised image, without decoding it.

    Args:
        data: CDR bytes.
        typename: ``sensor_msgs/msg/Image`` or ``CompressedImage``.

    Returns:
        None for other interfaces, damaged messages and compressed images that do not tell.
    """
    with contextlib.suppress(FogError):
        if typename == IMAGE:
            image = raw_image(data)
            return image.width, image.height
        if typename == COMPRESSED_IMAGE:
            size = picture_size(compressed_image(data).data)
            return None if size is None else (size[1], size[0])
    return None


def compress(data: bytes, image_format: Literal["jpeg", "png"], jpeg_quality: int = 95) -> bytes:
    """Turn a serialised Image into a serialised CompressedImage with the same header.

    PNG is lossless and takes 16-bit depth as well. JPEG loses detail, and takes colour and grey
    images of 8 bits.

    Args:
        data: CDR bytes of a sensor_msgs/msg/Image.
        image_format: What to encode to.
        jpeg_quality: 1 to 100.

    Returns:
        CDR bytes of a sensor_msgs/msg/CompressedImage, ``format`` as image_transport writes it.

    Raises:
        FogError: The image is damaged, or of an encoding that the format cannot hold.
    """
    message = deserialise(data, IMAGE)
    pixels: npt.NDArray[Any] = _pixels(message)
    deep = message.encoding == DEPTH_ENCODING
    if deep and image_format == "jpeg":
        raise FogError(f"JPEG cannot hold {message.encoding} images; record them as png or raw")
    conversion = None if deep else _COLOURS[message.encoding]
    if conversion is not None:
        pixels = cv2.cvtColor(pixels, conversion)
    if image_format == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
    else:  # level 1 costs a third of the default's time, for files a tenth larger
        options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, encoded = cv2.imencode(".jpg" if image_format == "jpeg" else ".png", pixels, options)
    if not done:
        raise FogError(f"an image of {message.width}x{message.height} cannot be encoded")
    stored = message.encoding if deep or message.encoding == "mono8" else "bgr8"
    return serialise(
        make(
            COMPRESSED_IMAGE,
            header=message.header,
            format=f"{message.encoding}; {image_format} compressed {stored}",
            data=encoded.reshape(-1),
        )
    )


def _pixels(message: Any) -> npt.NDArray[np.uint8 | np.uint16]:
    """``[height, width(, channel)]`` of a decoded image, without the padding of its rows."""
    check_layout(message)
    height, width = int(message.height), int(message.width)
    rows = np.frombuffer(message.data, np.uint8, height * message.step).reshape(height, -1)
    if message.encoding == DEPTH_ENCODING:
        order = ">" if message.is_bigendian else "<"
        deep = np.ascontiguousarray(rows[:, : 2 * width]).view(f"{order}u2")
        return deep.astype(np.uint16)  # OpenCV takes the machine's own order
    channels = {"rgba8": 4, "bgra8": 4, "mono8": 1}.get(message.encoding, 3)
    shape = (height, width) if channels == 1 else (height, width, channels)
    return rows[:, : channels * width].reshape(shape)


class ImageEncoder:
    """Compresses images in worker threads (OpenCV works without Python's lock).

    Args:
        image_format: What to encode to.
        jpeg_quality: 1 to 100.
        workers: Threads.
        depth: Images that may wait or be in work together; more are refused.
    """

    def __init__(
        self,
        image_format: Literal["jpeg", "png"],
        *,
        jpeg_quality: int = 95,
        workers: int = 2,
        depth: int = 16,
    ) -> None:
        self.format = image_format
        self._quality, self._depth = jpeg_quality, depth
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
        self._pending: deque[tuple[float, Future[bytes]]] = deque()

    @property
    def waiting(self) -> int:
        """Images that are not encoded yet."""
        return sum(not future.done() for _, future in tuple(self._pending))

    def submit(self, data: bytes) -> Future[bytes] | None:
        """Begin to compress an image; None: the workers cannot keep up, it is not taken.

        Args:
            data: CDR bytes of a sensor_msgs/msg/Image.

        Returns:
            Gives the CDR bytes of a CompressedImage, or raises :class:`FogError`.
        """
        now = time.monotonic()
        while self._pending and self._pending[0][1].done():
            self._pending.popleft()
        oldest = self._pending[0][0] if self._pending else now
        if len(self._pending) >= self._depth or now - oldest > _PATIENCE_S:
            return None
        future = self._pool.submit(compress, data, self.format, self._quality)
        self._pending.append((now, future))
        return future

    def close(self) -> None:
        """End the threads; what was taken is finished."""
        self._pool.shutdown(wait=True)
