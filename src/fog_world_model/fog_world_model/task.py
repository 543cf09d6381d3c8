"""The task: one YAML file that every stage of the stack reads and every artefact carries.

A task names the control rate, the topics and fields that make up an observation, the action and
its physical bounds, where rewards and ends come from, and the limits within which the policy may
act. Two artefacts fit together exactly when their task hashes are equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import types
import typing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from fog_world_model.errors import FogError
from fog_world_model.safety_config import SafetyConfig

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageConfig:
    """The ego-centric camera and the size at which the models see it."""

    topic: str
    """sensor_msgs/msg/Image topic."""
    camera_info_topic: str
    """sensor_msgs/msg/CameraInfo topic, recorded beside the images."""
    height: int
    """Rows of the image that the models see; recordings of another size are resized."""
    width: int
    """Columns of the image that the models see."""


@dataclass(frozen=True)
class StreamConfig:
    """Some numeric fields of one topic."""

    topic: str
    type: str
    """ROS interface name, for example ``sensor_msgs/msg/Imu``."""
    fields: tuple[str, ...]
    """Dotted paths; in a JointState ``position.NAME`` finds the joint by name."""
    max_age_s: float = 0.2
    """A message older than this at the moment of a step is stale and breaks the episode."""
    slack_s: float = 0.0
    """A message without header stamp that arrives up to this long after a step's image still
    belongs to the step: for topics that are published together with the image."""


@dataclass(frozen=True)
class ActionConfig:
    """The command: where it is published, and what [-1, 1] means in physical units."""

    topic: str
    type: str
    fields: tuple[str, ...]
    low: tuple[float, ...]
    """Physical value of -1, per field (REP-103 units)."""
    high: tuple[float, ...]
    """Physical value of +1, per field."""
    max_age_s: float = 0.5

    def to_physical(self, action: npt.ArrayLike) -> FloatArray:
        """Map an action in [-1, 1], ``[..., field]``, to physical units."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return (low + (np.asarray(action, np.float32) + 1.0) * 0.5 * (high - low)).astype(
            np.float32
        )

    def to_normalised(self, command: npt.ArrayLike) -> FloatArray:
        """Map a physical command, ``[..., field]``, to [-1, 1]; beyond the bounds it is clipped."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        action = (np.asarray(command, np.float32) - low) / (high - low) * 2.0 - 1.0
        return np.clip(action, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class LabellerConfig:
    """Rewards and ends computed from what the robot saw, when no topic carries them."""

    name: str
    """A labeller of :mod:`fog_world_model.data.labellers`."""
    odometry_topic: str = ""
    """nav_msgs/msg/Odometry topic that tells how the robot moved between two images; empty: the
    labeller sees every image for itself."""
    dictionary: str = ""
    """Which fiducial markers there are, as OpenCV names them: ``4X4_50``, ``APRILTAG_36h11``;
    empty: the labeller's own choice, or it needs none."""
    options: dict[str, float] = field(default_factory=dict)
    """Numbers that the labeller needs (sizes in m, identifiers of markers)."""


@dataclass(frozen=True)
class EpisodeConfig:
    """Limits of one episode."""

    max_steps: int
    """Steps at the control rate after which an episode is cut (a truncation, not an end)."""


