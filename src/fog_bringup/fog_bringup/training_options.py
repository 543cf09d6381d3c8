"""Options that all ``fog train`` commands share, and how durations are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fog_world_model.errors import FogError


def seconds(text: str, option: str = "--time-budget") -> float:
    """``90``, ``90s``, ``10m`` or ``2h`` -> seconds.

    Raises:
        FogError: It is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match:
        raise FogError(f"{option} {text}: expected a duration such as 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@dataclass
class Training:
    """Options that all training commands share."""

    time_budget: str = "6m"
    """Wall-clock time after which training ends with a checkpoint: 90s, 10m, 2h. Runs that are
    resumed count together; resumed with a longer one, training goes on."""
    seed: int = 0
    """Seed of weights and data order."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda."""
    threads: int = 0
    """CPU threads; 0: torch's own choice."""
    resume: bool = False
    """Go on from the checkpoint in OUTPUT."""
    images: Literal["auto", "ram", "disk"] = "auto"
    """Where training images come from: memory, the disk, or auto, which is memory when they take
    less than half of what is free. The order of the data is the same."""
