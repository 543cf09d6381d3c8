"""Lifecycle node that drives a robot with a bundle.

Configure loads the bundle, warms the policy up and subscribes; activate starts the control-rate
timer; deactivate, an error, a shutdown and every signal publish a zero command. One thread does
everything: a tick takes a few milliseconds, so that a stop waits no longer than that, and nothing
has to be locked.

    fog_policy_node --ros-args -p bundle:=runs/demo/bundle -p autostart:=true

Topics: what the task names, ``/diagnostics``. Services: those of a lifecycle node,
``~/emergency_stop`` and ``~/reset_emergency_stop`` (std_srvs/srv/Trigger).
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
import time
from collections.abc import Sequence
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
from fog_policy.control_loop import ControlLoop
from fog_policy.control_report import write_json
from fog_policy.encoding import ERROR, OK, WARN, encode_command, encode_diagnostics
from fog_policy.parameters_node import ParametersNode
from fog_policy.safety import Command, EmergencyStop, Reason, Verdict
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare
from fog_world_model.task import TaskConfig

ALIGNMENT = 0.1
"""Ticks come this fraction of a control period after an image. The policy was trained on actions
that follow the image at once; a timer of any phase would show it images of any age."""

_JUMP_PERIODS = 2.5
"""Simulated time that passes by so many control periods at once has jumped (at a reset, say)."""

_CLOCK_CHECK_S = 0.5
_CLOCK_CHECKS = 3
"""The robot is stopped when this many checks in a row find the clock standing still."""
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
        self._aligned = False
        self._verdict: Verdict | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._inputs: list[Any] = []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/emergency_stop", self._on_emergency_stop)
        self.create_service(Trigger, "~/reset_emergency_stop", self._on_reset_emergency_stop)
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
        self._first_tick, self._tick_ns, self._still = None, None, 0
        self._active, self._aligned = True, False
        self._verdict = None
        self._timer = self.create_timer(self._loop.task.period_ns / 1e9, self._tick)
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
        """Stop driving: no more ticks, a zero command that has arrived, the report written."""
        if not self._active or self._loop is None:
            return
        self._active = False
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        self._publish_command(np.zeros(self._loop.task.action_size))
        # A process that ends at once would take the last message with it.
        self._commands.wait_for_all_acked(Duration(seconds=0.3))
        self._write_report(self._loop)

    # Control

    def _tick(self) -> None:
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
        decision = loop.tick(now_ns)
        self._publish_command(decision.command)
        loop.report.tick(now_ns)
        if decision.image_ns is not None and not decision.verdict.stops:
            # Simulated time stands still during a callback: let it pass at its own pace.
            spent_ns = (time.monotonic() - begin) * 1e9 * self._clock_rate()
            latency_ns = now_ns - decision.image_ns + spent_ns
            loop.report.driven(decision.image_ns, latency_ns, decision.inference_ns)
        self._show(decision.verdict)

    def _receive(self, topic: str, data: bytes) -> None:
        loop = self._loop
        if not self._active or loop is None:
            return
        new_episode = loop.receive(topic, data, self._now_ns())
        if new_episode:
            self._aligned = False
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
        self._emergency_stop.reset()
        response.success, response.message = True, "released" if was else "it was not stopped"
        self.get_logger().warning(f"emergency stop: {response.message}")
        return response

    def _stop(self, loop: ControlLoop, reason: Reason) -> None:
        decision = loop.stop(reason)
        self._publish_command(decision.command)
        self._show(decision.verdict)

    def _publish_command(self, command: Command) -> None:
        loop = self._loop
        if loop is not None:
            self._commands.publish(encode_command(loop.task, command, self._now_ns()))

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
            self.get_logger().info("driving")
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
        if self._active and loop is not None:
            verdict = self._verdict
            level = ERROR if verdict is not None and verdict.stops else OK
            text = _reasons(verdict) or ("no tick yet" if verdict is None else "driving")
            values.update(loop.report.to_dict(newest=_SHOWN_TICKS))
            values["limited_by"] = ", ".join(verdict.limits) if verdict is not None else ""
        self._diagnostics.publish(
            encode_diagnostics(self.get_name(), level, text, values, self._now_ns())
        )

    def _write_report(self, loop: ControlLoop) -> None:
        self.get_logger().info(loop.report.summary())
        if not self.report_path:
            return
        content = {"bundle": self.bundle, "task": loop.task.name, "task_hash": loop.task.hash}
        try:
            write_json(self.report_path, {**content, **loop.report.to_dict()})
        except OSError as error:
            self.get_logger().error(f"report {self.report_path}: not written ({error.strerror})")

    # Set-up

    def _load(self) -> ControlLoop:
        if not self.bundle:
            raise FogError("policy_node: parameter bundle is empty; give -p bundle:=FOLDER")
        # PyTorch takes seconds to import: the node is on the graph before, and can be stopped.
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)  # a second thread costs more than it gains at this size
        load_bundle = importlib.import_module("fog_policy.bundle").load_bundle
        bundle = load_bundle(self.bundle)
        try:
            controller = bundle.controller(device=self.device)
        except (RuntimeError, AssertionError) as error:  # unknown, or not in this PyTorch
            raise FogError(f"policy_node: device {self.device!r} does not work: {error}") from error
        task: TaskConfig = bundle.task
        image = np.zeros((task.image.height, task.image.width, 3), np.uint8)
        proprioception = np.zeros(task.proprioception_size, np.float32)
        controller.reset()
        for _ in range(3):  # the first calls allocate and choose kernels
            controller.act(image, proprioception, np.zeros(task.action_size, np.float32))
        self.get_logger().info(
            f"bundle {self.bundle}: task '{task.name}' at {task.control_hz:g} Hz on {self.device}"
        )
        return ControlLoop(task, controller, emergency_stop=self._emergency_stop)

    def _connect(self, loop: ControlLoop) -> None:
        action = loop.task.action
        self._commands = self.create_lifecycle_publisher(
            _message_class(action.type), action.topic, 10
        )
        for topic, typename in loop.topics().items():
            # Best effort matches publishers of either kind, and never delivers what is too old.
            qos = QoSProfile(
                depth=2 if topic == loop.task.image.topic else 20,
                history=HistoryPolicy.KEEP_LAST,
                reliability=ReliabilityPolicy.BEST_EFFORT,
            )
            callback = functools.partial(self._receive, topic)
            self._inputs.append(
                self.create_subscription(_message_class(typename), topic, callback, qos, raw=True)
            )

    def _disconnect(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._loop is not None:
            self.destroy_lifecycle_publisher(self._commands)
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
            node.halt()
            node.destroy_node()
        rclpy.try_shutdown()
        # The interpreter would search all that PyTorch holds for garbage before it ends.
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
