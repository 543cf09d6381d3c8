"""The episode store that goes with a checkpoint, when the user does not name it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.training.checkpoint import Checkpoint

_AROUND = 2
"""Folders above the checkpoint that are looked through."""
_MOST_FOLDERS = 2000


def find_store(checkpoint: Checkpoint, given: Path | None) -> EpisodeStore:
    """Open the store that worlds start from.

    Without ``given`` the neighbourhood of the checkpoint is searched: the folders beside it and
    those beside its parent, and what lies directly within them (so ``store/reach`` is found for
    ``models/global``). The store that the model was trained on is taken, else the only one of the
    same task.

    Args:
        checkpoint: Of a global model.
        given: The user's choice.

    Returns:
        The store; its proprioception is normalised as the model was trained, whatever episodes it
        holds.

    Raises:
        FogError: The store is missing, damaged or of another task; or none or more than one was
            found.
    """
    task = checkpoint.task
    if given is None:
        given = _search(checkpoint)
    if not given.exists():
        raise FogError(f"--store {given}: no such folder; make one with 'fog import'")
    return EpisodeStore(given, task).normalised_as(checkpoint.normalisation)


def _search(checkpoint: Checkpoint) -> Path:
    of_task: list[Path] = []
    for folder in _neighbours(checkpoint.path.resolve()):
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            data, task = index.get("data_hash"), index.get("task_hash")
        except (OSError, ValueError, AttributeError):
            continue
        if data is not None and data == checkpoint.manifest.get("data_hash"):
            return folder
        if task == checkpoint.task.hash:
            of_task.append(folder)
    if len(of_task) == 1:
        return of_task[0]
    beside = f"near {checkpoint.path}"
    if of_task:
        found = ", ".join(map(str, of_task))
        raise FogError(f"--store is needed: more than one fits {beside}: {found}")
    raise FogError(
        f"--store is needed: {beside} there is no episode store of task "
        f"'{checkpoint.task.name}'; name the one that the model was trained on, or make one with "
        "'fog import'"
    )


def _neighbours(path: Path) -> Iterator[Path]:
    """Folders that may be stores, the nearest first."""
    seen: set[Path] = set()
    for above in list(path.parents)[:_AROUND]:
        for folder in sorted(_folders(above)):
            for candidate in (folder, *sorted(_folders(folder))):
                if candidate not in seen and len(seen) < _MOST_FOLDERS:
                    seen.add(candidate)
                    yield candidate


def _folders(path: Path) -> list[Path]:
    try:
        return [p for p in path.iterdir() if p.is_dir()]
    except OSError:
        return []
