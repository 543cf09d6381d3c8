"""The newest complete observation out of live topics, by the rules that made the training data.

An observation is anchored to an image; every proprioceptive topic contributes its newest message
that is not later than the anchor and not older than its bound, as in
:mod:`fog_world_model.data.synchronise`. Messages arrive as bytes and are decoded by the same
functions as those of a bag. No ROS here.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_policy.safety import Reason
from fog_world_model.data.images import ImageArray, check_layout, decode_image, resize
from fog_world_model.data.messages import deserialise, header_stamp_ns, read_fields
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, StreamConfig, TaskConfig

IMAGE_TYPE = "sensor_msgs/msg/Image"
IMU_TYPE = "sensor_msgs/msg/Imu"

ORIENTATION = ("orientation.x", "orientation.y", "orientation.z", "orientation.w")
_IMAGES_KEPT = 8
_VALUES_KEPT_NS = 2_000_000_000
_FUTURE_NS = 10_000_000_000
"""A message from further ahead is refused: it would stay the newest one for ever."""


@dataclass(frozen=True)
class LiveObservation:
    """What the policy is shown at one tick."""

    stamp_ns: int
    """The image's stamp."""
    image: ImageArray
    """``[height, width, channel]`` uint8 RGB of the task's size."""
    proprioception: FloatArray
    """``[field]``, physical units, finite or not as the robot sent it."""


@dataclass(frozen=True)
class Taken:
    """A message that could be used."""

    time_ns: int
    """Its stamp, or its arrival where it has none."""
    values: FloatArray | None = None
    """``[field]`` of a proprioceptive topic, physical units."""


@dataclass(frozen=True)
class _Frame:
    stamp_ns: int
    arrival_ns: int
    message: Any


@dataclass
class _Values:
    """Recent messages of one numeric topic, ordered by time."""

    config: StreamConfig
    times_ns: list[int] = field(default_factory=list)
    values: list[npt.NDArray[np.float32]] = field(default_factory=list)
    by_arrival: bool = False

    def add(self, time_ns: int, values: npt.NDArray[np.float32], by_arrival: bool) -> None:
        self.by_arrival = by_arrival
        place = bisect.bisect_right(self.times_ns, time_ns)
        self.times_ns.insert(place, time_ns)
        self.values.insert(place, values)
        old = bisect.bisect_left(self.times_ns, self.times_ns[-1] - _VALUES_KEPT_NS)
        del self.times_ns[:old], self.values[:old]

    def at(self, frame: _Frame) -> npt.NDArray[np.float32] | str:
        """The values in force at a frame; a sentence when there are none."""
        anchor = frame.arrival_ns if self.by_arrival else frame.stamp_ns
        slack = round(self.config.slack_s * 1e9) if self.by_arrival else 0
        place = bisect.bisect_right(self.times_ns, anchor + slack) - 1
        if place < 0:
            return f"{self.config.topic} has nothing as old as the newest image"
        age_ns = anchor - self.times_ns[place]
        if age_ns > round(self.config.max_age_s * 1e9):
            return (
                f"{self.config.topic} is {age_ns / 1e9:.3f} s older than the image "
                f"(limit {self.config.max_age_s:g} s)"
            )
        return self.values[place]


