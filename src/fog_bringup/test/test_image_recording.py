"""Images on their way into a bag: what OpenCV reads back is what the camera sent."""

from __future__ import annotations

import threading
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_bringup import image_recording
from fog_bringup.image_recording import COMPRESSED_IMAGE, IMAGE, ImageEncoder, compress, size_of
from fog_world_model.data import messages
from fog_world_model.errors import FogError

STAMP_NS = 1_700_000_000_123_456_789
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "16UC1": 2}
"""Encoding -> bytes of a pixel."""


def image(encoding: str, *, width: int = 31, height: int = 22, padding: int = 5) -> Any:
    step = width * CHANNELS[encoding] + padding
    data = np.random.default_rng(3).integers(0, 256, height * step).astype(np.uint8)
    return messages.make(
        IMAGE,
        header=messages.header(STAMP_NS, "camera"),
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        data=data,
    )


def pixels(message: Any) -> np.ndarray[Any, Any]:
    """``[height, width, byte]`` without padding."""
    rows = message.data.reshape(message.height, message.step)
    return rows[:, : message.width * CHANNELS[message.encoding]].reshape(
        message.height, message.width, -1
    )


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb8", [2, 1, 0]), ("bgr8", [0, 1, 2]), ("rgba8", [2, 1, 0]), ("bgra8", [0, 1, 2])],
)
def test_png_keeps_every_pixel(encoding: str, order: list[int]) -> None:
    sent = image(encoding)
    packed = messages.deserialise(compress(messages.serialise(sent), "png"), COMPRESSED_IMAGE)
    assert packed.format == f"{encoding}; png compressed bgr8"
    assert messages.header_stamp_ns(packed) == STAMP_NS
    assert packed.header.frame_id == "camera"
    shown = cv2.imdecode(packed.data, cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(shown, pixels(sent)[:, :, order])


def test_png_keeps_grey_and_depth() -> None:
    sent = image("mono8")
    packed = messages.deserialise(compress(messages.serialise(sent), "png"), COMPRESSED_IMAGE)
    assert packed.format == "mono8; png compressed mono8"
    np.testing.assert_array_equal(
        cv2.imdecode(packed.data, cv2.IMREAD_UNCHANGED), pixels(sent)[:, :, 0]
    )
    sent = image("16UC1")
    for big in (0, 1):
        sent.is_bigendian = big
        packed = messages.deserialise(compress(messages.serialise(sent), "png"), COMPRESSED_IMAGE)
        low, high = pixels(sent)[:, :, big], pixels(sent)[:, :, 1 - big]
        np.testing.assert_array_equal(
            cv2.imdecode(packed.data, cv2.IMREAD_UNCHANGED), low + 256 * high.astype(np.uint16)
        )


def test_jpeg_is_close_and_quality_counts() -> None:
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    sent = image("rgb8", width=64, height=48, padding=0)
    sent.data = np.stack([x * 4, y * 5, x + y], axis=2).astype(np.uint8).reshape(-1)
    sizes = []
    for quality in (95, 20):
        content = compress(messages.serialise(sent), "jpeg", quality)
        packed = messages.deserialise(content, COMPRESSED_IMAGE)
        assert packed.format == "rgb8; jpeg compressed bgr8"
        shown = cv2.imdecode(packed.data, cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.abs(shown.astype(int) - pixels(sent)).mean() < (2 if quality == 95 else 8)
        sizes.append(len(packed.data))
    assert sizes[1] < sizes[0] < 64 * 48 * 3


@given(
    frame=st.text(st.characters(max_codepoint=127, min_codepoint=32), max_size=9),
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
)
@settings(max_examples=40, deadline=None)
def test_the_size_is_read_without_decoding(frame: str, width: int, height: int) -> None:
    message = messages.make(
        IMAGE, header=messages.header(STAMP_NS, frame), width=width, height=height
    )
    assert size_of(messages.serialise(message), IMAGE) == (width, height)


@pytest.mark.parametrize(
    ("spoil", "image_format", "expected"),
    [
        (lambda m: setattr(m, "encoding", "bayer_rggb8"), "png", "bayer_rggb8"),
        (lambda m: setattr(m, "data", m.data[:-10]), "png", "bytes"),
        (lambda m: setattr(m, "encoding", "16UC1"), "jpeg", "JPEG cannot hold 16UC1"),
    ],
)
def test_what_cannot_be_compressed_is_named(
    spoil: Any, image_format: Literal["jpeg", "png"], expected: str
) -> None:
    message = image("rgb8")
    spoil(message)
    with pytest.raises(FogError, match=expected):
        compress(messages.serialise(message), image_format)
    assert size_of(b"\x00\x01\x00\x00", IMAGE) is None
    for chosen in ("jpeg", "png"):
        packed = compress(messages.serialise(image("rgb8")), chosen)
        assert size_of(packed, COMPRESSED_IMAGE) == (31, 22)


def test_encoders_that_are_behind_take_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def slow(data: bytes, image_format: str, quality: int) -> bytes:
        release.wait(20.0)
        return data

    monkeypatch.setattr(image_recording, "compress", slow)
    encoder = ImageEncoder("png", workers=2, depth=5)
    taken = [encoder.submit(bytes([k])) for k in range(7)]
    assert [future is None for future in taken] == [False] * 5 + [True] * 2
    assert encoder.waiting == 5
    release.set()
    assert [f.result() for f in taken if f is not None] == [bytes([k]) for k in range(5)]
    assert encoder.submit(b"x") is not None, "there is room again"
    encoder.close()
