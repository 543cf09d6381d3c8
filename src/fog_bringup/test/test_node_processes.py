"""Nodes end with whoever has started them, however that ends. Real processes, no ROS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fog_bringup.node_processes import NodeProcesses
from fog_bringup.process_guard import ProcessGuard

LONG_S = 120.0
"""For a machine that is busy with something else."""

POLITE = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (print("last word", flush=True), sys.exit(0)))
print("ready", flush=True)
time.sleep(600)
"""

STUBBORN = """
import signal, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""

PARENT = """
import sys, threading, time
from pathlib import Path
from fog_bringup.node_processes import NodeProcesses
polite, stubborn, folder = sys.argv[1:]
with NodeProcesses(Path(folder), 1) as nodes:
    nodes.start("polite", [sys.executable, "-c", polite], {})
    nodes.start("ended", [sys.executable, "-c", ""], {})
    # A parent-death signal would come with the end of this thread.
    command = [sys.executable, "-c", stubborn]
    thread = threading.Thread(target=nodes.start, args=("stubborn", command, {}))
    thread.start()
    thread.join()
    print(nodes.pid("polite"), nodes.pid("stubborn"), flush=True)
    time.sleep(600)
"""


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_killed_parent_leaves_no_node_behind(tmp_path: Path) -> None:
    command = ["timeout", "-k", "5", str(4 * LONG_S), sys.executable, "-c", PARENT]
    above = subprocess.Popen(
        [*command, POLITE, STUBBORN, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert above.stdout is not None
    polite, stubborn = (int(pid) for pid in above.stdout.readline().split())
    try:
        for name in ("polite", "stubborn"):
            log = tmp_path / f"{name}.log"
            wait(lambda log=log: "ready" in log.read_text(), f"{name} did not start")
        assert is_alive(polite) and is_alive(stubborn), "the thread that started it has ended"
        (parent,) = children(above.pid)

        def others() -> list[int]:
            return [p for p in children(parent) if is_alive(p) and p not in (polite, stubborn)]

        wait(
            lambda: len(others()) == 1, "the node that ends by itself goes on, or there is no guard"
        )
        (guard,) = others()
        os.kill(parent, signal.SIGKILL)
        wait(lambda: not is_alive(polite), "the first node goes on")
        assert "last word" in (tmp_path / "polite.log").read_text(), "it was asked before"
        wait(lambda: not is_alive(stubborn), "a node that does not heed signals goes on")
        wait(lambda: not is_alive(guard), "the guard goes on")
    finally:
        for pid in (polite, stubborn, above.pid):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        above.stdout.close()
        above.wait(LONG_S)


def test_a_regular_end_leaves_neither_nodes_nor_guard(tmp_path: Path) -> None:
    before = set(children(os.getpid()))
    with NodeProcesses(tmp_path, 1) as nodes:
        nodes.start("polite", [sys.executable, "-c", POLITE], {})
        wait(lambda: "ready" in nodes.log("polite").read_text(), "it did not start")
        assert len(set(children(os.getpid())) - before) == 2
    assert set(children(os.getpid())) <= before
    assert "last word" in (tmp_path / "polite.log").read_text()


def test_a_guard_does_not_touch_what_ended_before() -> None:
    """It is told of a process that has ended and of one that goes on, and closed: both are gone."""
    guard = ProcessGuard()
    ended = subprocess.Popen([sys.executable, "-c", ""], text=True)
    ended.wait(LONG_S)
    guard.watch(ended)
    # Heeds SIGINT also where the tests run in the background of a shell, which has it ignored.
    sleeping = subprocess.Popen(
        ["sleep", "600"],
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    guard.watch(sleeping)
    guard.close()
    assert sleeping.wait(LONG_S) == -signal.SIGINT
    guard.close()
