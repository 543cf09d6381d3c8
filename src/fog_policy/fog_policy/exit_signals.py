"""SIGINT, SIGTERM and SIGHUP for a process that has to say a last word. No ROS here."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the wish of another process, and the loss of the terminal. The last is left alone where
nohup has it ignored."""


@contextmanager
def raised() -> Iterator[None]:
    """Within the block these signals raise KeyboardInterrupt in the main thread.

    Unlike rclpy's own handlers, which take the ROS context away at once, this leaves time to
    publish a zero command; and it reaches a process that is busy importing or loading.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """Within the block they do nothing: under a launcher, Ctrl-C arrives twice."""
    with _handled_by(signal.SIG_IGN):
        yield


def ignore() -> None:
    """From now on they do nothing, until the process ends.

    For the very end: the interpreter takes a while to close, and a second signal that comes then
    would turn a regular exit status into that of a killed process.
    """
    if _in_main_thread():
        for number in _heeded():
            signal.signal(number, signal.SIG_IGN)


def end_process(status: int) -> NoReturn:
    """End this process at once, with an exit status, when all that matters is closed.

    The interpreter takes one to two seconds to take apart what PyTorch has imported. A launcher
    that waits no longer kills the process, and what a middleware holds of shared memory stays.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


@contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    if not _in_main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _heeded()}
    try:
        yield
    finally:
        for number, previous in before.items():
            # Unless somebody else has set one meanwhile, as ignore() does.
            if signal.getsignal(number) is handler:
                signal.signal(number, previous)


def _heeded() -> list[signal.Signals]:
    """Which of the signals are not ignored by whoever started this process."""
    return [
        number
        for number in SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]


def _in_main_thread() -> bool:
    """Only the main thread may set handlers, and only it gets signals."""
    return threading.current_thread() is threading.main_thread()
