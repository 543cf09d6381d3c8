"""Looks at everything that a robot is told, and says what changes, as JSON lines.

    python -m fog_bringup.benchmarks.fault_watch_node TASK_FILE

Every line has ``event`` and ``ns``, when it was published by the clock of the machine:

- ``command``: the commands have become zero, or not zero (``moving``)
- ``wrong``: a command that should never have been sent, and why (``problems``)
- ``diagnostics``: the status ``name`` has another ``level`` or ``text``
- ``lost``: the robot's node has given up ``seconds`` of its time, because it got no processor
- ``tally``: what was counted so far (:class:`.command_watch.Tally`)
- ``reply``: of a service, ``id`` as in the request, ``ok`` and ``text``

Lines on standard input are requests: ``{"id": ..., "trigger": SERVICE}`` calls a
std_srvs/srv/Trigger, ``{"id": ..., "node": NODE, "transition": LABEL}`` a lifecycle transition,
``{"tally": true}`` asks for the counts. It ends with its standard input.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from std_srvs.srv import Trigger

from fog_bringup.base_node import message_class, sender_of
from fog_bringup.benchmarks.command_watch import CommandWatch
from fog_bringup.benchmarks.ordered_node import follow_orders
from fog_world_model.data import messages
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare
from fog_world_model.task import TaskConfig, load_task

_DEPTH = 200
_PACE = "robot_node: pace"
_SERVICE_S = 30.0
"""A service that does not answer for so long has failed."""


class FaultWatch:
    """The node and what it has seen.

    Args:
        task: Names the command's topic and its limits.
    """

    def __init__(self, task: TaskConfig) -> None:
        self.node = rclpy.create_node("fault_watch")
        self._action = task.action
        self._watch = CommandWatch(task)
        self._moving: bool | None = None
        self._statuses: dict[str, tuple[int, str]] = {}
        self._lost_s: float | None = None
        self._clients: dict[str, Client[Any, Any]] = {}
        self._waiting: list[tuple[Any, Any, Any, float]] = []
        """Client, request, id and deadline of calls whose service is not there yet."""
        self._called: list[tuple[Any, Any, float]] = []
        self.node.create_subscription(
            message_class(task.action.type), task.action.topic, self._on_command, _DEPTH, raw=True
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, _DEPTH)

    def obey(self, line: str) -> None:
        """Carry out a line of standard input."""
        wanted = json.loads(line)
        if "tally" in wanted:
            _tell("tally", time.time_ns(), **dataclasses.asdict(self._watch.tally))
            return
        if "trigger" in wanted:
            name, kind, request = wanted["trigger"], Trigger, Trigger.Request()
        else:
            name, kind = f"{wanted['node']}/change_state", ChangeState
            request = ChangeState.Request()
            request.transition.label = wanted["transition"]
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        deadline = time.monotonic() + _SERVICE_S
        self._waiting.append((self._clients[name], request, wanted["id"], deadline))

    def follow_up(self) -> None:
        """Call what can be called, and tell of answers."""
        now = time.monotonic()
        for entry in list(self._waiting):
            client, request, number, deadline = entry
            if client.service_is_ready():
                self._called.append((client.call_async(request), number, deadline))
            elif now > deadline:
                _tell("reply", time.time_ns(), id=number, ok=False, text="service is not there")
            else:
                continue
            self._waiting.remove(entry)
        for call in list(self._called):
            future, number, deadline = call
            if future.done():
                answer = future.result()
                text = getattr(answer, "message", "")
                _tell("reply", time.time_ns(), id=number, ok=bool(answer.success), text=text)
            elif now > deadline:
                _tell("reply", time.time_ns(), id=number, ok=False, text="no answer")
            else:
                continue
            self._called.remove(call)

    def _on_command(self, data: bytes, info: Any) -> None:
        published_ns = info["source_timestamp"]
        publisher, number = sender_of(info)
        try:
            message = messages.deserialise(bytes(data), self._action.type)
            problems = self._watch.see(
                published_ns,
                messages.read_fields(message, self._action.fields),
                publisher=publisher,
                number=number,
            )
        except FogError as error:
            problems = [str(error)]
        if problems:
            _tell("wrong", published_ns, problems=problems)
        if self._watch.moving is not self._moving:
            self._moving = self._watch.moving
            _tell("command", published_ns, moving=self._moving)

    def _on_diagnostics(self, message: DiagnosticArray, info: Any) -> None:
        for status in message.status:
            found = status.level[0], status.message
            if self._statuses.get(status.name) != found:
                self._statuses[status.name] = found
                level, text = found
                published_ns = info["source_timestamp"]
                _tell("diagnostics", published_ns, name=status.name, level=level, text=text)
            if status.name == _PACE:
                self._follow_pace({v.key: v.value for v in status.values}, info["source_timestamp"])

    def _follow_pace(self, values: dict[str, str], published_ns: int) -> None:
        before_s, self._lost_s = self._lost_s, float(values["skipped_s"])
        # A node that was started again counts anew.
        if before_s is not None and self._lost_s > before_s:
            _tell("lost", published_ns, seconds=round(self._lost_s - before_s, 3))


def _tell(event: str, ns: int, **values: Any) -> None:
    print(json.dumps({"event": event, "ns": ns, **values}), flush=True)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    given = sys.argv[1:] if args is None else list(args)
    prepare()
    rclpy.init(args=[])
    watch = FaultWatch(load_task(given[0]))
    return follow_orders(
        watch.node,
        watch.obey,
        ready=lambda: _tell("ready", time.time_ns()),
        each=watch.follow_up,
    )


if __name__ == "__main__":
    sys.exit(main())
