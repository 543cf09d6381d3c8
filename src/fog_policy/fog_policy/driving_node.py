"""One activation of the policy's node: timers, command hold and questions to the policy.

At the control rate the policy is asked, in a thread of its own; at the rate of the hold the command
in force is published, and whatever speaks against it stops the robot.

A tick takes the newest image that has come, and its deadline is the next tick. In real time it
waits a moment for an image that is overdue, and follows the camera where that drifts
(:mod:`fog_policy.camera_phase`). Where the policy is still busy with the tick before, it is asked
as soon as it has answered, about the newest image then. Where the control rate does not divide the
camera's, ticks meet images in several phases: images are of different ages then, up to a camera
period, and nothing here makes them younger.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from fog_policy.callback_guard import CallbackGuard
from fog_policy.camera_phase import CameraPhase
from fog_policy.clock_watch_node import ClockWatch
from fog_policy.command_hold import CommandHold
from fog_policy.command_limits import Command, CommandLimits
from fog_policy.control_loop import ControlLoop
from fog_policy.decision import Decision, Question
from fog_policy.inference_worker import InferenceWorker
from fog_policy.policy_parameters_node import PolicyParametersNode
from fog_policy.robot_topics_node import RobotTopics
from fog_policy.safety import Reason, Verdict

ALIGNMENT = 0.1
"""Ticks come this fraction of a control period after an image. The policy was trained on actions
that follow the image at once; a timer of any phase would show it images of any age. A tick waits
for as long again for an image that is overdue."""

_JUMP_PERIODS = 2.5
"""Simulated time that passes by so many control periods at once has jumped (at a reset, say)."""
_RAMP = 0.25
"""A new command is approached over at least this fraction of a control period. The policy learned
from commands that take effect at once."""


@dataclasses.dataclass(frozen=True)
class _Tick:
    """One tick of the control rate."""

    now_ns: int
    """When the policy was asked, by the node's clock."""
    wall_s: float
    """And by the monotonic one."""
    due_ns: int
    """When the next tick is due."""


