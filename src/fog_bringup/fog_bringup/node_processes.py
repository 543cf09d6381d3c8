"""Starts ROS nodes as processes of their own, and leaves none behind, even where it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fog_bringup.fastdds_segments import removed_after_kill
from fog_bringup.process_guard import ESCALATION, ProcessGuard
from fog_policy import exit_signals
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare

_POLL_S = 0.1
_TAIL_LINES = 12


class NodeProcesses:
    """A group of nodes; as a context manager it ends all of them, whatever happened.

    SIGINT and SIGTERM raise KeyboardInterrupt inside the context, so that they end the nodes too.
    Where this process is killed, a guard ends them (:mod:`fog_bringup.process_guard`).

    Args:
        logs: Folder for what each node prints, ``<name>.log``.
        domain_id: ROS_DOMAIN_ID of all.
        environment: Further variables of all.
    """

    def __init__(
        self, logs: Path, domain_id: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._logs = logs
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._environment = {**os.environ, "ROS_DOMAIN_ID": str(domain_id), "PYTHONUNBUFFERED": "1"}
        self._environment.update(environment or {})
        prepare(self._environment)
        self._signals = contextlib.ExitStack()
        self._guard = ProcessGuard()

    def __enter__(self) -> NodeProcesses:
        """Take charge of signals."""
        self._signals.enter_context(exit_signals.raised())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every node."""
        with exit_signals.ignored():
            self._end_all()
            self._guard.close()
        self._signals.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        parameters: Mapping[str, Any],
        *,
        remappings: Mapping[str, str] | None = None,
    ) -> None:
        """Start a node; one that has ended is started anew, and its log goes on.

        Args:
            name: For messages and the log file.
            command: Command line without ROS arguments.
            parameters: Of the node.
            remappings: Name -> the name that is used instead.
        """
        arguments = ["--ros-args"]
        for key, value in parameters.items():
            # JSON is YAML, which is how ROS reads a parameter's value.
            arguments += ["-p", f"{key}:={json.dumps(value)}"]
        for old, new in (remappings or {}).items():
            arguments += ["-r", f"{old}:={new}"]
        self._logs.mkdir(parents=True, exist_ok=True)
        self._guard.start()
        with self.log(name).open("a" if name in self._processes else "w") as log:
            self._processes[name] = subprocess.Popen(
                [*command, *arguments],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._guard.watch(self._processes[name])

    def log(self, name: str) -> Path:
        """Where a node's output goes."""
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int:
        """Process id of a node."""
        return self._processes[name].pid

    def tell(self, name: str, line: str) -> None:
        """Write a line to a node's standard input.

        Raises:
            FogError: It has ended.
        """
        stdin = self._processes[name].stdin
        assert stdin is not None
        try:
            stdin.write(f"{line}\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise FogError(f"{name} has ended.{self.tail(name)}") from error

    def end(self, name: str, number: signal.Signals, limit_s: float) -> int:
        """Send a node a signal, and wait for its end; a killed one's shared memory goes with it.

        Returns:
            Its exit status, minus the signal's number where a signal ended it.

        Raises:
            FogError: It goes on.
        """
        process = self._processes[name]
        killed = number == signal.SIGKILL
        with removed_after_kill(process.pid) if killed else contextlib.nullcontext():
            process.send_signal(number)
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired as error:
                tail = self.tail(name)
                raise FogError(f"{name} has not ended within {limit_s:g} s.{tail}") from error
        _close_input(process)
        return status

    def check(self, names: Sequence[str]) -> None:
        """See whether nodes are running.

        Raises:
            FogError: One has ended.
        """
        for name in names:
            if (status := self._processes[name].poll()) is not None:
                raise FogError(self._ended(name, status))

    def wait_for(
        self,
        name: str,
        limit_s: float,
        on_line: Callable[[str], None] = lambda line: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until a node has done its work and ended.

        Args:
            name: The node.
            limit_s: How long it may take, s.
            on_line: Told each line that it prints.
            stopped: Asked now and then whether to give up: signals reach the main thread alone.

        Raises:
            FogError: It failed, took too long, or another node ended before it.
            KeyboardInterrupt: ``stopped`` said so.
        """
        deadline = time.monotonic() + limit_s
        with self.log(name).open() as log:
            while True:
                status = self._processes[name].poll()
                for line in log:
                    on_line(line.rstrip("\n"))
                if status is not None:
                    break
                if stopped():
                    raise KeyboardInterrupt
                for other, process in self._processes.items():
                    if other != name and process.poll() is not None:
                        raise FogError(self._ended(other, process.returncode))
                if time.monotonic() > deadline:
                    raise FogError(f"{name} took longer than {limit_s:.0f} s.{self.tail(name)}")
                time.sleep(_POLL_S)
        if status != 0:
            raise FogError(self._ended(name, status))

    def _ended(self, name: str, status: int) -> str:
        errors = "".join(
            f"\n{other} said: {line}"
            for other in self._processes
            if other != name
            for line in self._lines(other)
            if "[ERROR]" in line or line.startswith("error: ")
        )
        return f"{name} ended with exit status {status}.{self.tail(name)}{errors}"

    def _lines(self, name: str) -> list[str]:
        return self.log(name).read_text(errors="replace").splitlines()[-_TAIL_LINES:]

    def tail(self, name: str) -> str:
        """The end of a node's log, for a message."""
        shown = "\n".join(f"  {line}" for line in self._lines(name))
        return f" The end of {self.log(name)}:\n{shown}"

    def _end_all(self) -> None:
        for number, patience_s in ESCALATION:
            running = [p for p in self._processes.values() if p.poll() is None]
            for process in running:
                process.send_signal(number)
            deadline = time.monotonic() + patience_s
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        for process in self._processes.values():
            _close_input(process)


def _close_input(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
