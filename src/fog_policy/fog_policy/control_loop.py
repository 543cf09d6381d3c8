"""One tick of the deployed policy: observe, filter the state, act, check. No ROS here.

The node around it moves bytes and time; everything that decides about the robot is here, where a
test can reach it without processes. A tick has three parts, so that the middle one can run in
another thread: :meth:`ControlLoop.begin` observes, :meth:`ControlLoop.compute` asks the policy, and
:meth:`ControlLoop.finish` passes its answer through the safety filter. Between ticks,
:meth:`ControlLoop.check` looks whether the robot has to stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from fog_policy.command_limits import Command
from fog_policy.control_inputs import ControlInputs
from fog_policy.control_report import ControlReport
from fog_policy.decision import Answer, Controller, Decision, Question
from fog_policy.decision_filter import DecisionFilter
from fog_policy.observation_buffer import LiveObservation
from fog_policy.safety import EmergencyStop, Reason, Verdict, stop_reasons
from fog_policy.surprise import SurpriseGuard
from fog_world_model.task import FloatArray, TaskConfig

_GAP_PERIODS = 2.5
"""Images used one after the other that lie further apart than so many control periods are a gap:
the policy forgets. A single lost image is not worth a long memory."""


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
        self._filter = DecisionFilter(task)
        self._inputs = ControlInputs(task, steady_s=steady_s, shadow=shadow)
        self._guard = guard or SurpriseGuard(None)
        self.start()

    def topics(self) -> dict[str, str]:
        """Topic -> interface name of everything that :meth:`receive` wants."""
        return self._inputs.topics()

    def start(self) -> None:
        """Begin anew: no past observations, a fresh recurrent state, a fresh report.

        An emergency stop stays engaged.
        """
        self.report = ControlReport(self.task.control_hz)
        self._inputs.clear()
        self._guard.reset()
        self._filter.stop()
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
        if self.ran_back(now_ns):
            return True
        arrival = self._inputs.receive(topic, data, now_ns, self._filter.in_force)
        if arrival.told is not None:
            self._compare(arrival.told)
        if arrival.new_episode:
            self._forget()
            self._guard.reset()
            self.report.episodes += 1
            self.report.restart_interval()
        return arrival.new_episode

    def ran_back(self, now_ns: int) -> bool:
        """Begin anew where the clock has jumped back (a bag that starts over, say).

        What was observed and commanded before is forgotten, and so is what the policy still
        answers to it. Whoever publishes has to tell the robot to stand.

        Args:
            now_ns: By the clock that also stamps the messages.

        Returns:
            Whether it has, since the call before.
        """
        if not self._inputs.ran_back(now_ns):
            return False
        self._begin_anew()
        return True

    def has_image(self) -> bool:
        """Whether an image of this episode has come."""
        return self._inputs.has_image()

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
        self.ran_back(now_ns)
        observation = self._inputs.observation(now_ns)
        if isinstance(observation, Reason):
            # A step that cannot be built breaks the episode, on the robot as in the recordings;
            # and a value that is not finite would stay in the recurrent state for good.
            self._forget()
            return self._decide(None, None, (observation,), now_ns, now_ns, 0)
        before_ns, self._image_ns = self._image_ns, observation.stamp_ns
        if before_ns is not None:
            gap_ns = observation.stamp_ns - before_ns
            if not 0 <= gap_ns <= _GAP_PERIODS * self.task.period_ns:
                self._forget()
        first = not self._fresh
        self._fresh = True
        if first:
            self.report.resets += 1
        return Question(observation, self._filter.told(first=first), first, self._episode, now_ns)

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
        if (broken := self._inputs.newest_fault()) is not None:  # it came while the policy computed
            faults.append(broken)
        if question.first:
            self._guard.restart()
        if answer.action is None or not np.isfinite(answer.action).all():
            self._forget()
        elif (strange := self._guard.update(answer.surprise)) is not None:
            faults.append(strange)
        return self._decide(
            question.observation,
            answer.action,
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
        fault = self._inputs.newest_fault()
        faults = () if fault is None else (fault,)
        situation = self._inputs.situation(now_ns, faults, self.emergency_stop.reason)
        reasons = stop_reasons(self.task, situation)
        return self._stopped(reasons) if reasons else None

    def stop(self, reason: Reason) -> Decision:
        """Decide on a zero command outside the rhythm of ticks."""
        return self._stopped((reason,))

    def went_out(self, command: Command) -> None:
        """Take what was published in a decision's place for what the robot was told.

        Args:
            command: ``[action]``, physical units.
        """
        if not self._shadow:
            self._filter.in_force = command

    def let_go_on(self) -> None:
        """A person has looked and says so: release what latched."""
        self.emergency_stop.reset()
        self._guard.reset()
        self._inputs.forgive_picture()

    def _decide(
        self,
        observation: LiveObservation | None,
        action: FloatArray | None,
        faults: Sequence[Reason],
        tick_ns: int,
        now_ns: int,
        inference_ns: int,
    ) -> Decision:
        # The first command has no predecessor in time: it may change by one period's worth.
        period_s = 1.0 / self.task.control_hz
        since_s = period_s if self._previous_ns is None else (tick_ns - self._previous_ns) / 1e9
        situation = self._inputs.situation(now_ns, tuple(faults), self.emergency_stop.reason)
        verdict = self._filter.decide(situation, action, since_s, self.speed_scale)
        self.emergency_stop.obey(verdict)
        self._previous_ns = tick_ns
        if self._shadow:
            self._proposed = None if verdict.stops else verdict.command
        else:
            self._filter.in_force = verdict.command
        self.report.filtered([reason.cause for reason in verdict.stops], verdict.limits)
        image_ns = None if observation is None else observation.stamp_ns
        proposed = self._filter.proposed(action, self.speed_scale)
        if proposed is not None and not np.isfinite(proposed).all():
            proposed = None
        return Decision(verdict.command, verdict, image_ns, inference_ns, proposed)

    def _stopped(self, reasons: tuple[Reason, ...]) -> Decision:
        zero: Command = np.zeros(self.task.action_size)
        if not self._shadow:
            self._filter.stop()
        verdict = Verdict(zero, reasons)
        self.emergency_stop.obey(verdict)
        self.report.filtered([reason.cause for reason in reasons], ())
        return Decision(zero, verdict, None, 0)

    def _forget(self) -> None:
        """The next observation is the first of an episode for the policy."""
        self._fresh = False
        self._episode += 1

    def _begin_anew(self) -> None:
        """The clock has jumped back."""
        self._forget()
        self._guard.reset()
        if not self._shadow:
            self._filter.stop()
        self._image_ns = None
        self._previous_ns = None
        self.report.restart_interval()

    def _compare(self, told: Command) -> None:
        """In shadow: what the robot is told is what the policy has to believe it did."""
        self._filter.in_force = told
        if self._proposed is not None:
            self.report.compared(self._proposed - told)
            self._proposed = None
