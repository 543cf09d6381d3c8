"""One loop, used by every model: optimiser, EMA, mixed precision, checkpoints, resume, logging."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from fog_world_model.errors import FogError
from fog_world_model.task import task_from_dict
from fog_world_model.training.checkpoint import open_checkpoint, save_checkpoint


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    time_budget_s: float = 360.0
    """Wall-clock seconds after which training ends with a checkpoint."""
    max_steps: int | None = None
    """Optimiser steps after which training ends, if the time does not run out before. When given,
    the learning rate follows the steps and not the time, so that a run on the CPU can be repeated
    bit for bit."""
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    warmup_steps: int = 30
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.995
    """Decay of the averaged weights per step (slower averages only after enough steps)."""
    checkpoint_every_s: float = 60.0
    seed: int = 0
    device: str = "auto"
    """``auto`` takes a GPU when there is one."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""


class Sampler(Protocol):
    """Where batches come from; its state goes into checkpoints."""

    @property
    def generator_state(self) -> dict[str, object]:
        """State of the random order (JSON values)."""

    @generator_state.setter
    def generator_state(self, state: dict[str, object]) -> None: ...

    def sample(self, batch: int, device: torch.device | str) -> Any:
        """Draw a batch."""


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


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag that a loop polls; a second SIGINT interrupts at once."""
    stopped = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped = True

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    except ValueError:  # not in the main thread: signals stay as they are
        pass
    try:
        yield lambda: stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float, str], None]]:
    """Show progress on standard error; call it with the fraction done and a text.

    On a terminal it is a bar with the time that is left; in a log file a line every 5 seconds.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        begun = told = time.monotonic()

        def tell(fraction: float, text: str) -> None:
            nonlocal told
            if time.monotonic() - told >= 5 or fraction >= 1:
                told = time.monotonic()
                left = (told - begun) * (1 / max(fraction, 1e-3) - 1)
                console.print(f"{description}: {fraction:4.0%}, {text}, {left:.0f} s left")

        yield tell
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
        refresh_per_second=2,
    ) as bar:
        task: TaskID = bar.add_task(description, total=1.0, text="")

        def update(fraction: float, text: str) -> None:
            bar.update(task, completed=min(fraction, 1.0), text=text)

        yield update


