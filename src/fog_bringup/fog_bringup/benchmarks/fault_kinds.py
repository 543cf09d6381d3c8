"""What can go wrong while a robot walks: drawn at random, with the limit within which it must stop.

The limits are the task's: how old a stream may become. Some streams are watched by more than one
rule; any reason that names what is wrong fits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fog_bringup.benchmarks.stream_faults import CORRUPTIONS
from fog_policy.observation_buffer import IMAGE_TYPE, IMU_TYPE
from fog_world_model.data.message_head import has_header
from fog_world_model.errors import FogError
from fog_world_model.task import StreamConfig, TaskConfig

KINDS: Final = (
    "killed_camera",
    "frozen_camera",
    "delayed_stream",
    "corrupt_image",
    "nan_joints",
    "restarted_robot",
    "killed_policy",
    "clock_jump",
)
JOINTS: Final = "sensor_msgs/msg/JointState"
_DELAY: Final = (1.5, 3.0)
"""A stream is delayed by so many times its limit: what is late by less is allowed to be."""
_JUMP_S: Final = (1.0, 5.0)
"""Stamps jump by so much, ahead or back. Further ahead than 10 s they are refused at once."""


@dataclass(frozen=True)
class Injection:
    """One fault, ready to be injected."""

    kind: str
    detail: str
    """For a person."""
    limit_s: float
    """Time from the fault to the stop that the task allows."""
    reasons: str
    """Regular expression of a message on /diagnostics that fits."""
    topics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Topic -> what happens to it, for :func:`.stream_faults.make_fault`."""
    kill: str = ""
    """The process that is killed; empty: none."""
    status: str = "policy_node: control"
    """Whose diagnostics tell: of a killed policy node, the robot's own."""

    @property
    def by_robot(self) -> bool:
        """Whether the robot has to stop by itself: nobody is left to send a zero command."""
        return self.kill == "policy_node"


def types_of(task: TaskConfig) -> dict[str, str]:
    """Topic -> interface name of all that a policy of the task listens to."""
    types = {task.image.topic: IMAGE_TYPE}
    types.update({stream.topic: stream.type for stream in task.proprioception})
    safety = task.safety
    if safety.tilt_topic:
        types.setdefault(safety.tilt_topic, IMU_TYPE)
    if safety.geofence is not None:
        types.setdefault(safety.geofence.topic, "nav_msgs/msg/Odometry")
    if task.marker is not None:
        types.setdefault(task.marker.topic, task.marker.type)
    return types


def possible(task: TaskConfig) -> tuple[str, ...]:
    """The kinds that a task allows: without joints, none can be NaN."""
    joints = any(stream.type == JOINTS for stream in task.proprioception)
    return tuple(kind for kind in KINDS if kind != "nan_joints" or joints)


def plan(kinds: tuple[str, ...], faults: int, random: np.random.Generator) -> list[str]:
    """Which kinds come, in which order: each as often as the others, give or take one.

    Raises:
        FogError: A kind is unknown.
    """
    if unknown := set(kinds) - set(KINDS):
        raise FogError(f"--kinds {' '.join(sorted(unknown))}: expected some of {', '.join(KINDS)}")
    repeated = [kinds[k % len(kinds)] for k in range(faults)]
    return [repeated[k] for k in random.permutation(faults)]


def draw(
    kind: str, task: TaskConfig, command_timeout_s: float, camera_hz: float, random: Any
) -> Injection:
    """Draw a fault of a kind.

    Args:
        kind: One of :func:`possible`.
        task: Gives topics and limits.
        command_timeout_s: After which the robot no longer obeys a command.
        camera_hz: Rate of the camera: that a picture is the old one is seen when it comes.
        random: A NumPy generator.
    """
    image = task.image.topic
    image_s = limit_s(task, image)
    seen = r"\bimage: "
    if kind == "killed_camera":
        return Injection(kind, image, image_s, seen, kill="camera")
    if kind == "frozen_camera":
        # A policy node that does not look at the pixels never stops for this.
        still_s = float(getattr(task.safety, "frozen_image_s", 0.0)) or image_s
        still_s += 1.0 / camera_hz
        return Injection(kind, image, still_s, "frozen_image: ", {image: {"kind": "frozen"}})
    if kind == "corrupt_image":
        how = str(random.choice(CORRUPTIONS))
        return Injection(kind, how, image_s, seen, {image: {"kind": "corrupted", "how": how}})
    if kind == "nan_joints":
        return _not_finite(task, random)
    if kind == "restarted_robot":
        first_s = min(limit_s(task, topic) for topic in watched(task))
        return Injection(
            kind, "robot_node", first_s, r"(image|proprioception|tilt): ", kill="robot"
        )
    if kind == "killed_policy":
        return Injection(
            kind, "policy_node", command_timeout_s, "no command for", kill="policy_node",
            status="robot_node: command",
        )  # fmt: skip
    topics = [topic for topic, typename in watched(task).items() if has_header(typename)]
    chosen = str(random.choice(topics))
    if kind == "delayed_stream":
        seconds = float(random.uniform(*_DELAY)) * limit_s(task, chosen)
        return Injection(
            kind,
            f"{chosen} by {seconds:.2f} s",
            limit_s(task, chosen),
            re.escape(chosen),
            {chosen: {"kind": "delayed", "seconds": seconds}},
        )
    seconds = float(random.uniform(*_JUMP_S)) * float(random.choice([-1.0, 1.0]))
    shifted = {"kind": "shifted", "seconds": seconds}
    # Of one driver, or of the robot's computer, which stamps everything.
    jumped = topics if random.random() < 0.5 else [chosen]
    return Injection(
        kind,
        f"{'all stamps' if len(jumped) > 1 else chosen} by {seconds:+.2f} s",
        min(limit_s(task, topic) for topic in jumped),
        "|".join(re.escape(topic) for topic in jumped),
        dict.fromkeys(jumped, shifted),
    )


def watched(task: TaskConfig) -> dict[str, str]:
    """Topic -> interface name of every stream whose age stops the robot."""
    marker = task.marker.topic if task.marker is not None else None
    return {topic: kind for topic, kind in types_of(task).items() if topic != marker}


def limit_s(task: TaskConfig, topic: str) -> float:
    """How old a stream may become, s."""
    safety = task.safety
    if safety.geofence is not None and topic == safety.geofence.topic:
        return safety.geofence.max_age_s
    image = topic == task.image.topic
    usual = safety.image_timeout_s if image else safety.proprioception_timeout_s
    return safety.timeouts_s.get(topic, usual)


def _not_finite(task: TaskConfig, random: Any) -> Injection:
    streams: list[StreamConfig] = [s for s in task.proprioception if s.type == JOINTS]
    stream = streams[int(random.integers(len(streams)))]
    count = int(random.integers(1, len(stream.fields) + 1))
    fields = [str(f) for f in random.choice(stream.fields, count, replace=False)]
    value = str(random.choice(["nan", "inf", "-inf"]))
    return Injection(
        "nan_joints",
        f"{count} of {stream.topic} are {value}",
        limit_s(task, stream.topic),
        "proprioception: not finite",
        {stream.topic: {"kind": "not_finite", "fields": fields, "value": value}},
    )
