"""How fast images get from a bag into a store, and how fast a plain loop reads them."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.highlevel import AnyReader

from fog_bringup.progress import Report, progress_bar
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.import_bag import single_threaded_opencv
from fog_world_model.data.import_bags import import_bags
from fog_world_model.data.messages import header, make, serialise
from fog_world_model.task import TaskConfig, task_from_dict

HEIGHT, WIDTH, SIZE = 480, 640, 64
CAMERA_HZ = 30.0
"""Also the control rate, so that every image becomes a step."""
EPISODE_STEPS = 300
QUALITY = 90
REPETITIONS = 3
_PICTURES = 30
"""Different images; they repeat."""
_BLOCK = 1 << 20


def measure(frames: int) -> dict[str, Any]:
    """Frames per second from bags of 640x480 images to stores of 64x64.

    The bags are made up for the purpose in a temporary folder: images, odometry and commands at
    30 Hz, the images raw in one bag and JPEG in the other. Every measurement is repeated in turn
    with the others, and the median counts. The files lie in the operating system's cache.

    Args:
        frames: Images in each bag.

    Returns:
        For ``raw`` and ``jpeg``: ``ours_fps``, the whole of :func:`import_bags` on all cores;
        ``plain_fps``, a loop on one core over rosbags' AnyReader that deserialises, decodes and
        resizes, and stores nothing; ``limit_fps``, for raw images all bytes of the bag read and
        nothing else, for JPEG ``cv2.imdecode`` alone on one core; ``times_plain`` and
        ``share_of_limit``, ours by either; ``one_core_fps``, ours with ``workers=1``. And
        ``frames``, ``cores``, ``raw_mb``, ``jpeg_mb``.
    """
    task = _task()
    pictures = _pictures()
    with tempfile.TemporaryDirectory(prefix="fog_import_") as name, progress_bar() as report:
        folder = Path(name)
        figures: dict[str, Any] = {"frames": frames, "cores": os.cpu_count() or 1}
        for kind in ("raw", "jpeg"):
            bag = folder / kind
            _record(bag, kind, pictures, frames, report)
            figures[f"{kind}_mb"] = sum(f.stat().st_size for f in bag.iterdir()) / 1e6
        for kind in ("raw", "jpeg"):
            figures[kind] = _compare(folder, kind, pictures, frames, task, report)
        return figures


def _compare(
    folder: Path,
    kind: str,
    pictures: list[npt.NDArray[np.uint8]],
    frames: int,
    task: TaskConfig,
    report: Report,
) -> dict[str, float]:
    bag = folder / kind
    encoded = [_jpeg(p) for p in pictures]

    def ours(workers: int) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            store = import_bags([bag], task, Path(output, "store"), workers=workers)
            # A cut hands on its last frame, so that each episode but the last shares one.
            assert int(store.lengths.sum()) - len(store.lengths) + 1 == frames

    runs: dict[str, Callable[[], object]] = {
        "ours_fps": lambda: ours(0),
        "one_core_fps": lambda: ours(1),
        "plain_fps": lambda: _plain(bag),
        "limit_fps": (lambda: _read(bag))
        if kind == "raw"
        else (lambda: [cv2.imdecode(encoded[i % _PICTURES], 1) for i in range(frames)]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    _read(bag)  # into the cache
    for repetition in range(REPETITIONS):
        for place, (name, run) in enumerate(runs.items()):
            report(f"measuring {kind}", repetition * len(runs) + place, REPETITIONS * len(runs))
            with single_threaded_opencv():
                begin = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begin)
    report(f"measuring {kind}", REPETITIONS * len(runs), REPETITIONS * len(runs))
    rates = {name: frames / statistics.median(times) for name, times in seconds.items()}
    rates["times_plain"] = rates["ours_fps"] / rates["plain_fps"]
    rates["share_of_limit"] = rates["ours_fps"] / rates["limit_fps"]
    return rates


def _plain(bag: Path) -> None:
    """What one writes first: every image deserialised, decoded and resized."""
    with AnyReader([bag]) as reader:
        chosen = [c for c in reader.connections if c.topic.startswith("/camera/image_raw")]
        for connection, _, data in reader.messages(connections=chosen):
            message: Any = reader.deserialize(data, connection.msgtype)
            if connection.msgtype == "sensor_msgs/msg/Image":
                image = message.data.reshape(message.height, message.width, 3)
            else:
                image = cv2.cvtColor(np.asarray(cv2.imdecode(message.data, 1)), cv2.COLOR_BGR2RGB)
            cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def _read(bag: Path) -> None:
    """All bytes of a bag, and nothing done with them."""
    block = bytearray(_BLOCK)
    for file in bag.iterdir():
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(block):
                pass


def _record(
    bag: Path, kind: str, pictures: list[npt.NDArray[np.uint8]], frames: int, report: Report
) -> None:
    encoded = [_jpeg(p) for p in pictures]
    with BagWriter(bag) as writer:
        for i in range(frames):
            now = 10**9 + round(i * 1e9 / CAMERA_HZ)
            picture = pictures[i % _PICTURES]
            if kind == "raw":
                topic, image = (
                    "/camera/image_raw",
                    make(
                        "sensor_msgs/msg/Image",
                        header=header(now, "camera"),
                        height=HEIGHT,
                        width=WIDTH,
                        encoding="rgb8",
                        step=3 * WIDTH,
                        data=picture.reshape(-1),
                    ),
                )
            else:
                topic, image = (
                    "/camera/image_raw/compressed",
                    make(
                        "sensor_msgs/msg/CompressedImage",
                        header=header(now, "camera"),
                        format="rgb8; jpeg compressed bgr8",
                        data=encoded[i % _PICTURES],
                    ),
                )
            odometry = make("nav_msgs/msg/Odometry", header=header(now, "odom"))
            command = make("geometry_msgs/msg/Twist")
            command.linear.x = float(np.sin(i / 10))
            for name, message in (("/odom", odometry), (topic, image), ("/cmd_vel", command)):
                writer.write(name, message.__msgtype__, serialise(message), now)
            if i % 50 == 0:
                report(f"recording {kind}", i, frames)
    report(f"recording {kind}", frames, frames)


def _pictures() -> list[npt.NDArray[np.uint8]]:
    """Textured pictures with some sensor noise, which JPEG compresses about as a camera's."""
    rng = np.random.default_rng(0)
    wide = np.zeros((HEIGHT, WIDTH + 8 * _PICTURES, 3), np.float32)
    for sigma in (2.0, 8.0, 32.0):
        layer = cv2.GaussianBlur(rng.normal(size=wide.shape).astype(np.float32), (0, 0), sigma)
        wide += np.asarray(layer, np.float32) / float(np.std(layer))
    scaled = 128 + 30 * wide
    return [
        np.clip(scaled[:, 8 * i : 8 * i + WIDTH] + rng.normal(0, 3, (HEIGHT, WIDTH, 1)), 0, 255)
        .astype(np.uint8)
        .copy()
        for i in range(_PICTURES)
    ]


def _jpeg(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    colours = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return np.asarray(data, np.uint8).reshape(-1)


def _task() -> TaskConfig:
    return task_from_dict(
        {
            "name": "import_benchmark",
            "control_hz": CAMERA_HZ,
            "image": {
                "topic": "/camera/image_raw",
                "camera_info_topic": "/camera/camera_info",
                "height": SIZE,
                "width": SIZE,
            },
            "proprioception": [
                {
                    "topic": "/odom",
                    "type": "nav_msgs/msg/Odometry",
                    "fields": ["twist.twist.linear.x", "twist.twist.angular.z"],
                }
            ],
            "action": {
                "topic": "/cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "angular.z"],
                "low": [-1.0, -1.0],
                "high": [1.0, 1.0],
            },
            "episode": {"max_steps": EPISODE_STEPS},
            "safety": {"slew_per_s": [1.0, 1.0]},
        }
    )
