"""The learned worlds that ship with the stack, and how one is found by its name.

A world is a folder ``worlds/<task>`` with ``global`` and ``local`` (weights in 16 bits, each with
the manifest of how it was made) and ``episodes``, a small store of recorded episodes that it can be
started from and that neither model was trained on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from fog_world_model.errors import FogError
from fog_world_model.shipped_folders import shipped_folders

Part = Literal["global", "local", "episodes"]
_MADE_BY = {"global": "fog train global", "local": "fog train local", "episodes": "fog import"}


def world_folders() -> list[Path]:
    """Where shipped worlds lie, see :mod:`fog_world_model.shipped_folders`."""
    return shipped_folders("fog_bringup", "worlds")


def world_names() -> list[str]:
    """Names of the shipped worlds, which are those of their tasks."""
    return sorted({path.parent.name for f in world_folders() for path in f.glob("*/global")})


def find_part(name_or_path: str | os.PathLike[str], part: Part) -> Path:
    """A folder that the user named, or the part of a shipped world whose name it is.

    Args:
        name_or_path: A path, which comes first if it exists, or a name such as ``pusht``.
        part: What is wanted of a shipped world.

    Returns:
        The folder; it need not hold what it should, which whoever opens it finds out.

    Raises:
        FogError: There is no such folder and no such name (the known ones are listed), or the
            world lacks the part.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    if path.name == os.fspath(name_or_path):
        for folder in world_folders():
            if (folder / path / "global").is_dir():
                if not (folder / path / part).is_dir():
                    raise FogError(f"world '{path}': ships without {part}; name a folder")
                return folder / path / part
    known = ", ".join(world_names()) or "none (is fog_bringup installed?)"
    raise FogError(
        f"{path}: no such folder, and no shipped world of that name; known are {known}. "
        f"'{_MADE_BY[part]}' makes one"
    )
