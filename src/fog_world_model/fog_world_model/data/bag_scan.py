"""Two passes over a bag: where its messages are and when they were made, then those that are used.

The first pass looks at heads alone. The second hands each wanted message to a function, in threads
where that pays. Uncompressed or chunk-compressed MCAP files with an index are read chunk by chunk
(:mod:`fog_world_model.data.mcap_chunks`); everything else goes through the bag reader.
"""

from __future__ import annotations

import functools
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.mcap_chunks import DamagedChunk, McapChunks
from fog_world_model.data.message_head import Buffer
from fog_world_model.errors import FogError

Result = TypeVar("Result")
IntArray = npt.NDArray[np.int64]
WHOLE = 2**62
"""Bytes needed of a message that is to be seen as a whole."""
_BATCH_BYTES = 4_000_000
"""Work that one task of a thread takes on, where messages come one by one."""


@dataclass(frozen=True)
class Look:
    """What the first pass does with the messages of a topic."""

    needed: int
    """Bytes wanted of each message."""
    see: Callable[[int, Buffer], None]
    """Called with the arrival in ns and at least the needed bytes, in no particular order over
    topics; the arrays of :class:`Places` have the same order."""


@dataclass(frozen=True)
class Places:
    """The messages of a topic, in the order in which they lie in the bag."""

    log_ns: IntArray
    """``[message]``: arrivals."""
    unit: IntArray
    """``[message]``: which chunk holds it; 0 without chunks."""
    start: IntArray
    """``[message]``: first byte in the chunk, or its number without chunks."""
    length: IntArray
    """``[message]``: bytes."""


