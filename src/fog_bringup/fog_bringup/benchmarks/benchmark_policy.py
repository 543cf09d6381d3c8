"""The policy that a benchmark deploys: a given bundle, or one that nobody has trained.

What a robot is to be measured with may be slower or faster than what the bundle was trained for;
the same networks are then written under a variation of the task.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fog_bringup.tasks import find_task
from fog_policy.bundle import Bundle, load_bundle, write_bundle
from fog_policy.decision import Controller
from fog_policy.inference_backend import choose
from fog_policy.shipped_policies import find_bundle
from fog_policy.untrained_bundle import write_answering
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

SYNTHETIC = "synthetic"
ROBOTS = ("task", SYNTHETIC)
"""Which robot is driven: the one that the task names, or the one without physics."""
ROBOT_HZ = 50.0
"""Steps per second of the walking and the synthetic robot; the camera's rate divides it."""

_CIRCLE = 0.25, 0.5
"""What an untrained policy proposes for the first and the last field of the command, in [-1, 1]: a
walking robot goes round in a circle of which the arena has room."""
_STEPS = 500


@dataclass(frozen=True)
class BenchmarkPolicy:
    """A bundle, and where it came from."""

    path: Path
    task: TaskConfig
    """As the policy node reads it."""
    about: str
    """For a person."""


def make_policy(
    bundle: Path | None,
    folder: Path,
    *,
    control_hz: float | None = None,
    image_size: int | None = None,
    preset: str = "small",
) -> BenchmarkPolicy:
    """Open a bundle, or make one.

    Args:
        bundle: A bundle's folder, or the name of a shipped policy; None: an untrained policy of
            the task ``reach_cube``.
        folder: Where to write one.
        control_hz: Run it at this rate; None: at its task's.
        image_size: Rows and columns that an untrained policy sees; None: its task's.
        preset: Size of an untrained policy's local model.

    Raises:
        FogError: The bundle cannot be opened, or needs topics that no simulated robot has.
    """
    if bundle is not None:
        folder_of = find_bundle(bundle)
        opened = load_bundle(folder_of)
        _require_drivable(opened.task)
        if control_hz is None or control_hz == opened.task.control_hz:
            return BenchmarkPolicy(folder_of.resolve(), opened.task, f"bundle {bundle}")
        task = dataclasses.replace(opened.task, control_hz=control_hz)
        _write_varied(opened, task, folder)
        about = f"bundle {bundle}, whose task has {opened.task.control_hz:g} Hz"
        return BenchmarkPolicy(folder, task, about)
    task = find_task("reach_cube")
    if control_hz is not None:
        task = dataclasses.replace(task, control_hz=control_hz)
    if image_size is not None:
        image = dataclasses.replace(task.image, height=image_size, width=image_size)
        task = dataclasses.replace(task, image=image)
    write_untrained(task, folder, preset)
    about = f"untrained policy of size {preset} that walks in circles; no bundle was given"
    return BenchmarkPolicy(folder, task, about)


def robot_task(task: TaskConfig, robot: str) -> TaskConfig:
    """The task as the robot's node reads it.

    Args:
        task: The policy's.
        robot: One of :data:`ROBOTS`.

    Raises:
        FogError: No such robot.
    """
    if robot not in ROBOTS:
        raise FogError(f"--robot {robot}: expected one of {', '.join(ROBOTS)}")
    return task if robot == "task" else dataclasses.replace(task, robot=SYNTHETIC)


def camera_rate(control_hz: float) -> float:
    """The lowest rate of the camera that is neither below 10 Hz nor below the control rate.

    Raises:
        FogError: The robot takes fewer steps than that.
    """
    wanted = max(10.0, control_hz)
    if wanted > ROBOT_HZ:
        raise FogError(f"--rates {control_hz:g}: the robot steps at {ROBOT_HZ:g} Hz, give less")
    return ROBOT_HZ / int(ROBOT_HZ / wanted + 1e-9)


def write_untrained(task: TaskConfig, folder: Path, preset: str = "small") -> Bundle:
    """Write an untrained local model and an actor whose answers lie around a slow circle.

    Args:
        task: The task.
        folder: The bundle's.
        preset: Size of the local model.

    Raises:
        FogError: No such preset.
    """
    answer = [0.0] * task.action_size
    answer[-1], answer[0] = _CIRCLE[1], _CIRCLE[0]
    return write_answering(task, folder, answer, preset=preset)


def step_times(bundle: Path) -> dict[str, dict[str, float]]:
    """Wall times of the policy's step on one thread, for each backend that works here.

    Args:
        bundle: The bundle's folder.

    Returns:
        Backend -> ``p50``, ``p99`` and ``max``, ms, over 500 steps after a warm-up.

    Raises:
        FogError: PyTorch, which every bundle needs, does not run it.
    """
    opened = load_bundle(bundle)
    found = {}
    for backend in ("torch", "onnx"):
        try:
            chosen = choose(opened, backend=backend, device="cpu", threads=1)
        except FogError:
            if backend == "torch":
                raise
            continue
        found[backend] = _times(opened.task, chosen.controller)
    return found


def _times(task: TaskConfig, controller: Controller) -> dict[str, float]:
    random = np.random.default_rng(0)
    shape = task.image.height, task.image.width, 3
    images = random.integers(0, 256, (16, *shape), dtype=np.uint8)
    vector = np.zeros(task.proprioception_size, np.float32)
    previous = np.zeros(task.action_size, np.float32)
    times = []
    for k in range(_STEPS + _STEPS // 10):
        begin = time.perf_counter()
        previous = controller.act(images[k % len(images)], vector, previous)
        times.append(time.perf_counter() - begin)
    measured = np.array(times[-_STEPS:]) * 1e3
    p50, p99 = np.percentile(measured, (50, 99))
    return {"p50": float(p50), "p99": float(p99), "max": float(measured.max())}


def _write_varied(bundle: Bundle, task: TaskConfig, folder: Path) -> None:
    local, actor = bundle.networks()
    manifest = {**bundle.manifest, "task": task.to_dict(), "task_hash": task.hash}
    write_bundle(local, actor, folder, manifest)


def _require_drivable(task: TaskConfig) -> None:
    """No simulated robot holds a dead-man's switch, or has a battery and temperatures."""
    safety = task.safety
    watched = {
        "deadman_topic": safety.deadman_topic,
        "temperature": safety.temperature,
        "battery": safety.battery,
    }
    if needed := [f"safety.{name}" for name, value in watched.items() if value]:
        raise FogError(
            f"task '{task.name}' asks for {', '.join(needed)}, which no simulated robot publishes; "
            "export the policy with a task without it, or leave the bundle out"
        )
