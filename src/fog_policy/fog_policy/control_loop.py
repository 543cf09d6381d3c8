"""One tick of the deployed policy: observe, filter the state, act, check. No ROS here.

The node around it moves bytes and time; everything that decides about the robot is here, where a
test can reach it without processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fog_policy.control_report import ControlReport
from fog_policy.observation_buffer import LiveObservation, ObservationBuffer
from fog_policy.safety import (
    Command,
    EmergencyStop,
    Reason,
    Situation,
    Verdict,
    check_limits,
    filter_command,
)
from fog_world_model.data.images import ImageArray
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, TaskConfig

JOY_TYPE = "sensor_msgs/msg/Joy"


class Controller(Protocol):
    """A policy with its recurrent state, as a bundle gives it."""

    def reset(self) -> None:
        """Forget the past: the next observation is the first of an episode."""

    def act(
        self, image: ImageArray, proprioception: FloatArray, previous_action: FloatArray
    ) -> FloatArray:
        """Update the state and choose an action.

        Args:
            image: ``[height, width, channel]`` uint8 RGB of the task's size.
            proprioception: ``[field]``, physical units.
            previous_action: ``[action]`` in [-1, 1]: what the robot was told before; zeros at
                the start of an episode.

        Returns:
            ``[action]`` in [-1, 1].
        """


@dataclass(frozen=True)
class Decision:
    """The outcome of one tick."""

    command: Command
    """``[action]``, physical units."""
    verdict: Verdict
    image_ns: int | None
    """Stamp of the image that the command was computed from; None when there was none."""
    inference_ns: int
    """Wall time that the policy took."""


class ControlLoop:
    """Runs a controller on what arrives.

    Args:
        task: The contract.
        controller: The policy.
        emergency_stop: The latch to obey, where it has to outlive this loop.
        steady_s: A clock that never jumps, in seconds; a person's dead-man's switch is timed by it.

    Raises:
        FogError: The task's bounds do not allow a stop.
    """

    def __init__(
        self,
        task: TaskConfig,
        controller: Controller,
        *,
        emergency_stop: EmergencyStop | None = None,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        check_limits(task)
        self.task = task
        self.emergency_stop = emergency_stop or EmergencyStop()
        self.report = ControlReport(task.control_hz)
        self._controller = controller
        self._steady_s = steady_s
        self._buffer = ObservationBuffer(task)
        self._held_s: float | None = None
        self._clock_ns = 0
        self._marker: float | None = None
        self.start()

    def topics(self) -> dict[str, str]:
        """Topic -> interface name of everything that :meth:`receive` wants."""
        topics = self._buffer.topics()
        if self.task.marker is not None:
            topics.setdefault(self.task.marker.topic, self.task.marker.type)
        if self.task.safety.deadman_topic:
            topics.setdefault(self.task.safety.deadman_topic, JOY_TYPE)
        return topics

    def start(self) -> None:
        """Begin anew: no past observations, a fresh recurrent state, a fresh report.

        An emergency stop stays engaged.
        """
        self.report = ControlReport(self.task.control_hz)
        self._buffer.clear()
        self._marker = None
        self._previous: Command = np.zeros(self.task.action_size)
        self._previous_ns: int | None = None
        self._fresh = False
        """Whether the controller's state is that of an episode's start."""

    def receive(self, topic: str, data: bytes, now_ns: int) -> bool:
        """Take a message of one of :meth:`topics`.

        Args:
            topic: Where it came.
            data: The serialised message.
            now_ns: When, by the node's clock.

        Returns:
            Whether a new episode has begun.
        """
        if self._clock_ran_back(now_ns):
            return True
        if topic in self._buffer.topics():
            self._buffer.receive(topic, data, now_ns)
        if topic == self.task.safety.deadman_topic:
            self._receive_deadman(data)
        if self.task.marker is not None and topic == self.task.marker.topic:
            return self._receive_marker(data, now_ns)
        return False

    def has_image(self) -> bool:
        """Whether an image of this episode has come."""
        return self._buffer.has_image()

    def tick(self, now_ns: int) -> Decision:
        """Decide what to command now.

        Args:
            now_ns: By the clock that also stamps the messages.
        """
        self._clock_ran_back(now_ns)
        faults: list[Reason] = []
        observation = self._observe(now_ns, faults)
        proposed, inference_ns = None, 0
        if observation is not None:
            begin = time.perf_counter_ns()
            proposed = self._act(observation, faults)
            inference_ns = time.perf_counter_ns() - begin
        # The first command has no predecessor in time: it may change by one period's worth.
        period_s = 1.0 / self.task.control_hz
        since_s = period_s if self._previous_ns is None else (now_ns - self._previous_ns) / 1e9
        verdict = filter_command(
            self.task,
            self._situation(now_ns, tuple(faults)),
            None if proposed is None else self.task.action.to_physical(proposed),
            self._previous,
            since_s,
        )
        self._previous, self._previous_ns = verdict.command, now_ns
        self.report.filtered([reason.cause for reason in verdict.stops], verdict.limits)
        image_ns = None if observation is None else observation.stamp_ns
        return Decision(verdict.command, verdict, image_ns, inference_ns)

    def stop(self, reason: Reason) -> Decision:
        """Decide on a zero command outside the rhythm of ticks."""
        zero: Command = np.zeros(self.task.action_size)
        self._previous = zero
        self.report.filtered([reason.cause], ())
        return Decision(zero, Verdict(zero, (reason,)), None, 0)

    def _observe(self, now_ns: int, faults: list[Reason]) -> LiveObservation | None:
        """The newest observation that the policy can be shown; otherwise the fault is added."""
        found = self._buffer.newest(now_ns)
        observation = None
        if isinstance(found, Reason):
            faults.append(found)
        elif not np.isfinite(found.proprioception).all():
            faults.append(Reason("proprioception", self._not_finite(found.proprioception)))
        else:
            observation = found
        if observation is None:
            # A step that cannot be built breaks the episode, on the robot as in the recordings;
            # and a value that is not finite would stay in the recurrent state for good.
            self._fresh = False
        return observation

    def _act(self, observation: LiveObservation, faults: list[Reason]) -> FloatArray | None:
        previous = self.task.action.to_normalised(self._previous)
        try:
            if not self._fresh:
                self._controller.reset()
                self._fresh = True
                previous = np.zeros_like(previous)
            action = self._controller.act(observation.image, observation.proprioception, previous)
        except Exception as error:  # whatever a network fails with, the robot has to stop
            self._fresh = False
            faults.append(Reason("policy", f"{type(error).__name__}: {error}"))
            return None
        if not np.isfinite(action).all():
            self._fresh = False
        return action

    def _situation(self, now_ns: int, faults: tuple[Reason, ...]) -> Situation:
        buffer = self._buffer
        held_s = self._held_s
        return Situation(
            image_age_s=buffer.image_age_s(now_ns),
            proprioception_age_s=buffer.proprioception_age_s(now_ns),
            orientation=buffer.orientation(),
            orientation_age_s=buffer.orientation_age_s(now_ns),
            deadman_age_s=None if held_s is None else self._steady_s() - held_s,
            emergency_stop=self.emergency_stop.reason,
            faults=faults,
        )

    def _receive_deadman(self, data: bytes) -> None:
        try:
            held = any(deserialise(data, JOY_TYPE).buttons)
        except FogError:
            return  # not a sign of life: the timeout decides
        self._held_s = self._steady_s() if held else None

    def _receive_marker(self, data: bytes, now_ns: int) -> bool:
        marker = self.task.marker
        assert marker is not None
        try:
            value = float(read_fields(deserialise(data, marker.type), marker.fields)[0])
        except FogError:
            return False
        before, self._marker = self._marker, value
        if before is None or before == value:
            return False
        self._fresh = False
        self.report.episodes += 1
        # The marker comes with the first image of the episode, in either order; what arrived
        # clearly before it shows the previous episode.
        self._buffer.forget_images_before(now_ns - self.task.period_ns // 4)
        self.report.restart_interval()
        return True

    def _clock_ran_back(self, now_ns: int) -> bool:
        """Begin anew when the node's clock has jumped back (a bag that starts over, say)."""
        jumped = now_ns < self._clock_ns - self.task.period_ns
        self._clock_ns = now_ns if jumped else max(self._clock_ns, now_ns)
        if jumped:
            self._buffer.clear()
            self._fresh = False
            self._previous_ns = None
            self._marker = None
            self.report.restart_interval()
        return jumped

    def _not_finite(self, proprioception: FloatArray) -> str:
        names = [f"{s.topic} {f}" for s in self.task.proprioception for f in s.fields]
        bad = [n for n, v in zip(names, proprioception, strict=True) if not np.isfinite(v)]
        return f"not finite: {', '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}"
