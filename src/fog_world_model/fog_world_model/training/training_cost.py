"""What a model cost to train, with the runs that it started from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingCost:
    """Sums over a model's own run and all those whose weights it goes back to."""

    seconds: float | None
    """Wall-clock; None, like the others, where a manifest does not tell."""
    steps: int | None
    """Optimiser steps."""
    samples: int | None
    """Windows."""
    runs: int


def training_cost(manifest: Mapping[str, Any]) -> TrainingCost:
    """Add up what the manifest of a global or local model says.

    A model that started from another's weights has cost what that one did, too.
    """
    steps, batch = manifest.get("step"), (manifest.get("loop") or {}).get("batch_size")
    own = steps * batch if steps is not None and batch is not None else None
    before, rows = manifest.get("started_from"), [(manifest.get("seconds"), steps, own)]
    while before:
        rows.append(tuple(before.get(key) for key in ("seconds", "step", "samples")))
        before = before.get("started_from")
    seconds, steps, samples = (
        None if None in column else sum(column) for column in zip(*rows, strict=True)
    )
    return TrainingCost(seconds, steps, samples, len(rows))
