"""Read any rosbag2 bag, MCAP or SQLite, without a ROS installation."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import McapReader

from fog_world_model.data.bag_metadata import METADATA, one_line, read_metadata
from fog_world_model.data.embedded_metadata import check_index, embedded_custom
from fog_world_model.data.messages import deserialise
from fog_world_model.errors import FogError


@dataclass(frozen=True)
class RecordedMessage:
    """One message of a bag, still serialised."""

    topic: str
    type: str
    log_ns: int
    """When the recorder received it, ns."""
    data: bytes

    def decode(self) -> Any:
        """Deserialise the message.

        Raises:
            FogError: The bytes do not decode as the recorded type.
        """
        return deserialise(self.data, self.type)


class BagReader:
    """An open bag; use it as a context manager.

    Every file's index is checked when it is opened, every chunk (where its writer left a checksum)
    when it is read, and the number of messages against the bag's metadata. One chunk of the bag is
    in memory at a time; a bag whose files are compressed as a whole is unpacked to a temporary
    folder first.

    Raises:
        FogError: The bag is missing, is not a rosbag2 bag, or is cut or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a bag.

        Args:
            path: The folder that holds metadata.yaml, the one file of such a bag, or a whole .mcap
                or .db3 file without metadata.yaml.
        """
        self.path = _find(Path(path))
        self.files: list[Path] = []
        """The bag's storage files."""
        self.custom: dict[str, str] = {}
        """Texts that the recorder stored with it, such as the task."""
        try:
            self._reader = Reader(self.path)
            if self.path.is_file():
                check_index(self.path)
            self._reader.open()
        except Exception as error:  # damaged files fail in many ways inside the parser
            with suppress(Exception):
                self._reader.close()
            raise self._broken(f"cannot be read, it may be cut: {one_line(error)}") from error
        try:
            self._examine()
        except Exception as error:
            self.close()
            raise self._broken(f"cannot be read, it may be cut: {one_line(error)}") from error

    def _examine(self) -> None:
        storage = self._reader.storage
        storages: list[Any] = (
            storage.storages if isinstance(storage, DirectoryReader) else [storage]
        )
        for part in storages:
            if part is not storage:
                check_index(Path(part.path))
        if isinstance(storage, DirectoryReader):
            self.files = [self.path / f for f in _relative_paths(self.path)]
            self.custom = {str(k): str(v) for k, v in (storage.metadata.custom or {}).items()}
            found: Counter[str] = Counter()
            for part in storages:
                for connection in part.connections:
                    found[connection.topic] += connection.msgcount
            for topic, count in self.counts.items():
                if found[topic] != count:
                    raise ValueError(
                        f"{topic} has {found[topic]} messages, but {METADATA} says {count}"
                    )
        else:
            self.files = [self.path]
            self.custom = embedded_custom(self.path)
        chunks = {c.compression for p in storages if isinstance(p, McapReader) for c in p.chunks}
        mode = self._reader.compression_mode
        self.compression = (
            f"{self._reader.compression_format} ({mode})"
            if mode
            else ", ".join(f"{c} (chunk)" for c in sorted(chunks - {""}))
        )
        """How it is compressed, for example ``zstd (message)``; empty if it is not."""

    def __enter__(self) -> BagReader:
        """Return the open bag."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bag."""
        self.close()

    def close(self) -> None:
        """Close the bag's files."""
        self._reader.close()

    @property
    def topics(self) -> dict[str, str]:
        """Topic -> interface name."""
        return {c.topic: c.msgtype for c in self._reader.connections}

    @property
    def counts(self) -> dict[str, int]:
        """Topic -> number of messages."""
        counts: dict[str, int] = {}
        for connection in self._reader.connections:
            counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
        return counts

    @property
    def size_bytes(self) -> int:
        """Size of its storage files, bytes."""
        return sum(f.stat().st_size for f in self.files)

    @property
    def start_ns(self) -> int:
        """Arrival of the first message, ns (0 when empty)."""
        return int(self._reader.start_time) if sum(self.counts.values()) else 0

    @property
    def distribution(self) -> str:
        """ROS distribution that it was recorded in; empty when unknown."""
        return self._reader.ros_distro or ""

    @property
    def account(self) -> dict[str, dict[str, Any]]:
        """Topic -> what became of its messages, as our recorder stores it; empty for others."""
        account = self._json("fog_account", {})
        return {t: a for t, a in account.items() if isinstance(a, dict)}

    @property
    def warnings(self) -> list[str]:
        """What the recorder, or a recovery, had to say about it."""
        return [str(warning) for warning in self._json("fog_warnings", [])]

    @property
    def episode(self) -> dict[str, Any]:
        """The recording as our recorder describes it, with its ``outcome``; empty for others."""
        return dict(self._json("fog_episode", {}))

    def _json(self, key: str, empty: Any) -> Any:
        """Part of the custom data; ``empty`` when it is absent or not of that kind."""
        try:
            value = json.loads(self.custom.get(key, "null"))
        except ValueError:
            return empty
        return value if isinstance(value, type(empty)) else empty

    @property
    def duration_s(self) -> float:
        """Time between the first and the last message, s (0 when empty)."""
        if not sum(self.counts.values()):
            return 0.0
        return self._reader.duration / 1e9

    def require(self, topics: Mapping[str, str]) -> None:
        """Check that topics are there, with messages and of the given types.

        Args:
            topics: Topic -> interface name.

        Raises:
            FogError: A topic is missing, empty or of another type.
        """
        counts = self.counts
        for topic, typename in topics.items():
            if topic not in self.topics:
                raise FogError(
                    f"bag {self.path}: topic {topic} ({typename}) is missing; it holds "
                    f"{', '.join(sorted(self.topics)) or 'no topics'}. Record the topic, or name "
                    "another one in the task file."
                )
            if self.topics[topic] != typename:
                raise FogError(
                    f"bag {self.path}: topic {topic} is {self.topics[topic]}, "
                    f"but the task expects {typename}"
                )
            if not counts[topic]:
                raise FogError(f"bag {self.path}: topic {topic} holds no message")

    def messages(self, topics: list[str] | None = None) -> Iterator[RecordedMessage]:
        """Yield the messages of some topics (all by default) in the order of their arrival.

        Raises:
            FogError: The bag turns out to be cut or damaged.
        """
        chosen: list[Connection] = [
            c for c in self._reader.connections if topics is None or c.topic in topics
        ]
        if not chosen:
            return
        read = 0
        try:
            for connection, log_ns, data in self._reader.messages(connections=chosen):
                read += 1
                yield RecordedMessage(connection.topic, connection.msgtype, log_ns, bytes(data))
        except Exception as error:  # as in opening
            raise self._broken(f"damaged or cut: {one_line(error)}") from error
        expected = sum(c.msgcount for c in chosen)
        if read != expected:  # the parser passes over what it cannot make out
            raise self._broken(f"damaged: {read} of {expected} messages can be read")

    def _broken(self, reason: str) -> FogError:
        return FogError(
            f"bag {self.path}: {reason}; `fog bag recover {self.path}` saves what is whole "
            "in a new bag"
        )


