"""The helper that other tests trust to clean up has to clean up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import NodeProcess, ros_domain

CATCHES_ONE_SIGINT = """
import signal, sys, time
count = 0
def handle(number, frame):
    global count
    count += 1
signal.signal(signal.SIGINT, handle)
print("ready", flush=True)
while count == 0:
    time.sleep(0.01)
time.sleep(0.3)
print("interrupts:", count, flush=True)
sys.exit(7)
"""

IGNORES_SIGINT = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""

LEAVES_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
"""


def python(code: str, limit_s: float = 60.0) -> NodeProcess:
    return NodeProcess([sys.executable, "-c", code], dict(os.environ), limit_s=limit_s)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_stop_interrupts_once_and_gives_the_exit_status() -> None:
    with python(CATCHES_ONE_SIGINT) as process:
        process.wait_for("ready")
        assert process.stop() == 7
        assert "interrupts: 1\n" in process.output()


def test_a_process_that_ignores_sigint_gets_sigterm() -> None:
    with python(IGNORES_SIGINT) as process:
        process.wait_for("ready")
        assert process.stop(grace_s=0.3) == -signal.SIGTERM


def test_a_process_past_its_limit_is_ended() -> None:
    with python(IGNORES_SIGINT, limit_s=1.0) as process:
        assert process.wait(10.0) == 124


def test_a_child_left_behind_is_killed_and_reported() -> None:
    with pytest.raises(AssertionError, match="left a process behind"), python(LEAVES_A_CHILD) as p:
        child = int(p.wait_for(r"child (\d+)").group(1))
        p.wait()
        assert is_alive(child)
    deadline = time.monotonic() + 5.0
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(child)


def test_wait_for_reports_the_output_of_a_process_that_failed() -> None:
    with python("import sys; sys.exit('no such task')") as process:
        with pytest.raises(AssertionError, match="no such task"):
            process.wait_for("ready")
        assert process.wait() == 1


def test_every_test_process_has_a_domain_of_its_own() -> None:
    code = "from processes import ros_domain; print(ros_domain())"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert int(run.stdout) != ros_domain()
    assert 1 <= int(run.stdout) <= 101
