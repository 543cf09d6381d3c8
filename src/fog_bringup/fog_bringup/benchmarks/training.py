"""How many windows per second the training loop takes in, against a bare loop in PyTorch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fog_bringup.benchmarks.device_name import device_name
from fog_bringup.tasks import find_task
from fog_world_model.data.windows import Windows
from fog_world_model.global_model import global_model
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.local_model import local_model
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig
from fog_world_model.training.failures import rows_of
from fog_world_model.training.loop import LoopConfig, device_of, fit
from fog_world_model.training.processes import mixed_precision

TASK = "push_cube"
"""Its images are 64x64."""
LOCAL_WINDOW = 16
_WARM_UP = 2
"""Steps before the clock starts."""
_TURNS = 2
_FEWEST = 2
"""Steps of a turn that are measured however long they take."""


def measure(
    seconds: float,
    presets: Sequence[str],
    local_presets: Sequence[str],
    *,
    device: str = "auto",
    batch_sizes: Sequence[int] = (),
) -> dict[str, Any]:
    """Train on made-up windows in memory, so that nothing but the training is measured.

    Args:
        seconds: Length of each measurement.
        presets: Of the global model.
        local_presets: Of the local model.
        device: Where to train.
        batch_sizes: Windows per step; 12 on a processor and 64 on a GPU when none are given.

    Returns:
        ``device``, ``threads``, ``precision``, and for each preset of the global model in
        ``presets`` and of the local one in ``local_presets``: ``parameters``, ``window``, and by
        batch size ``samples_per_second`` (windows) of the loop, ``plain_samples_per_second`` of
        forward pass, gradient and AdamW alone in float32, and their ratio ``against_plain``.
    """
    where = device_of(device)
    sizes = list(batch_sizes) or [64 if where.type == "cuda" else 12]
    task = find_task(TASK)
    return {
        "device": device_name(where),
        "threads": torch.get_num_threads(),
        "precision": mixed_precision("auto", where),
        "torch": torch.__version__,
        "presets": {
            name: _figures(_global(name, task), task, sizes, where, seconds) for name in presets
        },
        "local_presets": {
            name: _figures(_local(name, task), task, sizes, where, seconds)
            for name in local_presets
        },
    }


def _global(name: str, task: TaskConfig) -> tuple[GlobalModel, int]:
    model = GlobalModel(global_model.preset(name, **task.sizes))
    return model, model.context_frames + 2


def _local(name: str, task: TaskConfig) -> tuple[LocalModel, int]:
    config = LocalModelConfig(**task.sizes, **local_model.PRESETS[name])
    return LocalModel(config), LOCAL_WINDOW


def _figures(
    made: tuple[GlobalModel | LocalModel, int],
    task: TaskConfig,
    batch_sizes: Sequence[int],
    device: torch.device,
    seconds: float,
) -> dict[str, Any]:
    model, window = made
    model.to(device)
    batches = {}
    for size in batch_sizes:
        sampler = _MadeUp(task, size, window, device)
        # Taking turns, so that neither has the machine at its better moment.
        rates = [
            (
                _plain_rate(model, sampler, size, seconds / _TURNS),
                _loop_rate(model, sampler, size, task, device, seconds / _TURNS),
            )
            for _ in range(_TURNS)
        ]
        plain, ours = (sum(turn) / _TURNS for turn in zip(*rates, strict=True))
        batches[str(size)] = {
            "samples_per_second": ours,
            "plain_samples_per_second": plain,
            "against_plain": ours / plain,
        }
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "window": window,
        "batch": batches,
    }


class _Enough(Exception):
    """The measurement is over."""


class _MadeUp:
    """The same random windows again and again; notes when it is asked."""

    generator_state: dict[str, object] = {}  # noqa: RUF012  # there is none

    def __init__(self, task: TaskConfig, batch: int, window: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)

        def uniform(*shape: int) -> Tensor:
            drawn = torch.rand(batch, window, *shape, generator=generator)
            return (2 * drawn - 1).to(device)

        self._windows = Windows(
            image=uniform(3, task.image.height, task.image.width),
            proprioception=uniform(task.proprioception_size),
            action=uniform(task.action_size),
            reward=uniform(),
            end=torch.zeros(batch, window, device=device),
        )
        self.asked: list[float] = []
        self.seconds = 0.0

    def sample(self, batch: int, device: torch.device | str, share: slice = slice(None)) -> Windows:
        """Hand out the windows."""
        self.asked.append(time.perf_counter())
        if self.steps >= _FEWEST and self.asked[-1] - self.asked[_WARM_UP] >= self.seconds:
            raise _Enough
        return self._windows if share == slice(None) else rows_of(self._windows, share)

    def describe(self, rows: Sequence[int]) -> list[str]:
        """There is nothing to say."""
        return [f"made-up window {row}" for row in rows]

    @property
    def steps(self) -> int:
        """Steps since the clock started."""
        return len(self.asked) - 1 - _WARM_UP

    def rate(self, batch: int) -> float:
        """Windows per second since then."""
        return self.steps * batch / (self.asked[-1] - self.asked[_WARM_UP])


def _plain_rate(
    model: GlobalModel | LocalModel, sampler: _MadeUp, batch: int, seconds: float
) -> float:
    sampler.asked, sampler.seconds = [], seconds
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()
    try:
        while True:
            windows = sampler.sample(batch, "")
            optimiser.zero_grad(set_to_none=True)
            total = model.loss(windows)["total"]
            total.backward()
            optimiser.step()
            float(total.detach())  # wait for the device, as a loop that looks at its loss does
    except _Enough:
        return sampler.rate(batch)


def _loop_rate(
    model: nn.Module,
    sampler: _MadeUp,
    batch: int,
    task: TaskConfig,
    device: torch.device,
    seconds: float,
) -> float:
    sampler.asked, sampler.seconds = [], seconds
    config = LoopConfig(
        time_budget_s=1e9,
        batch_size=batch,
        learning_rate=1e-4,
        checkpoint_every_s=1e9,
        device=str(device),
    )
    manifest = {"kind": "benchmark", "task": task.to_dict(), "normalisation": {}}
    with tempfile.TemporaryDirectory(prefix="fog_training_") as folder:
        try:
            loss: Any = model.loss
            fit(model, loss, sampler, config, Path(folder) / "x", manifest, description="measuring")
        except _Enough:
            pass
    return sampler.rate(batch)
