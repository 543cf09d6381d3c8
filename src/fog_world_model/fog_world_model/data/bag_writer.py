"""Write rosbag2 bags with MCAP storage from serialised messages, without a ROS installation."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

import yaml
from rosbags.interfaces import Qos

from fog_world_model.data.bag_metadata import (
    DEFAULT_QOS,
    BagContent,
    Topic,
    dump,
    dump_qos,
    standard_definition,
    write_metadata,
)
from fog_world_model.data.durable import sync_file, sync_folder
from fog_world_model.data.mcap_file import McapFile
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

_LAST_NS: Final = 2**63 - 1


def task_custom_data(task: TaskConfig) -> dict[str, str]:
    """The task and its hash, to be stored in a bag's ``custom_data``."""
    return {"fog_task": yaml.safe_dump(task.to_dict(), sort_keys=False), "fog_task_hash": task.hash}


class BagWriter:
    """A bag in the making; use it as a context manager.

    Everything is written below ``<path>.part``. The bag gets its name only when it is closed, so
    that no half-written bag ever carries it; then it is on the disk, not only in the kernel's
    memory. When an exception other than an interruption leaves the context, the part stays where
    it is, and ``fog bag recover`` makes a bag of it.

    Messages are gathered in chunks with a checksum. A chunk goes to the kernel when it is full, and
    when its oldest message has waited for half of ``flush_s``: from there a killed process loses
    nothing. Somebody has to look at the clock when no further message comes: whoever records from
    topics calls :meth:`tick` at least every ``flush_s / 2``; then no message waits longer than
    ``flush_s``. A writer belongs to one thread at a time.

    Args:
        path: Folder of the bag to be; it must not exist.
        custom: Texts stored in the bag's metadata (see :func:`task_custom_data`).
        replace_part: Whether a part that an earlier, killed writer left behind may be deleted.
        compression: Of the chunks. It costs about a core for raw images.
        chunk_bytes: Size at which a chunk is closed. A reader holds one chunk in memory.
        flush_s: How long a message may stay in this process, s.
        max_bytes: Begin another file of the bag at about this size. None: one file. The index of
            the open file is kept in memory, so a recording over many hours should be split.
        max_s: Begin another file after this time between first and last message, s.

    Raises:
        FogError: The bag or a part of it exists already, or the folder cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        custom: Mapping[str, str] | None = None,
        *,
        replace_part: bool = False,
        compression: Literal["", "zstd"] = "",
        chunk_bytes: int = 4 << 20,
        flush_s: float = 0.5,
        max_bytes: int | None = None,
        max_s: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.counts: dict[str, int] = {}
        """Topic -> messages written."""
        self._folder = self.part / self.path.name
        self._compression: Literal["", "zstd"] = compression
        self._chunk_bytes = chunk_bytes
        self._wait_s = flush_s / 2
        self._max_bytes = max_bytes
        self._max_ns = None if max_s is None else round(max_s * 1e9)
        self._custom: dict[str, str] = {}
        self._topics: dict[str, Topic] = {}
        self._ended: list[McapFile] = []
        self._waiting_since: float | None = None
        self._torn = False
        self._failed: FogError | None = None
        if self.path.exists():
            raise FogError(f"bag {self.path}: exists already; choose another name or move it away")
        if self.part.exists() and not replace_part:
            raise FogError(
                f"bag {self.path}: {self.part} was left by a recorder that was killed; "
                f"`fog bag recover {self.part}` saves what is in it, then delete it"
            )
        try:
            if self.part.exists():
                shutil.rmtree(self.part)
            self._folder.mkdir(parents=True)
            self._file = self._new_file()
        except OSError as error:
            raise self._failure(error) from error
        self._open = True
        try:
            for key, text in (custom or {}).items():
                self.set_custom(key, text)
            self.flush()  # the task outlives a kill at any later moment
        except FogError:
            shutil.rmtree(self.part, ignore_errors=True)  # nothing came yet
            raise

    def __enter__(self) -> BagWriter:
        """Return the open bag."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the bag; after an error leave it as a part. Ctrl-C is no error."""
        interrupted = isinstance(error, KeyboardInterrupt) and not self._torn
        if error is None or interrupted:
            self.close()
        else:
            self.abort()

    @property
    def is_open(self) -> bool:
        """Whether messages can be added: neither closed nor stopped by an error of the disk."""
        return self._open

    def add_topic(
        self,
        topic: str,
        typename: str,
        *,
        offered_qos: Sequence[Qos] = (),
        description: Topic | None = None,
    ) -> None:
        """Enter a topic, which then is in the bag even if no message comes; again: no change.

        Args:
            topic: Topic name.
            typename: Interface name, for example ``sensor_msgs/msg/Image``.
            offered_qos: Profiles of its publishers (see
                :func:`fog_world_model.data.bag_metadata.qos_of`); reliable, depth 10, if unknown.
            description: The topic as another bag has it, which need not be of a standard interface.

        Raises:
            FogError: The disk is full or gone, the interface is unknown, or the topic came with
                another one before.
        """
        if (known := self._topics.get(topic)) is not None:
            if known.type != typename:
                raise FogError(
                    f"bag {self.path}: {topic} came as {known.type} and now as {typename}"
                )
            return
        if description is None:
            try:
                definition, type_hash = standard_definition(typename)
            except FogError as error:
                raise FogError(f"bag {self.path}: {topic} has the {error}") from error
            qos = dump_qos(offered_qos or [DEFAULT_QOS])
            description = Topic(topic, typename, qos, type_hash, definition)
        with self._writing():
            self._file.add_topic(description)
        self._topics[topic] = description
        self.counts[topic] = 0

    def write(
        self,
        topic: str,
        typename: str,
        data: bytes,
        log_ns: int,
        *,
        publish_ns: int | None = None,
        offered_qos: Sequence[Qos] = (),
    ) -> None:
        """Append a message; its topic is added to the bag when it comes first.

        Args:
            topic: Topic name.
            typename: Interface name, for example ``sensor_msgs/msg/Image``.
            data: CDR bytes, stored as they are.
            log_ns: Time of arrival, ns.
            publish_ns: Time at which it was sent, ns, where the middleware gives it.
            offered_qos: As in :meth:`add_topic`; it counts at the first message of a topic.

        Raises:
            FogError: The disk is full or gone, the interface is unknown, or the topic came with
                another one before.
        """
        known = self._topics.get(topic)
        if known is None or known.type != typename:
            self.add_topic(topic, typename, offered_qos=offered_qos)
        if not 0 <= log_ns <= _LAST_NS:
            raise FogError(f"bag {self.path}: {topic}: {log_ns} ns is no time of arrival")
        with self._writing():
            if self._is_full(log_ns):
                self._next_file()
            sent_ns = log_ns if publish_ns is None else max(0, publish_ns)
            self._file.add_message(topic, data, log_ns, sent_ns, self.counts[topic] + 1)
            self.counts[topic] += 1
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since >= self._wait_s:
            self.flush()

    def set_custom(self, key: str, text: str) -> None:
        """Set a text of the bag's metadata; it is in the file, too, and survives a kill there.

        Raises:
            FogError: The disk is full or gone, or the bag is closed.
        """
        with self._writing():
            self._file.add_custom(key, text)
        self._custom[key] = text
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()

    def tick(self) -> None:
        """Flush if something has waited long enough; call it at least every ``flush_s / 2``.

        Raises:
            FogError: The disk is full or gone.
        """
        waiting = self._waiting_since
        if self._open and waiting is not None and time.monotonic() - waiting >= self._wait_s:
            self.flush()

    def flush(self) -> None:
        """End the chunk and hand everything to the kernel: a killed process loses nothing of it.

        Raises:
            FogError: The disk is full or gone, or the bag is closed.
        """
        with self._writing():
            self._file.flush()
        self._waiting_since = None

    def sync(self) -> None:
        """Flush, and wait until it is on the disk: a power cut loses nothing of it.

        Raises:
            FogError: The disk is full or gone, or the bag is closed.
        """
        self.flush()
        with self._writing():
            self._file.sync()

    def close(self) -> None:
        """Write the index, bring all to the disk and give the bag its name; again: nothing.

        Raises:
            FogError: The disk is full or gone.
        """
        if not self._open:
            return
        with self._writing():
            self._end_file()
            for file in self._ended:
                sync_file(self._folder / file.content.name)
            write_metadata(self._folder, self._content().information())
            self._folder.rename(self.path)
            sync_folder(self.path.parent)
            self.part.rmdir()
            sync_folder(self.path.parent)
        self._open = False

    def abort(self) -> None:
        """Stop without finishing: what was written stays in the part."""
        if not self._open:
            return
        if not self._torn:
            with suppress(FogError):
                self.flush()
        self._open = False
        self._file.abandon()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Stop for good when the disk fails; remember when an interruption tears a record."""
        if not self._open:
            raise self._failed or FogError(f"bag {self.path}: is closed, nothing can be added")
        try:
            yield
        except OSError as error:  # what the disk refused is not tried again
            self._open = False
            self._file.abandon()
            self._failed = self._failure(error)
            raise self._failed from error
        except BaseException:
            self._torn = True
            raise

    def _new_file(self) -> McapFile:
        split = self._max_bytes is not None or self._max_ns is not None
        name = f"{self.path.name}_{len(self._ended)}" if split else self.path.name
        file = McapFile(self._folder / f"{name}.mcap", self._compression, self._chunk_bytes)
        for key, text in self._custom.items():
            file.add_custom(key, text)
        for topic in self._topics.values():
            file.add_topic(topic)
        return file

    def _is_full(self, log_ns: int) -> bool:
        if not self._file.content.count:
            return False
        age_ns = log_ns - self._file.content.start_ns
        return (self._max_bytes is not None and self._file.size >= self._max_bytes) or (
            self._max_ns is not None and age_ns >= self._max_ns
        )

    def _next_file(self) -> None:
        self._end_file()
        self._file = self._new_file()

    def _end_file(self) -> None:
        self._ended.append(self._file)
        self._file.finish(dump(self._content().information()).strip())
        self._waiting_since = None

    def _content(self) -> BagContent:
        files = [file.content for file in self._ended]
        return BagContent(list(self._topics.values()), self.counts, files, self._custom)

    def _failure(self, error: OSError) -> FogError:
        return FogError(
            f"bag {self.path}: cannot be written ({error.strerror or error}); what came through "
            f"lies in {self.part}. Make room or choose another folder; `fog bag recover "
            f"{self.part} --output NEW` makes a bag of it."
        )
