"""What a killed node leaves in /dev/shm is told from what a living one uses, and removed."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

from processes import NodeProcess, executable, ros_environment

from fog_bringup.closed_loop import free_domain_id
from fog_bringup.doctor import check_shared_memory
from fog_bringup.fastdds_segments import abandoned_segments


def test_segments_of_a_killed_node_are_removed_and_those_of_a_living_one_stay(
    tmp_path: Path,
) -> None:
    domain = free_domain_id()
    with (
        _recorder(tmp_path / "lives", domain) as living,
        _recorder(tmp_path / "dies", free_domain_id([domain])) as dying,
    ):
        segments, others = _segments(dying), _segments(living)
        assert segments and others and not segments & others
        assert not (segments | others) & set(abandoned_segments())
        dying.send(signal.SIGKILL)
        assert dying.wait() == -signal.SIGKILL
        left = abandoned_segments()
        assert segments <= set(left)
        assert sum(left[path] for path in segments) > 32 * 2**20
        assert not others & set(left)
        warned = [f for f in check_shared_memory() if f.part == "dead nodes"]
        assert warned and warned[0].state == "warn"

        command = [*executable("fog"), "doctor", "--free-shared-memory"]
        run = subprocess.run(
            ["timeout", "-k", "5", "100", *command], capture_output=True, text=True, check=False
        )
        freed = re.search(r"/dev/shm: (\d+) MiB", run.stdout)
        assert freed and int(freed[1]) > 32, run.stdout + run.stderr
        assert not any(path.exists() for path in segments)
        assert all(path.exists() for path in others)


def _recorder(folder: Path, domain: int) -> NodeProcess:
    """A small node in a domain of its own, so that it maps no segment of another's."""
    env = ros_environment(ROS_DOMAIN_ID=str(domain))
    command = ["recorder_node", "--ros-args", "-p", "task:=reach_cube", "-p", f"output:={folder}"]
    return NodeProcess(command, env)


def _segments(node: NodeProcess) -> set[Path]:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        if found := node.shared_memory():
            return found
        time.sleep(0.05)
    raise AssertionError(f"no segment is mapped; its output:\n{node.output()}")
