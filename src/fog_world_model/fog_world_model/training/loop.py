"""One loop, used by every model: optimiser, EMA, mixed precision, checkpoints, resume, logging."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from fog_world_model.errors import FogError
from fog_world_model.task import task_from_dict
from fog_world_model.training import random_state
from fog_world_model.training.checkpoint import open_checkpoint, save_checkpoint
from fog_world_model.training.curves import Curves
from fog_world_model.training.failures import out_of_memory_named, rows_at_fault, rows_of
from fog_world_model.training.global_draws import GlobalDraws
from fog_world_model.training.interruption import stop_on_signal
from fog_world_model.training.loop_config import FitResult, LoopConfig, Sampler
from fog_world_model.training.processes import Processes, device_of
from fog_world_model.training.progress import progress_bar
from fog_world_model.training.resume import mark_stopped, require_same_run
from fog_world_model.training.weight_average import follow, kept_share

__all__ = [
    "FitResult",
    "LoopConfig",
    "Sampler",
    "device_of",
    "fit",
    "progress_bar",
    "require_writable",
    "stop_on_signal",
]


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
    pictures: Callable[[], npt.NDArray[np.uint8]] | None = None,
) -> FitResult:
    """Train until the time or the steps are used up; the averaged weights end up in ``model``.

    The learning rate rises for ``warmup_steps`` and then falls along half a cosine that spans the
    whole time budget (or all of ``max_steps``). When a run is resumed with more time, or more
    steps, it goes on at the rate that a run of the new length has at that place: a run that had
    ended begins to learn faster again, and falls to the end a second time.

    Started by ``accelerate launch`` or ``torchrun``, the processes divide each batch among them;
    random numbers, results and checkpoints are those of one process, but for rounding. Another
    number of processes may go on from a checkpoint. On several nodes, all must see ``output``.

    Args:
        model: What is trained.
        loss: Batch -> losses; ``total`` is minimised.
        sampler: Draws batches.
        config: Times, rates and the seed.
        output: Folder of the checkpoint, written every minute and at the end. Curves for
            TensorBoard go to ``OUTPUT.tensorboard``, pictures to ``OUTPUT.pictures``.
        manifest: What the checkpoint says about itself (kind, task, configuration, ...).
        description: Shown beside the progress bar.
        resume: Go on from the checkpoint in ``output``.
        pictures: Makes a picture ``[height, width, 3]`` of what ``model`` has learned; called with
            the averaged weights in it, without gradient. It must not draw from a global generator
            on a GPU.

    Raises:
        FogError: The loss becomes non-finite (the last good weights are saved first), memory runs
            out, the checkpoint cannot be written or does not fit, or another process failed.
    """
    processes = Processes(config.device, config.precision)
    if config.threads:
        torch.set_num_threads(config.threads)
    with processes.watched():
        run = _Run(model, loss, sampler, config, Path(output), manifest, processes)
        run.pictures = pictures
        if resume:
            run.resume()
        return run.train(description)


class _Loss(nn.Module):
    """A model whose forward pass is its loss: what several processes need to be one."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self._loss(batch)


