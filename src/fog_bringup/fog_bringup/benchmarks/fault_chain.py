"""The processes of a walking robot, any of which can be killed and started again.

    robot -> /raw/TOPIC -> camera relay, state relay -> TOPIC -> policy node -> command -> robot
                                                                                       -> watch

The camera's relay stands for the camera's driver: a process that can be killed by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from fog_bringup.benchmarks.fault_kinds import types_of
from fog_bringup.closed_loop import free_domain_id
from fog_bringup.node_processes import NodeProcesses
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

RAW: Final = "/raw"
CAMERA, STATE, ROBOT, POLICY, WATCH = "camera", "state", "robot", "policy_node", "watch"
_MARK: Final = "FOG_FAULT_CHAIN"
"""Environment variable that all of a chain's processes have, whoever started them."""
_START_S: Final = 120.0
_POLL_S: Final = 0.01
_NODES: Final = "fog_bringup.benchmarks"


class FaultChain:
    """Runs the processes. As a context manager it ends all of them.

    Args:
        folder: For logs and task files.
        bundle: What the policy node runs.
        task: The policy's.
        robot_task: The robot's.
        robot_parameters: Further parameters of robot_node.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        task: TaskConfig,
        robot_task: TaskConfig,
        robot_parameters: Mapping[str, Any],
    ) -> None:
        self.task = task
        self.mark = uuid.uuid4().hex
        self._nodes = NodeProcesses(folder, free_domain_id(), {_MARK: self.mark})
        self._bundle = bundle
        self._robot_parameters = dict(robot_parameters)
        self._types = types_of(task)
        self._task_file, robot_file = folder / "task.yaml", folder / "robot.yaml"
        task.save(self._task_file)
        robot_task.save(robot_file)
        self._robot_file = robot_file
        self._tails: dict[str, IO[str]] = {}
        self._lines: dict[str, list[dict[str, Any]]] = {}
        self._numbers = 0

    @contextmanager
    def running(self) -> Iterator[FaultChain]:
        """Start everything, and wait until the robot is driven; end it afterwards."""
        with self._nodes:
            for name in (WATCH, CAMERA, STATE, ROBOT, POLICY):
                self.start(name)
            for name in (WATCH, CAMERA, STATE):
                self.wait(name, lambda line: "ready" in (line.get("event"), *line), 0, _START_S)
            try:
                yield self
            finally:
                for tail in self._tails.values():
                    tail.close()

    def start(self, name: str) -> None:
        """Start one of the processes, or start it again."""
        module, arguments, parameters, remappings = self._command(name)
        command = [sys.executable, "-m", module, *arguments]
        self._nodes.start(name, command, parameters, remappings=remappings)
        if name in (WATCH, CAMERA, STATE) and name not in self._tails:
            self._tails[name] = self._nodes.log(name).open()
            self._lines[name] = []

    def kill(self, name: str) -> int:
        """Kill one of them with SIGKILL.

        Returns:
            When, ns.
        """
        at_ns = time.time_ns()
        self._nodes.end(name, signal.SIGKILL, 10.0)
        return at_ns

    def check(self) -> None:
        """Raise FogError when a process has ended that nobody has killed."""
        self._nodes.check([WATCH, CAMERA, STATE, ROBOT, POLICY])

    def spoil(self, topics: Mapping[str, Mapping[str, Any]]) -> int:
        """Let faults happen to topics, and none to all others.

        Returns:
            When the first message was spoilt, or the last was sound again, ns.
        """
        at_ns = 0
        for relay in (CAMERA, STATE):
            of_relay = {t: spec for t, spec in topics.items() if t in self._topics(relay)}
            if topics and not of_relay:
                continue
            first = len(self.lines(relay))
            self._nodes.tell(relay, json.dumps({"topics": of_relay}))
            answer = self.wait(relay, lambda line: "at_ns" in line, first, 30.0)
            if answer is None:
                raise FogError(f"the {relay} relay does not answer.{self._nodes.tail(relay)}")
            at_ns = min(at_ns, answer["at_ns"]) if at_ns and topics else answer["at_ns"]
        return at_ns

    def request(self, **content: Any) -> dict[str, Any] | None:
        """Have the watch call a service; its reply, or None when none came."""
        self._numbers += 1
        number, first = self._numbers, len(self.events())
        self._nodes.tell(WATCH, json.dumps({"id": number, **content}))
        return self.wait(WATCH, lambda line: line.get("id") == number, first, 60.0)

    def tally(self) -> dict[str, Any]:
        """What the watch has counted."""
        first = len(self.events())
        self._nodes.tell(WATCH, json.dumps({"tally": True}))
        found = self.wait(WATCH, lambda line: line.get("event") == "tally", first, 30.0)
        if found is None:
            raise FogError(f"the watch does not answer.{self._nodes.tail(WATCH)}")
        return found

    def events(self) -> list[dict[str, Any]]:
        """All that the watch has said so far."""
        return self.lines(WATCH)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All JSON lines of a process so far."""
        tail, lines = self._tails[name], self._lines[name]
        while not tail.closed:
            before = tail.tell()
            text = tail.readline()
            if not text.endswith("\n"):
                tail.seek(before)  # the rest of it is still to come
                break
            with contextlib.suppress(ValueError):  # what a killed process did not finish
                if isinstance(found := json.loads(text), dict):
                    lines.append(found)
        return lines

    def wait(
        self, name: str, condition: Callable[[dict[str, Any]], bool], first: int, limit_s: float
    ) -> dict[str, Any] | None:
        """Wait for a line of a process.

        Args:
            name: The process.
            condition: Says which line.
            first: Lines before this one do not count.
            limit_s: How long to wait.

        Returns:
            The line; None when none came in time.
        """
        deadline = time.monotonic() + limit_s
        while True:
            lines = self.lines(name)
            while first < len(lines):
                if condition(lines[first]):
                    return lines[first]
                first += 1
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)

    def tail(self, name: str) -> str:
        """The end of a process's log, for a message."""
        return self._nodes.tail(name)

    def end_left_behind(self) -> list[int]:
        """Kill what is still there after the end of all processes, whoever started it.

        Returns:
            Their ids; none, unless something is wrong.
        """
        found = processes_with(_MARK, self.mark)
        for number in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return found

    def _topics(self, relay: str) -> dict[str, str]:
        image = self.task.image.topic
        return {t: k for t, k in self._types.items() if (t == image) == (relay == CAMERA)}

    def _command(self, name: str) -> tuple[str, list[str], dict[str, Any], dict[str, str]]:
        if name == WATCH:
            return f"{_NODES}.fault_watch_node", [str(self._task_file)], {}, {}
        if name in (CAMERA, STATE):
            described = [f"{t}={k}" for t, k in self._topics(name).items()]
            return f"{_NODES}.stream_relay_node", [f"{name}_relay", RAW, *described], {}, {}
        if name == ROBOT:
            parameters = {"task": str(self._robot_file), "publish_clock": False}
            remappings = {topic: f"{RAW}{topic}" for topic in self._types}
            return (
                "fog_bringup.robot_node",
                [],
                {**parameters, **self._robot_parameters},
                remappings,
            )
        return (
            "fog_policy.policy_node",
            [],
            {"bundle": str(self._bundle), "autostart": True},
            {},
        )


def processes_with(variable: str, value: str) -> list[int]:
    """Ids of all processes that were started with a variable of the environment.

    Zombies have none.
    """
    wanted = f"{variable}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it has ended meanwhile, or belongs to somebody else
            continue
    return found
