"""From a bundle's folder to the control loop that runs it. No ROS here."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fog_policy.bundle_fit import sizes_misfit
from fog_policy.control_loop import ControlLoop
from fog_policy.inference_worker import InferenceWorker
from fog_policy.safety import EmergencyStop
from fog_policy.shipped_policies import find_bundle
from fog_policy.surprise import SurpriseGuard
from fog_world_model.errors import FogError
from fog_world_model.task import load_task


@dataclass(frozen=True)
class LoadedLoop:
    """A control loop, warmed up, and what is to be said about it."""

    loop: ControlLoop
    about: dict[str, Any]
    """For the report: device, backend and the time of a step."""
    text: str
    """For the log."""
    warnings: tuple[str, ...]


def load_loop(
    folder: str,
    worker: Callable[[], InferenceWorker],
    *,
    task_path: str,
    backend: str,
    device: str,
    threads: int,
    shadow: bool,
    emergency_stop: EmergencyStop,
) -> LoadedLoop:
    """Load a bundle and warm it up.

    Args:
        folder: The bundle, or the name of a shipped policy.
        worker: Gives the thread in which the policy will run; called once the bundle has been
            looked at.
        task_path: Task file that the bundle has to belong to; empty: its own.
        backend: What computes the policy: ``auto``, ``torch`` or ``onnx``.
        device: Where it computes.
        threads: For one operation of the policy.
        shadow: As for :class:`.control_loop.ControlLoop`.
        emergency_stop: The latch to obey.

    Raises:
        FogError: The bundle, the task or the device does not fit.
    """
    if not folder:
        raise FogError("policy_node: parameter bundle is empty; give -p bundle:=FOLDER")
    path, task = find_bundle(folder), load_task(task_path) if task_path else None
    # PyTorch takes seconds to import: the node is on the graph before, and can be stopped.
    backends = importlib.import_module("fog_policy.inference_backend")
    bundle = importlib.import_module("fog_policy.bundle").load_bundle(path, task)
    if problems := sizes_misfit(bundle.task, bundle.manifest["local_config"]):
        raise FogError(f"bundle {folder}: {'; '.join(problems)}; export the policy again")
    # In the thread that will run it: what a backend keeps for each thread is ready then.
    chosen = worker().submit(
        functools.partial(backends.choose, bundle, backend=backend, device=device, threads=threads)
    )
    if chosen is None:
        raise FogError("policy_node: the policy's thread is still busy; start the node anew")
    choice = chosen.result()
    guard = SurpriseGuard(bundle.surprise, bundle.task.safety.surprise_margin)
    warnings = [choice.note] if choice.note else []
    if guard.off is not None:
        warnings.append(f"out-of-distribution guard: off: {guard.off}")
    loop = ControlLoop(
        bundle.task, choice.controller, emergency_stop=emergency_stop, shadow=shadow, guard=guard
    )
    step = ", ".join(f"{name} {ms:.2f} ms" for name, ms in choice.step_ms.items())
    return LoadedLoop(
        loop,
        {"device": device, "backend": choice.backend, "step_ms": choice.step_ms},
        f"bundle {folder}: task '{bundle.task.name}' at {bundle.task.control_hz:g} Hz on "
        f"{device} by {choice.backend} (a step takes: {step})"
        f"{'; shadow: no command will be published' if shadow else ''}",
        tuple(warnings),
    )
