"""Where the images of training windows come from: memory, or the chunks of a store on disk.

Both give the same pixels for the same rows. Memory is the faster one and takes a split's images
as they are; the disk takes a bounded amount of memory whatever the size of the store, and reads
ahead in threads of its own, so that a training step does not wait for the next batch.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import psutil

from fog_world_model.data.episodes import EpisodeStore, Place
from fog_world_model.errors import FogError

Images = npt.NDArray[np.uint8]
"""``[time, channel, height, width]``"""
Rows = npt.NDArray[np.int64]

CACHE_BYTES = 256 * 2**20
"""Decoded images that are kept when a split is read from disk."""
SHARE_OF_MEMORY = 0.5
"""Of the available memory; a split that takes more is read from disk."""
_BLOCK_ROWS = 2048
"""Rows read at once while a split goes into memory."""
_GAP_ROWS = 256
"""Rows of the other split that are read along with a block rather than left out."""


class ImageSource(Protocol):
    """Images by the rows of a store."""

    def windows(self, first_rows: Rows, length: int) -> Sequence[Images]:
        """``length`` consecutive images from each of the rows; do not write to them.

        Raises:
            FogError: The store is damaged.
        """
        ...

    def expect(self, batches: Sequence[Rows], length: int) -> None:
        """Say which windows will be asked for next, in order; earlier expectations are void."""
        ...

    @property
    def ahead(self) -> int:
        """How many batches it is of use to say beforehand."""
        ...


def image_source(store: EpisodeStore, split: str, place: Place | None = None) -> ImageSource:
    """Open the images of a split where they are best read from.

    Args:
        store: Where the episodes are.
        split: ``training`` or ``validation``.
        place: ``ram``, ``disk``, or ``auto``, which is ``ram`` when the split's images take less
            than half of the memory that is available now, within the limits of a container.
            By default what the store was opened with.

    Raises:
        FogError: ``place`` is none of these, or the images cannot be read.
    """
    place = place or store.images_from
    if place not in ("auto", "ram", "disk"):
        raise FogError(f"images from '{place}': expected auto, ram or disk")
    if place == "auto":
        fits = image_bytes(store, split) < SHARE_OF_MEMORY * available_bytes()
        place = "ram" if fits or ImagesInMemory.holds(store, split) else "disk"
    return ImagesInMemory.of(store, split) if place == "ram" else ImagesOnDisk(store)


def image_bytes(store: EpisodeStore, split: str) -> int:
    """Size of a split's images in memory, bytes."""
    image = store.task.image
    return int(store.lengths[store.split(split)].sum()) * image.height * image.width * 3


