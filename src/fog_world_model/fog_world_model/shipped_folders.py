"""Where the folders lie that ship with a package: tasks, worlds, policies. No ROS here."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def shipped_folders(package: str, name: str) -> list[Path]:
    """Where a folder that ships with one of our packages lies, the most specific place first.

    The source tree when the packages run from there, then the shares of the ament index (a
    colcon workspace or a ROS installation), then the environment that runs Python.

    Args:
        package: Whose share it is in, such as ``fog_bringup``.
        name: Relative to the share, such as ``config/tasks``.
    """
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [Path(__file__).resolve().parents[2] / package / name]
    folders += [Path(p) / "share" / package / name for p in prefixes if p]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
