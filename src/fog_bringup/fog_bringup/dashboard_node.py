"""The operator's page of a robot that a policy drives: camera, command, safety, emergency stop.

    fog_dashboard_node --ros-args -p task:=reach_cube

serves http://127.0.0.1:8720/ on this machine alone. From another one: ``ssh -L
8720:127.0.0.1:8720 ROBOT_PC``, and the same address there.

The ROS callbacks run in the main thread and put down the newest of everything; the web server runs
in a thread of its own and takes it from there, so that neither waits for the other. What the page
asks for is handed to the callbacks' thread.

Topics read: the task's camera, action and battery, ``/diagnostics``, the policy node's
``transition_event`` and ``proposed_command`` (where it publishes what it wanted before the safety
filter, as a message of the action's type). Services called: the policy node's ``emergency_stop``,
``reset_emergency_stop``, ``get_state`` and ``change_state``. Commands are never published.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from fog_bringup.base_node import ERROR, OK, FogNode, message_class, run
from fog_bringup.dashboard.board import BATTERY_TYPE, Board
from fog_bringup.dashboard.operator import Answer
from fog_bringup.dashboard.safety_words import Status
from fog_bringup.dashboard.server import make_app
from fog_bringup.launch_arguments import bundle_task
from fog_bringup.tasks import find_task
from fog_bringup.web import server as web
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

IMAGE_TYPE = "sensor_msgs/msg/Image"
_STOP_CHECK_S = 0.25
_STOP_AGAIN_S = 1.0
_STOP_FOR_S = 10.0
"""An emergency stop is asked for again and again, for so long, until it is confirmed."""
_FOUND_S = 2.0
"""A node that has just come up may not have been found yet: so long what is asked for waits."""
_CALL_S = 80.0
"""A policy node loads PyTorch when it is configured, which takes its time."""
_STATE_S = 1.0
_STATE_LOST_S = 3.0
"""A question for the lifecycle state that is not answered by then is given up."""


class DashboardNode(FogNode):
    """The node; its parameters are described where they are declared."""

    def __init__(self) -> None:
        super().__init__("dashboard_node")
        task_name = self.declare("task", "", "Name of a task, or path of a task file.")
        bundle = self.declare(
            "bundle", "", "Folder or shipped name of a policy: its task is taken."
        )
        policy = self.declare(
            "policy_node", "policy_node", "The policy node's name, relative to the namespace."
        )
        host = self.declare(
            "host", "127.0.0.1", "Address to listen on; any but loopback lets the network in."
        )
        port = self.declare("port", 8720, "TCP port; 0: any that is free.", low=0, high=65535)
        names = self.declare(
            "names", "", "Further names by which browsers may call this machine, with commas."
        )
        may_start = self.declare(
            "may_start",
            True,
            "Whether the page may configure, activate, deactivate and reset; it may always stop.",
        )
        width = self.declare(
            "camera_width", 640, "Wider pictures are scaled down, pixels.", low=16, high=4096
        )
        battery_topic = self.declare(
            "battery_topic",
            "/battery_state",
            "sensor_msgs/msg/BatteryState, where the task names no battery; empty: none.",
        )
        stop_topic = self.declare(
            "emergency_stop_topic",
            "",
            "std_msgs/msg/Bool topic on which a stop is true and a reset false; empty: none.",
        )
        self.check_parameters()
        self._server: web.BackgroundServer | None = None
        self._task = _find_task(task_name, bundle)
        self._policy = self.resolve_service_name(f"{policy}/emergency_stop").rpartition("/")[0]
        self._board = Board(self._task, policy, camera_width=width)
        self._wishes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._woken = self.create_guard_condition(self._grant)
        self._stops: list[tuple[float, Future[Answer]]] = []
        self._stop_calls: list[tuple[float, Any]] = []
        self._stop_publisher = (
            self.create_publisher(Bool, stop_topic, QoSProfile(depth=1)) if stop_topic else None
        )
        self._stop_client = self.create_client(Trigger, f"{policy}/emergency_stop")
        self._reset_client = self.create_client(Trigger, f"{policy}/reset_emergency_stop")
        self._state_client = self.create_client(GetState, f"{policy}/get_state")
        self._change_client = self.create_client(ChangeState, f"{policy}/change_state")
        self._state_call: tuple[float, Any] | None = None
        self._calls: list[tuple[float, Any, Any, Future[Answer]]] = []
        """Time limit, client, call and what waits for its answer."""
        self._unfound: list[tuple[float, Any, Any, Future[Answer]]] = []
        """Time limit, client, request and what waits for its answer, until there is a service."""
        self._listen(policy, battery_topic)
        self._serve(host, port, names, may_start)
        self.every(_STATE_S, self._ask_state)
        self.every(_STOP_CHECK_S, self._call_stop)
        self.every(0.1, self._call_found)
        self.every(0.5, self._give_up)
        self.every(1.0, self._report)

    def close(self) -> None:
        """End the web server."""
        if self._server is not None:
            self._server.close()

    # What comes

    def _listen(self, policy: str, battery_topic: str) -> None:
        task, board = self._task, self._board
        watch = task.safety.battery
        action = task.action.type
        topics = [
            (task.image.topic, IMAGE_TYPE, self._on_image),
            (task.action.topic, action, board.command.put),
            (f"{policy}/proposed_command", action, board.proposed.put),
        ]
        if watch is not None:
            topics.append((watch.topic, watch.type, board.battery.put))
        elif battery_topic:
            topics.append((battery_topic, BATTERY_TYPE, board.battery.put))
        for topic, kind, callback in topics:
            # Best effort matches publishers of either kind, and the newest is all that counts.
            self.create_subscription(message_class(kind), topic, callback, _newest(1), raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self.create_subscription(
            TransitionEvent,
            f"{policy}/transition_event",
            lambda event: board.lifecycle(event.goal_state.label),
            10,
        )

    def _on_image(self, data: bytes) -> None:
        self._board.camera.receive(data, int(self.get_clock().now().nanoseconds))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._board.diagnostics(
            Status(
                status.name,
                int.from_bytes(status.level, "little"),
                status.message,
                {entry.key: entry.value for entry in status.values},
            )
            for status in message.status
            if status.hardware_id != self.get_name()
        )

    def _ask_state(self) -> None:
        """Ask the policy node for its lifecycle state, unless a question is still open."""
        now = time.monotonic()
        if self._state_call is not None:
            then, call = self._state_call
            if now - then < _STATE_LOST_S:
                return
            self._state_client.remove_pending_request(call)
            self._state_call = None
        if not self._state_client.service_is_ready():
            return
        call = self._state_client.call_async(GetState.Request())
        self._state_call = (now, call)
        call.add_done_callback(self._on_state)

    def _on_state(self, call: Any) -> None:
        self._state_call = None
        if call.exception() is None and call.result() is not None:
            self._board.lifecycle(call.result().current_state.label)

    # What is asked for: called in the web server's thread

    def stop(self) -> Future[Answer]:
        """See :class:`fog_bringup.dashboard.operator.Robot`."""
        future: Future[Answer] = Future()

        def begin() -> None:
            self.get_logger().warning("emergency stop: pressed on the page")
            self._stops.append((time.monotonic() + _STOP_FOR_S, future))
            waiting, self._unfound = self._unfound, []  # nothing may start behind a stop
            for *_, other in waiting:
                _complete(other, Answer(False, "an emergency stop came before"))
            self._call_stop()

        return self._wish(begin, future)

    def reset(self) -> Future[Answer]:
        """See :class:`fog_bringup.dashboard.operator.Robot`."""
        future: Future[Answer] = Future()

        def begin() -> None:
            self.get_logger().warning("reset of the emergency stop: asked for on the page")
            # Whoever resets has seen the stop; one that is still under way must not follow.
            self._end_stops(Answer(False, "a reset came before the confirmation"))
            self._tell(False)
            self._call(self._reset_client, Trigger.Request(), future)

        return self._wish(begin, future)

    def change(self, transition: str) -> Future[Answer]:
        """See :class:`fog_bringup.dashboard.operator.Robot`."""
        future: Future[Answer] = Future()

        def begin() -> None:
            self.get_logger().warning(f"{transition}: asked for on the page")
            request = ChangeState.Request()
            request.transition.label = transition
            self._board.transition(transition)
            self._call(self._change_client, request, future)

        future.add_done_callback(lambda _: self._board.transition(""))
        return self._wish(begin, future)

    def _wish(self, begin: Callable[[], None], future: Future[Answer]) -> Future[Answer]:
        self._wishes.put(begin)
        self._woken.trigger()
        return future

    # What is asked for: done in the thread of the callbacks

    def _grant(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._wishes.get_nowait()()

    def _call_stop(self) -> None:
        """Call the emergency stop as long as one is asked for and not confirmed."""
        if not self._stops:
            return
        self._tell(True)
        now = time.monotonic()
        if all(until < now for until, _ in self._stops):
            self._end_stops(Answer(False, self._no_answer("emergency_stop")))
            return
        waits = self._stop_calls and now - self._stop_calls[-1][0] < _STOP_AGAIN_S
        if not waits and self._stop_client.service_is_ready():
            call = self._stop_client.call_async(Trigger.Request())
            self._stop_calls.append((now, call))
            call.add_done_callback(self._on_stopped)

    def _tell(self, stopped: bool) -> None:
        """Others that listen to the emergency stop's topic, if there is one."""
        if self._stop_publisher is not None:
            self._stop_publisher.publish(Bool(data=stopped))

    def _on_stopped(self, call: Any) -> None:
        if call.exception() is None and call.result() is not None and call.result().success:
            self._end_stops(Answer(True, str(call.result().message)))

    def _end_stops(self, answer: Answer) -> None:
        for _, call in self._stop_calls:
            self._stop_client.remove_pending_request(call)
        self._stop_calls = []
        ended, self._stops = self._stops, []
        for _, future in ended:
            _complete(future, answer)

    def _call(self, client: Any, request: Any, future: Future[Answer]) -> None:
        if not client.service_is_ready():
            self._unfound.append((time.monotonic() + _FOUND_S, client, request, future))
            return

        def answered(call: Any) -> None:
            error, result = call.exception(), None if call.exception() else call.result()
            if result is None:
                _complete(future, Answer(False, f"{client.srv_name}: {error}"))
                return
            text = str(getattr(result, "message", ""))
            if not result.success and not text:
                text = f"{client.srv_name}: refused; the policy node's log says why"
            _complete(future, Answer(bool(result.success), text))

        call = client.call_async(request)
        self._calls.append((time.monotonic() + _CALL_S, client, call, future))
        call.add_done_callback(answered)

    def _call_found(self) -> None:
        """Ask those who have been found meanwhile, and give up those who have not."""
        now, (waiting, self._unfound) = time.monotonic(), (self._unfound, [])
        for until, client, request, future in waiting:
            if client.service_is_ready():
                self._call(client, request, future)
            elif now < until:
                self._unfound.append((until, client, request, future))
            else:
                _complete(future, Answer(False, self._no_answer(_last(client.srv_name))))

    def _give_up(self) -> None:
        """A node that has ended, or is stuck, answers no more."""
        now, going_on = time.monotonic(), []
        for one in self._calls:
            until, client, call, future = one
            if future.done():
                continue
            if now < until and client.service_is_ready():
                going_on.append(one)
                continue
            client.remove_pending_request(call)
            _complete(future, Answer(False, self._no_answer(_last(client.srv_name))))
        self._calls = going_on

    def _no_answer(self, service: str) -> str:
        return (
            f"{self._policy}/{service}: nobody answers; does the policy node run, in the same "
            "ROS_DOMAIN_ID?"
        )

    # The page

    def _serve(self, host: str, port: int, names: str, may_start: bool) -> None:
        listener = web.listen(host, port, spelled="{}:={}")
        public = web.is_public(listener)
        notes = []
        if public:
            can = "see and\nstop this robot" + (", and START it." if may_start else ".")
            self.get_logger().warning(
                "\n" + web.network_warning(listener, "dashboard_node", f"can {can}", "host")
            )
            who = "watch, stop and start" if may_start else "watch and stop"
            notes.append(f"Everybody on the network can {who} this robot: host is {host}.")
        if not may_start:
            notes.append("This page watches and stops; it cannot start (parameter may_start).")
        app = make_app(
            self._board,
            self,
            policy_node=self._policy,
            names=web.guarded_names(host, tuple(names.replace(",", " ").split()), public),
            public=public,
            may_start=may_start,
            notes=notes,
        )
        self._url, number = web.page_url(listener), listener.getsockname()[1]
        self._server = web.BackgroundServer(app, listener)
        forward = f"ssh -L {number}:127.0.0.1:{number} THIS_MACHINE"
        self.get_logger().info(
            f"task '{self._task.name}', {self._policy}: page on {self._url}"
            + ("" if public else f" (from another machine: {forward})")
        )

    def _report(self) -> None:
        assert self._server is not None
        if not self._server.running:
            self.fail(FogError(f"dashboard_node: the web server of {self._url} has ended"))
        level = OK if self._server.running else ERROR
        self.diagnose("page", level, f"page on {self._url}", {"task": self._task.name})


def _find_task(name: str, bundle: str) -> TaskConfig:
    if not name and not bundle:
        raise FogError("dashboard_node: give -p task:=reach_cube or -p bundle:=FOLDER")
    if not bundle:
        return find_task(name)
    task = bundle_task(bundle)
    if name:
        find_task(name).require_same(task, f"bundle {bundle}")
    return task


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _newest(depth: int) -> QoSProfile:
    return QoSProfile(
        depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT
    )


def _complete(future: Future[Answer], answer: Answer) -> None:
    # The web server may have given it up meanwhile.
    with contextlib.suppress(InvalidStateError):
        future.set_result(answer)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(DashboardNode, args)


if __name__ == "__main__":
    sys.exit(main())
