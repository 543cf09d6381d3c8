"""Everything that a robot sends to its control loop, and what it says about the situation. No ROS.

Observation, what only the safety filter watches, the dead-man's switch, the border between two
episodes and, in shadow, what somebody else commands: messages come in as bytes, in any order.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fog_policy.command_limits import Command
from fog_policy.observation_buffer import LiveObservation, ObservationBuffer
from fog_policy.safety import Reason, Situation, is_held
from fog_policy.safety_inputs import SafetyInputs
from fog_policy.still_picture import StillPicture
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, TaskConfig

JOY_TYPE = "sensor_msgs/msg/Joy"


@dataclass(frozen=True)
class Arrival:
    """What a message means beyond its content."""

    new_episode: bool = False
    """It shows that an episode has begun; images of the one before are forgotten."""
    told: Command | None = None
    """In shadow: ``[action]``, what somebody else told the robot, finite, physical units."""


_NOTHING = Arrival()


class ControlInputs:
    """Takes messages, and describes the situation that they make up.

    Args:
        task: Names topics, fields and bounds.
        steady_s: A clock that never jumps, in seconds; a person's dead-man's switch is timed by it.
        shadow: Somebody else drives: listen to the action's topic.

    Raises:
        FogError: The task names a topic with two types.
    """

    def __init__(
        self,
        task: TaskConfig,
        *,
        steady_s: Callable[[], float] = time.monotonic,
        shadow: bool = False,
    ) -> None:
        self._task = task
        self._steady_s = steady_s
        self._shadow = shadow
        self._buffer = ObservationBuffer(task)
        self._safety = SafetyInputs(task)
        self._still = StillPicture(task)
        self._held_s: float | None = None
        self._clock_ns = 0
        self._marker: float | None = None

    def observed(self) -> dict[str, str]:
        """Topic -> interface name of the observation and of what the safety filter watches."""
        topics = self._buffer.topics()
        for topic, kind in self._safety.topics().items():
            topics.setdefault(topic, kind)
        return topics

    def topics(self) -> dict[str, str]:
        """Topic -> interface name of everything that :meth:`receive` wants."""
        topics, task = self.observed(), self._task
        if task.marker is not None:
            topics.setdefault(task.marker.topic, task.marker.type)
        if task.safety.deadman_topic:
            topics.setdefault(task.safety.deadman_topic, JOY_TYPE)
        if self._shadow:
            topics.setdefault(task.action.topic, task.action.type)
        return topics

    def clear(self) -> None:
        """Forget what has come; a button that is held is held."""
        self._buffer.clear()
        self._safety.clear()
        self._still.clear()
        self._marker = None

    def forgive_picture(self) -> None:
        """Begin anew to look whether the camera is frozen."""
        self._still.clear()

    def receive(
        self, topic: str, data: bytes, now_ns: int, in_force: Command | None = None
    ) -> Arrival:
        """Take a message; where the clock may jump, :meth:`ran_back` is asked before.

        Args:
            topic: One of :meth:`topics`.
            data: The serialised message.
            now_ns: When it came, by the clock that also stamps the messages.
            in_force: ``[action]``: what the robot is being told, physical units; None: it is not
                looked whether the camera is frozen.
        """
        self._clock_ns = max(self._clock_ns, now_ns)
        task = self._task
        if topic in self._buffer.topics():
            taken = self._buffer.receive(topic, data, now_ns)
            if taken is not None and in_force is not None:
                if topic == task.image.topic:
                    self._still.picture(data, taken.time_ns, in_force)
                if taken.values is not None:
                    self._still.values(topic, taken.values)
        if topic in self._safety.topics():
            self._safety.receive(topic, data, now_ns)
        if topic == task.safety.deadman_topic:
            self._receive_deadman(data)
        told = self._command(data) if self._shadow and topic == task.action.topic else None
        if task.marker is not None and topic == task.marker.topic:
            return Arrival(new_episode=self._begins_episode(data, now_ns), told=told)
        return _NOTHING if told is None else Arrival(told=told)

    def ran_back(self, now_ns: int) -> bool:
        """Forget everything when the clock has jumped back (a bag that starts over, say).

        Returns:
            Whether it has.
        """
        jumped = now_ns < self._clock_ns - self._task.period_ns
        if jumped:
            # What was sent before the jump may still be on its way, stamped far ahead of the new
            # time: until that comes, it would pass for the newest of its stream.
            self._buffer.refuse_ahead(self._task.period_ns, until_ns=self._clock_ns)
            self.clear()
        self._clock_ns = now_ns if jumped else max(self._clock_ns, now_ns)
        return jumped

    def has_image(self) -> bool:
        """Whether an image of this episode has come."""
        return self._buffer.has_image()

    def observation(self, now_ns: int) -> LiveObservation | Reason:
        """The newest observation that a policy can be shown, or why there is none.

        A sensor whose newest values are not finite is broken, even if an older image would still go
        with values from before.
        """
        if (fault := self.newest_fault()) is not None:
            return fault
        found = self._buffer.newest(now_ns)
        if isinstance(found, Reason) or np.isfinite(found.proprioception).all():
            return found
        return Reason("proprioception", self._not_finite(found.proprioception))

    def newest_fault(self) -> Reason | None:
        """What is wrong with the newest values, whether or not an observation needs them yet."""
        for name in self._buffer.not_finite():
            return Reason("proprioception", f"not finite: {name}")
        return None

    def situation(
        self, now_ns: int, faults: tuple[Reason, ...], emergency_stop: str | None = None
    ) -> Situation:
        """What is known now.

        Args:
            now_ns: By the clock that also stamps the messages.
            faults: What the caller found wrong itself.
            emergency_stop: Who stopped the robot, as long as nobody has reset it.
        """
        buffer, held_s = self._buffer, self._held_s
        situation = Situation(
            image_age_s=buffer.image_age_s(now_ns),
            proprioception_age_s=buffer.proprioception_age_s(now_ns),
            orientation=buffer.orientation(),
            orientation_age_s=buffer.orientation_age_s(now_ns),
            deadman_age_s=None if held_s is None else self._steady_s() - held_s,
            emergency_stop=emergency_stop,
            faults=faults,
            picture_still_s=self._still.seconds,
        )
        return dataclasses.replace(situation, **self._safety.situation(now_ns))

    def _receive_deadman(self, data: bytes) -> None:
        try:
            held = is_held(self._task, deserialise(data, JOY_TYPE).buttons)
        except FogError:
            return  # not a sign of life: the timeout decides
        self._held_s = self._steady_s() if held else None

    def _command(self, data: bytes) -> Command | None:
        action = self._task.action
        try:
            told = read_fields(deserialise(data, action.type), action.fields).astype(np.float64)
        except FogError:
            return None
        return told if np.isfinite(told).all() else None

    def _begins_episode(self, data: bytes, now_ns: int) -> bool:
        marker = self._task.marker
        assert marker is not None
        try:
            value = float(read_fields(deserialise(data, marker.type), marker.fields)[0])
        except FogError:
            return False
        before, self._marker = self._marker, value
        if before is None or before == value:
            return False
        # The marker comes with the first image of the episode, in either order; what arrived
        # clearly before it shows the previous episode.
        self._buffer.forget_images_before(now_ns - self._task.period_ns // 4)
        self._still.clear()
        return True

    def _not_finite(self, proprioception: FloatArray) -> str:
        names = [f"{s.topic} {f}" for s in self._task.proprioception for f in s.fields]
        bad = [n for n, v in zip(names, proprioception, strict=True) if not np.isfinite(v)]
        return f"not finite: {', '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}"