def device_of(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda``, ... -> a device.

    Raises:
        FogError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise FogError(f"--device {name}: not available here: {error}") from error
    return torch.device(name)


def fit(
    model: nn.Module,
    loss: Callable[[Any], dict[str, Tensor]],
    sampler: Sampler,
    config: LoopConfig,
    output: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    *,
    description: str,
    resume: bool = False,
) -> FitResult:
    """Train until the time or the steps are used up; the averaged weights end up in ``model``.

    Args:
        model: What is trained.
        loss: Batch -> losses; ``total`` is minimised.
        sampler: Draws batches.
        config: Times, rates and the seed.
        output: Folder of the checkpoint, written every minute and at the end.
        manifest: What the checkpoint says about itself (kind, task, configuration, ...).
        description: Shown beside the progress bar.
        resume: Go on from the checkpoint in ``output``.

    Raises:
        FogError: The loss becomes non-finite, memory runs out, or the checkpoint cannot be
            written or does not fit.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = device_of(config.device)
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision="bf16" if device.type == "cuda" else "no"
    )
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    model, optimiser = accelerator.prepare(model, optimiser)
    raw: nn.Module = accelerator.unwrap_model(model)
    ema = {k: v.detach().clone() for k, v in raw.state_dict().items()}
    torch.manual_seed(config.seed)
    step, before, done = 0, 0.0, 0.0
    curve: list[dict[str, float]] = []
    averages: dict[str, float] = {}
    if resume:
        found = _resume(output, manifest, raw, ema, optimiser, sampler)
        step, before = int(found["step"]), float(found["seconds"])
        curve, averages = list(found["curve"]), dict(found["averages"])

    def save() -> None:
        state = {"random": torch.get_rng_state()}
        for i, parameter in enumerate(raw.parameters()):
            for key, value in optimiser.state.get(parameter, {}).items():
                state[f"optimiser.{i}.{key}"] = torch.as_tensor(value)
        save_checkpoint(
            output,
            {"model": raw.state_dict(), "ema": ema, "training": state},
            {
                **manifest,
                "step": step,
                "seconds": seconds(),
                "curve": curve,
                "averages": averages,
                "sampler": sampler.generator_state,
            },
        )

    def seconds() -> float:
        return before + time.monotonic() - begun

    begun = saved = time.monotonic()
    writer = SummaryWriter(str(Path(output).with_name(Path(output).name + ".tensorboard")))
    raw.train()
    with stop_on_signal() as stopped, progress_bar(description) as show:
        while _goes_on(config, step, seconds()) and not stopped():
            elapsed = seconds() / config.time_budget_s
            of_steps = step / config.max_steps if config.max_steps else None
            done = max(elapsed, of_steps or 0.0)
            place = elapsed if of_steps is None else of_steps
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * _schedule(step, place, config.warmup_steps)
            losses = _step(accelerator, model, loss, sampler, optimiser, config, device, step)
            step += 1
            _average(ema, raw, min(config.ema_decay, (1 + step) / (10 + step)))
            for key, value in losses.items():
                averages[key] = 0.98 * averages.get(key, value) + 0.02 * value
            if step % 20 == 0:
                rate = step / max(seconds(), 1e-9)
                show(done, f"step {step}, {rate:.1f}/s, loss {averages['total']:.4f}")
            if step % 50 == 0:
                curve.append({"step": step, "seconds": round(seconds(), 2), **averages})
                for key, value in averages.items():
                    writer.add_scalar(key, value, step)
            if time.monotonic() - saved > config.checkpoint_every_s:
                save()
                saved = time.monotonic()
        interrupted = stopped()
        show(1.0 if not interrupted else done, f"step {step}")
    writer.close()
    save()
    raw.load_state_dict(ema)
    raw.eval()
    return FitResult(step, seconds(), averages, curve, interrupted)


def _goes_on(config: LoopConfig, step: int, seconds: float) -> bool:
    """Whether neither the steps nor the time are used up."""
    return seconds < config.time_budget_s and (config.max_steps is None or step < config.max_steps)


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    loss: Callable[[Any], dict[str, Tensor]],
    sampler: Sampler,
    optimiser: Any,
    config: LoopConfig,
    device: torch.device,
    step: int,
) -> dict[str, float]:
    batch = sampler.sample(config.batch_size, device)
    try:
        with accelerator.autocast():
            losses = loss(batch)
        values = {key: float(value.detach()) for key, value in losses.items()}
        if not math.isfinite(values["total"]):
            raise FogError(
                f"training step {step}: the loss is not finite ({values}); the last checkpoint is "
                "kept. Lower --learning-rate, or look for bad values in the data"
            )
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(losses["total"])
        norm = float(accelerator.clip_grad_norm_(model.parameters(), config.gradient_clip))
        if not math.isfinite(norm):  # one such step would make every weight NaN
            raise FogError(
                f"training step {step}: the gradient is not finite (norm {norm}, loss "
                f"{values['total']}); the last checkpoint is kept. Lower --learning-rate"
            )
        optimiser.step()
    except torch.cuda.OutOfMemoryError as error:
        raise FogError(
            f"out of GPU memory at batch size {config.batch_size}: lower --batch-size"
        ) from error
    return values


def _schedule(step: int, done: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to a twentieth over the run."""
    return min(1.0, (step + 1) / max(warmup, 1)) * (
        0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    )


@torch.no_grad()
def _average(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for key, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            ema[key].lerp_(value, 1 - decay)
        else:
            ema[key].copy_(value)


def _resume(
    output: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    model: nn.Module,
    ema: dict[str, Tensor],
    optimiser: Any,
    sampler: Sampler,
) -> dict[str, Any]:
    """Put everything back as it was saved; return the checkpoint's manifest."""
    task = task_from_dict(manifest["task"])
    checkpoint = open_checkpoint(output, str(manifest["kind"]), task)
    checkpoint.load_into(model, "model")
    ema.update({k: v.to(ema[k].device) for k, v in checkpoint.tensors("ema").items()})
    state = checkpoint.tensors("training")
    for i, parameter in enumerate(model.parameters()):
        prefix = f"optimiser.{i}."
        found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if found:
            optimiser.state[parameter] = {
                k: v if k == "step" else v.to(parameter.device) for k, v in found.items()
            }
    torch.set_rng_state(state["random"])
    sampler.generator_state = checkpoint.manifest["sampler"]
    return checkpoint.manifest
