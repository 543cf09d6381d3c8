"""How fast training windows come from memory and from the disk, and how fast a plain loop is."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fog_bringup.progress import Report, progress_bar
from fog_bringup.tasks import find_task
from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.data.image_sources import ImagesOnDisk
from fog_world_model.data.windows import WindowSampler, to_float_image

TASK = "push_cube"
"""Its images are 64x64."""
EPISODES, STEPS = 160, 150
"""24,000 frames: 295 MB decoded, several times the cache that the measurement gets."""
BATCH, LENGTH = 32, 20
CACHE_BYTES = 64 * 2**20
_ROUND_S = 1.0
"""The operating system's copies of the files are dropped this often."""


def measure(seconds: float) -> dict[str, Any]:
    """Frames per second in windows of 20, as float tensors in the models' layout.

    The store is made up for the purpose in a temporary folder. From disk the operating system is
    told to forget the files before every second of the measurement; that, and the time that the
    plain loop takes to open arrays, is not counted.

    Args:
        seconds: Length of each measurement.

    Returns:
        ``ram_fps`` and ``disk_fps``; ``plain_ram_fps`` and ``plain_disk_fps``, the same windows
        with array indexing and one read for each window; ``disk_cached_fps``, from disk when the
        operating system may keep the files; ``first_batch_s`` of a sampler that reads from disk;
        and what was read: ``frames``, ``store_mb``, ``decoded_mb``, ``cache_mb``, ``batch``,
        ``length``.
    """
    with tempfile.TemporaryDirectory(prefix="fog_loader_") as folder, progress_bar() as report:
        store = _make_store(Path(folder) / "store", report)
        files = [f for f in store.path.rglob("*") if f.is_file()]
        names = ("ram", "plain_ram", "disk", "disk_cached", "plain_disk")

        def rate(name: str, sample: Callable[[], object], drop: bool = False) -> float:
            report("measuring", names.index(name), len(names))
            return _frames_per_second(sample, seconds, files if drop else [])

        memory = WindowSampler(store, length=LENGTH, images="ram")
        figures = {
            "ram_fps": rate("ram", lambda: memory.sample(BATCH)),
            "plain_ram_fps": rate("plain_ram", _plain_memory(store)),
        }
        _forget(files)
        begin = time.perf_counter()
        images = ImagesOnDisk(EpisodeStore(store.path), cache_bytes=CACHE_BYTES)
        disk = WindowSampler(store, length=LENGTH, images=images)
        disk.sample(BATCH)
        figures["first_batch_s"] = time.perf_counter() - begin
        figures["disk_fps"] = rate("disk", lambda: disk.sample(BATCH), drop=True)
        figures["disk_cached_fps"] = rate("disk_cached", lambda: disk.sample(BATCH))
        figures["plain_disk_fps"] = rate("plain_disk", _plain_disk(store), drop=True)
        report("measuring", len(names), len(names))
        frames = int(store.lengths.sum())
        image = store.task.image
        return {
            **figures,
            "frames": frames,
            "store_mb": sum(f.stat().st_size for f in files) / 1e6,
            "decoded_mb": frames * image.height * image.width * 3 / 1e6,
            "cache_mb": CACHE_BYTES / 1e6,
            "batch": BATCH,
            "length": LENGTH,
        }


def _frames_per_second(sample: Callable[[], object], seconds: float, files: list[Path]) -> float:
    """Rate of a function that makes a batch; ``files`` are dropped from memory every second."""
    batches, spent = 0, 0.0
    while spent < seconds:
        _forget(files)
        begin = time.perf_counter()
        while (now := time.perf_counter() - begin) < min(_ROUND_S, seconds - spent):
            sample()
            batches += 1
        spent += now
    return batches * BATCH * LENGTH / spent


def _forget(files: list[Path]) -> None:
    """Have the operating system drop its copies of the files, so that they are read again."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _plain_memory(store: EpisodeStore) -> Callable[[], object]:
    """Index the array of all images, then convert."""
    images = store.column("image")
    places = _places(store)

    def sample() -> object:
        rows = next(places)[:, None] + np.arange(LENGTH)
        return to_float_image(torch.from_numpy(images[rows]))

    return sample


def _plain_disk(store: EpisodeStore) -> Callable[[], object]:
    """Read each window by itself, then convert."""
    array = store.array("image")
    places = _places(store)

    def sample() -> object:
        windows = [array[row : row + LENGTH] for row in next(places)]
        return to_float_image(torch.from_numpy(np.stack(windows)))

    return sample


def _places(store: EpisodeStore) -> Iterator[npt.NDArray[np.int64]]:
    """First rows of random windows, batch after batch."""
    generator = np.random.default_rng(0)
    while True:
        episodes = generator.integers(len(store.lengths), size=BATCH)
        inside = generator.integers(0, store.lengths[episodes] - LENGTH + 1)
        yield store.starts[episodes] + inside


def _make_store(path: Path, report: Report) -> EpisodeStore:
    """Episodes that compress about as recordings do: areas that move, and noise of a camera."""
    task = find_task(TASK)
    generator = np.random.default_rng(0)
    with EpisodeWriter(path, task) as writer:
        for number in range(EPISODES):
            length = STEPS
            writer.append(
                Episode(
                    image=_pictures(length, task.image.height, task.image.width, generator),
                    proprioception=generator.normal(size=(length, task.proprioception_size)).astype(
                        np.float32
                    ),
                    action=generator.uniform(-1, 1, (length, task.action_size)).astype(np.float32),
                    reward=generator.uniform(0, 1, length).astype(np.float32),
                    end=np.zeros(length, np.bool_),
                    stamp_ns=(np.arange(length) + 1000 * number) * task.period_ns,
                ),
                source=f"made up#{number}",
            )
            report("making a store", number + 1, EPISODES)
        return writer.finish(validation_fraction=0.1, report={})


def _pictures(
    length: int, height: int, width: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """A floor, a horizon and a square that move, with noise; ``[time, height, width, 3]``."""
    y, x = np.mgrid[:height, :width]
    shift = np.cumsum(generator.integers(-2, 3, length))[:, None, None]
    floor = 60 + 2 * y + 20 * ((x + shift) // 8 % 2)
    picture = np.stack([floor, floor + 20, 200 - floor // 2], axis=-1)
    square = (np.abs(x + shift - width // 2) < 6) & (np.abs(y - height // 2) < 6)
    picture[square] = (200, 40, 30)
    noise = generator.integers(0, 5, picture.shape, dtype=np.int64)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)
