"""Publishers and recorders as processes of a ROS domain of their own, for measurements."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fog_bringup.closed_loop import free_domain_id
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare

CAMERA: Final = "/camera/image_raw"
SENSORS: Final = {
    "/joint_states": ("JointState", 500),
    "/imu/data": ("Imu", 200),
    "/odom": ("Odometry", 50),
}
"""Topic -> interface and rate, Hz."""
TYPES: Final = {
    CAMERA: "sensor_msgs/msg/Image",
    "/joint_states": "sensor_msgs/msg/JointState",
    "/imu/data": "sensor_msgs/msg/Imu",
    "/odom": "nav_msgs/msg/Odometry",
}
NODES: Final = "fog_bringup.benchmarks"
_START_S: Final = 60.0


@contextlib.contextmanager
def publishers(
    folder: Path,
    environment: Mapping[str, str],
    camera_hz: float,
    size: str = "640x480",
    *,
    depth: int = 10,
) -> Iterator[tuple[Any, Any]]:
    """Publish the streams from two processes, once every topic has a subscriber.

    Args:
        folder: For logs, and for the stamps sent.
        environment: Of the processes.
        camera_hz: Rate of the images, Hz.
        size: Theirs, pixels.
        depth: Messages of a topic that its publisher keeps; of images at most 60.

    Yields:
        A function to begin, and one to end, which gives the stamps sent, ns, by topic.
    """
    described = {
        "camera": [f"{CAMERA}=Image:{size}@{camera_hz}"],
        "sensors": [f"{topic}={kind}@{hz}" for topic, (kind, hz) in SENSORS.items()],
    }
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, streams in described.items():
            sent = folder / f"sent_{name}.npz"
            sent.unlink(missing_ok=True)  # of an earlier run
            command = [sys.executable, "-m", f"{NODES}.stream_publisher_node", str(sent)]
            command += [str(depth if name == "sensors" else min(depth, 60)), *streams]
            log = folder / f"{name}.log"
            processes[sent] = stack.enter_context(running(command, environment, log)), log

        def tell() -> None:
            for process, _ in processes.values():
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()

        def begin() -> None:
            for process, log in processes.values():
                wait_for(process, log, "matched")
            tell()

        def end() -> dict[str, npt.NDArray[np.int64]]:
            tell()
            stamps = {}
            for path, (process, log) in processes.items():
                # Not for its end: the middleware's own takes its time on a busy machine.
                _wait_until(path.exists, process, log, f"wrote {path.name}")
                with np.load(path, allow_pickle=False) as content:
                    stamps.update({t.replace("|", "/"): content[t] for t in content.files})
            return stamps

        yield begin, end


@contextlib.contextmanager
def recorder(
    output: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], Mapping[str, str]]]:
    """Run recorder_node of the task reach_cube; it records at once."""
    env = ros_environment() if environment is None else environment
    parameters = {"task": "reach_cube", "output": str(output), "start": "true", "min_free_mb": "1"}
    command = [sys.executable, "-m", "fog_bringup.recorder_node", "--ros-args"]
    for key, value in parameters.items():
        command += ["-p", f"{key}:={value}"]
    with running(command, env, log) as process:
        wait_for(process, log, "recording")
        yield process, env


def ros_environment() -> dict[str, str]:
    """For processes in a ROS domain of their own."""
    env = {**os.environ, "ROS_DOMAIN_ID": str(free_domain_id()), "PYTHONUNBUFFERED": "1"}
    env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    prepare(env)
    return env


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[str]]:
    """Run a process, and end it whatever happens."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def wait_for(process: subprocess.Popen[str], log: Path, text: str) -> None:
    """Wait until a process has printed something.

    Raises:
        FogError: It ended before, or does not come to it.
    """
    _wait_until(lambda: text in log.read_text(errors="replace"), process, log, f"said {text!r}")


def _wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[str], log: Path, what: str
) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        # It may have done so, and ended, since the condition was looked at.
        if (process.poll() is not None and not condition()) or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise FogError(f"{log.stem} never {what}; its output ends with\n{tail}")
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> None:
    """End a recorder as a user would, and let it close its bag.

    Raises:
        FogError: It fails.
    """
    process.send_signal(signal.SIGINT)
    if status := process.wait(60.0):
        raise FogError(f"the recorder ended with exit status {status}")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its threads so far, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
