"""The control loop in real time: rates, latencies, jitter and memory, over minutes.

A robot's node and the policy's node are processes of their own, as on a robot; what is measured is
the policy node's own report and what /proc says of its memory.
"""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from fog_bringup.benchmarks.benchmark_policy import (
    ROBOT_HZ,
    BenchmarkPolicy,
    camera_rate,
    make_policy,
    robot_task,
    step_times,
)
from fog_bringup.benchmarks.deployment_picture import draw_runs
from fog_bringup.benchmarks.one_core import one_core
from fog_bringup.benchmarks.process_usage import Usage
from fog_bringup.closed_loop import free_domain_id
from fog_bringup.node_processes import NodeProcesses
from fog_bringup.progress import Report, progress_bar
from fog_bringup.report_theme import LIGHT, png
from fog_bringup.robots import make_robot
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

REAL_TIME: Final = 0.98
"""A robot that gets through less robot time per wall time than this did not keep up."""
_START_S, _END_S = 120.0, 60.0
_WARM_UP_SHARE = 0.1
"""Memory counts from this share of the run on: until then caches fill."""
_FRAMES = 60
_MOST_CORES = 0.9
"""A robot that needs more of a core has no time left for its messages."""


def measure(
    bundle: Path | None,
    *,
    minutes: float,
    rates: Sequence[float],
    robot: str = "task",
    camera_hz: float = 0.0,
    image_size: int = 64,
    picture: Path | None = None,
) -> dict[str, Any]:
    """Let a policy drive at each rate for some time.

    Args:
        bundle: A bundle's folder; None: an untrained policy of the usual size.
        minutes: Length of each run.
        rates: Control rates, Hz.
        robot: ``task`` (the simulated robot of the policy's task) or ``synthetic``.
        camera_hz: Rate of the camera; 0: the lowest that the robot has and that is not below 10 Hz
            or the control rate.
        image_size: Rows and columns that an untrained policy sees.
        picture: PNG to write; None: no picture.

    Returns:
        ``policy`` (what was deployed), ``policy_step_ms`` (of the policy alone, on one core and one
        thread: for each backend ``p50``, ``p99``, ``max``), ``runs``: for each rate

        - ``declared_hz``, ``achieved_hz``, ``seconds``, ``commands``, ``missed`` (ticks without a
          decision in time, see :mod:`fog_policy.deadlines`), ``long_intervals`` (of more than 1.5
          control periods between two decisions), ``overruns``, ``waits`` (ticks that waited a
          moment for an image that was overdue) and ``stops`` (what stopped the robot, how often);
        - ``latency_ms``: image stamp to command, ``p50``, ``p99``, ``max``; ``camera_period_ms``,
          and ``beyond_camera_ms``, the latency's p99 minus that; ``image_age_ms``, the part of the
          latency that had passed when the tick took the image; ``phase_spread_ms``, by how much
          these ages differ though nothing is late, see :func:`phase_spread_s`;
        - ``jitter_ms``: by how much the command timer was off, the same three;
        - ``rss_mb_start``, ``rss_mb_end``, ``rss_mb_max`` of the policy node, from a tenth of the
          run on; ``cores`` that it took;
        - ``robot``: ``kind``, ``camera_hz``, ``image`` (rows, columns), ``step_ms`` and
          ``frame_ms`` (one step, one picture, alone on one core), ``cores_needed``, which follows
          from these, ``cores`` that it took, ``real_time_factor``, ``skipped_s`` and ``note`` when
          it did not keep up with real time.

        ``picture``, where it was written, and ``interrupted``, whether Ctrl-C came before the end.

    Raises:
        FogError: An option is impossible, or a node fails; the message shows what it said.
    """
    if minutes <= 0 or not rates or min(rates) <= 0:
        raise FogError("--minutes and --rates: expected numbers above 0")
    if picture is not None and picture.is_dir():
        raise FogError(f"--picture {picture}: is a folder, expected the path of a PNG to write")
    runs: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    interrupted = False
    # The node's own picture may still be drawn when the folder goes.
    folders = tempfile.TemporaryDirectory(prefix="fog_deployment_", ignore_cleanup_errors=True)
    with folders as scratch, progress_bar() as report:
        place = Path(scratch)
        policies = [
            make_policy(bundle, place / f"bundle_{hz:g}", control_hz=hz, image_size=image_size)
            for hz in rates
        ]
        report("the policy alone", 0, 1)
        with one_core():
            step_ms = step_times(policies[0].path)
        report("the policy alone", 1, 1)
        for hz, policy in zip(rates, policies, strict=True):
            cameras = camera_hz or camera_rate(hz)
            kind = robot_task(policy.task, robot)
            folder = place / f"{hz:g}"
            folder.mkdir()
            try:
                found, curves = _run(policy, kind, cameras, 60.0 * minutes, folder, report)
            except KeyboardInterrupt:
                interrupted = True
                break
            runs.append(found)
            series.append(curves)
    result: dict[str, Any] = {
        "policy": policies[0].about,
        "policy_step_ms": step_ms,
        "runs": runs,
        "interrupted": interrupted,
    }
    if picture is not None and runs:
        picture.parent.mkdir(parents=True, exist_ok=True)
        drawn = png(lambda theme: draw_runs(runs, series, theme), LIGHT, background="white")
        picture.write_bytes(drawn)
        result["picture"] = str(picture)
    return result


