"""One recording in the making: a queue, a thread that writes it, and one that syncs the file."""

from __future__ import annotations

import datetime
import json
import queue
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Final, NamedTuple

from fog_bringup.image_recording import ImageEncoder
from fog_bringup.recording_account import TopicAccount, irregularities
from fog_bringup.recording_stream import Stream
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.durable import sync_file
from fog_world_model.errors import FogError

_TICK_S: Final = 0.1
"""How often the writer is asked whether what it holds is due to be flushed."""
_SYNC_S: Final = 0.7
"""Time between two syncs of the file."""
_FIRST_NOTE_S: Final = 1.0
_NOTE_S: Final = 20.0
"""When the account is copied into the file, and how often from then on."""


class Arrival(NamedTuple):
    """A message on its way into the bag."""

    stream: Stream
    account: TopicAccount
    """The stream's, of this recording."""
    data: bytes
    log_ns: int
    sent_ns: int
    compressed: Future[bytes] | None
    """What is written instead of ``data``, once a worker has made it."""


class RecordingSession:
    """Writes what it is given to one bag, in that order, from a thread of its own.

    Nothing that is handed over disappears: it is written, or counted in its topic's account as
    lost. A failure of the disk does not raise in :meth:`put`: it shows in :attr:`failure`, what
    comes afterwards is lost, and the part of the bag stays where it is for ``fog bag recover``.

    Args:
        writer: An open bag.
        accounts: Topic -> account; the caller counts arrivals, this counts what is written.
        queue_bytes: What may wait for the disk; more is lost.
        encoder: Compresses images; None: all is written as it comes.
    """

    def __init__(
        self,
        writer: BagWriter,
        accounts: dict[str, TopicAccount],
        *,
        queue_bytes: int = 256_000_000,
        encoder: ImageEncoder | None = None,
    ) -> None:
        self.path: Path = writer.path
        self.accounts = accounts
        self.encoder = encoder
        self._warnings: dict[tuple[str, str], str] = {}
        self.failure: FogError | None = None
        self.waiting: dict[str, int] = dict.fromkeys(accounts, 0)
        """Topic -> messages that wait for the disk."""
        self.started = datetime.datetime.now(datetime.timezone.utc)
        self.started_at = time.monotonic()
        self._writer = writer
        self._note_at = self.started_at + _FIRST_NOTE_S
        self._limit, self._bytes_waiting = queue_bytes, 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[list[Arrival] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._write_forever, name="write", daemon=True),
            threading.Thread(target=self._sync_forever, name="sync", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def warn(self, topic: str, kind: str, sentence: str) -> None:
        """Write down that something is wrong with a topic; of each kind the first time counts."""
        with self._lock:
            if (topic, kind) not in self._warnings:
                self._warnings = {**self._warnings, (topic, kind): sentence}

    def add(self, account: TopicAccount) -> None:
        """Expect another topic."""
        with self._lock:  # whole dictionaries: others may be reading
            self.waiting = {**self.waiting, account.topic: 0}
            self.accounts = {**self.accounts, account.topic: account}

    def put(self, arrivals: list[Arrival]) -> None:
        """Hand over messages, in the order in which they are to lie in the bag."""
        taken = []
        for arrival in arrivals:
            size = len(arrival.data)
            if self.failure is not None:
                arrival.account.lose(arrival.log_ns, 1, "the bag could not be written")
            elif self._bytes_waiting + size > self._limit:
                arrival.account.lose(arrival.log_ns, 1, "the disk was too slow")
            else:
                with self._lock:
                    self._bytes_waiting += size
                    self.waiting[arrival.account.topic] += 1
                taken.append(arrival)
        if taken:
            self._queue.put(taken)

    def close(self, *, outcome: str = "", reason: str = "stopped") -> Path:
        """Write what waits, the account and the index; the bag is on the disk afterwards.

        Args:
            outcome: ``success``, ``failure`` or nothing.
            reason: Why the recording ends, for the metadata.

        Returns:
            The bag.

        Raises:
            FogError: The disk is full or gone; what came through is in the bag's part.
        """
        self._closing.set()
        self._queue.put(None)
        for thread in self._threads:
            thread.join()
        if self.encoder is not None:
            self.encoder.close()
        if self.failure is not None:
            self._writer.abort()
            raise self.failure
        ended = datetime.datetime.now(datetime.timezone.utc)
        episode = {
            "outcome": outcome,
            "started": self.started.isoformat(timespec="milliseconds"),
            "ended": ended.isoformat(timespec="milliseconds"),
            "reason": reason,
        }
        try:
            self._note()
            self._writer.set_custom("fog_episode", json.dumps(episode))
            self._writer.close()
        except FogError as error:
            self.failure = error
            raise
        return self.path

    def account(self) -> dict[str, object]:
        """Content of ``fog_account``."""
        return {topic: account.to_dict() for topic, account in self.accounts.items()}

    def sentences(self) -> list[str]:
        """Content of ``fog_warnings``."""
        return [*self._warnings.values(), *irregularities(self.accounts)]

    def _write_forever(self) -> None:
        try:
            self._write_until_closed()
        except Exception as error:
            self.fail(FogError(f"bag {self.path}: the recorder failed: {error!r}"))
            raise

    def _write_until_closed(self) -> None:
        """Write; after a failure, count what still comes."""
        while True:
            try:
                batch = self._queue.get(timeout=_TICK_S)
            except queue.Empty:
                batch = []
            if batch is None:
                return
            for arrival in batch:
                self._write(arrival)
            if self.failure is None:
                try:
                    self._writer.tick()
                    if time.monotonic() > self._note_at:
                        self._note()
                except FogError as error:
                    self.fail(error)

    def _write(self, arrival: Arrival) -> None:
        with self._lock:
            self._bytes_waiting -= len(arrival.data)
            self.waiting[arrival.account.topic] -= 1
        if self.failure is not None:
            arrival.account.lose(arrival.log_ns, 1, "the bag could not be written")
            return
        stream, data = arrival.stream, arrival.data
        topic, typename = stream.topic, stream.type
        if arrival.compressed is not None:
            try:
                data = arrival.compressed.result()
                topic, typename = stream.recorded
            except FogError as error:
                # Better uncompressed than not at all.
                self.warn(topic, "compression", f"{topic}: images are recorded raw: {error}")
        try:
            self._writer.write(
                topic,
                typename,
                data,
                arrival.log_ns,
                publish_ns=arrival.sent_ns,
                offered_qos=stream.qos,
            )
        except FogError as error:
            arrival.account.lose(arrival.log_ns, 1, "the bag could not be written")
            self.fail(error)
            return
        arrival.account.written += 1

    def _note(self) -> None:
        """Put the account into the file, so that it outlives a kill."""
        self._note_at = time.monotonic() + _NOTE_S
        self._writer.set_custom("fog_account", json.dumps(self.account()))
        self._writer.set_custom("fog_warnings", json.dumps(self.sentences()))

    def _sync_forever(self) -> None:
        """Have the disk follow, without holding up what is written meanwhile."""
        folder = self._writer.part / self._writer.path.name
        while not self._closing.wait(_SYNC_S) and self.failure is None:
            try:
                for file in sorted(folder.glob("*.mcap"), key=lambda f: f.stat().st_mtime)[-2:]:
                    sync_file(file)
            except OSError as error:
                self.fail(
                    FogError(
                        f"bag {self.path}: cannot be written ({error.strerror or error}); what "
                        f"came through lies in {self._writer.part}"
                    )
                )

    def fail(self, error: FogError) -> None:
        """Write nothing any more, because of an error; the bag stays in parts."""
        with self._lock:
            self.failure = self.failure or error