def available_bytes(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can be used without swapping: the machine's, or less in a limited container.

    Args:
        control_group: Where version 2 of Linux's control groups shows the limit of this process's
            container.
    """
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((control_group / "memory.max").read_text())
        used = int((control_group / "memory.current").read_text())
        # Cached files count as used, and are given back when memory is short.
        statistics = (control_group / "memory.stat").read_text().split()
        cached = int(statistics[statistics.index("inactive_file") + 1])
    except (OSError, ValueError, IndexError):  # no control groups, or the limit is "max"
        return available
    return max(0, min(available, limit - used + cached))


class ImagesInMemory:
    """The images of a split, uint8 with the channel first, so that none is turned twice.

    Samplers of the same open store and split share them.
    """

    ahead = 0
    _shared: ClassVar[WeakKeyDictionary[EpisodeStore, dict[str, ImagesInMemory]]] = (
        WeakKeyDictionary()
    )

    @classmethod
    def of(cls, store: EpisodeStore, split: str) -> ImagesInMemory:
        """Read a split, unless it has been read already.

        Raises:
            FogError: The store is damaged.
        """
        known = cls._shared.setdefault(store, {})
        if split not in known:
            known[split] = cls(store, split)
        return known[split]

    @classmethod
    def holds(cls, store: EpisodeStore, split: str) -> bool:
        """Whether a split has been read already."""
        return split in cls._shared.get(store, {})

    def __init__(self, store: EpisodeStore, split: str) -> None:
        """Read a split.

        Raises:
            FogError: The store is damaged.
        """
        episodes = store.split(split)
        # In the order of the store, so that a row is found by bisection.
        episodes = episodes[np.argsort(store.starts[episodes], kind="stable")]
        self._starts, lengths = store.starts[episodes], store.lengths[episodes]
        self._places = np.cumsum(lengths) - lengths
        rows = np.repeat(self._starts - self._places, lengths) + np.arange(lengths.sum())
        image = store.task.image
        self._images = np.empty((len(rows), 3, image.height, image.width), np.uint8)
        done = 0
        for first, stop in _blocks(rows):
            block = store.load("image", first, stop)
            wanted = rows[done : np.searchsorted(rows, stop)] - first
            self._images[done : done + len(wanted)] = block[wanted].transpose(0, 3, 1, 2)
            done += len(wanted)

    def windows(self, first_rows: Rows, length: int) -> Sequence[Images]:
        """Views of the images in memory."""
        episode = np.searchsorted(self._starts, first_rows, side="right") - 1
        places = self._places[episode] + first_rows - self._starts[episode]
        return [self._images[p : p + length] for p in places]

    def expect(self, batches: Sequence[Rows], length: int) -> None:
        """Nothing to prepare."""


def _blocks(rows: Rows) -> Iterator[tuple[int, int]]:
    """Ranges of a store that hold all of the ascending rows, and no wide gap between them.

    Whole blocks are read at once because most chunks hold rows of several episodes.
    """
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > _GAP_ROWS) + 1):
        done = 0
        while done < len(run):
            first = int(run[done])
            done = int(np.searchsorted(run, first + _BLOCK_ROWS))
            yield first, int(run[done - 1]) + 1


class ImagesOnDisk:
    """Images read chunk by chunk when they are needed, or a little earlier.

    A chunk is read once for all windows of a batch that touch it, and the chunks used last stay
    decoded. Memory: ``cache_bytes``, and at most ``ahead + 1`` batches.
    """

    def __init__(
        self, store: EpisodeStore, *, cache_bytes: int = CACHE_BYTES, workers: int = 0
    ) -> None:
        """Open the images.

        Args:
            store: Where they are.
            cache_bytes: Decoded chunks that are kept.
            workers: Threads that read ahead; 0: as many as there are processors, at most 4.
        """
        image = store.task.image
        self._shape = (3, image.height, image.width)
        self._store = store
        self._borders = store.array("image").chunk_borders
        self._room = cache_bytes
        self._cache: OrderedDict[int, Images] = OrderedDict()
        self._lock = threading.Lock()
        workers = workers or min(os.cpu_count() or 1, 4)
        self.ahead = workers + 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self._expected: dict[tuple[bytes, int], Future[Images]] = {}

    def expect(self, batches: Sequence[Rows], length: int) -> None:
        """Begin to read windows."""
        wanted = {(rows.tobytes(), length): rows for rows in batches}
        for key in [k for k in self._expected if k not in wanted]:
            self._expected.pop(key).cancel()
        for key, rows in wanted.items():
            if key not in self._expected:
                self._expected[key] = self._pool.submit(self._gather, rows, length)

    def windows(self, first_rows: Rows, length: int) -> Sequence[Images]:
        """Windows that were expected, or are read now."""
        expected = self._expected.pop((first_rows.tobytes(), length), None)
        return list(expected.result() if expected else self._gather(first_rows, length))

    def _gather(self, first_rows: Rows, length: int) -> npt.NDArray[np.uint8]:
        """Read and cut out windows, ``[window, time, channel, height, width]``."""
        found = np.empty((len(first_rows), length, *self._shape), np.uint8)
        touched: dict[int, list[int]] = {}
        first_chunks = np.searchsorted(self._borders, first_rows, side="right") - 1
        last_chunks = np.searchsorted(self._borders, first_rows + length - 1, side="right") - 1
        for window, (first, last) in enumerate(zip(first_chunks, last_chunks, strict=True)):
            for chunk in range(first, last + 1):
                touched.setdefault(chunk, []).append(window)
        for chunk in sorted(touched):
            images = self._chunk(chunk)
            for window in touched[chunk]:
                # Where the chunk's first row is, seen from the window's.
                place = int(self._borders[chunk] - first_rows[window])
                first, last = max(place, 0), min(place + len(images), length)
                part = images[first - place : last - place]
                found[window, first:last] = part.transpose(0, 3, 1, 2)
        return found

    def _chunk(self, chunk: int) -> Images:
        """A decoded chunk, ``[row, height, width, channel]``."""
        with self._lock:
            if chunk in self._cache:
                self._cache.move_to_end(chunk)
                return self._cache[chunk]
        # Two threads may read the same chunk at the same time: rarely, and to no harm.
        images = self._read(chunk)
        with self._lock:
            self._room += self._cache.pop(chunk, images[:0]).nbytes
            self._cache[chunk] = images
            self._room -= images.nbytes
            while self._room < 0:
                self._room += self._cache.popitem(last=False)[1].nbytes
        return images

    def _read(self, chunk: int) -> Images:
        start, stop = self._borders[chunk : chunk + 2]
        return self._store.load("image", int(start), int(stop))
