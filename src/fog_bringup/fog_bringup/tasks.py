"""The task files that ship with the stack, and how a task is found by its name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, load_task

_PACKAGE = "fog_bringup"


def shipped_folders(name: str) -> list[Path]:
    """Where a folder that ships with the package lies, the most specific place first.

    The source tree when the package runs from there, then the shares of the ament index (a
    colcon workspace or a ROS installation), then the environment that runs Python.

    Args:
        name: Relative to the package's share, such as ``config/tasks``.
    """
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [Path(__file__).resolve().parents[1] / name]
    folders += [Path(p) / "share" / _PACKAGE / name for p in prefixes if p]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def task_folders() -> list[Path]:
    """Where shipped task files lie, see :func:`shipped_folders`."""
    return shipped_folders("config/tasks")


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
