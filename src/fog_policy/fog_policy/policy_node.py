"""Lifecycle node that drives a robot with a bundle.

Configure loads the bundle, refuses what does not fit the robot's topics, and warms the policy up;
activate starts two timers: at the control rate the policy is asked, in a thread of its own; at the
rate of the hold the command in force is published, and whatever speaks against it stops the robot.
Deactivate, an error, a shutdown and every signal publish zero commands until the transport has
acknowledged them, and then nothing more. All but the policy's step happens in one thread, so that
nothing has to be locked.

An exception in any callback is an error of the lifecycle: zero commands, the reason in the log and
on /diagnostics, and a node that is unconfigured and can be configured again.

In simulated time the hold is off unless asked for: a simulated robot waits for one command each
control period, and one that merely repeats the last decision would let its time run ahead.
Commands change in steps then, and the task's jerk is not bounded.

    fog_policy_node --ros-args -p bundle:=runs/demo/bundle -p autostart:=true

Who starts the node again when it has died names a ``run_file``. A restarted node, whatever
``autostart`` says, publishes zero commands once, in the place of the one that died driving, and
waits, inactive, for a person to activate it; with ``restart:=active`` it goes on by itself, if it
was active. An emergency stop survives the restart.

Topics: what the task names, ``/diagnostics``, and ``~/proposed_command``, of the action's type:
what the policy wanted in each decision, before the safety filter, in shadow too. Services: those of
a lifecycle node, ``~/emergency_stop``, ``~/reset_emergency_stop`` and ``~/write_report``
(std_srvs/srv/Trigger).

The rooms: policy_parameters_node.py, robot_topics_node.py (subscriptions, publishing),
driving_node.py (what happens while it is active), clock_watch_node.py, policy_status_node.py
(/diagnostics, log, report); here are the transitions, the services and the process.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from fog_policy import exit_signals
from fog_policy.bundle_loop import load_loop
from fog_policy.callback_guard import CallbackGuard
from fog_policy.clock_watch_node import CHECK_S, ClockWatch
from fog_policy.control_loop import ControlLoop
from fog_policy.driving_node import Driving
from fog_policy.inference_worker import InferenceWorker
from fog_policy.policy_parameters_node import PolicyParametersNode
from fog_policy.policy_status_node import PolicyStatus
from fog_policy.robot_topics_node import DISCOVER_S, RobotTopics
from fog_policy.run_file import RunFile, RunState
from fog_policy.safety import EmergencyStop, Reason, Verdict
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare

_SWITCH_S = 0.0005
"""The interpreter goes from thread to thread at least this often, so that the policy's thread
cannot keep the timers waiting."""

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
BROKEN = TransitionCallbackReturn.ERROR


class PolicyNode(PolicyParametersNode, LifecycleNode):
    """The node; its parameters are described where they are declared."""

    def __init__(self) -> None:
        super().__init__()
        # The node's, not the bundle's: it holds over a change of the bundle.
        self._emergency_stop = EmergencyStop()
        self._clock_watch = ClockWatch(self)
        self._status = PolicyStatus(self, self._clock_watch, self._emergency_stop)
        self._run_file = RunFile(self.run_file) if self.run_file else None
        self._before = None if self._run_file is None else self._run_file.found
        if self._before is not None and self._before.emergency_stop is not None:
            self._emergency_stop.engage(self._before.emergency_stop)
        self._loop: ControlLoop | None = None
        self._about: dict[str, Any] = {}
        self._topics: RobotTopics | None = None
        self._driving: Driving | None = None
        self._worker: InferenceWorker | None = None
        self._erring = False
        """Whether the transition at hand is an error's way through the lifecycle."""
        self._guard = guard = CallbackGuard(self.fail)
        # Wakes the executor when the policy has answered.
        self._answered = self.create_guard_condition(guard("policy's answer", self._on_answer))
        for name, callback in (
            ("emergency_stop", self._on_emergency_stop),
            ("reset_emergency_stop", self._on_reset_emergency_stop),
            ("write_report", self._status.on_write_report),
        ):
            self.create_service(Trigger, f"~/{name}", guard.service(f"service {name}", callback))
        # Wall time: it has to go on while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        report = guard("timer of the diagnostics", self._status.publish)
        self.create_timer(self.diagnostics_period_s, report, clock=steady)
        self.create_timer(CHECK_S, guard("clock watch", self._watch_clock), clock=steady)

    def begin(self) -> bool:
        """Do what the parameters say about the start.

        Returns:
            False where that failed and the node is of no use; the reason has been logged.
        """
        if self._before is None:
            return not self.autostart or (
                self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS
            )
        self.get_logger().warning(f"restarted: {self.run_file} was there")
        self._status.restarted = True
        if self.trigger_configure() != SUCCESS:
            return not self.autostart  # it can be configured again where somebody is there to do so
        assert self._topics is not None
        self._topics.publish_first_zeros()
        if self.restart == "active" and self._before.active:
            return self.trigger_activate() == SUCCESS or not self.autostart
        self.get_logger().warning("restarted; activate to go on")
        return True

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle, warm it up, and listen to its topics."""
        try:
            self._load()
        except FogError as error:
            self.get_logger().error(str(error))
            self._disconnect()
            return FAILURE
        except Exception as error:  # rclpy would turn it into a transition without a word
            self.get_logger().error(f"bundle {self.bundle}: {type(error).__name__}: {error}")
            self._disconnect()
            return FAILURE
        self._status.failure = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the control-rate timer, with a fresh recurrent state."""
        loop, topics, worker = self._loop, self._topics, self._worker
        try:
            assert loop is not None and topics is not None and worker is not None
            if not self._still_fits(topics):
                return FAILURE
            result = super().on_activate(state)
            self._clock_watch.forgive()
            self._driving = Driving(
                self, loop, topics, worker, self._clock_watch, self._guard,
                self._answered.trigger, self._show,
            )  # fmt: skip
            loop.report.about = dict(self._about)
            self._status.begin(self._driving.holds)
            self.get_logger().info(f"command hold: {self._driving.holds}")
        except Exception as error:  # as above
            self._status.failed("activation", error)
            return BROKEN
        self._note(active=True)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish a zero command, and report."""
        self.halt()
        if self._erring:
            return BROKEN
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the bundle."""
        if self._erring:
            return BROKEN
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

    def fail(self, where: str, error: Exception) -> bool:
        """Take an exception for an error of the lifecycle, from any state.

        Where the node is active that begins with zero commands.

        Args:
            where: The callback, for a person.
            error: The exception.

        Returns:
            Whether there was anything to end: the node was active, or configured.
        """
        self._status.failed(where, error)
        configured = self._loop is not None
        # There is no transition from a primary state straight to the processing of an error.
        self._erring = True
        try:
            if self._driving is not None:
                self.trigger_deactivate()
            elif configured:
                self.trigger_cleanup()
        finally:
            self._erring = False
        if configured:
            self.get_logger().error("unconfigured after an error; configure and activate to go on")
            self._status.publish()
        return configured

    def halt(self) -> None:
        """Stop driving: no more ticks, zero commands that have arrived, the report written."""
        driving, self._driving = self._driving, None
        if driving is None or self._topics is None:
            return
        try:
            driving.end()
        finally:
            self._topics.publish_zeros()
        self._status.holds = None
        self._note(active=False)
        self._status.write_report(driving.loop)

    def close(self) -> None:
        """Stop driving, and end what goes on beside this thread."""
        self.halt()
        if self._worker is not None:
            self._worker.close()

    def _load(self) -> None:
        loaded = load_loop(
            self.bundle,
            self._policy_thread,
            task_path=self.task_path,
            backend=self.backend,
            device=self.device,
            threads=self.threads,
            shadow=self.shadow,
            emergency_stop=self._emergency_stop,
        )
        self.get_logger().info(loaded.text)
        for warning in loaded.warnings:
            self.get_logger().warning(warning)
        self._topics = RobotTopics(
            self,
            loaded.loop,
            self._clock_watch,
            self._receive,
            self._guard,
            bundle=self.bundle,
            shadow=self.shadow,
            # After a restart zero commands are due first; activation looks again.
            discover_s=DISCOVER_S if self.check_s > 0 and not self._status.restarted else 0.0,
            check_s=self.check_s,
            pause_s=1.0 / self.hold_hz,
        )
        self._about = loaded.about
        self._loop = self._status.loop = loaded.loop
        # What was made so far stays: no search through it while the robot is driven.
        gc.collect()
        gc.freeze()

    def _still_fits(self, topics: RobotTopics) -> bool:
        """Whether those who were not there yet at configure fit as well; why not is logged."""
        try:
            topics.require_fit()
        except FogError as error:
            self.get_logger().error(str(error))
            return False
        return True

    def _policy_thread(self) -> InferenceWorker:
        if self._worker is None:
            self._worker = InferenceWorker()
        return self._worker

    def _disconnect(self) -> None:
        topics, self._topics = self._topics, None
        self._loop = self._status.loop = None
        if topics is not None:
            topics.close()

    # Callbacks

    def _receive(self, topic: str, data: bytes) -> None:
        if self._driving is not None:
            self._driving.receive(topic, data)

    def _on_answer(self) -> None:
        if self._driving is not None:
            self._driving.on_answer()

    def _watch_clock(self) -> None:
        """Stop the robot when simulated time stands still: ticks would not come any more."""
        still_s = self._clock_watch.check()
        if self._driving is not None and still_s is not None:
            detail = f"the node's time has stood still for {still_s:g} s (use_sim_time, /clock)"
            self._driving.stop(Reason("clock", detail))

    def _show(self, verdict: Verdict) -> None:
        self._note(active=True)  # what latches may have latched
        self._status.show(verdict)

    def _note(self, *, active: bool) -> None:
        """Leave word for a start after this process has died."""
        if self._run_file is None:
            return
        problem = self._run_file.note(RunState(active, self._emergency_stop.reason))
        if problem:
            self.get_logger().warning(problem)

    def _on_emergency_stop(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        self._emergency_stop.engage("stopped by service")
        if self._driving is not None:
            self._driving.stop(Reason("emergency_stop", "stopped by service"))
        self._note(active=self._driving is not None)
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
        self._note(active=self._driving is not None)
        response.success, response.message = True, "released" if was else "it was not stopped"
        self.get_logger().warning(f"emergency stop: {response.message}")
        return response


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the node until SIGINT or SIGTERM, and end the process.

    Its exit status is 0 after a signal, 2 after an error of the user.

    Args:
        args: Command line; ``sys.argv`` unless given.
    """
    prepare()
    with exit_signals.raised():
        try:
            status = _run(args)
        except (KeyboardInterrupt, ExternalShutdownException):
            status = 0
        except FogError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            status = 2
    # The middleware gives its shared memory back (35 MB of /dev/shm) with the last reference to the
    # node, which is in cycles.
    gc.unfreeze()
    gc.collect()
    exit_signals.end_process(status)


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
        if not node.begin():
            return 2
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while rclpy.ok():
            try:
                # A signal is noticed only between two waits.
                executor.spin_once(timeout_sec=0.1)
            except ExternalShutdownException:
                raise
            except Exception as error:  # one of rclpy's own callbacks
                if not node.fail("executor", error):
                    raise
        return 0
    finally:
        # The last word must not be cut short: under a launcher, Ctrl-C arrives twice.
        exit_signals.ignore()
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
