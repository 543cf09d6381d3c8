"""A genuine bundle for tests: an untrained local model, an actor that always answers the same."""

from __future__ import annotations

from pathlib import Path

from fog_policy.untrained_bundle import write_answering
from fog_world_model.task import TaskConfig


def write_toy_bundle(task: TaskConfig, path: Path, action: tuple[float, ...]) -> Path:
    """Write it.

    Args:
        task: The task that it belongs to.
        path: The bundle's folder.
        action: The answer, in (-1, 1).

    Returns:
        ``path``.
    """
    write_answering(task, path, action, preset="tiny", hidden=16, steady=True)
    return path
