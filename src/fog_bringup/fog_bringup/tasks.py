"""The task files that ship with the stack, and how a task is found by its name."""

from __future__ import annotations

import os
from pathlib import Path

from fog_world_model.errors import FogError
from fog_world_model.shipped_folders import shipped_folders
from fog_world_model.task import TaskConfig, load_task

VARIANTS = {
    "push_cube_markers": "push_cube",
    "push_cube_small": "push_cube",
    "pusht_easy": "pusht",
    "pusht_image": "pusht",
}
"""Task -> the task whose purpose it has: the same reward, drivers and success on other topics,
pictures or start states."""


def purpose_of(task: TaskConfig) -> str:
    """Name of the task whose purpose a task has: its own, unless it is a variant of another."""
    return VARIANTS.get(task.name, task.name)


def task_folders() -> list[Path]:
    """Where shipped task files lie, see :mod:`fog_world_model.shipped_folders`."""
    return shipped_folders("fog_bringup", "config/tasks")


def task_names() -> list[str]:
    """Names of the shipped tasks."""
    return sorted({path.stem for folder in task_folders() for path in folder.glob("*.yaml")})


def find_task(name_or_path: str | os.PathLike[str]) -> TaskConfig:
    """Load a task.

    Args:
        name_or_path: Path of a task file, or the name of a shipped one such as ``reach_cube``.

    Raises:
        FogError: There is no such file and no such name (the known ones are listed), or the file
            is not a valid task.
    """
    text = os.fspath(name_or_path)
    if Path(text).is_file():
        return load_task(text)
    if os.sep not in text:
        for folder in task_folders():
            path = folder / f"{text}.yaml"
            if path.is_file():
                return load_task(path)
    raise FogError(
        f"task {text!r}: no such file, and no shipped task of that name; "
        f"known names are {', '.join(task_names()) or 'none (is fog_bringup installed?)'}"
    )
