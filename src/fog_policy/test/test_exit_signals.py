"""A lost terminal ends a node like Ctrl-C, unless nohup was asked to keep it running."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
from fog_policy import exit_signals
try:
    with exit_signals.raised():
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        print("went on")
except KeyboardInterrupt:
    print("interrupted")
print("put back" if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else "left behind")
"""


def run(command: list[str], name: str) -> list[str]:
    command = [*command, sys.executable, "-c", SCRIPT, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split("\n")[:2]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_interrupt(name: str) -> None:
    # Whatever this test itself was started with: what nohup ignores is inherited.
    usual = ["env", "--default-signal=HUP,INT,TERM"]
    assert run(usual, name) == ["interrupted", "put back"]


def test_nohup_keeps_a_process_running() -> None:
    assert run(["nohup"], "SIGHUP") == ["went on", "put back"]
    assert run(["nohup"], "SIGTERM") == ["interrupted", "put back"]


def test_a_process_ends_at_once_and_has_said_all() -> None:
    script = """
import atexit
from fog_policy import exit_signals
atexit.register(print, "the interpreter was closed")
print("last word", end="")
exit_signals.end_process(3)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "last word", "")
