"""Image conversion against arrays made by hand, and against cv_bridge where there is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fog_world_model.data import images, messages
from fog_world_model.errors import FogError

# Two rows of three pixels, red, green, blue / black, white, a colour with three distinct values.
RGB = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        [[0, 0, 0], [255, 255, 255], [10, 20, 30]],
    ],
    np.uint8,
)


def image_message(
    encoding: str,
    pixels: npt.NDArray[np.uint8],
    *,
    padding: int = 0,
    is_bigendian: int = 0,
) -> Any:
    """An Image that went over the wire once; each row gets ``padding`` bytes of 99 at its end."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1).view(np.uint8)
    rows = np.concatenate([rows, np.full((height, padding), 99, np.uint8)], axis=1)
    message = messages.make(
        "sensor_msgs/msg/Image",
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=rows.shape[1],
        data=np.ascontiguousarray(rows).reshape(-1),
    )
    return messages.deserialise(messages.serialise(message), "sensor_msgs/msg/Image")


def with_alpha(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 7, np.uint8)], axis=2)


@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[:, :, ::-1]),
        ("rgba8", with_alpha(RGB)),
        ("bgra8", with_alpha(RGB[:, :, ::-1])),
    ],
)
def test_colour_encodings_give_the_same_rgb(
    encoding: str, pixels: npt.NDArray[np.uint8], padding: int
) -> None:
    decoded = images.decode_image(image_message(encoding, pixels.copy(), padding=padding))
    np.testing.assert_array_equal(decoded, RGB)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable


def test_mono_is_repeated_on_three_channels() -> None:
    grey = np.array([[1, 2, 3], [4, 5, 255]], np.uint8)
    decoded = images.decode_image(image_message("mono8", grey, padding=5))
    for channel in range(3):
        np.testing.assert_array_equal(decoded[:, :, channel], grey)


@pytest.mark.parametrize(("order", "is_bigendian"), [("<", 0), (">", 1)])
@pytest.mark.parametrize("padding", [0, 2])
def test_depth_is_scaled_to_ten_metres(order: str, is_bigendian: int, padding: int) -> None:
    # 10 m are 255, so 1 m is 25.5 (rounded to even: 26), 2 m 51, 100 mm 2.55; beyond is white.
    millimetres = np.array([[0, 100, 1000], [2000, 10_000, 65_535]], f"{order}u2")
    message = image_message("16UC1", millimetres.view(np.uint8).reshape(2, -1), padding=padding)
    message.width = 3
    message.is_bigendian = is_bigendian
    decoded = images.decode_image(message)
    np.testing.assert_array_equal(decoded[:, :, 0], [[0, 3, 26], [51, 255, 255]])
    np.testing.assert_array_equal(decoded[:, :, 0], decoded[:, :, 2])


def test_decoding_does_not_alias_the_message() -> None:
    message = image_message("rgb8", RGB)
    decoded = images.decode_image(message)
    decoded[:] = 0
    np.testing.assert_array_equal(images.decode_image(message), RGB)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"encoding": "yuv422"}, "'yuv422' is not supported.*rgb8"),
        ({"height": 3}, "3x3 rgb8 has step 9 and 18 bytes"),
        ({"step": 8}, "step of at least 9"),
        ({"width": 0}, "no pixels"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(
    change: dict[str, object], expected: str
) -> None:
    message = image_message("rgb8", RGB)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(FogError, match=expected):
        images.decode_image(message)


def test_resize_takes_the_mean_of_the_area() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    # Rows hold 12 numbers: the top left block of channel 0 is 0, 3, 12, 15 with mean 7.5 -> 8.
    small = images.resize(image, 2, 2)
    assert small.shape == (2, 2, 3)
    assert small[0, 0, 0] == 8
    blocks = image.reshape(2, 2, 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 0.5
    np.testing.assert_array_equal(images.resize(image, 4, 4), image)
    assert images.resize(image, 2, 4).shape == (2, 4, 3)


# Defined only where ROS brings cv_bridge: nothing can be compared elsewhere.
if images.genuine_cv_bridge() is not None:

    @pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "16UC1"])
    @pytest.mark.parametrize("padding", [0, 2, 12])
    def test_ours_agrees_with_cv_bridge(encoding: str, padding: int) -> None:
        channels = {"mono8": 1, "16UC1": 2}.get(encoding, len(encoding) - 1)
        pixels = np.random.default_rng(0).integers(0, 256, (6, 8, channels), np.uint8)
        message = image_message(encoding, pixels, padding=padding)
        theirs = images.convert_with_cv_bridge(message, images.genuine_cv_bridge())
        np.testing.assert_array_equal(images.convert(message), theirs)


@pytest.mark.parametrize(
    ("size", "target", "mean", "most"),
    [
        ((480, 640), (64, 64), 0.5, 4),
        ((720, 1280), (96, 96), 0.5, 4),
        ((1080, 1920), (96, 128), 0.5, 4),
        ((480, 640), (80, 64), 0.2, 1),  # every pixel wanted covers 6x10: whole halves
        ((481, 640), (64, 64), 0.0, 0),  # cannot be halved
        ((382, 640), (64, 64), 0.0, 0),  # less than 3 would remain
    ],
)
def test_halving_first_is_near_the_mean_over_the_area(
    size: tuple[int, int], target: tuple[int, int], mean: float, most: int
) -> None:
    """The stated bounds: fine texture over the whole range, and uniform noise, the worst."""
    noise = np.random.default_rng(0).normal(size=(*size, 3)).astype(np.float32)
    fine = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.0), None, 0, 255, cv2.NORM_MINMAX)
    uniform = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for image, worse in ((fine.astype(np.uint8), 1), (uniform, 3.2)):
        exact = cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA).astype(int)
        error = np.abs(images.resize(image, *target) - exact)
        assert error.mean() <= worse * mean
        assert error.max() <= (most if most <= 1 else worse * most)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "16UC1"])
@pytest.mark.parametrize("size", [(48, 64), (16, 16), (33, 50), (480, 640), (7, 9)])
@pytest.mark.parametrize("padding", [0, 6])
def test_shrinking_in_place_equals_decoding_and_resizing(
    encoding: str, size: tuple[int, int], padding: int
) -> None:
    """Also at the size wanted, where the result must not be a view of the message."""
    height, width = size
    channels = {"rgba8": 4, "bgra8": 4, "mono8": 1, "16UC1": 2}.get(encoding, 3)
    step = width * channels + padding
    data = bytearray(np.random.default_rng(1).integers(0, 256, height * step, np.uint8).tobytes())
    message = make_image(encoding, height, width, step, data)
    found = images.shrink(message, 16, 16)
    np.testing.assert_array_equal(found, images.resize(images.decode_image(message), 16, 16))
    assert found.flags.c_contiguous
    before = found.copy()
    data[:] = bytes(len(data))
    np.testing.assert_array_equal(found, before)


def make_image(encoding: str, height: int, width: int, step: int, data: bytearray) -> Any:
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=0, data=data
    )
