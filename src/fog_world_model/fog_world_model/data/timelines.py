"""First pass over a bag: when its messages were made, and of what kind the images are."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fog_world_model.data.bag_scan import WHOLE, BagScan, Look, Places
from fog_world_model.data.bag_topics import BagTopics
from fog_world_model.data.compressed_images import DamagedPicture, require_supported
from fog_world_model.data.message_head import (
    HEAD_BYTES,
    Buffer,
    compressed_image,
    has_header,
    picture_size,
    raw_image,
    stamp_ns,
)
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.data.synchronise import IntArray, Segment, Stream
from fog_world_model.task import FloatArray, StreamConfig, TaskConfig

_PICTURE_HEAD_BYTES = 65_536


@dataclass(frozen=True)
class Timeline:
    """A topic's messages in the order of their arrival."""

    order: IntArray
    """``[message]``: its number in the bag."""
    arrivals: IntArray
    """``[message]``, ns."""
    stamps: IntArray
    """``[message]``, ns: header stamps; arrivals where a driver never fills in its header, or the
    type has none."""
    by_arrival: bool
    """Whether ``stamps`` are arrivals."""


class Timelines:
    """The times of all messages that a task may use of a bag: 56 bytes a message."""

    def __init__(self, scan: BagScan, topics: BagTopics, task: TaskConfig) -> None:
        """Look at every message.

        Raises:
            FogError: The bag is damaged, or its images are of a kind that is not supported.
        """
        self._task, self._topics = task, topics
        self.kinds: dict[tuple[Any, ...], int] = {}
        """Width, height and encoding of the images that occur -> a number."""
        names = (topics.image, *topics.streams)
        self._stamps: dict[str, array[int]] = {name: array("q") for name in names}
        self._values: dict[str, list[FloatArray]] = {name: [] for name in names}
        self._image_kinds: array[int] = array("q")
        self.places: dict[str, Places] = scan.look(self._looks())
        """Topic -> where its messages are."""
        self.lines = {name: self._line(name) for name in names}
        """Topic -> when they were made."""

    @property
    def images(self) -> Timeline:
        """Those of the image topic."""
        return self.lines[self._topics.image]

    @property
    def image_kinds(self) -> IntArray:
        """``[image]`` in the order of arrival: numbers of :attr:`kinds`."""
        return _integers(self._image_kinds)[self.images.order]

    def numbers(self, config: StreamConfig | None) -> tuple[str, IntArray] | None:
        """Topic and values ``[message]`` of a marker or an end, in the order of arrival."""
        if config is None:
            return None
        values = np.asarray(self._values[config.topic], np.float64).reshape(-1, 1)
        values = np.nan_to_num(values[self.lines[config.topic].order, 0], nan=-1.0)
        return config.topic, values.round().astype(np.int64)

    def streams(self) -> dict[str, Stream]:
        """The numeric topics, to be synchronised."""
        task = self._task
        led_to = {task.action.topic, *(s.topic for s in (task.reward, task.end) if s is not None)}
        return {
            topic: Stream(
                stamp_ns=self.lines[topic].stamps,
                max_age_ns=round(config.max_age_s * 1e9),
                by_arrival=self.lines[topic].by_arrival,
                slack_ns=round(config.slack_s * 1e9) if self.lines[topic].by_arrival else 0,
                needed_at_start=topic not in led_to,
            )
            for topic, config in self._topics.streams.items()
        }

    def in_bag(self, segment: Segment) -> dict[str, IntArray]:
        """Per topic ``[step]``: numbers in the bag of a segment's messages, -1: there is none."""
        found = {self._topics.image: self.images.order[segment.images]}
        for topic, index in segment.messages.items():
            order = self.lines[topic].order
            found[topic] = np.where(index >= 0, order[np.maximum(index, 0)], -1)
        return found

    def _line(self, topic: str) -> Timeline:
        order = np.argsort(self.places[topic].log_ns, kind="stable")
        arrivals = self.places[topic].log_ns[order]
        stamps = _integers(self._stamps[topic])[order]
        by_arrival = not len(stamps) or not stamps.all()
        return Timeline(order, arrivals, arrivals if by_arrival else stamps, by_arrival)

    def _looks(self) -> dict[str, Look]:
        looks = {topic: self._numeric_look(c) for topic, c in self._topics.streams.items()}
        looks[self._topics.image] = (
            Look(_PICTURE_HEAD_BYTES, self._see_picture)
            if self._topics.compressed
            else Look(HEAD_BYTES, self._see_image)
        )
        return looks

    def _numeric_look(self, config: StreamConfig) -> Look:
        topic, stamped = config.topic, has_header(config.type)
        stamps, values = self._stamps[topic], self._values[topic]
        # Borders depend on these values, so they are read before anything is chosen.
        valued = topic in {s.topic for s in (self._task.marker, self._task.end) if s is not None}

        def see(_: int, head: Buffer) -> None:
            stamps.append(stamp_ns(head) if stamped else 0)
            if valued:
                values.append(read_fields(deserialise(bytes(head), config.type), config.fields))

        look: Callable[[int, Buffer], None] = see
        return Look(WHOLE if valued else 12, look)

    def _see_image(self, _: int, head: Buffer) -> None:
        image = raw_image(head)
        self._stamps[self._topics.image].append(stamp_ns(head))
        self._image_kinds.append(self._kind(image.width, image.height, image.encoding))

    def _see_picture(self, _: int, head: Buffer) -> None:
        image = compressed_image(head)
        self._stamps[self._topics.image].append(stamp_ns(head))
        size = None
        try:
            require_supported(image)
            size = picture_size(image.data)
        except DamagedPicture:
            pass
        if size is None and self._image_kinds:  # it breaks the episode when it is decoded
            self._image_kinds.append(self._image_kinds[-1])
        else:
            self._image_kinds.append(self._kind(*(size or (0, 0))[::-1], image.format))

    def _kind(self, *kind: Any) -> int:
        return self.kinds.setdefault(kind, len(self.kinds))


def _integers(values: array[int]) -> IntArray:
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)
