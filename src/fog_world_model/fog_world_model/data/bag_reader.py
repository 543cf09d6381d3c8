"""Read any rosbag2 bag, MCAP or SQLite, without a ROS installation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from fog_world_model.data.messages import TYPESTORE, deserialise
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

    Raises:
        FogError: The bag is missing, is not a rosbag2 bag, or is cut or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the bag folder ``path`` (the folder that holds metadata.yaml)."""
        self.path = Path(path)
        if not self.path.exists():
            raise FogError(f"bag {self.path}: no such file or folder")
        folder = self.path.parent if self.path.is_file() else self.path
        if not (folder / "metadata.yaml").exists():
            raise FogError(
                f"bag {folder}: has no metadata.yaml; a rosbag2 bag is a folder with metadata.yaml "
                "and .mcap or .db3 files (a recorder that was killed leaves none)"
            )
        self.path = folder
        self._reader = AnyReader([folder], default_typestore=TYPESTORE)
        try:
            self._reader.open()
        except Exception as error:  # damaged files fail in many ways inside the parser
            with suppress(Exception):
                self._reader.close()
            raise FogError(f"bag {folder}: cannot be read, it may be cut: {error}") from error

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
            raise FogError(f"bag {self.path}: damaged or cut: {error}") from error
        expected = sum(c.msgcount for c in chosen)
        if read < expected:  # the parser passes over what it cannot make out
            raise FogError(
                f"bag {self.path}: damaged: only {read} of {expected} messages can be read; "
                "'mcap recover' may save the rest"
            )