@dataclass(frozen=True)
class TaskConfig:
    """The contract between all stages. Load it with :func:`load_task`."""

    name: str
    control_hz: float
    image: ImageConfig
    proprioception: tuple[StreamConfig, ...]
    action: ActionConfig
    episode: EpisodeConfig
    safety: SafetyConfig
    robot: str = "go2"
    """Which simulated robot stands in for the real one: ``go2`` or ``pusht``."""
    description: str = ""
    reward: StreamConfig | None = None
    """Topic with the reward of the transition that led to the present state."""
    end: StreamConfig | None = None
    """Topic that is non-zero once the episode has ended (a terminal state)."""
    labeller: LabellerConfig | None = None
    """Computes reward and end on import, in place of the topics above."""
    marker: StreamConfig | None = None
    """Topic with the episode's number: a change is a border between two episodes."""
    options: dict[str, float] = field(default_factory=dict)
    """Numbers for the simulated stand-in only (scene, reward shape, start poses)."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            FogError: A bound, a size or a rate is impossible.
        """
        sizes = {len(self.action.fields), len(self.action.low), len(self.action.high)}
        _require(len(sizes) == 1, "action.fields, action.low and action.high differ in length")
        _require(
            all(low < high for low, high in zip(self.action.low, self.action.high, strict=True)),
            "action.low must lie below action.high for every field",
        )
        watched = {self.image.topic, *(stream.topic for stream in self.proprioception)}
        self.safety.require_valid(len(self.action.fields), watched)
        _require(0 < self.control_hz <= 1000, "control_hz must be in (0, 1000]")
        _require(self.episode.max_steps > 1, "episode.max_steps must be at least 2")
        for side in ("height", "width"):
            size = getattr(self.image, side)
            _require(size >= 16 and size % 8 == 0, f"image.{side} must be a multiple of 8, >= 16")
        _require(
            self.labeller is None or (self.reward is None and self.end is None),
            "labeller and the topics reward and end exclude each other; remove one of them",
        )
        for topic, typename in self._labeller_topics().items():
            _require(
                all(s.type == typename for s in self.streams() if s.topic == topic),
                f"labeller.odometry_topic {topic} is also listed, with another type than "
                f"{typename}",
            )
        # One topic is one stream: its fields and its age are looked up by the topic.
        topics = [self.image.topic, *(s.topic for s in self.streams())]
        twice = sorted({t for t in topics if topics.count(t) > 1})
        _require(not twice, f"topic {', '.join(twice)} is listed twice; list its fields together")

    @property
    def period_ns(self) -> int:
        """Length of a control step in nanoseconds."""
        return round(1e9 / self.control_hz)

    @property
    def action_size(self) -> int:
        """Number of action fields."""
        return len(self.action.fields)

    @property
    def proprioception_size(self) -> int:
        """Number of proprioceptive fields over all topics, in the order of the file."""
        return sum(len(stream.fields) for stream in self.proprioception)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of what a model sees and does, by their names in the models' configurations."""
        return {
            "height": self.image.height,
            "width": self.image.width,
            "action_size": self.action_size,
            "proprioception_size": self.proprioception_size,
        }

    def streams(self) -> tuple[StreamConfig, ...]:
        """Every numeric stream that episodes are built from, the action's included."""
        action = StreamConfig(
            self.action.topic, self.action.type, self.action.fields, self.action.max_age_s
        )
        optional = (self.reward, self.end, self.marker)
        return (*self.proprioception, action, *(s for s in optional if s is not None))

    def topics(self) -> dict[str, str]:
        """Topic -> interface name of everything that a recording of this task holds."""
        return {
            self.image.topic: "sensor_msgs/msg/Image",
            self.image.camera_info_topic: "sensor_msgs/msg/CameraInfo",
            **self._labeller_topics(),
            **{stream.topic: stream.type for stream in self.streams()},
        }

    def _labeller_topics(self) -> dict[str, str]:
        if self.labeller is None or not self.labeller.odometry_topic:
            return {}
        return {self.labeller.odometry_topic: "nav_msgs/msg/Odometry"}

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and scalars; :func:`task_from_dict` is the inverse."""
        content = typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))
        return {**content, "safety": self.safety.to_dict()}

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the content; white space and order in the file do not matter."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the task as YAML."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")

    def require_same(self, other: TaskConfig, artefact: str) -> None:
        """Stop when an artefact belongs to another task.

        Args:
            other: The task that the artefact carries.
            artefact: What it is and where it lies, for the message.

        Raises:
            FogError: The two differ; the message names the first fields that do.
        """
        if self.hash == other.hash:
            return
        mine, theirs = _flatten(self.to_dict()), _flatten(other.to_dict())
        different = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
        shown = "; ".join(
            f"{k}: {theirs.get(k)!r} there, {mine.get(k)!r} here" for k in different[:3]
        )
        raise FogError(
            f"{artefact} was made for task '{other.name}' ({other.hash[:12]}), but this is task "
            f"'{self.name}' ({self.hash[:12]}). They differ in {shown}. "
            "Use the task file it was made with, or make it again for this task."
        )


def load_task(path: str | os.PathLike[str]) -> TaskConfig:
    """Read and check a task file.

    Raises:
        FogError: The file is missing, is not YAML, or a field is missing, unknown or of the wrong
            type; the message names the file and the field.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FogError(f"task file {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise FogError(f"task file {path}: not a text file in UTF-8: {error}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise FogError(f"task file {path}: not valid YAML: {error}") from error
    return task_from_dict(content, source=f"task file {path}")


def task_from_dict(content: object, *, source: str = "task") -> TaskConfig:
    """Build a task from plain data.

    Args:
        content: What :meth:`TaskConfig.to_dict` gives.
        source: Named in error messages.

    Raises:
        FogError: A field is missing, unknown or of the wrong type.
    """
    try:
        return typing.cast("TaskConfig", _build(TaskConfig, content, ""))
    except FogError as error:
        raise FogError(f"{source}: {error}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FogError(message)


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in value.items():
        flat.update(_flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _build(kind: Any, value: object, where: str) -> object:
    """Convert plain YAML data to ``kind``, a dataclass or a type used in one."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType or origin is typing.Union:
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _build(inner, value, where)
    if dataclasses.is_dataclass(kind):
        _require(isinstance(value, dict), f"{where or 'the file'} must be a mapping of fields")
        assert isinstance(value, dict)
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        _require(
            not unknown,
            f"unknown field {where}{'.' if where else ''}{', '.join(sorted(map(str, unknown)))}; "
            f"known are {', '.join(hints)}",
        )
        for f in dataclasses.fields(kind):
            optional = (
                f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
            )
            _require(
                f.name in value or optional, f"{where}{'.' if where else ''}{f.name} is missing"
            )
        prefix = f"{where}." if where else ""
        built = {k: _build(hints[k], v, prefix + k) for k, v in value.items()}
        return typing.cast("Any", kind)(**built)
    if origin is tuple:
        _require(isinstance(value, (list, tuple)), f"{where} must be a list, not {value!r}")
        assert isinstance(value, (list, tuple))
        return tuple(_build(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        _require(isinstance(value, dict), f"{where} must be a mapping, not {value!r}")
        assert isinstance(value, dict)
        return {str(k): _build(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        _require(math.isfinite(value), f"{where} must be finite, not {value!r}")
        return float(value)
    if kind in (int, str) and isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise FogError(f"{where} must be {kind.__name__}, not {value!r}")