def _find(path: Path) -> Path:
    """The bag folder, or the file that stands alone."""
    if not path.exists():
        part = path.with_name(path.name + ".part")
        if part.is_dir():
            raise FogError(
                f"bag {path}: was not closed; if no recorder is at it any more, "
                f"`fog bag recover {part}` makes a bag of what it left"
            )
        raise FogError(f"bag {path}: no such file or folder")
    if path.is_file():
        if (path.parent / METADATA).exists() and _relative_paths(path.parent) == [path.name]:
            return path.parent
        if path.suffix not in (".mcap", ".db3"):
            raise FogError(
                f"bag {path}: is neither an .mcap nor a .db3 file; a rosbag2 bag is a folder with "
                f"{METADATA} and such files"
            )
        return path
    if not (path / METADATA).exists():
        raise FogError(
            f"bag {path}: has no {METADATA}; a rosbag2 bag is a folder with {METADATA} and .mcap "
            f"or .db3 files. A recorder that was killed leaves none: `fog bag recover {path}` "
            "makes a bag of its files"
        )
    return path


def _relative_paths(folder: Path) -> list[str]:
    """Names of a bag's files as its metadata lists them; empty when it is damaged."""
    try:
        return [Path(p).name for p in read_metadata(folder)["relative_file_paths"]]
    except (FogError, KeyError, TypeError):
        return []
