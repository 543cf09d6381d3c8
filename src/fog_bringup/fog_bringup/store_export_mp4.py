"""An episode store as videos, one for each episode, that browsers play."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fog_bringup.export_folder import export_folder
from fog_bringup.progress import Report
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError

CODECS = {"vp09": "VP9", "avc1": "H.264", "mp4v": "MPEG-4 Part 2"}
"""Code -> name, in the order of preference: what OpenCV was built with differs. The first two are
played by browsers. VP9 comes before H.264 because OpenCV's wheels have it."""
IN_BROWSERS = ("vp09", "avc1")
MIN_SIDE = 128
"""Smaller pictures are enlarged by a whole number: codecs store colour at half the resolution, and
a picture of 32 pixels would lose most of it."""

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ExportedVideos:
    """What was written."""

    folder: Path
    episodes: int
    codec: str
    """Name of the codec."""
    in_browsers: bool
    """Whether browsers play it."""
    worst_psnr_db: float
    """Peak signal-to-noise ratio of the worst episode, decoded again."""


def export_mp4(store: EpisodeStore, output: Path, progress: Report | None = None) -> ExportedVideos:
    """Write ``episode-000000.mp4`` and so on, and ``episodes.json``, which says what they are.

    Each file is read again: it must have every frame, and the likeness is measured. Frames are
    shown at the task's control rate; their measured stamps are in ``episodes.json``.

    Args:
        store: What to export.
        output: Folder to write; it must not exist.
        progress: Told about every episode.

    Raises:
        FogError: ``output`` exists or cannot be written, OpenCV has no encoder, a file lacks
            frames, or the store is damaged.
    """
    with export_folder(output) as part:
        part.mkdir(parents=True)
        return _write(store, part, output, progress)


def _write(
    store: EpisodeStore, folder: Path, output: Path, progress: Report | None
) -> ExportedVideos:
    image, rate = store.task.image, store.task.control_hz
    scale = math.ceil(MIN_SIDE / min(image.height, image.width))
    codec = find_codec(folder, (scale * image.width, scale * image.height), rate)
    found: list[dict[str, Any]] = []
    for index, entry in enumerate(store.episodes):
        episode = store.episode(index)
        path = folder / f"episode-{index:06d}.mp4"
        write_video(path, episode.image, rate, codec, scale)
        found.append(
            {
                "file": path.name,
                "source": entry.source,
                "outcome": entry.outcome,
                "split": "validation" if entry.held_out else "training",
                "frames": len(episode),
                "return": float(episode.reward.sum()),
                "psnr_db": _check(path, episode.image, scale, output / path.name),
                "stamp_ns": episode.stamp_ns.tolist(),
            }
        )
        if progress is not None:
            progress("exporting", index + 1, len(store.episodes))
    content = {
        "task": store.task.name,
        "data_hash": store.data_hash,
        "codec": CODECS[codec],
        "frames_per_second": rate,
        "enlarged": scale,
        "episodes": found,
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    (folder / "episodes.json").write_text(text, encoding="utf-8")
    worst = min(e["psnr_db"] for e in found)
    return ExportedVideos(output, len(found), CODECS[codec], codec in IN_BROWSERS, worst)


def find_codec(folder: Path, size: tuple[int, int], rate_hz: float) -> str:
    """The best codec that this build of OpenCV encodes, found by trying.

    Args:
        folder: Where to try.
        size: Width and height.
        rate_hz: Frames per second.

    Raises:
        FogError: There is none.
    """
    path = folder / "codec.mp4"
    try:
        for codec in CODECS:
            writer = _open(path, codec, size, rate_hz)
            usable = writer.isOpened()
            writer.release()
            if usable:
                return codec
    finally:
        path.unlink(missing_ok=True)
    raise FogError(
        f"--format mp4: this OpenCV ({cv2.__version__}) encodes none of "
        f"{', '.join(CODECS.values())}; install the opencv-python wheel of requirements/runtime.txt"
    )


def _open(path: Path, codec: str, size: tuple[int, int], rate_hz: float) -> cv2.VideoWriter:
    code = cv2.VideoWriter.fourcc(*codec)
    return cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate_hz, size)


def write_video(path: Path, images: Images, rate_hz: float, codec: str, scale: int = 1) -> None:
    """Encode a video.

    Args:
        path: File to write.
        images: ``[time, height, width, 3]`` RGB.
        rate_hz: Frames per second.
        codec: Of :data:`CODECS`.
        scale: Each pixel becomes a square of this side.
    """
    height, width = images.shape[1:3]
    writer = _open(path, codec, (scale * width, scale * height), rate_hz)
    try:
        for image in images:
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            writer.write(cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()


def read_video(path: Path, scale: int = 1) -> Images:
    """Decode a video, ``[time, height, width, 3]`` RGB.

    Args:
        path: File to read.
        scale: Squares of this side become one pixel, their mean.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    images = []
    try:
        while True:
            there, image = capture.read()
            if not there:
                break
            size = (image.shape[1] // scale, image.shape[0] // scale)
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            images.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()
    return np.asarray(images, np.uint8)


def psnr_db(images: Images, others: Images) -> float:
    """Peak signal-to-noise ratio, at most 100 dB, which stands for equality."""
    error = float(np.mean((images.astype(np.float64) - others) ** 2))
    return 10 * math.log10(255.0**2 / max(error, 255.0**2 * 1e-10))


def _check(path: Path, images: Images, scale: int, name: Path) -> float:
    """Decode a video again; how much it is like what was encoded, dB."""
    decoded = read_video(path, scale)
    if decoded.shape != images.shape:
        raise FogError(
            f"video {name}: has {len(decoded)} frames when it is read again, {len(images)} were "
            "written; the disk may be full, or this OpenCV's encoder is broken"
        )
    return psnr_db(images, decoded)