class Driving:
    """Asks, decides and publishes until it is ended.

    Args:
        node: Has the timers; its parameters say how to hold.
        loop: Started by this.
        topics: Where commands go.
        worker: The policy's thread.
        clock: The node's.
        guard: Around the timers' callbacks.
        answered: Called in the policy's thread when it has answered; :meth:`on_answer` has then to
            be called in the node's.
        show: Told every verdict.
    """

    def __init__(
        self,
        node: PolicyParametersNode,
        loop: ControlLoop,
        topics: RobotTopics,
        worker: InferenceWorker,
        clock: ClockWatch,
        guard: CallbackGuard,
        answered: Callable[[], object],
        show: Callable[[Verdict], None],
    ) -> None:
        self._node, self._loop, self._topics = node, loop, topics
        self._worker, self._clock, self._answered = worker, clock, answered
        self._show = show
        self.loop = loop
        self._pending: tuple[Question, Future[Any], _Tick] | None = None
        self._passed_over: int | None = None
        """Deadline of a tick at which the policy was busy."""
        self._held_s: float | None = None
        self._first_tick: tuple[int, float] | None = None
        self._waiting: _Tick | None = None
        """The tick at hand, where it waits for an image."""
        self._tick_ns: int | None = None
        self._newest_ns = 0
        self._waited = False
        self._aligned = False
        task = loop.task
        self._longest_s = node.longest_hold_s(task.control_hz)
        loop.start()
        self._hold: CommandHold | None = None
        if node.hold == "on" or (node.hold == "auto" and not clock.simulated):
            self._hold = CommandHold(
                CommandLimits.of(task),
                ramp_s=_RAMP / task.control_hz,
                timeout_s=self._longest_s,
            )
        self._timer = node.create_timer(task.period_ns / 1e9, guard("control timer", self._tick))
        self._timers = [self._timer]
        if self._hold is not None:
            held = guard("timer of the command hold", self._publish_held)
            self._timers.append(node.create_timer(1.0 / node.hold_hz, held))
        wanted_ns = round(ALIGNMENT * task.period_ns)
        self._phase = CameraPhase(task.period_ns, wanted_ns)
        self._patience = node.create_timer(
            wanted_ns / 1e9, guard("image timer", self._wait_no_more)
        )
        self._patience.cancel()
        self._timers.append(self._patience)

    @property
    def holds(self) -> str:
        """How commands are published, for a person."""
        if self._hold is not None:
            return f"at {self._node.hold_hz:g} Hz, jerk bounded"
        return "off: commands change in steps, once in a control period; their jerk is not bounded"

    def end(self) -> None:
        """No more ticks; what the policy still answers is dropped.

        The report ends here: until the zero commands have been acknowledged no tick is due.
        """
        self._loop.report.end(self._clock.now_ns())
        self._pending = self._passed_over = self._waiting = None
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._timers = []

    def receive(self, topic: str, data: bytes) -> None:
        """Take a message of the robot's."""
        loop, now_ns = self._loop, self._clock.now_ns()
        if self._jumped_back(now_ns):
            return  # it may have been sent before the jump
        new_episode = loop.receive(topic, data, now_ns)
        if new_episode:
            self._aligned = False
            self._waiting = None
            self._stand()
        image_came = topic == loop.task.image.topic or (new_episode and loop.has_image())
        if topic == loop.task.image.topic:
            self._phase.came(self._clock.steady_ns())
        if image_came and not self._aligned:
            self._align()
        if image_came:
            self._wait_no_more()

    def stop(self, reason: Reason) -> None:
        """Publish a zero command now, for a reason from outside."""
        self._publish_stop(self._loop.stop(reason))

    def on_answer(self) -> None:
        """Carry out what the policy has answered, if it has."""
        if self._pending is None or not self._pending[1].done():
            return
        question, future, tick = self._pending
        self._pending = None
        now_ns = self._clock.now_ns()
        self._jumped_back(now_ns)  # then the answer is of no use any more
        decision = self._loop.finish(question, future.result(), now_ns)
        if decision is not None:
            self._carry_out(decision, tick)
        due_ns, self._passed_over = self._passed_over, None
        if due_ns is not None:
            self._ask(_Tick(self._clock.now_ns(), time.monotonic(), due_ns))

    def _tick(self) -> None:
        """Ask the policy, at the control rate."""
        loop = self._loop
        if not self._timers:
            return
        period_ns = loop.task.period_ns
        if self._timer.timer_period_ns != period_ns:  # the first tick after an alignment
            self._timer.timer_period_ns = period_ns
            self._timer.reset()
        now_ns, begin = self._clock.now_ns(), time.monotonic()
        self._jumped_back(now_ns)
        late_ns = now_ns - (self._tick_ns or now_ns)
        self._tick_ns = now_ns
        jumped = late_ns > _JUMP_PERIODS * period_ns and self._clock.simulated
        if jumped and not self._waited:
            # What the robot sends after the jump has come with it, and is not read yet. Not twice
            # in a row: a robot too fast for this computer still has to get its commands.
            self._waited = True
            self._align()
            return
        self._waited = False
        self._first_tick = self._first_tick or (now_ns, begin)
        # The timer's schedule says when the next one is due, however late this one is.
        left_ns = self._timer.time_until_next_call()
        tick = _Tick(now_ns, begin, now_ns + (period_ns if left_ns is None else left_ns))
        tick = self._follow_camera(tick)
        loop.report.deadlines.tick(tick.due_ns)
        self._passed_over = self._waiting = None
        self.on_answer()  # it may be there, and its callback not
        overdue = self._phase.overdue(self._clock.steady_ns())
        if overdue and not self._clock.simulated and not self._worker.busy:
            loop.report.waits += 1
            self._waiting = tick
            self._patience.reset()
            return
        self._ask(tick)

    def _wait_no_more(self) -> None:
        """Ask, where a tick waits for an image: it has come, or has been waited for long enough."""
        if not self._timers:
            return
        self._patience.cancel()
        tick, self._waiting = self._waiting, None
        if tick is not None:
            self._ask(_Tick(self._clock.now_ns(), time.monotonic(), tick.due_ns))

    def _follow_camera(self, tick: _Tick) -> _Tick:
        """Have the next tick come earlier or later where the camera's clock has drifted."""
        if self._clock.simulated:
            return tick
        self._phase.tick(self._clock.steady_ns())
        drift_ns = self._phase.drift_ns()
        if not drift_ns:
            return tick
        due_ns = tick.due_ns - drift_ns
        # The tick after that puts the period back.
        self._timer.timer_period_ns = max(1, due_ns - tick.now_ns)
        self._timer.reset()
        return dataclasses.replace(tick, due_ns=due_ns)

    def _ask(self, tick: _Tick) -> None:
        """Ask the policy about the newest observation, or decide without it."""
        loop = self._loop
        if self._worker.busy:
            self._overrun(tick)
            return
        loop.speed_scale = self._node.speed_scale
        begun = loop.begin(tick.now_ns)
        if isinstance(begun, Decision):
            self._carry_out(begun, tick)
            return
        future = self._worker.submit(functools.partial(loop.compute, begun), self._answered)
        if future is not None:
            self._pending = (begun, future, tick)

    def _overrun(self, tick: _Tick) -> None:
        """The policy has not answered the last question yet."""
        self._loop.report.overruns += 1
        self._passed_over = tick.due_ns
        if self._hold is not None or self._pending is None:
            return  # the hold knows by itself when a command is too old
        waited_s = tick.wall_s - self._pending[2].wall_s
        if waited_s > self._longest_s:
            self.stop(Reason("policy", f"no answer for {waited_s:.2f} s"))

    def _carry_out(self, decision: Decision, tick: _Tick) -> None:
        """Publish a decision, or hand it to the hold."""
        loop, clock, hold = self._loop, self._clock, self._hold
        if decision.proposed is not None:
            self._topics.publish_proposed(decision.proposed)
        if decision.verdict.stops:
            if hold is not None:
                hold.stop()
            self._topics.publish(decision.command)
        elif hold is None:
            loop.went_out(self._topics.publish(decision.command))
        else:
            if hold.expired(clock.steady_ns()):
                self._stand()
            hold.set(decision.command, clock.steady_ns())
            self._publish_moving(hold, hold.at(clock.steady_ns()))
        # Simulated time stands still during a callback: let it pass at its own pace.
        spent_ns = round((time.monotonic() - tick.wall_s) * 1e9 * clock.rate(self._first_tick))
        published_ns = tick.now_ns + spent_ns
        loop.report.tick(published_ns)
        loop.report.deadlines.decided(tick.due_ns, published_ns)
        if decision.image_ns is not None and not decision.verdict.stops:
            loop.report.driven(
                decision.image_ns,
                published_ns - decision.image_ns,
                decision.inference_ns,
                tick.now_ns - decision.image_ns,
            )
        self._show(decision.verdict)

    def _publish_held(self) -> None:
        """Between decisions: stop when something speaks against the command, or publish it."""
        loop, hold = self._loop, self._hold
        if not self._timers or hold is None:
            return
        wall_s = time.monotonic()
        if self._held_s is not None and not self._clock.simulated:
            loop.report.jittered((wall_s - self._held_s - 1.0 / self._node.hold_hz) * 1e9)
        self._held_s = wall_s
        node_ns, now_ns = self._clock.now_ns(), self._clock.steady_ns()
        if self._jumped_back(node_ns):
            return
        if hold.moving:
            decision = loop.check(node_ns)
            if decision is None and hold.expired(now_ns):
                detail = f"no decision for {hold.timeout_s:g} s: the policy is late, or stuck"
                decision = loop.stop(Reason("policy", detail))
            if decision is not None:
                self._publish_stop(decision)
                return
        self._publish_moving(hold, hold.at(self._clock.steady_ns()))

    def _publish_moving(self, hold: CommandHold, command: Command) -> None:
        """Publish the hold's command; it goes on from what went out, when that was out."""
        hold.went_out(self._topics.publish(command), self._clock.steady_ns())

    def _publish_stop(self, decision: Decision) -> None:
        """Publish a zero command between two decisions."""
        if self._hold is not None:
            self._hold.stop()
        self._topics.publish(decision.command)
        self._show(decision.verdict)

    def _stand(self) -> None:
        """End the command that is held: what follows starts from rest, and so must the robot."""
        hold = self._hold
        if hold is not None and hold.moving:
            hold.stop()
            self._topics.publish(hold.at(self._clock.steady_ns()))

    def _jumped_back(self, now_ns: int) -> bool:
        """Stop the robot where the node's time has jumped back, a bag's that starts over, say.

        Nothing latches: once everything has come anew, it drives on.
        """
        before_ns, self._newest_ns = self._newest_ns, now_ns
        if not self._loop.ran_back(now_ns):
            return False
        self._first_tick = self._tick_ns = self._passed_over = self._waiting = None
        self._aligned = False
        # A timer of the system's clock would wait until that has caught up.
        for timer in self._timers:
            timer.reset()
        self._patience.cancel()
        back_s = (before_ns - now_ns) / 1e9
        detail = f"the node's time has jumped back by {back_s:.2f} s (does a bag start over?)"
        self.stop(Reason("clock", detail))
        return True

    def _align(self) -> None:
        """Let ticks follow what has just come, see :data:`ALIGNMENT`."""
        self._aligned = True
        self._timer.timer_period_ns = round(ALIGNMENT * self._loop.task.period_ns)
        self._timer.reset()
        self._phase.restart()
        self._loop.report.restart_interval()
