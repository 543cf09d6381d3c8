"""Compressed images: the same pictures as OpenCV's, and how far a reduced decode is from them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from fog_world_model.data.compressed_images import (
    DamagedPicture,
    decode_compressed,
    require_supported,
    shrink_compressed,
)
from fog_world_model.data.images import DEPTH_RANGE_MM, resize
from fog_world_model.errors import FogError


def picture(height: int = 480, width: int = 640, sigma: float = 3.0, seed: int = 0) -> Any:
    """Noise with details of a size, over the whole range of values."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise
    return np.asarray(cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def message(image: Any, suffix: str, name: str, *options: int) -> Any:
    shown = image if image.ndim == 2 else image[:, :, ::-1]
    _, data = cv2.imencode(suffix, np.ascontiguousarray(shown), list(options))
    return SimpleNamespace(format=name, data=memoryview(data.tobytes()))


def test_png_is_lossless() -> None:
    image = picture(48, 64)
    found = decode_compressed(message(image, ".png", "rgb8; png compressed bgr8"))
    np.testing.assert_array_equal(found, image)


def test_jpeg_is_near() -> None:
    image = picture(48, 64, sigma=4)
    found = decode_compressed(message(image, ".jpg", "jpeg", cv2.IMWRITE_JPEG_QUALITY, 95))
    assert found.shape == image.shape
    assert np.abs(found.astype(int) - image).mean() < 3  # red and blue are where they belong


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_grey_is_on_three_channels(suffix: str) -> None:
    found = decode_compressed(message(np.full((16, 24), 99, np.uint8), suffix, "mono8; png"))
    assert found.shape == (16, 24, 3)
    assert (found == 99).all()


def test_depth() -> None:
    depth = np.asarray([[0, 1000, DEPTH_RANGE_MM], [5000, 65535, 20]], np.uint16)
    found = decode_compressed(message(depth, ".png", "16UC1; png compressed"))
    np.testing.assert_array_equal(found[..., 0], [[0, 26, 255], [128, 255, 1]])
    assert (found == found[..., :1]).all()


def test_deep_colour_is_refused() -> None:
    with pytest.raises(FogError, match="16 bits are for depth, one channel"):
        decode_compressed(message(np.zeros((4, 4, 3), np.uint16), ".png", "rgb16; png"))


@pytest.mark.parametrize(
    ("size", "target"),
    [((480, 640), (64, 64)), ((1080, 1920), (64, 64)), ((720, 1280), (96, 96)), ((480, 640), 240)],
)
@pytest.mark.parametrize("sigma", [1.0, 3.0, 10.0])
def test_a_reduced_decode_is_near_the_whole(size: Any, target: Any, sigma: float) -> None:
    """The stated bounds: a mean of 2 of 255 levels on the finest texture, less on coarser."""
    height, width = target if isinstance(target, tuple) else (target, target)
    content = message(picture(*size, sigma), ".jpg", "jpeg", cv2.IMWRITE_JPEG_QUALITY, 90)
    whole = resize(decode_compressed(content), height, width).astype(int)
    found = shrink_compressed(content, height, width)
    assert found.shape == (height, width, 3)
    error = np.abs(found - whole)
    assert error.mean() <= {1.0: 2.0, 3.0: 1.0, 10.0: 0.6}[sigma]
    assert error.max() <= 12


def test_a_png_is_never_reduced() -> None:
    image = picture()
    content = message(image, ".png", "png")
    np.testing.assert_array_equal(shrink_compressed(content, 64, 64), resize(image, 64, 64))


def test_a_small_jpeg_is_not_reduced() -> None:
    """A third of the pixels in either direction must remain above the size wanted."""
    content = message(picture(380, 640), ".jpg", "jpeg")
    whole = resize(decode_compressed(content), 64, 64)
    np.testing.assert_array_equal(shrink_compressed(content, 64, 64), whole)


def test_compressed_depth_is_refused() -> None:
    content = SimpleNamespace(format="16UC1; compressedDepth png", data=bytes(12) + b"\x89PNG")
    with pytest.raises(FogError, match="compressedDepth is not supported; record the depth") as e:
        require_supported(content)
    assert not isinstance(e.value, DamagedPicture)


def test_another_format_is_refused() -> None:
    with pytest.raises(FogError, match="'webp': its 12 bytes are neither JPEG nor PNG") as error:
        decode_compressed(SimpleNamespace(format="webp", data=b"RIFF    WEBP"))
    assert not isinstance(error.value, DamagedPicture)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_cut_picture_is_damaged(suffix: str, keep: float) -> None:
    """OpenCV alone would fill the rest of a JPEG with grey."""
    whole = message(picture(120, 160), suffix, suffix[1:])
    content = SimpleNamespace(format=suffix[1:], data=whole.data[: int(len(whole.data) * keep)])
    with pytest.raises(DamagedPicture, match="a picture of"):
        shrink_compressed(content, 16, 16)


def test_bytes_after_the_end_are_fine() -> None:
    """USB cameras pad their pictures."""
    whole = message(picture(120, 160), ".jpg", "jpeg")
    padded = SimpleNamespace(format="jpeg", data=bytes(whole.data) + bytes(100))
    np.testing.assert_array_equal(decode_compressed(padded), decode_compressed(whole))