def _run(
    policy: BenchmarkPolicy,
    task: TaskConfig,
    camera_hz: float,
    seconds: float,
    folder: Path,
    report: Report,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One rate: the figures, and the curves for the picture."""
    hz = policy.task.control_hz
    name = f"{hz:g} Hz, {task.robot} robot"
    alone = _robot_alone(task, camera_hz)
    task_file = folder / "task.yaml"
    task.save(task_file)
    written = folder / "report.json"
    with NodeProcesses(folder, free_domain_id()) as nodes:
        nodes.start(
            "robot_node",
            [sys.executable, "-m", "fog_bringup.robot_node"],
            {"task": str(task_file), "publish_clock": False, "camera_hz": camera_hz},
        )
        _wait_for(nodes, "robot_node", "commands on")
        nodes.start(
            "policy_node",
            [sys.executable, "-m", "fog_policy.policy_node"],
            {"bundle": str(policy.path), "report_path": str(written), "autostart": True},
        )
        _wait_for(nodes, "policy_node", ": driving")
        usages = {n: Usage(nodes.pid(n)) for n in ("policy_node", "robot_node")}
        begin, total = time.monotonic(), max(1, round(seconds))
        for second in range(total + 1):
            time.sleep(max(0.0, begin + min(second, seconds) - time.monotonic()))
            nodes.check(list(usages))
            for usage in usages.values():
                usage.sample()
            report(name, second, total)
        nodes.end("policy_node", signal.SIGINT, _END_S)
        robot_log = nodes.log("robot_node").read_text(errors="replace")
        nodes.end("robot_node", signal.SIGINT, _END_S)
    return _figures(
        json.loads(written.read_text()), usages, {**alone, **_pace(robot_log)}, camera_hz, task
    )


def _figures(
    control: dict[str, Any],
    usages: dict[str, Usage],
    robot: dict[str, Any],
    camera_hz: float,
    task: TaskConfig,
) -> tuple[dict[str, Any], dict[str, Any]]:
    latency, memory = control["latency_ms"], usages["policy_node"]
    settled = memory.rss_mb[int(_WARM_UP_SHARE * len(memory.rss_mb)) :]
    camera_ms = 1e3 / camera_hz
    robot["cores"] = usages["robot_node"].cores
    factor = robot["real_time_factor"]
    if robot["skipped_s"] > 0 or (factor is not None and factor < REAL_TIME):
        robot["note"] = _slowness(robot)
    figures = {
        "declared_hz": control["declared_hz"],
        "achieved_hz": control["achieved_hz"],
        "seconds": control["seconds"],
        "commands": control["commands"],
        "missed": control["missed_deadlines"],
        "long_intervals": control["long_intervals"],
        "waits": control["waits"],
        "overruns": control["overruns"],
        "stops": {cause: count["events"] for cause, count in control["stops"].items()},
        "backend": control["backend"],
        "image": [task.image.height, task.image.width],
        "latency_ms": latency,
        "camera_period_ms": camera_ms,
        "beyond_camera_ms": None if latency["p99"] is None else latency["p99"] - camera_ms,
        "image_age_ms": control["image_age_ms"],
        "phase_spread_ms": 1e3 * phase_spread_s(control["declared_hz"], camera_hz),
        "inference_ms": control["inference_ms"],
        "jitter_ms": control["jitter_ms"],
        "rss_mb_start": settled[0],
        "rss_mb_end": settled[-1],
        "rss_mb_max": max(settled),
        "cores": memory.cores,
        "robot": robot,
    }
    curves = {
        **control["series"],
        "memory_s": memory.seconds,
        "memory_mb": memory.rss_mb,
    }
    return figures, curves


def phase_spread_s(control_hz: float, camera_hz: float) -> float:
    """By how much the newest image's age differs from tick to tick, though nothing is late, s.

    After the greatest common divisor g of both periods the ticks lie as before to the images, so
    that the newest image is a, a + g, a + 2g, ... old, short of a camera period: at 20 and 25 Hz,
    0, 10, 20 and 30 ms older than the youngest. Where the control rate divides the camera's, it
    is 0.
    """
    control, camera = (1 / Fraction(hz).limit_denominator(1000) for hz in (control_hz, camera_hz))
    shared = Fraction(
        math.gcd(control.numerator * camera.denominator, camera.numerator * control.denominator),
        control.denominator * camera.denominator,
    )
    return float(camera - shared)


def _robot_alone(task: TaskConfig, camera_hz: float) -> dict[str, Any]:
    """What the robot itself costs on one core, so that its share of the machine is known."""
    with one_core():
        robot = make_robot(task, camera_hz=camera_hz)
        try:
            robot.reset(0)
            robot.observe()  # opens the renderer
            step_ms, frame_ms = [], []
            for _ in range(_FRAMES):
                begin = time.perf_counter()
                robot.step(np.zeros(task.action_size))
                stepped = time.perf_counter()
                robot.observe()
                step_ms.append(1e3 * (stepped - begin))
                frame_ms.append(1e3 * (time.perf_counter() - stepped))
            size = [robot.image_height, robot.image_width]
        finally:
            robot.close()
    one_ms, picture_ms = float(np.median(step_ms)), float(np.median(frame_ms))
    return {
        "kind": task.robot,
        "camera_hz": camera_hz,
        "image": size,
        "step_ms": one_ms,
        "frame_ms": picture_ms,
        "cores_needed": (ROBOT_HZ * one_ms + camera_hz * picture_ms) / 1e3,
    }


def _slowness(robot: dict[str, Any]) -> str:
    """Why a robot did not keep up, as far as its own costs can tell."""
    costs = (
        f"alone on one core a step takes {robot['step_ms']:.2g} ms and a picture "
        f"{robot['frame_ms']:.2g} ms, {robot['cores_needed']:.2f} of a core in all"
    )
    if robot["cores_needed"] > _MOST_CORES:
        return f"too slow for real time on this machine ({costs}); give --robot synthetic"
    return f"did not keep up with real time, but not for its own costs ({costs}): what else runs?"


def _pace(log: str) -> dict[str, Any]:
    """What the robot's node logged about real time; the first entry covers its start."""
    found = re.findall(r"real-time factor ([\d.]+) of \S+, ([\d.]+) s skipped", log)
    factors = [float(factor) for factor, _ in found[1:]]
    return {
        "real_time_factor": float(np.mean(factors)) if factors else None,
        "skipped_s": float(found[-1][1]) if found else 0.0,
    }


def _wait_for(nodes: NodeProcesses, name: str, text: str) -> None:
    deadline = time.monotonic() + _START_S
    while text not in nodes.log(name).read_text(errors="replace"):
        nodes.check([name])
        if time.monotonic() > deadline:
            raise FogError(f"{name} never said {text!r} within {_START_S:g} s.{nodes.tail(name)}")
        time.sleep(0.1)