class BagScan:
    """Both passes over one open bag; use it as a context manager."""

    def __init__(self, bag: BagReader) -> None:
        """Prepare to read.

        Args:
            bag: Stays open for as long as this object is used.
        """
        self._bag = bag
        self._stack = ExitStack()
        self._files: list[McapChunks] = []
        modes = ("(file)", "(message)")
        if all(f.suffix == ".mcap" for f in bag.files) and not bag.compression.endswith(modes):
            try:
                for path in bag.files:
                    if path.stat().st_size:
                        self._files.append(McapChunks(path))
                        self._stack.callback(self._files[-1].close)
            except Exception:  # whatever ails it, the bag reader says it better
                self._stack.close()
                self._files = []
        self._units = [(file, number) for file in self._files for number in range(len(file))]

    def __enter__(self) -> BagScan:
        """Return the scan."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self._stack.close()

    def look(self, looks: Mapping[str, Look]) -> dict[str, Places]:
        """First pass.

        Args:
            looks: Topic -> what to do with its messages.

        Raises:
            FogError: The bag is damaged; what the functions raise, with the topic's name.
        """
        table: dict[str, _Columns] = {topic: _Columns() for topic in looks}
        for topic, log_ns, unit, start, length, head in self._heads(looks):
            try:
                looks[topic].see(log_ns, head)
            except FogError as error:
                raise self._about(topic, error) from error
            table[topic].append(log_ns, unit, start, length)
        counts = self._bag.counts
        for topic, columns in table.items():
            if len(columns) != counts.get(topic, 0):
                raise FogError(
                    f"bag {self._bag.path}: damaged: topic {topic} has {len(columns)} of "
                    f"{counts.get(topic, 0)} messages; `fog bag recover` may save the rest"
                )
        return {topic: columns.places() for topic, columns in table.items()}

    def _heads(self, looks: Mapping[str, Look]) -> Iterator[tuple[str, int, int, int, int, Buffer]]:
        if not self._files:
            numbers = dict.fromkeys(looks, 0)
            for message in self._bag.messages(list(looks)):
                topic = message.topic
                yield topic, message.log_ns, 0, numbers[topic], len(message.data), message.data
                numbers[topic] += 1
            return
        for unit, (file, number) in enumerate(self._units):
            needed = {c: looks[t].needed for c, t in file.topics.items() if t in looks}
            try:
                for channel, log_ns, start, length, head in file.heads(number, needed):
                    yield file.topics[channel], log_ns, unit, start, length, head
            except (DamagedChunk, OSError) as error:
                raise self._damaged(error) from error

    def fetch(
        self,
        places: Mapping[str, Places],
        wanted: Mapping[str, IntArray],
        work: Callable[[str, Buffer], Result],
        threads: int,
    ) -> Iterator[tuple[str, int, Result]]:
        """Second pass.

        Args:
            places: From the first pass.
            wanted: Topic -> ascending numbers of messages, as in ``places``.
            work: Called with a topic and a message, from several threads at once.
            threads: How many.

        Yields:
            Topic, number of the message, and what ``work`` returned, in the order of the bag.

        Raises:
            FogError: The bag is damaged; what ``work`` raises, with the topic's name.
        """
        jobs = (
            self._chunk_jobs(places, wanted, work)
            if self._files
            else self._batch_jobs(wanted, work)
        )
        yield from _in_order(jobs, threads)

    def _chunk_jobs(
        self,
        places: Mapping[str, Places],
        wanted: Mapping[str, IntArray],
        work: Callable[[str, Buffer], Result],
    ) -> Iterator[Callable[[], list[tuple[str, int, Result]]]]:
        """A job is some chunks; also those without wanted messages, to test their checksums."""
        borders = np.arange(len(self._units) + 1)
        cuts = {
            topic: np.searchsorted(places[topic].unit[numbers], borders)
            for topic, numbers in wanted.items()
        }
        batch: list[tuple[int, list[tuple[str, int, int, int]]]] = []
        size = 0
        for unit, (file, number) in enumerate(self._units):
            items = [
                (topic, int(k), int(places[topic].start[k]), int(places[topic].length[k]))
                for topic, cut in cuts.items()
                for k in wanted[topic][cut[unit] : cut[unit + 1]]
            ]
            batch.append((unit, items))
            size += file.size(number)
            if size >= _BATCH_BYTES:
                yield functools.partial(self._chunks, batch, work)
                batch, size = [], 0
        yield functools.partial(self._chunks, batch, work)

    def _chunks(
        self,
        batch: list[tuple[int, list[tuple[str, int, int, int]]]],
        work: Callable[[str, Buffer], Result],
    ) -> list[tuple[str, int, Result]]:
        results = []
        for unit, items in batch:
            file, number = self._units[unit]
            try:
                records = file.records(number)
            except (DamagedChunk, OSError) as error:
                raise self._damaged(error) from error
            results += [
                (topic, k, self._do(work, topic, records[start : start + length]))
                for topic, k, start, length in items
            ]
        return results

    def _batch_jobs(
        self, wanted: Mapping[str, IntArray], work: Callable[[str, Buffer], Result]
    ) -> Iterator[Callable[[], list[tuple[str, int, Result]]]]:
        """Messages come one by one from the bag reader; a job is some of them."""
        numbers = dict.fromkeys(wanted, 0)
        nexts = dict.fromkeys(wanted, 0)
        batch: list[tuple[str, int, bytes]] = []
        size = 0

        def job(items: list[tuple[str, int, bytes]]) -> list[tuple[str, int, Result]]:
            return [(t, k, self._do(work, t, data)) for t, k, data in items]

        for message in self._bag.messages(list(wanted)):
            topic = message.topic
            number, place = numbers[topic], nexts[topic]
            numbers[topic] += 1
            if place == len(wanted[topic]) or wanted[topic][place] != number:
                continue
            nexts[topic] += 1
            batch.append((topic, number, message.data))
            size += len(message.data)
            if size >= _BATCH_BYTES or len(batch) >= 256:
                yield functools.partial(job, batch)
                batch, size = [], 0
        yield functools.partial(job, batch)

    def _do(self, work: Callable[[str, Buffer], Result], topic: str, data: Buffer) -> Result:
        try:
            return work(topic, data)
        except FogError as error:
            raise self._about(topic, error) from error

    def _about(self, topic: str, error: FogError) -> FogError:
        return FogError(f"bag {self._bag.path}: topic {topic}: {error}")

    def _damaged(self, error: Exception) -> FogError:
        return FogError(
            f"bag {self._bag.path}: damaged or cut: {error}; `fog bag recover` may save the rest"
        )


class _Columns:
    """Growing columns of integers: 32 bytes a message, where a list of tuples takes 200."""

    def __init__(self) -> None:
        self._columns = tuple(array("q") for _ in range(4))

    def __len__(self) -> int:
        return len(self._columns[0])

    def append(self, *values: int) -> None:
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)

    def places(self) -> Places:
        return Places(*(np.frombuffer(c, np.int64) if c else np.zeros(0, np.int64)
                        for c in self._columns))  # fmt: skip


def _in_order(jobs: Iterable[Callable[[], list[Any]]], threads: int) -> Iterator[Any]:
    """Run jobs in threads, a bounded number of them ahead, and yield their results in order."""
    if threads <= 1:
        for job in jobs:
            yield from job()
        return
    stopped = threading.Event()

    def run(job: Callable[[], list[Any]]) -> list[Any]:
        return [] if stopped.is_set() else job()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="import")
    pending: deque[Future[list[Any]]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(run, job))
            if len(pending) > 2 * threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
