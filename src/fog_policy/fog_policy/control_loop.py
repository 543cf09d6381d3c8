"""One tick of the deployed policy: observe, filter the state, act, check. No ROS here.

The node around it moves bytes and time; everything that decides about the robot is here, where a
test can reach it without processes. A tick has three parts, so that the middle one can run in
another thread: :meth:`ControlLoop.begin` observes, :meth:`ControlLoop.compute` asks the policy, and
:meth:`ControlLoop.finish` passes its answer through the safety filter. Between ticks,
:meth:`ControlLoop.check` looks whether the robot has to stop.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
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
    is_held,
    stop_reasons,
)
from fog_policy.safety_inputs import SafetyInputs
from fog_policy.surprise import SurpriseGuard
from fog_world_model.data.images import ImageArray
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, TaskConfig

JOY_TYPE = "sensor_msgs/msg/Joy"

_GAP_PERIODS = 2.5
"""Images used one after the other that lie further apart than so many control periods are a gap:
the policy forgets. A single lost image is not worth a long memory."""


class Controller(Protocol):
    """A policy with its recurrent state, as a bundle gives it."""

    surprise: float | None
    """KL of posterior and prior at the last observation, nats; None: it does not say."""

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


@dataclass(frozen=True)
class Question:
    """What the policy is asked in one tick."""

    observation: LiveObservation
    previous: FloatArray
    """``[action]`` in [-1, 1]: what the robot was told before."""
    first: bool
    """Whether the policy forgets everything before."""
    episode: int
    """Which stretch of unbroken time this belongs to."""
    now_ns: int
    """When the tick began."""


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    action: FloatArray | None
    """``[action]`` in [-1, 1]; None when the policy failed."""
    problem: str
    inference_ns: int
    """Wall time that the policy took."""
    surprise: float | None = None
    """Of the local model at this observation, nats."""


class ControlLoop:
    """Runs a controller on what arrives.

    Args:
        task: The contract.
        controller: The policy.
        emergency_stop: The latch to obey, where it has to outlive this loop.
        steady_s: A clock that never jumps, in seconds; a person's dead-man's switch is timed by it.
        shadow: Somebody else drives: what the robot was told is what comes on the action's topic,
            and the policy's own commands are compared with it.
        guard: Watches for observations unlike the recordings; None: nothing does.

    Raises:
        FogError: The task's bounds do not allow a stop, or it names a topic with two types.
    """

    def __init__(
        self,
        task: TaskConfig,
        controller: Controller,
        *,
        emergency_stop: EmergencyStop | None = None,
        steady_s: Callable[[], float] = time.monotonic,
        shadow: bool = False,
        guard: SurpriseGuard | None = None,
    ) -> None:
        check_limits(task)
        self.task = task
        self.emergency_stop = emergency_stop or EmergencyStop()
        self.report = ControlReport(task.control_hz)
        self.speed_scale = 1.0
        """What the policy proposes is multiplied by this, in [0, 1], in physical units."""
        self._shadow = shadow
        self._episode = 0
        self._fresh = False
        """Whether the policy's state goes on from the last observation."""
        self._controller = controller
        self._steady_s = steady_s
        self._buffer = ObservationBuffer(task)
        self._inputs = SafetyInputs(task)
        self._guard = guard or SurpriseGuard(None)
        self._held_s: float | None = None
        self._clock_ns = 0
        self._marker: float | None = None
        self.start()

    def topics(self) -> dict[str, str]:
        """Topic -> interface name of everything that :meth:`receive` wants."""
        topics = self._buffer.topics()
        for topic, kind in self._inputs.topics().items():
            topics.setdefault(topic, kind)
        if self.task.marker is not None:
            topics.setdefault(self.task.marker.topic, self.task.marker.type)
        if self.task.safety.deadman_topic:
            topics.setdefault(self.task.safety.deadman_topic, JOY_TYPE)
        if self._shadow:
            topics.setdefault(self.task.action.topic, self.task.action.type)
        return topics

    def start(self) -> None:
        """Begin anew: no past observations, a fresh recurrent state, a fresh report.

        An emergency stop stays engaged.
        """
        self.report = ControlReport(self.task.control_hz)
        self._buffer.clear()
        self._inputs.clear()
        self._guard.reset()
        self._marker = None
        self._previous: Command = np.zeros(self.task.action_size)
        self._previous_ns: int | None = None
        self._proposed: Command | None = None
        """In shadow: what the robot's next command is compared with."""
        self._image_ns: int | None = None
        self._forget()

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
        if topic in self._inputs.topics():
            self._inputs.receive(topic, data, now_ns)
        if topic == self.task.safety.deadman_topic:
            self._receive_deadman(data)
        if self._shadow and topic == self.task.action.topic:
            self._receive_command(data)
        if self.task.marker is not None and topic == self.task.marker.topic:
            return self._receive_marker(data, now_ns)
        return False

    def has_image(self) -> bool:
        """Whether an image of this episode has come."""
        return self._buffer.has_image()

    def tick(self, now_ns: int) -> Decision:
        """Decide what to command now, and wait for the policy.

        Args:
            now_ns: By the clock that also stamps the messages.
        """
        begun = self.begin(now_ns)
        if isinstance(begun, Decision):
            return begun
        decision = self.finish(begun, self.compute(begun), now_ns)
        assert decision is not None  # nothing came in between
        return decision

    def begin(self, now_ns: int) -> Question | Decision:
        """Observe.

        Args:
            now_ns: By the clock that also stamps the messages.

        Returns:
            What to ask the policy; a decision where there is nothing to show it.
        """
        self._clock_ran_back(now_ns)
        faults: list[Reason] = []
        observation = self._observe(now_ns, faults)
        if observation is None:
            return self._decide(None, None, faults, now_ns, now_ns, 0)
        before_ns, self._image_ns = self._image_ns, observation.stamp_ns
        if before_ns is not None:
            gap_ns = observation.stamp_ns - before_ns
            if not 0 <= gap_ns <= _GAP_PERIODS * self.task.period_ns:
                self._forget()
        first = not self._fresh
        self._fresh = True
        # An episode starts from rest for the policy, whatever the robot was told before.
        command = np.zeros_like(self._previous) if first else self._previous
        previous = self.task.action.to_normalised(command)
        if first:
            previous = np.zeros_like(previous)
            self.report.resets += 1
        return Question(observation, previous, first, self._episode, now_ns)

    def compute(self, question: Question) -> Answer:
        """Ask the policy. This part may run in another thread, always the same one."""
        begin = time.perf_counter_ns()
        observation = question.observation
        try:
            if question.first:
                self._controller.reset()
            action = self._controller.act(
                observation.image, observation.proprioception, question.previous
            )
        except Exception as error:  # whatever a network fails with, the robot has to stop
            problem = f"{type(error).__name__}: {error}"
            return Answer(None, problem, time.perf_counter_ns() - begin)
        took_ns = time.perf_counter_ns() - begin
        return Answer(action, "", took_ns, self._controller.surprise)

    def finish(self, question: Question, answer: Answer, now_ns: int) -> Decision | None:
        """Pass the policy's answer through the safety filter.

        Args:
            question: From :meth:`begin`.
            answer: From :meth:`compute`.
            now_ns: By the clock that also stamps the messages.

        Returns:
            The decision; None when the answer belongs to what has been forgotten meanwhile.
        """
        if question.episode != self._episode:
            return None
        faults = [] if answer.action is not None else [Reason("policy", answer.problem)]
        if question.first:
            self._guard.restart()
        if answer.action is None or not np.isfinite(answer.action).all():
            self._forget()
        elif (strange := self._guard.update(answer.surprise)) is not None:
            faults.append(strange)
        proposed = None
        if answer.action is not None:
            proposed = self.task.action.to_physical(answer.action) * self.speed_scale
        return self._decide(
            question.observation,
            proposed,
            faults,
            question.now_ns,
            now_ns,
            answer.inference_ns,
        )

    def check(self, now_ns: int) -> Decision | None:
        """Look between two ticks whether the robot has to stop.

        Returns:
            A zero command and why; None when nothing speaks against the one in force.
        """
        faults = tuple(
            Reason("proprioception", f"not finite: {name}") for name in self._buffer.not_finite()
        )
        reasons = stop_reasons(self.task, self._situation(now_ns, faults[:1]))
        return self._stopped(reasons) if reasons else None

    def _decide(
        self,
        observation: LiveObservation | None,
        proposed: FloatArray | None,
        faults: Sequence[Reason],
        tick_ns: int,
        now_ns: int,
        inference_ns: int,
    ) -> Decision:
        # The first command has no predecessor in time: it may change by one period's worth.
        period_s = 1.0 / self.task.control_hz
        since_s = period_s if self._previous_ns is None else (tick_ns - self._previous_ns) / 1e9
        situation = self._situation(now_ns, tuple(faults))
        # Without the rate: a decision is a step by nature, and the command hold smooths it.
        verdict = filter_command(self.task, situation, proposed, self._previous, since_s)
        self.emergency_stop.obey(verdict)
        self._previous_ns = tick_ns
        if self._shadow:
            self._proposed = None if verdict.stops else verdict.command
        else:
            self._previous = verdict.command
        self.report.filtered([reason.cause for reason in verdict.stops], verdict.limits)
        image_ns = None if observation is None else observation.stamp_ns
        return Decision(verdict.command, verdict, image_ns, inference_ns)

    def stop(self, reason: Reason) -> Decision:
        """Decide on a zero command outside the rhythm of ticks."""
        return self._stopped((reason,))

    def _stopped(self, reasons: tuple[Reason, ...]) -> Decision:
        zero: Command = np.zeros(self.task.action_size)
        if not self._shadow:
            self._previous = zero
        verdict = Verdict(zero, reasons)
        self.emergency_stop.obey(verdict)
        self.report.filtered([reason.cause for reason in reasons], ())
        return Decision(zero, verdict, None, 0)

    def let_go_on(self) -> None:
        """A person has looked and says so: release what latched."""
        self.emergency_stop.reset()
        self._guard.reset()

    def _forget(self) -> None:
        """The next observation is the first of an episode for the policy."""
        self._fresh = False
        self._episode += 1

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
            self._forget()
        return observation

    def _situation(self, now_ns: int, faults: tuple[Reason, ...]) -> Situation:
        buffer = self._buffer
        held_s = self._held_s
        situation = Situation(
            image_age_s=buffer.image_age_s(now_ns),
            proprioception_age_s=buffer.proprioception_age_s(now_ns),
            orientation=buffer.orientation(),
            orientation_age_s=buffer.orientation_age_s(now_ns),
            deadman_age_s=None if held_s is None else self._steady_s() - held_s,
            emergency_stop=self.emergency_stop.reason,
            faults=faults,
        )
        return dataclasses.replace(situation, **self._inputs.situation(now_ns))

    def _receive_deadman(self, data: bytes) -> None:
        try:
            held = is_held(self.task, deserialise(data, JOY_TYPE).buttons)
        except FogError:
            return  # not a sign of life: the timeout decides
        self._held_s = self._steady_s() if held else None

    def _receive_command(self, data: bytes) -> None:
        """In shadow: what the robot is told is what the policy has to believe it did."""
        action = self.task.action
        try:
            told = read_fields(deserialise(data, action.type), action.fields).astype(np.float64)
        except FogError:
            return
        if not np.isfinite(told).all():
            return
        self._previous = told
        if self._proposed is not None:
            self.report.compared(self._proposed - told)
            self._proposed = None

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
        self._forget()
        self._guard.reset()
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
            self._inputs.clear()
            self._forget()
            self._image_ns = None
            self._previous_ns = None
            self._marker = None
            self.report.restart_interval()
        return jumped

    def _not_finite(self, proprioception: FloatArray) -> str:
        names = [f"{s.topic} {f}" for s in self.task.proprioception for f in s.fields]
        bad = [n for n, v in zip(names, proprioception, strict=True) if not np.isfinite(v)]
        return f"not finite: {', '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}"
