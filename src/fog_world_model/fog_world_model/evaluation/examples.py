"""Windows to look at: the best, a median and the worst one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fog_world_model.data.windows import to_uint8_image
from fog_world_model.evaluation.horizon_errors import (
    COPY,
    MARKS,
    Contenders,
    EvaluationConfig,
    Measured,
)

RECORDED = "recorded"


@dataclass(frozen=True)
class Example:
    """One window as it was recorded and as it was foretold."""

    title: str
    """Why it was chosen: ``best``, ``median`` or ``worst``."""
    source: str
    """Where it lies: episode of the store, and step of its first foretold frame."""
    horizons: list[int]
    """Steps ahead that are shown."""
    rows: dict[str, npt.NDArray[np.uint8]]
    """``recorded``, models and baselines -> ``[horizon, height, width, 3]``."""
    psnr: dict[str, float]
    """Name of a model or baseline -> dB at the horizon that windows were ranked at."""


@torch.no_grad()
def examples(
    contenders: Contenders,
    measured: Measured,
    config: EvaluationConfig,
    *,
    device: torch.device | str = "cpu",
) -> list[Example]:
    """Imagine the best, the median and the worst window of the first model once more.

    Ranked are those windows in which most happens: the half of those that reach the reference
    horizon in which repeating the last frame errs most. Where nothing moves everybody is right.
    The frames are those that were measured: the same batches with the same noise.
    """
    found = []
    for title, number in chosen(measured).items():
        first = number // config.batch_size * config.batch_size
        batch = measured.windows.batch(first, config.batch_size, device)
        row, steps = number - first, int(measured.windows.length[number])
        horizons = [m for m in MARKS if m <= steps]
        real = batch.data.image[row, batch.context : batch.context + steps]
        rows = {RECORDED: to_uint8_image(real)[[h - 1 for h in horizons]]}
        for name in contenders.names:
            frames = []
            for step, prediction in enumerate(contenders.predict(name, batch), start=1):
                if step in horizons:
                    frames.append(to_uint8_image(prediction.frame[row]))
                if step == horizons[-1]:
                    break
            rows[name] = np.stack(frames)
        psnr = {
            name: float(10 * np.log10(4 / max(4e-10, errors[number])))
            for name, errors in measured.errors.items()
        }
        found.append(Example(title, measured.windows.source(number), horizons, rows, psnr))
    return found


def chosen(measured: Measured) -> dict[str, int]:
    """Why a window is shown -> its number."""
    copy = measured.errors[COPY]
    candidates = np.flatnonzero(np.isfinite(copy))
    if not len(candidates):
        return {}
    moving = candidates[copy[candidates] >= np.median(copy[candidates])]
    first = next(iter(measured.errors))
    order = moving[np.argsort(measured.errors[first][moving], kind="stable")]
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    shown: dict[str, int] = {}
    for title, number in places.items():
        if int(number) not in shown.values():
            shown[title] = int(number)
    return shown
