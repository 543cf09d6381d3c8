"""Write rosbag2 bags with MCAP storage from serialised messages, without a ROS installation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import yaml
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from fog_world_model.data.messages import TYPESTORE
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

_FORMAT: Final = 8
"""Newest version of metadata.yaml that ``ros2 bag`` reads from Humble to Kilted: version 9 writes
the QoS profiles as a list, which Humble refuses."""

_UNLIMITED = QosTime(0, 0)
_QOS = Qos(
    history=QosHistory.KEEP_LAST,
    depth=10,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.VOLATILE,
    deadline=_UNLIMITED,
    lifespan=_UNLIMITED,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_UNLIMITED,
    avoid_ros_namespace_conventions=False,
)


def task_custom_data(task: TaskConfig) -> dict[str, str]:
    """The task and its hash, to be stored in a bag's ``custom_data``."""
    return {"fog_task": yaml.safe_dump(task.to_dict(), sort_keys=False), "fog_task_hash": task.hash}


class BagWriter:
    """A bag in the making; use it as a context manager.

    Everything is written below ``<path>.part``. The bag gets its name only when it is closed, so
    that no half-written bag ever carries it. When an exception other than an interruption leaves
    the context, the part stays where it is.

    Args:
        path: Folder of the bag to be; it must not exist.
        custom: Texts stored in the bag's metadata (see :func:`task_custom_data`).
        replace_part: Whether a part that an earlier, killed writer left behind may be deleted.

    Raises:
        FogError: The bag or a part of it exists already, or the folder cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        custom: Mapping[str, str] | None = None,
        *,
        replace_part: bool = False,
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.counts: dict[str, int] = {}
        """Topic -> messages written."""
        if self.path.exists():
            raise FogError(f"bag {self.path}: exists already; choose another name or move it away")
        if self.part.exists():
            if not replace_part:
                raise FogError(
                    f"bag {self.path}: {self.part} was left by a recorder that was killed; "
                    f"`mcap recover` saves what is in it, then delete it"
                )
            shutil.rmtree(self.part)
        self._connections: dict[str, Connection] = {}
        try:
            self.part.mkdir(parents=True)
            # The inner folder has the final name already, because the bag's file is named after it.
            self._writer = Writer(
                self.part / self.path.name, version=_FORMAT, storage_plugin=StoragePlugin.MCAP
            )
            self._writer.open()
        except OSError as error:
            raise self._failure(error) from error
        for key, value in (custom or {}).items():
            self._writer.set_custom_data(key, value)
        self._open = True

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
        if error is None or isinstance(error, KeyboardInterrupt):
            self.close()
        else:
            self.abort()

    def write(self, topic: str, typename: str, data: bytes, log_ns: int) -> None:
        """Append a message; its topic is added to the bag when it comes first.

        Args:
            topic: Topic name.
            typename: Interface name, for example ``sensor_msgs/msg/Image``.
            data: CDR bytes, stored as they are.
            log_ns: Time of arrival, ns.

        Raises:
            FogError: The disk is full or gone, the interface is unknown, or the topic came with
                another one before.
        """
        connection = self._connections.get(topic)
        try:
            if connection is None:
                connection = self._connect(topic, typename)
            elif connection.msgtype != typename:
                raise FogError(
                    f"bag {self.path}: {topic} came as {connection.msgtype} and now as {typename}"
                )
            self._writer.write(connection, log_ns, data)
        except OSError as error:
            self.abort()
            raise self._failure(error) from error
        self.counts[topic] += 1

    def _connect(self, topic: str, typename: str) -> Connection:
        if typename not in TYPESTORE.types:
            raise FogError(f"bag {self.path}: {topic} has the unknown interface {typename}")
        connection = self._writer.add_connection(
            topic, typename, typestore=TYPESTORE, offered_qos_profiles=[_QOS]
        )
        self._connections[topic] = connection
        self.counts[topic] = 0
        return connection

    def close(self) -> None:
        """Write the index and give the bag its name; closing again does nothing.

        Raises:
            FogError: The disk is full or gone.
        """
        if not self._open:
            return
        if not self._connections:  # else the extremes of an empty set would be written
            self._writer.min_timestamp = self._writer.max_timestamp = 0
        try:
            self._writer.close()
            (self.part / self.path.name).rename(self.path)
            self.part.rmdir()
        except OSError as error:
            self.abort()
            raise self._failure(error) from error
        self._open = False

    def abort(self) -> None:
        """Stop without finishing: what was written stays in the part."""
        if self._open:
            self._open = False
            with suppress(Exception):
                self._writer.abort()

    def _failure(self, error: OSError) -> FogError:
        return FogError(
            f"bag {self.path}: cannot be written ({error.strerror or error}); what came through "
            f"lies in {self.part}. Make room or choose another folder."
        )
