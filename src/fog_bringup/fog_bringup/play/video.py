"""What was played, as a video that browsers show."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from fog_bringup.play.world import Image, PlayedContext, PlayedStep
from fog_bringup.store_export_mp4 import find_codec
from fog_world_model.task import TaskConfig

SIDE = 320
"""Smallest side of a picture in the video; a pixel becomes a square."""
_CAPTION = 44
"""Height of the text below the pictures."""
_GAP = 8


def encode_video(task: TaskConfig, context: PlayedContext, steps: Sequence[PlayedStep]) -> bytes:
    """Encode the context and every step, at the task's control rate.

    Steps that were replayed show the recorded picture on the left of the imagined one.

    Args:
        task: Gives the rate and the names of the action's fields.
        context: The recorded pictures that it began with.
        steps: What came then.

    Returns:
        An MP4 file (VP9 or H.264 where OpenCV has them).

    Raises:
        FogError: OpenCV has no encoder.
    """
    frames = film_frames(task, context, steps)
    first = next(frames)
    size = (first.shape[1], first.shape[0])
    with tempfile.TemporaryDirectory(prefix="fog-play-") as folder:
        code = cv2.VideoWriter.fourcc(*find_codec(Path(folder), size, task.control_hz))
        path = Path(folder) / "play.mp4"
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, task.control_hz, size)
        try:
            # One at a time: all of them enlarged would be gigabytes.
            for frame in itertools.chain([first], frames):
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        finally:
            writer.release()
        return path.read_bytes()


def film_frames(
    task: TaskConfig, context: PlayedContext, steps: Sequence[PlayedStep]
) -> Iterator[Image]:
    """The video's frames, all of one size with even sides."""
    beside = any(s.recorded_image is not None for s in steps)
    for index, image in enumerate(context.images):
        text = f"recorded, step {index - len(context.images) + 1}"
        yield _frame(image if beside else None, image, text)
    for step in steps:
        command = task.action.to_physical(step.action)
        text = f"imagined, step {step.step}   reward {step.reward:.2f}"
        if step.psnr_db is not None:
            text += f"   {step.psnr_db:.1f} dB"
        fields = zip(task.action.fields, command, strict=True)
        values = "   ".join(f"{name} {value:+.2f}" for name, value in fields)
        recorded = step.recorded_image
        if beside and recorded is None:
            recorded = np.zeros_like(step.image)
        yield _frame(recorded, step.image, text, values)


def _frame(left: Image | None, right: Image, *lines: str) -> Image:
    scale = math.ceil(SIDE / min(right.shape[:2]))
    pictures = [p.repeat(scale, 0).repeat(scale, 1) for p in (left, right) if p is not None]
    height = pictures[0].shape[0]
    gap = np.full((height, _GAP, 3), 24, np.uint8)
    row = np.concatenate([x for p in pictures for x in (gap, p)][1:], axis=1)
    caption = np.full((_CAPTION, row.shape[1], 3), 24, np.uint8)
    for number, line in enumerate(lines):
        place = (6, 17 + 19 * number)
        cv2.putText(caption, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1,
                    cv2.LINE_AA)  # fmt: skip
    frame = np.concatenate([row, caption])
    even = [-n % 2 for n in frame.shape[:2]]
    return np.pad(frame, ((0, even[0]), (0, even[1]), (0, 0)))
