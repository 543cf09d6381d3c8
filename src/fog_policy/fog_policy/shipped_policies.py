"""The policies that ship with the stack, and how one is found by its name.

A policy is a bundle ``policies/<name>`` in the share of fog_bringup, beside tasks and worlds.
Wherever a bundle is expected, its name will do: the policy's node takes it too, which is why the
look-up lies in this package.
"""

from __future__ import annotations

import os
from pathlib import Path

from fog_world_model.errors import FogError
from fog_world_model.shipped_folders import shipped_folders

_MANIFEST = "manifest.json"
"""As in :mod:`fog_world_model.training.checkpoint`, which would bring PyTorch along."""


def policy_folders() -> list[Path]:
    """Where shipped policies lie, see :mod:`fog_world_model.shipped_folders`."""
    return shipped_folders("fog_bringup", "policies")


def policy_names() -> list[str]:
    """Names of the shipped policies."""
    return sorted({p.parent.name for f in policy_folders() for p in f.glob(f"*/{_MANIFEST}")})


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """A folder that the user named, or the shipped policy of that name.

    Args:
        name_or_path: A path, which comes first if it exists, or a name such as ``pusht_easy``.

    Returns:
        The folder; it need not hold a bundle, which whoever opens it finds out.

    Raises:
        FogError: There is no such folder and no such name; the known ones are listed.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    if path.name == os.fspath(name_or_path):
        for folder in policy_folders():
            if (folder / path / _MANIFEST).is_file():
                return folder / path
    raise FogError(
        f"bundle {path}: no such folder, and no shipped policy of that name; known are "
        f"{', '.join(policy_names()) or 'none'}. 'fog train policy' writes a bundle"
    )
