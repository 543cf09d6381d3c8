"""What a training run is told, what it draws from, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    time_budget_s: float = 360.0
    """Wall-clock seconds after which training ends with a checkpoint; runs that were interrupted
    and resumed count together."""
    max_steps: int | None = None
    """Optimiser steps after which training ends, if the time does not run out before. When given,
    the learning rate follows the steps and not the time, so that a run on the CPU can be repeated
    bit for bit."""
    batch_size: int = 32
    """Windows in an optimiser step, of all processes together."""
    accumulate: int = 1
    """Parts that a process computes one after the other and adds up: less memory, the same result
    but for rounding."""
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    warmup_steps: int = 30
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.995
    """Decay of the averaged weights per step (slower averages only after enough steps)."""
    checkpoint_every_s: float = 60.0
    pictures_every_s: float = 0.0
    """Seconds between two pictures of what the model has learned, and one at the end; 0: none."""
    seed: int = 0
    device: str = "auto"
    """``auto`` takes a GPU when there is one."""
    precision: str = "auto"
    """``bf16``, ``no`` (float32), or ``auto``: bf16 on a GPU that has it."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""


class Sampler(Protocol):
    """Where batches come from; its state goes into checkpoints."""

    @property
    def generator_state(self) -> dict[str, object]:
        """State of the random order (JSON values)."""

    @generator_state.setter
    def generator_state(self, state: dict[str, object]) -> None: ...

    def sample(self, batch: int, device: torch.device | str, share: slice = slice(None)) -> Any:
        """Draw the places of a batch, and load those rows of it that ``share`` names."""

    def describe(self, rows: Sequence[int]) -> list[str]:
        """Where rows of the last batch come from, in words."""


@dataclass
class FitResult:
    """What a training run came to."""

    step: int
    seconds: float
    losses: dict[str, float]
    """Exponentially averaged losses at the end."""
    curve: list[dict[str, float]]
    """Averaged losses along the way, with ``step`` and ``seconds``."""
    interrupted: bool
    main: bool = True
    """False in all but one of several processes: the one that writes and prints."""