class ObservationBuffer:
    """Takes messages as they come, and gives the newest observation that they make up.

    Args:
        task: Names topics, fields and bounds.
    """

    def __init__(self, task: TaskConfig) -> None:
        self._task = task
        self._decoded: tuple[_Frame, ImageArray] | None = None
        self._ahead_ns, self._ahead_until_ns = _FUTURE_NS, 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._frames: list[_Frame] = []
        self._values = {s.topic: _Values(s) for s in self._task.proprioception}
        self._errors: dict[str, str] = {}
        tilt = self._task.safety.tilt_topic
        self._orientation = _Values(StreamConfig(tilt, IMU_TYPE, ORIENTATION))

    def topics(self) -> dict[str, str]:
        """Topic -> interface name of everything that :meth:`receive` wants."""
        topics = {self._task.image.topic: IMAGE_TYPE}
        topics.update({s.topic: s.type for s in self._task.proprioception})
        if self._task.safety.tilt_topic:
            topics.setdefault(self._task.safety.tilt_topic, IMU_TYPE)
        return topics

    def receive(self, topic: str, data: bytes, now_ns: int) -> Taken | None:
        """Take a message.

        What cannot be used is not an error here: the stream then grows stale, and
        :meth:`newest` says why.

        Args:
            topic: One of :meth:`topics`.
            data: The serialised message.
            now_ns: Time of arrival.

        Returns:
            What was taken; None where the message cannot be used.
        """
        values = None
        try:
            message = deserialise(data, self.topics()[topic])
            # As in the importer, a stamp that a driver leaves at zero is none.
            stamp_ns = header_stamp_ns(message)
            time_ns = stamp_ns or now_ns
            ahead_ns = self._ahead_ns if now_ns < self._ahead_until_ns else _FUTURE_NS
            if time_ns > now_ns + ahead_ns:
                raise FogError(
                    f"stamped {(time_ns - now_ns) / 1e9:.1f} s ahead of this node's clock; do both "
                    "follow the same one (use_sim_time)?"
                )
            if topic == self._task.image.topic:
                check_layout(message)
                self._add_frame(_Frame(time_ns, now_ns, message))
            if topic in self._values:
                stream = self._values[topic]
                values = read_fields(message, stream.config.fields)
                stream.add(time_ns, values, not stamp_ns)
            if topic == self._task.safety.tilt_topic:
                self._orientation.add(time_ns, read_fields(message, ORIENTATION), not stamp_ns)
        except FogError as error:
            self._errors[topic] = str(error)
            return None
        self._errors.pop(topic, None)
        return Taken(time_ns, values)

    def refuse_ahead(self, ahead_ns: int, *, until_ns: int) -> None:
        """Take no message for now that is stamped further ahead than this.

        Args:
            ahead_ns: Between the present and the stamp.
            until_ns: Up to this time.
        """
        self._ahead_ns, self._ahead_until_ns = ahead_ns, until_ns

    def forget_images_before(self, time_ns: int) -> None:
        """Drop the images that arrived earlier: they belong to the previous episode."""
        # Simulated time may jump at a reset, and an image of the new episode come before /clock.
        self._frames = [f for f in self._frames if max(f.stamp_ns, f.arrival_ns) >= time_ns]

    def has_image(self) -> bool:
        """Whether any image is at hand."""
        return bool(self._frames)

    def newest(self, now_ns: int) -> LiveObservation | Reason:
        """The observation at the newest image for which every topic has a valid message.

        Args:
            now_ns: Images older than the task's timeout are not tried, except the newest of all.

        Returns:
            The observation, or why there is none.
        """
        if not self._frames:
            return Reason("image", self._because(self._task.image.topic, "there is no image"))
        problem: Reason | None = None
        safety = self._task.safety
        limit_s = safety.timeouts_s.get(self._task.image.topic, safety.image_timeout_s)
        oldest_ns = now_ns - round(limit_s * 1e9)
        recent = [f for f in self._frames if f.stamp_ns >= oldest_ns] or self._frames[-1:]
        for frame in reversed(recent):
            found = self._proprioception(frame)
            if not isinstance(found, Reason):
                return LiveObservation(frame.stamp_ns, self._image(frame), found)
            problem = problem or found
        assert problem is not None
        return problem

    def image_age_s(self, now_ns: int) -> float | None:
        """Age of the newest image; None when there is none."""
        return (now_ns - self._frames[-1].stamp_ns) / 1e9 if self._frames else None

    def proprioception_age_s(self, now_ns: int) -> dict[str, float | None]:
        """Topic -> age of its newest message; None when there is none."""
        return {topic: _age_s(stream, now_ns) for topic, stream in self._values.items()}

    def orientation(self) -> list[float] | None:
        """Newest quaternion ``[x, y, z, w]`` on the tilt topic; None when there is none."""
        values = self._orientation.values
        return [float(v) for v in values[-1]] if values else None

    def orientation_age_s(self, now_ns: int) -> float | None:
        """Age of that quaternion; None when there is none."""
        return _age_s(self._orientation, now_ns)

    def not_finite(self) -> list[str]:
        """Topic and field of every value that is not finite in the newest messages."""
        return [
            f"{topic} {name}"
            for topic, stream in self._values.items()
            if stream.values and not np.isfinite(stream.values[-1]).all()
            for name, value in zip(stream.config.fields, stream.values[-1], strict=True)
            if not np.isfinite(value)
        ]

    def _proprioception(self, frame: _Frame) -> FloatArray | Reason:
        parts: list[FloatArray] = [np.zeros(0, np.float32)]
        for topic, stream in self._values.items():
            found = stream.at(frame)
            if isinstance(found, str):
                return Reason("proprioception", self._because(topic, found))
            parts.append(found)
        return np.concatenate(parts)

    def _add_frame(self, frame: _Frame) -> None:
        bisect.insort_right(self._frames, frame, key=lambda f: f.stamp_ns)
        del self._frames[:-_IMAGES_KEPT]

    def _image(self, frame: _Frame) -> ImageArray:
        # A tick may see the same image again; a camera of 640x480 is worth not scaling it twice.
        if self._decoded is None or self._decoded[0] is not frame:
            config = self._task.image
            image = resize(decode_image(frame.message), config.height, config.width)
            self._decoded = (frame, image)
        return self._decoded[1]

    def _because(self, topic: str, problem: str) -> str:
        error = self._errors.get(topic)
        return f"{problem}: {error}" if error else problem


def _age_s(stream: _Values, now_ns: int) -> float | None:
    return (now_ns - stream.times_ns[-1]) / 1e9 if stream.times_ns else None
