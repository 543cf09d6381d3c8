"""Whether a training run may go on from a checkpoint: what must be the same, and what may not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fog_world_model.data.durable import replace_file
from fog_world_model.errors import FogError
from fog_world_model.training.checkpoint import MANIFEST, Checkpoint, open_checkpoint

FIXED = (
    "batch_size",
    "learning_rate",
    "weight_decay",
    "warmup_steps",
    "gradient_clip",
    "ema_decay",
    "seed",
)
"""Settings of the loop that a run keeps to its end. The others (how long, how often, on which
device, in how many parts) may change: they do not change what is computed, but for rounding, and
for the learning rate, which follows the new time budget or number of steps at once."""
LATER: dict[str, Any] = {"moving_windows": 0.0, "started_from": None, "window": 16}
"""What manifests say of themselves since later, and what older ones meant."""
LATER_OF_CONFIG: dict[str, Any] = {"light_jitter": 0.0}
"""The same of the configuration of those models that have it."""
_NEEDED = ("step", "seconds", "curve", "averages", "sampler")
_ANEW = "; train anew in another folder"


def require_same_run(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], loop: Mapping[str, Any]
) -> None:
    """Check that a checkpoint is of the run that is to go on.

    Args:
        checkpoint: What was found.
        manifest: What the run would write about itself: its data, preset and configuration.
        loop: Its settings, a ``LoopConfig`` as a dictionary.

    Raises:
        FogError: It is not; the differences are named.
    """
    path, found = checkpoint.path, checkpoint.manifest
    if "exported" in found:
        raise FogError(
            f"checkpoint {path}: exported weights ({found['exported'].get('precision')}) have no "
            "state of the training to go on from; use the checkpoint they were exported from"
        )
    if missing := [key for key in _NEEDED if key not in found]:
        raise FogError(
            f"checkpoint {path}: the manifest has no {', '.join(missing)}, so that training cannot "
            f"go on from it{_ANEW}"
        )
    here = json.loads(json.dumps(dict(manifest)))  # tuples become lists, as in the file
    if (data := here.get("data_hash")) != found.get("data_hash"):
        raise FogError(
            f"checkpoint {path}: was made from other data (hash {_short(found.get('data_hash'))}, "
            f"the episode store has {_short(data)}); give the store it was made from, or train "
            "anew in another folder"
        )
    if here.get("normalisation") != found.get("normalisation"):
        raise FogError(
            f"checkpoint {path}: was trained with proprioception on another scale; give "
            "--scale-from as it was given then, or train anew in another folder"
        )
    config = here.get("config") or {}
    meant = {key: value for key, value in LATER_OF_CONFIG.items() if key in config}
    differences = differences_between("preset", found.get("preset"), here.get("preset"))
    differences += differences_between("config", meant | (found.get("config") or {}), config)
    for key, before_it_was_kept in LATER.items():
        old, new = (of.get(key, before_it_was_kept) for of in (found, here))
        differences += differences_between(key, old, new)
    before = found.get("loop", {})
    for key in FIXED:
        old, new = before.get(key, loop[key]), loop[key]
        # After a loss that was not finite a lower rate is what one is told to try.
        if key == "learning_rate" and "stopped" in found and new < old:
            continue
        differences += differences_between(key, old, new)
    if differences:
        raise FogError(
            f"checkpoint {path}: does not belong to this run: {'; '.join(differences[:6])}"
            f"{'; ...' if len(differences) > 6 else ''}. Give the options it was made with, or "
            "train anew in another folder"
        )


def mark_stopped(path: Path, why: str) -> bool:
    """Note in an existing checkpoint why the run that made it stopped.

    Returns:
        Whether there is a checkpoint.

    Raises:
        FogError: The note cannot be written.
    """
    try:
        checkpoint = open_checkpoint(path, None)
    except FogError:
        return False
    content = json.dumps({**checkpoint.manifest, "stopped": why}, indent=1)
    try:
        replace_file(checkpoint.path / MANIFEST, content)
    except OSError as error:
        raise FogError(f"checkpoint {path}: cannot be written: {error}") from error
    return True


def differences_between(name: str, old: Any, new: Any) -> list[str]:
    """What differs between two JSON values, a line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            line
            for key in keys
            for line in differences_between(
                f"{name}.{key}", old.get(key, "not there"), new.get(key, "not there")
            )
        ]
    return [] if old == new else [f"{name} was {old}, is {new}"]


def _short(value: object) -> str:
    return str(value)[:12]