class _Run:
    """The state of a training run."""

    pictures: Callable[[], npt.NDArray[np.uint8]] | None = None

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any], dict[str, Tensor]],
        sampler: Sampler,
        config: LoopConfig,
        output: Path,
        manifest: Mapping[str, Any],
        processes: Processes,
    ) -> None:
        self._raw, self._loss, self._sampler, self._config = model, loss, sampler, config
        self._output, self._processes = output, processes
        self._manifest = {**manifest, "loop": dataclasses.asdict(config)}
        self._share = processes.share(config.batch_size, config.accumulate)
        if processes.main:
            require_writable(output)
        with self._memory():
            self._model = processes.prepare(_Loss(model, loss))
        self._optimiser = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
        set_seed(config.seed)
        self._step, self._before = 0, 0.0
        self._curve: list[dict[str, float]] = []
        self._averages: dict[str, float] = {}
        self._stopped: str | None = None
        self._norm = 0.0
        self._begun = time.monotonic()

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._begun

    def resume(self) -> None:
        """Put everything back as it was saved.

        Raises:
            FogError: The checkpoint is missing, damaged, or of another run.
        """
        task = task_from_dict(self._manifest["task"])
        checkpoint = open_checkpoint(self._output, str(self._manifest["kind"]), task)
        require_same_run(checkpoint, self._manifest, dataclasses.asdict(self._config))
        device, found = self._processes.device, checkpoint.manifest
        checkpoint.load_into(self._raw, "model")
        averaged, state = checkpoint.tensors("ema"), checkpoint.tensors("training")
        try:
            for key, value in self._ema.items():
                value.copy_(averaged[key])
            for i, parameter in enumerate(self._raw.parameters()):
                prefix = f"optimiser.{i}."
                mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
                if mine:
                    self._optimiser.state[parameter] = {
                        k: v if k == "step" else v.to(device) for k, v in mine.items()
                    }
            random_state.restore(state, device)
        except KeyError as error:
            raise FogError(
                f"checkpoint {checkpoint.path}: has no {error}, so that training cannot go on from "
                "it (an earlier version made it, or not all of it is there); train anew in another "
                "folder"
            ) from error
        self._sampler.generator_state = found["sampler"]
        self._step, self._before = int(found["step"]), float(found["seconds"])
        self._curve, self._averages = list(found["curve"]), dict(found["averages"])

    def train(self, description: str) -> FitResult:
        """Run the steps.

        Raises:
            FogError: See :func:`fit`.
        """
        config, main = self._config, self._processes.main
        self._begun = saved = drawn = time.monotonic()
        first_step = self._step + 1 if self._step else 0
        curves = Curves(f"{self._output}.tensorboard", first_step) if main else None
        self._raw.train()
        done, begun_at = 0.0, self._step
        with (
            stop_on_signal() as stopped,
            progress_bar(description) if main else nullcontext(lambda done, text: None) as show,
        ):
            while True:
                seconds, stops = self._processes.agree(self._seconds, stopped())
                elapsed = seconds / config.time_budget_s if config.time_budget_s > 0 else 1.0
                of_steps = self._step / config.max_steps if config.max_steps else None
                done = max(elapsed, of_steps or 0.0)
                if self._step == begun_at:
                    show(min(done, 0.999), f"step {self._step}")
                if stops or done >= 1 or config.max_steps == 0:
                    break
                place = elapsed if of_steps is None else of_steps
                self._advance(_schedule(self._step, place, config.warmup_steps))
                if self._step % 20 == 0:
                    rate = self._step / max(self._seconds, 1e-9)
                    loss = self._averages["total"]
                    show(done, f"step {self._step}, {rate:.1f}/s, loss {loss:.4f}")
                if self._step % 50 == 0:
                    row = {"step": self._step, "seconds": round(self._seconds, 2)}
                    self._curve.append({**row, **self._averages})
                    if curves is not None:
                        curves.add({**self._averages, **self._figures()}, self._step)
                if not main:
                    continue
                if time.monotonic() - saved > config.checkpoint_every_s:
                    self._save()
                    saved = time.monotonic()
                if 0 < config.pictures_every_s < time.monotonic() - drawn:
                    self._draw(curves)
                    drawn = time.monotonic()
            if main:
                self._save()
            show(1.0 if not stops else done, f"step {self._step}")
        if main and config.pictures_every_s > 0 and not stops:
            self._draw(curves)
        if curves is not None:
            curves.close()
        self._raw.load_state_dict(self._ema)
        self._raw.eval()
        return FitResult(self._step, self._seconds, self._averages, self._curve, stops, main)

    def _advance(self, rate: float) -> None:
        """One step of the optimiser at a share of the largest learning rate."""
        config = self._config
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * rate
        with self._memory():
            batch = self._sampler.sample(config.batch_size, self._processes.device, self._share)
            self._optimiser.zero_grad(set_to_none=True)
            losses = self._processes.mean(self._backward(batch))
            if not math.isfinite(losses["total"]):
                self._give_up(f"the loss is not finite ({_text(losses)})", batch)
            norm = float(nn.utils.clip_grad_norm_(self._raw.parameters(), config.gradient_clip))
            self._norm = norm
            if not math.isfinite(norm):  # one such step would make every weight NaN
                self._give_up(f"the gradient is not finite (norm {norm}, {_text(losses)})", batch)
            self._optimiser.step()
        self._step += 1
        keep = kept_share(config.ema_decay, self._step)
        follow(self._ema, self._raw.state_dict(), keep)
        for key, value in losses.items():
            self._averages[key] = 0.98 * self._averages.get(key, value) + 0.02 * value

    def _backward(self, batch: Any) -> dict[str, Tensor]:
        """Gradients of this process's rows, part after part; the means of its losses."""
        accelerator, parts = self._processes.accelerator, self._config.accumulate
        total: dict[str, Tensor] = {}
        rows = (self._share.stop - self._share.start) // parts
        # Each part draws the whole batch's random numbers, so each begins at the same state.
        states = random_state.capture(self._processes.device) if parts > 1 else {}
        for i in range(parts):
            if i:
                random_state.restore(states, self._processes.device)
            part = rows_of(batch, slice(i * rows, (i + 1) * rows)) if parts > 1 else batch
            first, batch_size = self._share.start + i * rows, self._config.batch_size
            divided = GlobalDraws(first, rows, batch_size) if rows < batch_size else nullcontext()
            apart = accelerator.no_sync(self._model) if i + 1 < parts else nullcontext()
            with apart:
                with accelerator.autocast(), divided:
                    losses = self._model(part)
                accelerator.backward(losses["total"] / parts if parts > 1 else losses["total"])
            for key, value in losses.items():
                value = value.detach() / parts if parts > 1 else value.detach()
                total[key] = total[key] + value if i else value
        return total

    def _give_up(self, what: str, batch: Any) -> NoReturn:
        """Keep the last good weights and say which windows of the batch are at fault.

        Raises:
            FogError: Always.
        """
        size, rows = self._config.batch_size, self._share.stop - self._share.start
        faults = rows_at_fault(self._raw, self._loss, batch, rows)
        found = self._processes.gather_rows(faults.to(self._processes.device)).nonzero().flatten()
        self._stopped = f"step {self._step}: {what}"
        self._optimiser.zero_grad(set_to_none=True)
        if not self._processes.main:
            raise FogError(f"training step {self._step}: {what}; process 0 says where")
        blamed = found.tolist() or list(range(size))
        places = "; ".join(self._sampler.describe(blamed[:5]))
        places += f" and {len(blamed) - 5} more" if len(blamed) > 5 else ""
        if len(found) == size:  # then it is the weights, or all the data: nothing worth keeping
            blame = f"every window of the batch is at fault: {places}"
            kept = "no checkpoint was written yet"
            if mark_stopped(self._output, self._stopped):
                kept = f"{self._output} keeps the checkpoint from before"
        else:
            whose = "windows at fault" if len(found) else "no window alone is at fault of"
            blame, kept = f"{whose}: {places}", f"{self._output} holds the weights from before it"
            self._save()
        raise FogError(
            f"training step {self._step}: {what}; {blame}. {kept}. Look for bad values in the "
            "data, or go on behind this batch with --resume and a lower --learning-rate"
        )

    def _figures(self) -> dict[str, float]:
        """What TensorBoard shows beside the losses."""
        windows = self._step * self._config.batch_size
        return {
            "training/learning_rate": float(self._optimiser.param_groups[0]["lr"]),
            "training/gradient_norm": self._norm,
            "training/windows_per_second": windows / max(self._seconds, 1e-9),
        }

    def _save(self) -> None:
        state = random_state.capture(self._processes.device)
        for i, parameter in enumerate(self._raw.parameters()):
            for key, value in self._optimiser.state.get(parameter, {}).items():
                state[f"optimiser.{i}.{key}"] = torch.as_tensor(value)
        save_checkpoint(
            self._output,
            {"model": self._raw.state_dict(), "ema": self._ema, "training": state},
            {
                **self._manifest,
                "step": self._step,
                "seconds": self._seconds,
                "processes": self._processes.count,
                "precision": self._processes.precision,
                "curve": self._curve,
                "averages": self._averages,
                "sampler": self._sampler.generator_state,
                **({"stopped": self._stopped} if self._stopped else {}),
            },
        )

    @torch.no_grad()
    def _draw(self, curves: Curves | None) -> None:
        """A picture with the averaged weights; afterwards everything is as it was."""
        if self.pictures is None:
            return
        weights = {k: v.clone() for k, v in self._raw.state_dict().items()}
        states = random_state.capture(self._processes.device)
        try:
            self._raw.load_state_dict(self._ema)
            self._raw.eval()
            with self._memory(), self._processes.accelerator.autocast():
                picture = self.pictures()
        finally:
            self._raw.load_state_dict(weights)
            self._raw.train()
            random_state.restore(states, self._processes.device)
        folder = Path(f"{self._output}.pictures")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            (folder / f"step_{self._step:08d}.png").write_bytes(png.tobytes())
        except OSError as error:
            print(f"fog: {folder}: {error.strerror}; picture not kept", file=sys.stderr)
        if curves is not None:
            curves.add_picture("real_above_imagined", picture, self._step)

    def _memory(self) -> AbstractContextManager[None]:
        return out_of_memory_named(
            self._config.batch_size,
            self._processes.count,
            self._config.accumulate,
            self._processes.device,
        )


def require_writable(output: Path) -> None:
    """Find out now, not after the first hours, that nothing can be written.

    Raises:
        FogError: Nothing can be written beside ``output``.
    """
    probe = output.with_name(f"{output.name}.probe.{os.getpid()}")
    try:
        probe.mkdir(parents=True)
        probe.rmdir()
    except OSError as error:
        raise FogError(
            f"checkpoint {output}: cannot be written: {error.strerror}; choose another folder"
        ) from error


def _text(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in losses.items())


def _schedule(step: int, done: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to a twentieth over the run."""
    return min(1.0, (step + 1) / max(warmup, 1)) * (
        0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    )
