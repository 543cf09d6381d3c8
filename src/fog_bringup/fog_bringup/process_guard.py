"""Ends processes whose parent has died. No ROS here.

A parent that is killed (``kill -9``, out of memory) ends nobody any more. So a guard, a small
process in a session of its own, holds the other end of a socket: when that closes, however the
parent came to its end, the guard ends what it was handed, as the parent would have done.

The kernel's own parent-death signal (prctl, PR_SET_PDEATHSIG) is not it: that comes when the
*thread* which started the process ends, and is one signal, with no other for a process that does
not heed it. The guard is handed file descriptors of processes, not their numbers: the number of one
that has ended may be another's by then.

Run as a script, this file is the guard. It imports the standard library alone, so that it starts at
once and takes little memory.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ESCALATION = ((signal.SIGINT, 3.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0))
"""How a process is asked to end, and how long it may take, s."""

_CLOSE_S = 5.0
_KEPT = ("LD_LIBRARY_PATH",)
"""Of the environment: what the interpreter may need."""


class ProcessGuard:
    """The parent's side: starts the guard with the first process that it is to watch."""

    def __init__(self) -> None:
        self._guard: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Start the guard, unless it has been started."""
        if self._socket is not None:
            return
        self._socket, others = socket.socketpair()
        with others:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                cwd="/",
                stdin=others.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def watch(self, process: subprocess.Popen[str]) -> None:
        """Have a process ended when this one has died.

        Args:
            process: A child of this process, as it is started.
        """
        self.start()
        assert self._socket is not None
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:  # it has ended already
            return
        except (AttributeError, OSError) as error:
            print(f"warning: {process.pid} would outlive this process: {error}", file=sys.stderr)
            return
        try:
            # Whoever has killed the guard has the processes to look after.
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(self._socket, [b"."], [descriptor])
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """End the guard, once nothing is left to watch; what is left, it ends before."""
        if self._socket is None or self._guard is None:
            return
        self._socket.close()
        self._socket = None
        patience_s = sum(seconds for _, seconds in ESCALATION) + _CLOSE_S
        try:
            self._guard.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()


def _guard() -> None:
    # Its own end is that of its parent, and a signal to everybody must not bring it before.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = socket.socket(fileno=sys.stdin.fileno())
    watched: set[int] = set()
    while True:
        ready = select.select([parent.fileno(), *watched], [], [])[0]
        _forget_ended(watched)
        if parent.fileno() not in ready:
            continue
        try:
            data, descriptors, _, _ = socket.recv_fds(parent, 64, 64)
        except ConnectionError:
            break
        watched.update(descriptors)
        if not data:
            break
    for number, patience_s in ESCALATION:
        deadline = time.monotonic() + patience_s
        for descriptor in watched:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
        while watched and (left_s := deadline - time.monotonic()) > 0:
            select.select(list(watched), [], [], left_s)
            _forget_ended(watched)


def _forget_ended(watched: set[int]) -> None:
    """The descriptor of a process becomes readable with its end."""
    for descriptor in select.select(list(watched), [], [], 0)[0]:
        os.close(descriptor)
        watched.discard(descriptor)


if __name__ == "__main__":
    _guard()
