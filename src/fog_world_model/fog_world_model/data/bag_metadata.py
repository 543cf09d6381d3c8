"""metadata.yaml of rosbag2 bags: written, read, and amended after the bag is closed."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import yaml
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)

from fog_world_model.data.durable import replace_file
from fog_world_model.data.messages import TYPESTORE
from fog_world_model.errors import FogError

FORMAT: Final = 8
"""Newest version of metadata.yaml that ``ros2 bag`` reads from Humble to Kilted: version 9 writes
the QoS profiles as a list, which Humble refuses."""

METADATA: Final = "metadata.yaml"
_ROOT: Final = "rosbag2_bagfile_information"
_UNLIMITED: Final = QosTime(0, 0)

DEFAULT_QOS: Final = Qos(
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
"""What a topic is said to have been published with when nobody knows better."""


class _Duration(Protocol):
    @property
    def nanoseconds(self) -> int: ...


class QosProfile(Protocol):
    """What this module reads of an ``rclpy.qos.QoSProfile``, which it never imports."""

    history: Any
    depth: int
    reliability: Any
    durability: Any
    liveliness: Any
    deadline: Any
    lifespan: Any
    liveliness_lease_duration: Any
    avoid_ros_namespace_conventions: bool


def qos_of(profile: QosProfile) -> Qos:
    """Quality of service of a publisher, as bags store it.

    Args:
        profile: As ``Node.get_publishers_info_by_topic`` gives it. A policy that this version does
            not know is stored as unknown.
    """
    return Qos(
        history=_policy(QosHistory, profile.history),
        depth=int(profile.depth),
        reliability=_policy(QosReliability, profile.reliability),
        durability=_policy(QosDurability, profile.durability),
        deadline=_time(profile.deadline),
        lifespan=_time(profile.lifespan),
        liveliness=_policy(QosLiveliness, profile.liveliness),
        liveliness_lease_duration=_time(profile.liveliness_lease_duration),
        avoid_ros_namespace_conventions=bool(profile.avoid_ros_namespace_conventions),
    )


def _policy(kind: Any, value: Any) -> Any:
    try:
        return kind(int(value))
    except ValueError:
        return kind.UNKNOWN


def _time(duration: _Duration) -> QosTime:
    return QosTime(*divmod(int(duration.nanoseconds), 10**9))


def dump_qos(profiles: Sequence[Qos]) -> str:
    """Profiles as versions up to 8 have them: YAML in a string, with numbers for the policies."""
    if not profiles:
        return ""

    def time(value: QosTime) -> dict[str, int]:
        return {"sec": value.sec, "nsec": value.nsec}

    return yaml.safe_dump(
        [
            {
                "history": p.history.value,
                "depth": p.depth,
                "reliability": p.reliability.value,
                "durability": p.durability.value,
                "deadline": time(p.deadline),
                "lifespan": time(p.lifespan),
                "liveliness": p.liveliness.value,
                "liveliness_lease_duration": time(p.liveliness_lease_duration),
                "avoid_ros_namespace_conventions": p.avoid_ros_namespace_conventions,
            }
            for p in profiles
        ],
        sort_keys=False,
    ).strip()


@functools.cache
def standard_definition(typename: str) -> tuple[str, str]:
    """Definition of an interface with all that it is made of, and its RIHS01 hash.

    Raises:
        FogError: It is not one of the standard interfaces.
    """
    if typename not in TYPESTORE.types:
        raise FogError(f"unknown interface {typename}")
    definition, _ = TYPESTORE.generate_msgdef(typename, ros_version=2)
    return definition, TYPESTORE.hash_rihs01(typename)


@dataclass
class Topic:
    """A topic as a bag describes it."""

    name: str
    type: str
    """Interface name, for example ``sensor_msgs/msg/Image``."""
    qos: str
    """Offered profiles, see :func:`dump_qos`."""
    type_hash: str
    """RIHS01 hash of the interface; empty when unknown."""
    definition: str
    """Definition of the interface and of all that it is made of."""
    encoding: str = "ros2msg"
    """Language of the definition: ``ros2msg`` or ``ros2idl``."""


@dataclass
class BagFile:
    """What one file of a bag holds."""

    name: str
    count: int = 0
    start_ns: int = 0
    end_ns: int = 0
    """Arrival of the first and the last message, ns; both 0 without messages."""

    def add(self, log_ns: int) -> None:
        """Count a message."""
        if not self.count:
            self.start_ns = self.end_ns = log_ns
        elif log_ns > self.end_ns:
            self.end_ns = log_ns
        elif log_ns < self.start_ns:
            self.start_ns = log_ns
        self.count += 1


@dataclass
class BagContent:
    """Everything that metadata.yaml says of a bag with MCAP storage."""

    topics: Sequence[Topic]
    counts: Mapping[str, int]
    """Topic -> messages."""
    files: Sequence[BagFile]
    custom: Mapping[str, str] = field(default_factory=dict)

    def information(self) -> dict[str, Any]:
        """The inner mapping of metadata.yaml."""
        filled = [f for f in self.files if f.count]
        start = min((f.start_ns for f in filled), default=0)
        end = max((f.end_ns for f in filled), default=0)
        return {
            "version": FORMAT,
            "storage_identifier": "mcap",
            "duration": {"nanoseconds": end - start},
            "starting_time": {"nanoseconds_since_epoch": start},
            "message_count": sum(f.count for f in self.files),
            "topics_with_message_count": [
                {
                    "topic_metadata": {
                        "name": t.name,
                        "type": t.type,
                        "serialization_format": "cdr",
                        "offered_qos_profiles": t.qos,
                        "type_description_hash": t.type_hash,
                    },
                    "message_count": self.counts[t.name],
                }
                for t in self.topics
            ],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [f.name for f in self.files],
            "files": [
                {
                    "path": f.name,
                    "starting_time": {"nanoseconds_since_epoch": f.start_ns},
                    "duration": {"nanoseconds": f.end_ns - f.start_ns},
                    "message_count": f.count,
                }
                for f in self.files
            ],
            "custom_data": dict(self.custom) or None,
            "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
        }


def dump(information: Mapping[str, Any]) -> str:
    """YAML that ``ros2 bag`` and rosbags read."""
    return yaml.safe_dump(dict(information), sort_keys=False, allow_unicode=True, width=1 << 20)


def write_metadata(folder: Path, information: Mapping[str, Any]) -> None:
    """Write a bag's metadata.yaml aside, sync it and give it its name.

    Raises:
        OSError: The disk is full or gone.
    """
    replace_file(folder / METADATA, dump({_ROOT: dict(information)}))


def read_metadata(folder: Path) -> dict[str, Any]:
    """The inner mapping of a bag's metadata.yaml, of whatever version.

    Raises:
        FogError: It is missing or damaged.
    """
    path = folder / METADATA
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        information = content[_ROOT]
        if not isinstance(information, dict):
            raise TypeError(f"{_ROOT} is not a mapping")
    except OSError as error:
        raise FogError(f"bag {folder}: {path.name}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise FogError(
            f"bag {folder}: cannot be read, its {path.name} is damaged ({one_line(error)}); "
            f"`fog bag recover {folder}` makes a new one from the messages"
        ) from error
    return information


def one_line(error: Exception) -> str:
    """Text of an error that a parser spreads over several lines."""
    return " ".join(str(error).split()) or type(error).__name__


def custom_of(information: Mapping[str, Any]) -> dict[str, str]:
    """The texts that a bag's metadata carries."""
    custom = information.get("custom_data")
    return {str(k): str(v) for k, v in custom.items()} if isinstance(custom, dict) else {}


def amend_custom(bag: str | os.PathLike[str], texts: Mapping[str, str | None]) -> None:
    """Change texts in the metadata of a closed bag; a reader sees all of the change or nothing.

    Args:
        bag: Bag folder, made by any recorder.
        texts: Key -> text; None removes the key.

    Raises:
        FogError: It is no closed bag, or the disk is full, gone or read-only.
    """
    folder = Path(bag)
    information = read_metadata(folder)
    custom = custom_of(information)
    for key, text in texts.items():
        if text is None:
            custom.pop(key, None)
        else:
            custom[key] = text
    information["custom_data"] = custom or None
    try:
        write_metadata(folder, information)
    except OSError as error:
        raise FogError(
            f"bag {folder}: metadata.yaml cannot be changed ({error.strerror or error}); "
            "the bag is as it was"
        ) from error
