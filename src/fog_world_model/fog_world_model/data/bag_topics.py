"""Where a bag has what a task needs: the images raw or compressed, commands with or without stamp.

A task names each topic once. Recordings of the same robot differ: ``image_transport`` publishes
``<topic>/compressed`` beside the raw images, and a navigation stack may send ``TwistStamped`` where
an older one sent ``Twist``. Both are accepted for either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.labellers.labeller import BASE_FIELDS
from fog_world_model.task import StreamConfig, TaskConfig

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_TWIST = "geometry_msgs/msg/Twist"
_TWIST_STAMPED = "geometry_msgs/msg/TwistStamped"
ODOMETRY = "nav_msgs/msg/Odometry"


@dataclass(frozen=True)
class BagTopics:
    """The topics of one bag that make up a task's episodes."""

    image: str
    compressed: bool
    """Whether the images are CompressedImage."""
    streams: dict[str, StreamConfig]
    """Numeric topics; types and fields as the bag has them, extra fields for the labeller last."""
    pose: str
    """Topic among the streams whose last fields are the labeller's ``BASE_FIELDS``; empty: none."""
    camera_info: str
    """Topic of the camera's calibration; empty when the bag has none."""


def find_topics(bag: BagReader, task: TaskConfig) -> BagTopics:
    """Find a task's topics in a bag.

    Raises:
        FogError: One is missing, empty, or of a type that does not fit.
    """
    image, kind = _find_images(bag, task.image.topic)
    streams = {s.topic: _as_recorded(s, bag) for s in task.streams()}
    pose = task.labeller.odometry_topic if task.labeller else ""
    if pose:
        known = streams.get(pose, StreamConfig(pose, ODOMETRY, ()))
        streams[pose] = replace(known, fields=(*known.fields, *BASE_FIELDS))
        bag.require({pose: ODOMETRY})
    bag.require({image: kind, **{s.topic: s.type for s in streams.values()}})
    info = task.image.camera_info_topic
    has_info = bag.topics.get(info) == CAMERA_INFO and bag.counts[info] > 0
    return BagTopics(image, kind == COMPRESSED, streams, pose, info if has_info else "")


def _find_images(bag: BagReader, topic: str) -> tuple[str, str]:
    """Topic and type of the images; raw ones are preferred."""
    candidates = ((topic, IMAGE), (topic, COMPRESSED), (f"{topic}/compressed", COMPRESSED))
    found = [c for c in candidates if bag.topics.get(c[0]) == c[1]]
    filled = [c for c in found if bag.counts[c[0]]]
    return next(iter([*filled, *found]), candidates[0])


def _as_recorded(config: StreamConfig, bag: BagReader) -> StreamConfig:
    """The same stream with the type and the fields that the bag has."""
    found = bag.topics.get(config.topic)
    if config.type == _TWIST and found == _TWIST_STAMPED:
        return replace(config, type=found, fields=tuple(f"twist.{f}" for f in config.fields))
    if config.type == _TWIST_STAMPED and found == _TWIST:
        fields = tuple(f.removeprefix("twist.") for f in config.fields)
        return replace(config, type=found, fields=fields)
    return config
