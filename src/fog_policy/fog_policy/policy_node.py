"""Lifecycle node that drives a robot with a bundle.

Configure loads the bundle, refuses what does not fit the robot's topics, and warms the policy up;
activate starts two timers: at the control rate the policy is asked, in a thread of its own; at the
rate of the hold the command in force is published, and whatever speaks against it stops the robot.
Deactivate, an error, a shutdown and every signal publish zero commands until the transport has
acknowledged them, and then nothing more. All but the policy's step happens in one thread, so that
nothing has to be locked.

In simulated time the hold is off unless asked for: a simulated robot waits for one command each
control period, and one that merely repeats the last decision would let its time run ahead.

    fog_policy_node --ros-args -p bundle:=runs/demo/bundle -p autostart:=true

Topics: what the task names, ``/diagnostics``. Services: those of a lifecycle node,
``~/emergency_stop``, ``~/reset_emergency_stop`` and ``~/write_report`` (std_srvs/srv/Trigger).
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer
from std_srvs.srv import Trigger

from fog_policy import exit_signals
from fog_policy.bundle_fit import messages_misfit, sizes_misfit
from fog_policy.command_hold import CommandHold
from fog_policy.control_files import ControlFiles
from fog_policy.control_loop import ControlLoop, Decision, Question
from fog_policy.encoding import ERROR, OK, WARN, encode_command, encode_diagnostics
from fog_policy.inference_worker import InferenceWorker
from fog_policy.parameters_node import ParametersNode
from fog_policy.safety import Command, EmergencyStop, Reason, Verdict
from fog_policy.surprise import SurpriseGuard
from fog_policy.topic_fit_node import graph_misfit, listen
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare
from fog_world_model.task import load_task

ALIGNMENT = 0.1
"""Ticks come this fraction of a control period after an image. The policy was trained on actions
that follow the image at once; a timer of any phase would show it images of any age."""

_JUMP_PERIODS = 2.5
"""Simulated time that passes by so many control periods at once has jumped (at a reset, say)."""

_CLOCK_CHECK_S = 0.5
_CLOCK_CHECKS = 3
"""The robot is stopped when this many checks in a row find the clock standing still."""
_RAMP = 0.25
"""A new command is approached over at least this fraction of a control period. The policy learned
from commands that take effect at once."""
_HOLD_PERIODS = 2.0
"""Without another limit a command is held for so many control periods."""
_ACKNOWLEDGED_S = 1.0
"""How long zero commands are repeated at most until they are acknowledged."""
_ZEROS = 3
"""And how often at least: one who listens with best effort acknowledges nothing."""
_SWITCH_S = 0.0005
"""The interpreter goes from thread to thread at least this often, so that the policy's thread
cannot keep the timers waiting."""
_SHOWN_TICKS = 500
"""Diagnostics show rate and latency over this many ticks; the report, over all."""

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PolicyNode(ParametersNode, LifecycleNode):
    """The node; its parameters are described where they are declared."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        self.bundle = self.declare("bundle", "", "Folder of the bundle to run.")
        self.device = self.declare("device", "cpu", "Where the policy computes: cpu, cuda, ...")
        self.report_path = self.declare(
            "report_path", "", "JSON file for rate, latency and stops; empty: only the log."
        )
        self.autostart = self.declare(
            "autostart", False, "Configure and activate at once, without a lifecycle manager."
        )
        self.task_path = self.declare(
            "task", "", "Task file that the bundle has to belong to; empty: its own."
        )
        self.backend = self.declare(
            "backend",
            "auto",
            "What computes the policy; auto: the faster one, measured when it is configured.",
            choices=("auto", "torch", "onnx"),
        )
        self.threads = self.declare(
            "threads", 1, "Threads for one operation of the policy.", low=1, high=64
        )
        self.shadow = self.declare(
            "shadow", False, "Compute, log and report, but publish no command."
        )
        self.declare(
            "speed_scale",
            1.0,
            "What the policy proposes is multiplied by this; can be changed while it drives.",
            low=0.0,
            high=1.0,
            fixed=False,
        )
        self.hold = self.declare(
            "hold",
            "auto",
            "Publish between decisions too; auto: in real time, not in simulated time.",
            choices=("auto", "on", "off"),
        )
        self.hold_hz = self.declare(
            "hold_hz", 50.0, "Rate of commands between decisions, Hz.", low=1.0, high=500.0
        )
        self.hold_timeout_s = self.declare(
            "hold_timeout_s",
            0.0,
            "A decision older than this gives way to zero, s; 0: two control periods.",
            low=0.0,
            high=10.0,
        )
        self.check_s = self.declare(
            "check_s",
            1.0,
            "Configure listens to the robot for so long, wall time, s; 0: it does not.",
            low=0.0,
            high=30.0,
        )
        period_s = self.declare(
            "diagnostics_period_s",
            1.0,
            "Seconds between two messages on /diagnostics.",
            low=0.05,
            high=10.0,
        )
        self.check_parameters()

        # The node's, not the bundle's: it holds over a change of the bundle.
        self._emergency_stop = EmergencyStop()
        self._loop: ControlLoop | None = None
        self._active = False
        self._timer: Timer | None = None
        self._hold_timer: Timer | None = None
        self._hold: CommandHold | None = None
        self._worker: InferenceWorker | None = None
        self._pending: tuple[Question, Future[Any], float] | None = None
        self._about: dict[str, Any] = {}
        self._files = ControlFiles(self.report_path) if self.report_path else None
        self._held_s: float | None = None
        # Wakes the executor when the policy has answered.
        self._answered = self.create_guard_condition(self._on_answer)
        self._aligned = False
        self._verdict: Verdict | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._inputs: list[Any] = []
        self._commands: Any = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/emergency_stop", self._on_emergency_stop)
        self.create_service(Trigger, "~/reset_emergency_stop", self._on_reset_emergency_stop)
        self.create_service(Trigger, "~/write_report", self._on_write_report)
        # Wall time: it has to go on while simulated time stands still.
        self.create_timer(period_s, self._publish_diagnostics, clock=self._steady)
        self.create_timer(_CLOCK_CHECK_S, self._watch_clock, clock=self._steady)
        self._first_tick: tuple[int, float] | None = None
        self._tick_ns: int | None = None
        self._waited = False
        self._clock_ns, self._still = 0, 0

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle, warm it up, and listen to its topics."""
        try:
            self._loop = self._load()
            self._connect(self._loop)
        except FogError as error:
            self.get_logger().error(str(error))
            self._disconnect()
            return FAILURE
        except Exception as error:  # rclpy would turn it into a transition without a word
            self.get_logger().error(f"bundle {self.bundle}: {type(error).__name__}: {error}")
            self._disconnect()
            return FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the control-rate timer, with a fresh recurrent state."""
        result = super().on_activate(state)
        assert self._loop is not None
        self._loop.start()
        self._loop.report.about = dict(self._about)
        self._pending, self._held_s = None, None
        self._first_tick, self._tick_ns, self._still = None, None, 0
        self._active, self._aligned = True, False
        self._verdict = None
        self._timer = self.create_timer(self._loop.task.period_ns / 1e9, self._tick)
        self._hold = None
        if self.hold == "on" or (self.hold == "auto" and not self._simulated()):
            task = self._loop.task
            self._hold = CommandHold(
                task.safety.slew_per_s,
                ramp_s=_RAMP / task.control_hz,
                timeout_s=self.hold_timeout_s or _HOLD_PERIODS / task.control_hz,
            )
            self._hold_timer = self.create_timer(1.0 / self.hold_hz, self._publish_held)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish a zero command, and report."""
        self.halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the bundle."""
        self._disconnect()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish a zero command where one is due, and let go of everything."""
        self.halt()
        self._disconnect()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish a zero command and go back to unconfigured."""
        self.halt()
        self._disconnect()
        return super().on_error(state)

    def halt(self) -> None:
        """Stop driving: no more ticks, zero commands that have arrived, the report written."""
        if not self._active or self._loop is None:
            return
        self._active = False
        for timer in (self._timer, self._hold_timer):
            if timer is not None:
                self.destroy_timer(timer)
        self._timer = self._hold_timer = None
        self._publish_zeros(self._loop)
        self._loop.report.end(self._now_ns())
        self._write_report(self._loop)

    def _publish_zeros(self, loop: ControlLoop) -> None:
        """Zero commands until the transport has acknowledged them.

        The last message of a process that ends at once would go with it.
        """
        if self.shadow:
            return
        deadline = time.monotonic() + _ACKNOWLEDGED_S
        sent, arrived = 0, False
        while not (arrived and sent >= _ZEROS) and time.monotonic() < deadline:
            self._publish_command(np.zeros(loop.task.action_size))
            arrived = self._commands.wait_for_all_acked(Duration(seconds=1.0 / self.hold_hz))
            sent += 1
        if not arrived:
            self.get_logger().error(
                f"{loop.task.action.topic}: nobody acknowledged {sent} zero commands within "
                f"{_ACKNOWLEDGED_S:g} s"
            )

    def close(self) -> None:
        """Stop driving, and end what goes on beside this thread."""
        self.halt()
        if self._worker is not None:
            self._worker.close()
        if self._files is not None and not self._files.wait(10.0):
            self.get_logger().warning(f"report {self.report_path}: no picture was drawn")

    # Control

    def _tick(self) -> None:
        """Ask the policy, at the control rate."""
        loop = self._loop
        if not self._active or loop is None or self._timer is None:
            return
        period_ns = loop.task.period_ns
        if self._timer.timer_period_ns != period_ns:  # the first tick after an alignment
            self._timer.timer_period_ns = period_ns
            self._timer.reset()
        now_ns, begin = self._now_ns(), time.monotonic()
        late_ns = now_ns - (self._tick_ns or now_ns)
        self._tick_ns = now_ns
        jumped = late_ns > _JUMP_PERIODS * period_ns and self._simulated()
        if jumped and not self._waited:
            # What the robot sends after the jump has come with it, and is not read yet. Not twice
            # in a row: a robot too fast for this computer still has to get its commands.
            self._waited = True
            self._align(loop, self._timer)
            return
        self._waited = False
        self._first_tick = self._first_tick or (now_ns, begin)
        self._on_answer()  # it may be there, and its callback not
        if self._worker is None or self._worker.busy:
            self._overrun(loop, begin)
            return
        loop.speed_scale = float(self.get_parameter("speed_scale").value)
        begun = loop.begin(now_ns)
        if isinstance(begun, Decision):
            self._carry_out(loop, begun, now_ns, begin)
            return
        work = functools.partial(loop.compute, begun)
        future = self._worker.submit(work, self._answered.trigger)
        if future is not None:
            self._pending = (begun, future, begin)

    def _overrun(self, loop: ControlLoop, now_s: float) -> None:
        """The policy has not answered the last question yet."""
        loop.report.overruns += 1
        if self._hold is not None or self._pending is None:
            return  # the hold knows by itself when a command is too old
        waited_s = now_s - self._pending[2]
        if waited_s > (self.hold_timeout_s or _HOLD_PERIODS / loop.task.control_hz):
            self._stop(loop, Reason("policy", f"no answer for {waited_s:.2f} s"))

    def _on_answer(self) -> None:
        if self._pending is None or not self._pending[1].done():
            return
        question, future, begin = self._pending
        self._pending = None
        loop = self._loop
        if not self._active or loop is None:
            return
        decision = loop.finish(question, future.result(), self._now_ns())
        if decision is not None:
            self._carry_out(loop, decision, question.now_ns, begin)

    def _carry_out(
        self, loop: ControlLoop, decision: Decision, tick_ns: int, begin_s: float
    ) -> None:
        """Publish a decision, or hand it to the hold."""
        if self._hold is None:
            self._publish_command(decision.command)
        elif decision.verdict.stops:
            self._hold.stop()
            self._publish_command(decision.command)
        else:
            self._hold.set(decision.command, self._hold_ns())
            self._publish_command(self._hold.at(self._hold_ns()))
        # Simulated time stands still during a callback: let it pass at its own pace.
        spent_ns = round((time.monotonic() - begin_s) * 1e9 * self._clock_rate())
        loop.report.tick(tick_ns + spent_ns)
        if decision.image_ns is not None and not decision.verdict.stops:
            latency_ns = tick_ns + spent_ns - decision.image_ns
            loop.report.driven(decision.image_ns, latency_ns, decision.inference_ns)
        self._show(decision.verdict)

    def _publish_held(self) -> None:
        """Between decisions: stop when something speaks against the command, or publish it."""
        loop, hold = self._loop, self._hold
        if not self._active or loop is None or hold is None:
            return
        wall_s = time.monotonic()
        if self._held_s is not None and not self._simulated():
            loop.report.jittered((wall_s - self._held_s - 1.0 / self.hold_hz) * 1e9)
        self._held_s = wall_s
        now_ns = self._hold_ns()
        if hold.moving:
            decision = loop.check(self._now_ns())
            if decision is None and hold.expired(now_ns):
                detail = f"no decision for {hold.timeout_s:g} s: the policy is late, or stuck"
                decision = loop.stop(Reason("policy", detail))
            if decision is not None:
                hold.stop()
                self._publish_command(decision.command)
                self._show(decision.verdict)
                return
        self._publish_command(hold.at(now_ns))

    def _hold_ns(self) -> int:
        """The hold's clock: one that does not jump, unless time is simulated."""
        return self._now_ns() if self._simulated() else time.monotonic_ns()

    def _receive(self, topic: str, data: bytes) -> None:
        loop = self._loop
        if not self._active or loop is None:
            return
        new_episode = loop.receive(topic, data, self._now_ns())
        if new_episode:
            self._aligned = False
            if self._hold is not None:
                self._hold.stop()
        image_came = topic == loop.task.image.topic or (new_episode and loop.has_image())
        if image_came and not self._aligned and self._timer is not None:
            self._align(loop, self._timer)

    def _align(self, loop: ControlLoop, timer: Timer) -> None:
        """Let ticks follow what has just come, see :data:`ALIGNMENT`."""
        self._aligned = True
        timer.timer_period_ns = round(ALIGNMENT * loop.task.period_ns)
        timer.reset()
        loop.report.restart_interval()

    def _watch_clock(self) -> None:
        """Stop the robot when simulated time stands still: ticks would not come any more."""
        now_ns = self._now_ns()
        # Checks are counted, not wall time: while this process gets no processor, a simulation
        # may well be waiting for it.
        self._still = self._still + 1 if now_ns == self._clock_ns else 0
        self._clock_ns = now_ns
        if self._active and self._loop is not None and self._still >= _CLOCK_CHECKS:
            still_s = self._still * _CLOCK_CHECK_S
            detail = f"the node's time has stood still for {still_s:g} s (use_sim_time, /clock)"
            self._stop(self._loop, Reason("clock", detail))

    def _on_emergency_stop(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        self._emergency_stop.engage("stopped by service")
        if self._active and self._loop is not None:
            self._stop(self._loop, Reason("emergency_stop", "stopped by service"))
        response.success, response.message = True, "stopped until ~/reset_emergency_stop is called"
        return response

    def _on_reset_emergency_stop(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        was = self._emergency_stop.reason
        if self._loop is None:
            self._emergency_stop.reset()
        else:
            self._loop.let_go_on()
        response.success, response.message = True, "released" if was else "it was not stopped"
        self.get_logger().warning(f"emergency stop: {response.message}")
        return response

    def _stop(self, loop: ControlLoop, reason: Reason) -> None:
        decision = loop.stop(reason)
        if self._hold is not None:
            self._hold.stop()
        self._publish_command(decision.command)
        self._show(decision.verdict)

    def _publish_command(self, command: Command) -> None:
        loop = self._loop
        if loop is None or self.shadow:
            return
        self._commands.publish(encode_command(loop.task, command, self._now_ns()))
        loop.report.published += 1

    # What others are told

    def _show(self, verdict: Verdict) -> None:
        """Log and publish a change of what stops the robot, at once."""
        before = self._verdict
        self._verdict = verdict
        if before is not None and _causes(before) == _causes(verdict):
            return
        if verdict.stops:
            self.get_logger().warning(f"stopped: {_reasons(verdict)}")
        else:
            self.get_logger().info("driving" if not self.shadow else "driving, in shadow")
        self._publish_diagnostics()

    def _publish_diagnostics(self) -> None:
        loop = self._loop
        level, text = WARN, "not configured" if loop is None else "not active"
        values: dict[str, Any] = {
            "bundle": self.bundle,
            "emergency_stop": self._emergency_stop.reason or "released",
        }
        if loop is not None:
            values["task"] = loop.task.name
            values["shadow"], values["speed_scale"] = self.shadow, loop.speed_scale
        if self._active and loop is not None:
            verdict = self._verdict
            level = ERROR if verdict is not None and verdict.stops else OK
            text = _reasons(verdict) or ("no tick yet" if verdict is None else "driving")
            values.update(loop.report.to_dict(newest=_SHOWN_TICKS))
            values["limited_by"] = ", ".join(verdict.limits) if verdict is not None else ""
        self._diagnostics.publish(
            encode_diagnostics(self.get_name(), level, text, values, self._now_ns())
        )

    def _on_write_report(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        loop = self._loop
        if loop is None:
            response.success, response.message = False, "not configured: there is nothing to report"
            return response
        response.success, response.message = self._write_files(loop)
        response.message += f"\n{loop.report.text()}"
        return response

    def _write_report(self, loop: ControlLoop) -> None:
        self.get_logger().info(loop.report.summary())
        written, message = self._write_files(loop)
        if not written:
            self.get_logger().error(message)

    def _write_files(self, loop: ControlLoop) -> tuple[bool, str]:
        if self._files is None:
            return True, "report_path is empty: no file was written"
        about = {"bundle": self.bundle, "task": loop.task.name, "task_hash": loop.task.hash}
        try:
            return True, f"written: {self._files.write(loop.report, about)}"
        except FogError as error:
            return False, str(error)

    # Set-up

    def _load(self) -> ControlLoop:
        if not self.bundle:
            raise FogError("policy_node: parameter bundle is empty; give -p bundle:=FOLDER")
        task = load_task(self.task_path) if self.task_path else None
        # PyTorch takes seconds to import: the node is on the graph before, and can be stopped.
        backends = importlib.import_module("fog_policy.inference_backend")
        bundle = importlib.import_module("fog_policy.bundle").load_bundle(self.bundle, task)
        if problems := sizes_misfit(bundle.task, bundle.manifest["local_config"]):
            raise FogError(f"bundle {self.bundle}: {'; '.join(problems)}; export the policy again")
        if self._worker is None:
            self._worker = InferenceWorker()
        # In the thread that will run it: what a backend keeps for each thread is ready then.
        chosen = self._worker.submit(
            functools.partial(
                backends.choose,
                bundle,
                backend=self.backend,
                device=self.device,
                threads=self.threads,
            )
        )
        if chosen is None:
            raise FogError("policy_node: the policy's thread is still busy; start the node anew")
        choice = chosen.result()
        step = ", ".join(f"{name} {ms:.2f} ms" for name, ms in choice.step_ms.items())
        self._about = {"device": self.device, "backend": choice.backend, "step_ms": choice.step_ms}
        self.get_logger().info(
            f"bundle {self.bundle}: task '{bundle.task.name}' at {bundle.task.control_hz:g} Hz on "
            f"{self.device} by {choice.backend} (a step takes: {step})"
            f"{'; shadow: no command will be published' if self.shadow else ''}"
        )
        if choice.note:
            self.get_logger().warning(choice.note)
        guard = SurpriseGuard(bundle.surprise, bundle.task.safety.surprise_margin)
        if guard.off is not None:
            self.get_logger().warning(f"out-of-distribution guard: off: {guard.off}")
        return ControlLoop(
            bundle.task,
            choice.controller,
            emergency_stop=self._emergency_stop,
            shadow=self.shadow,
            guard=guard,
        )

    def _connect(self, loop: ControlLoop) -> None:
        inputs = {t: (kind, _input_qos(loop, t)) for t, kind in loop.topics().items()}
        classes = {t: (_message_class(kind), qos) for t, (kind, qos) in inputs.items()}
        action = loop.task.action
        command_class, command_qos = _message_class(action.type), QoSProfile(depth=10)
        outputs = {} if self.shadow else {action.topic: (action.type, command_qos)}
        problems, silent = graph_misfit(self, inputs, outputs)
        if not problems and self.check_s > 0:
            heard = {t: c for t, c in classes.items() if t not in silent}
            problems = messages_misfit(loop.task, listen(self, heard, self.check_s))
        if problems:
            raise FogError(f"bundle {self.bundle} does not fit this robot: {'; '.join(problems)}")
        if silent:
            self.get_logger().warning(f"nobody publishes {', '.join(silent)} yet")
        self._commands = self.create_lifecycle_publisher(command_class, action.topic, command_qos)
        for topic, (message_class, qos) in classes.items():
            callback = functools.partial(self._receive, topic)
            self._inputs.append(
                self.create_subscription(message_class, topic, callback, qos, raw=True)
            )
        # What was made so far stays: no search through it while the robot is driven.
        gc.collect()
        gc.freeze()

    def _disconnect(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._commands is not None:
            self.destroy_lifecycle_publisher(self._commands)
        self._commands = None
        self._loop = None

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _simulated(self) -> bool:
        clock = self.get_clock()
        return isinstance(clock, ROSClock) and bool(clock.ros_time_is_active)

    def _clock_rate(self) -> float:
        """Seconds of the node's clock per second of wall time since the first tick."""
        if self._first_tick is None or not self._simulated():
            return 1.0
        passed_s = time.monotonic() - self._first_tick[1]
        return (self._now_ns() - self._first_tick[0]) / 1e9 / passed_s if passed_s > 1.0 else 1.0


def _input_qos(loop: ControlLoop, topic: str) -> QoSProfile:
    """Best effort matches publishers of either kind, and never delivers what is too old."""
    return QoSProfile(
        depth=2 if topic == loop.task.image.topic else 20,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.BEST_EFFORT,
    )


def _causes(verdict: Verdict) -> set[str]:
    return {str(reason.cause) for reason in verdict.stops}


def _reasons(verdict: Verdict | None) -> str:
    return "; ".join(str(reason) for reason in verdict.stops) if verdict is not None else ""


def _message_class(typename: str) -> Any:
    package, _, name = typename.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise FogError(f"{typename}: ROS package {package} is not installed") from error


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; the process is meant to end with it.

    Args:
        args: Command line; ``sys.argv`` unless given.

    Returns:
        Exit status: 0 after a signal, 2 after an error of the user.
    """
    prepare()
    with exit_signals.raised():
        try:
            return _run(args)
        except (KeyboardInterrupt, ExternalShutdownException):
            return 0
        except FogError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return 2


def _initialise(args: Sequence[str] | None) -> None:
    try:
        # rclpy's own handlers would close the context before the zero command is published.
        rclpy.init(
            args=None if args is None else list(args),
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except Exception as error:
        # A malformed command line arrives as an exception class of rclpy's C++ part.
        raise FogError(f"ROS does not start: {error}") from error


def _run(args: Sequence[str] | None) -> int:
    node: PolicyNode | None = None
    try:
        _initialise(args)
        sys.setswitchinterval(_SWITCH_S)
        node = PolicyNode()
        if node.autostart and (
            node.trigger_configure() != SUCCESS or node.trigger_activate() != SUCCESS
        ):
            return 2  # the reason has been logged
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while rclpy.ok():
            # A signal is noticed only between two waits.
            executor.spin_once(timeout_sec=0.1)
        return 0
    finally:
        # The last word must not be cut short: under a launcher, Ctrl-C arrives twice.
        exit_signals.ignore()
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
        # The interpreter would search all that PyTorch holds for garbage before it ends.
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
