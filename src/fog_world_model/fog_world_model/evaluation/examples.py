"""Windows to look at: the best, a median and the worst one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    Progress,
)
from fog_world_model.evaluation.predictors import Prediction

RECORDED = "recorded"


@dataclass(frozen=True)
class Example:
    """One window as it was recorded and as it was foretold."""

    title: str
    """Why it was chosen: ``best``, ``median`` or ``worst``."""
    source: str
    """Where it lies: episode of the store, and step of its first foretold frame."""
    horizons: list[int]
    """Steps ahead that are marked."""
    rows: dict[str, npt.NDArray[np.uint8]]
    """``recorded``, models and baselines -> ``[step, height, width, 3]``: all steps, from 1 on."""
    psnr: dict[str, float]
    """Name of a model or baseline -> dB at the horizon that windows were ranked at."""


@torch.no_grad()
def examples(
    contenders: Contenders,
    measured: Measured,
    config: EvaluationConfig,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[Example]:
    """Imagine the best, the median and the worst window of the first model once more.

    Ranked are those windows in which most happens: the half of those that reach the reference
    horizon in which repeating the last frame errs most. Where nothing moves everybody is right.
    The frames are those that were measured: the same batches with the same noise.
    """
    wanted = chosen(measured)
    firsts = sorted({n // config.batch_size * config.batch_size for n in wanted.values()})
    found: dict[str, Example] = {}
    for done, first in enumerate(firsts, start=1):
        batch = measured.windows.batch(first, config.batch_size, device)
        rows = {t: n - first for t, n in wanted.items() if 0 <= n - first < len(batch.length)}
        frames = {name: _frames(contenders.predict(name, batch), rows) for name in contenders.names}
        for title, row in rows.items():
            steps = int(batch.length[row])
            real = to_uint8_image(batch.data.image[row, batch.context :][:steps])
            shown = {name: np.stack(course[title][:steps]) for name, course in frames.items()}
            found[title] = Example(
                title,
                measured.windows.source(wanted[title]),
                [m for m in MARKS if m <= steps],
                {RECORDED: real, **shown},
                {
                    name: float(10 * np.log10(4 / max(4e-10, errors[wanted[title]])))
                    for name, errors in measured.errors.items()
                },
            )
        if progress is not None:
            progress("imagining examples", done, len(firsts))
    return [found[title] for title in wanted]


def _frames(
    course: Iterator[Prediction], rows: Mapping[str, int]
) -> dict[str, list[npt.NDArray[np.uint8]]]:
    """Title of a window -> its frames."""
    found: dict[str, list[npt.NDArray[np.uint8]]] = {title: [] for title in rows}
    for prediction in course:
        for title, row in rows.items():
            found[title].append(to_uint8_image(prediction.frame[row]))
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
