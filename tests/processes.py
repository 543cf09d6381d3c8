"""Node executables as subprocesses that never outlive a test."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from fog_bringup.fastdds_segments import mapped_segments
from fog_world_model.ros_environment import prepare

REPOSITORY = Path(__file__).resolve().parents[1]


@functools.cache
def ros_domain() -> int:
    """A ROS_DOMAIN_ID that no other test process on this machine uses, in [1, 101].

    Above 101 the ports of Fast DDS may collide with those that Linux hands out. The lock is held
    as long as this process lives.
    """
    for attempt in range(101):
        domain = (os.getpid() + attempt) % 101 + 1
        path = Path(tempfile.gettempdir()) / f"fog_test_domain_{domain}.lock"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        return domain
    raise RuntimeError("all 101 ROS domains are taken by other test processes")


def ros_environment(**more: str) -> dict[str, str]:
    """What a node process is started with: prepared for ROS, in a domain of this test process.

    Args:
        **more: Further variables.
    """
    env = dict(os.environ)
    prepare(env)
    env.update(ROS_DOMAIN_ID=str(ros_domain()), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    # One thread for each: a test's node, its simulator and the test share two cores.
    env.update(PYTHONUNBUFFERED="1", OMP_NUM_THREADS="1", **more)
    return env


def executable(name: str) -> list[str]:
    """The command that starts one of our executables, for example ``robot_node`` or ``fog``."""
    path = Path(sys.prefix) / "bin" / (name if name == "fog" else f"fog_{name}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: run `make setup`, which installs the executables")
    return [str(path)]


class NodeProcess:
    """One executable, started at once, in a session of its own, and ended with all it started.

    ``timeout`` stands above it, so that it ends even where the test process is killed. Use it as
    ``with NodeProcess(["robot_node", "--ros-args", "-p", "task:=reach_cube"], env) as node:``.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, limit_s: float = 120.0
    ) -> None:
        """Start it.

        Args:
            command: Name of one of our executables (or a path) and its arguments.
            environment: All of its environment, see :func:`ros_environment`.
            limit_s: After this it is ended, and :meth:`wait` returns 124 (-9 where it
                had to be killed).
        """
        self.name = Path(command[0]).name
        self._output: IO[bytes] = tempfile.TemporaryFile()
        start = [command[0]] if os.sep in command[0] else executable(command[0])
        # Signals go to the executable itself, see send(): `timeout` would pass them on twice.
        self._process = subprocess.Popen(
            ["timeout", "-k", "5", str(limit_s), *start, *command[1:]],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id of the executable itself (not of the ``timeout`` above it)."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.01)
        raise RuntimeError(f"{self.name} did not start; its output:\n{self.output()}")

    def shared_memory(self) -> set[Path]:
        """Segments of Fast DDS that it has mapped; its own alone, where its domain is."""
        return mapped_segments(self.pid)

    def output(self) -> str:
        """All that it has written so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait until it ends by itself and return its exit status (see :meth:`stop`)."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} has not ended within {timeout_s} s; its output:\n{self.output()}"
            ) from None
        return self.returncode

    def wait_for(self, pattern: str, timeout_s: float = 30.0) -> re.Match[str]:
        """Wait until its output matches a regular expression.

        Raises:
            AssertionError: It ended, or the time is over; the message has its output.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            ended = not self.running()
            if match := re.search(pattern, self.output()):
                return match
            if ended or time.monotonic() > deadline:
                how = f"ended with {self.returncode}" if ended else f"within {timeout_s} s"
                raise AssertionError(
                    f"{self.name}: no {pattern!r} {how}; its output:\n{self.output()}"
                )
            time.sleep(0.02)

    @property
    def returncode(self) -> int:
        """Exit status; minus the signal's number where a signal ended it (before: an error)."""
        code = self._process.poll()
        assert code is not None, f"{self.name} is still running"
        # `timeout` reports a child that a signal ended as a shell does.
        return 128 - code if 128 < code < 160 else code

    def send(self, which: signal.Signals) -> None:
        """Send a signal to the executable."""
        os.kill(self.pid, which)

    def stop(self, *, grace_s: float = 5.0) -> int:
        """End it as a user would: SIGINT, after ``grace_s`` SIGTERM, and after that SIGKILL.

        Returns:
            Its exit status, minus the signal's number where a signal ended it.
        """
        for which in (signal.SIGINT, signal.SIGTERM):
            if not self.running():
                break
            self.send(which)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        if self.running():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(5.0)
        return self.returncode

    def _left_behind(self) -> bool:
        """Whether something that it started is still there after 2 s; if so, kill it."""
        try:
            for _ in range(100):
                os.killpg(self._process.pid, 0)
                time.sleep(0.02)
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def __enter__(self) -> NodeProcess:
        """Use it as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it, and fail when it left a process behind."""
        self.stop()
        left_behind = self._left_behind()
        output = self.output()
        self._output.close()
        if error is not None:
            print(f"--- output of {self.name} ---\n{output}")
        elif left_behind:
            raise AssertionError(f"{self.name} ended and left a process behind:\n{output}")
