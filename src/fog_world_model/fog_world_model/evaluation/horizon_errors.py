"""Errors by horizon of global models and of what they have to beat, on held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore, Normalisation
from fog_world_model.data.windows import to_uint8_image
from fog_world_model.evaluation.episode_bootstrap import Array, EpisodeSums, Estimate, Figure, Sums
from fog_world_model.evaluation.held_out_windows import HeldOutBatch, HeldOutWindows
from fog_world_model.evaluation.object_position import ObjectFinder, Sight, object_finder
from fog_world_model.evaluation.predictors import Prediction, dream, imagine, repeat_last
from fog_world_model.evaluation.similarity import perceptual_distance, structural_similarity
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.local_model.local_model import LocalModel

Progress = Callable[[str, int, int], None]
"""Called with a description, what is done, and the total."""

COPY, LOCAL = "last frame", "local model"
"""Names of the two baselines."""
MARKS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Horizons at which the object is looked for, which takes longer than all other measures."""
ACTION_STEPS = 16
"""Horizon up to which frames are imagined with the actions of another episode as well."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured."""

    horizon: int = 64
    windows: int = 128
    context: int = 5
    """Recorded observations before the first imagined one; at least as many as a model needs."""
    batch_size: int = 16
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """What was found."""

    windows: HeldOutWindows
    figures: dict[str, dict[str, Estimate]]
    """Name of a model or baseline -> name of a figure -> its course by horizon."""
    errors: dict[str, Array]
    """Name -> ``[window]``: mean squared error at the horizon of :attr:`reference`; NaN where the
    window is shorter."""
    reference: int
    finder: ObjectFinder | None
    object_seen: Array
    """``[horizon]``: share of recorded frames in which the object was found; NaN where it was not
    looked for."""


@dataclass
class Contenders:
    """What is compared: any number of global models, and the baselines."""

    models: dict[str, tuple[GlobalModel, Normalisation]]
    """Name -> model, and the normalisation that it was trained with."""
    local: tuple[LocalModel, Normalisation] | None = None
    seed: int = 0
    names: list[str] = field(init=False)
    """Models first, then baselines."""

    def __post_init__(self) -> None:
        """List the names."""
        self.names = [*self.models, COPY, *([LOCAL] if self.local else [])]

    @property
    def context_frames(self) -> int:
        """Observations that every model can start from."""
        return max(model.context_frames for model, _ in self.models.values())

    def predict(self, name: str, batch: HeldOutBatch) -> Iterator[Prediction]:
        """Foretell every step of a batch, one after the other."""
        if name in self.models:
            return imagine(*self.models[name], batch, batch.actions, self.seed)
        if name == LOCAL and self.local is not None:
            return dream(*self.local, batch)
        return repeat_last(batch, batch.steps)

    def astray(self, name: str, batch: HeldOutBatch) -> Iterator[Prediction]:
        """Foretell with the actions of other episodes, the noise being the same."""
        actions = batch.shuffled[:, :ACTION_STEPS]
        return imagine(*self.models[name], batch, actions, self.seed)


@torch.no_grad()
def measure(
    contenders: Contenders,
    store: EpisodeStore,
    config: EvaluationConfig,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Measured:
    """Imagine held-out windows and compare them with what was recorded.

    Memory is bounded by ``config.batch_size``, not by the store or the number of windows.

    Args:
        contenders: What is compared; on ``device``.
        store: Its ``validation`` episodes are used.
        config: How much is measured.
        device: Where the models are.
        progress: Told about every frame foretold.

    Raises:
        FogError: No held-out episode is long enough.
    """
    windows = HeldOutWindows(
        store,
        context=max(config.context, contenders.context_frames),
        horizon=config.horizon,
        windows=config.windows,
        seed=config.seed,
    )
    finder = object_finder(store.task)
    run = _Measurement(contenders, windows, finder)
    total = run.frames(config.batch_size)
    done = 0
    for batch in windows.batches(config.batch_size, device):
        for steps in run.measure(batch):
            done += steps
            if progress is not None:
                progress("imagining held-out windows", done, total)
    return run.finish(config)


class _Measurement:
    """Sums over the batches so far."""

    def __init__(
        self, contenders: Contenders, windows: HeldOutWindows, finder: ObjectFinder | None
    ) -> None:
        self._contenders, self._windows, self._finder = contenders, windows, finder
        self._sums = EpisodeSums(windows.episodes, windows.horizon)
        self._marks = [m for m in MARKS if m <= windows.horizon]
        self._reference = min(ACTION_STEPS, windows.horizon)
        self._errors = {n: np.full(len(windows), np.nan) for n in contenders.names}

    def frames(self, batch_size: int) -> int:
        """Frames that :meth:`measure` will speak of, over all batches."""
        total = 0
        for first in range(0, len(self._windows), batch_size):
            steps = int(self._windows.length[first])
            size = min(batch_size, len(self._windows) - first)
            each = len(self._contenders.names) * steps
            each += len(self._contenders.models) * min(steps, ACTION_STEPS)
            total += size * each
        return total

    def measure(self, batch: HeldOutBatch) -> Iterator[int]:
        """Add a batch; yields the number of frames of each step done."""
        recorded = self._recorded(batch)
        for name in self._contenders.names:
            for step, found in enumerate(self._contenders.predict(name, batch)):
                self._compare(name, batch, step, found, recorded.get(step))
                yield len(batch.length)
        for name in self._contenders.models:
            for step, found in enumerate(self._contenders.astray(name, batch)):
                self._compare(f"{name} astray", batch, step, found, recorded.get(step), only=True)
                yield len(batch.length)

    def _recorded(self, batch: HeldOutBatch) -> dict[int, list[Sight | None]]:
        """Sums of what was recorded; where the object is at the marks."""
        sights = {}
        for step in range(batch.steps):
            rows = slice(int((batch.length > step).sum()))  # the longest come first
            real = batch.data.image[rows, batch.context + step]
            reward = batch.data.reward[rows, batch.context - 1 + step].cpu().numpy()
            self._add("windows", batch, step, np.ones(len(real)))
            self._add("reward", batch, step, reward)
            self._add("reward squared", batch, step, reward**2)
            self._add("sharpness", batch, step, _sharpness(real))
            if self._finder is not None and step + 1 in self._marks:
                sights[step] = [self._finder.find(image) for image in to_uint8_image(real)]
                seen = [s is not None for s in sights[step]]
                self._add("looked", batch, step, np.ones(len(seen)))
                self._add("seen", batch, step, seen)
                if self._finder.measures_area:
                    area = [0.0 if s is None else s.area or 0.0 for s in sights[step]]
                    self._add("area", batch, step, area)
        return sights

    def _compare(
        self,
        name: str,
        batch: HeldOutBatch,
        step: int,
        found: Prediction,
        sights: list[Sight | None] | None,
        *,
        only: bool = False,
    ) -> None:
        """Add what a prediction is off by; ``only`` the squared error and the object."""
        rows = slice(int((batch.length > step).sum()))
        frame, real = found.frame[rows], batch.data.image[rows, batch.context + step]
        square = (frame - real).square().mean((-3, -2, -1)).cpu().numpy()
        self._add(f"{name}: count", batch, step, np.ones(len(square)))
        self._add(f"{name}: square", batch, step, square)
        if sights is not None and self._finder is not None:
            imagined = [self._finder.find(image) for image in to_uint8_image(frame)]
            self._object(name, batch, step, sights, imagined)
        if only:
            return
        reward = batch.data.reward[rows, batch.context - 1 + step].cpu().numpy()
        foretold = found.reward[rows].cpu().numpy()
        colour = (frame.mean((-2, -1)) - real.mean((-2, -1))) * 127.5  # levels of 255
        for quantity, values in {
            "ssim": structural_similarity(frame, real).cpu().numpy(),
            "perceptual": perceptual_distance(frame, real).cpu().numpy(),
            "sharpness": _sharpness(frame),
            "colour": colour.abs().mean(-1).cpu().numpy(),
            "reward off": np.abs(foretold - reward),
            "reward": foretold,
            "reward squared": foretold**2,
            "reward product": foretold * reward,
        }.items():
            self._add(f"{name}: {quantity}", batch, step, values)
        if step + 1 == self._reference:
            self._errors[name][batch.first : batch.first + len(square)] = square

    def _object(
        self,
        name: str,
        batch: HeldOutBatch,
        step: int,
        sights: list[Sight | None],
        imagined: list[Sight | None],
    ) -> None:
        pairs = list(zip(sights, imagined, strict=True))
        both = [real is not None and seen is not None for real, seen in pairs]
        lost = [real is not None and seen is None for real, seen in pairs]
        extra = [real is None and seen is not None for real, seen in pairs]
        off, turn, area = np.zeros((3, len(pairs)))
        for i, (real, seen) in enumerate(pairs):
            if real is not None and seen is not None:
                off[i] = np.hypot(seen.x - real.x, seen.y - real.y)
                if real.angle is not None and seen.angle is not None:
                    turn[i] = abs(np.angle(np.exp(1j * (seen.angle - real.angle)), deg=True))
            if seen is not None and seen.area is not None:
                area[i] = seen.area
        for quantity, values in {
            "both": both, "lost": lost, "extra": extra, "off": off, "turn": turn, "area": area,
        }.items():  # fmt: skip
            self._add(f"{name}: {quantity}", batch, step, np.asarray(values, np.float64))

    def _add(self, name: str, batch: HeldOutBatch, step: int, values: npt.ArrayLike) -> None:
        values = np.asarray(values, np.float64)
        self._sums.add(name, batch.episode[: len(values)], step, values)

    def finish(self, config: EvaluationConfig) -> Measured:
        """Turn sums into figures."""
        names = self._contenders.names
        wanted = {(n, f): figure for n in names for f, figure in self._figures(n).items()}
        keys = {f"{n}/{f}": figure for (n, f), figure in wanted.items()}
        found = self._sums.estimates(keys, resamples=config.resamples, seed=config.seed)
        figures: dict[str, dict[str, Estimate]] = {n: {} for n in names}
        for n, f in wanted:
            figures[n][f] = found[f"{n}/{f}"]
        with np.errstate(invalid="ignore"):
            seen = self._sums.totals("seen") / self._sums.totals("looked")
        return Measured(self._windows, figures, self._errors, self._reference, self._finder, seen)

    def _figures(self, name: str) -> dict[str, Figure]:
        def mean(quantity: str, over: str = "windows") -> Figure:
            key = f"{name}: {quantity}"
            return Figure(over, lambda sums: sums[key] / sums[over])

        figures = {
            "psnr": Figure("windows", lambda sums: _psnr(sums, name)),
            "ssim": mean("ssim"),
            "perceptual_distance": mean("perceptual"),
            "reward_error": mean("reward off"),
            "reward_correlation": Figure("windows", lambda sums: _correlation(sums, name)),
            "colour_shift": mean("colour"),
            "sharpness": mean("sharpness", "sharpness"),
        }
        if name != COPY:
            figures["psnr_gain"] = _gain(name, COPY)
        if name in self._contenders.models and self._contenders.local is not None:
            figures["psnr_gain_over_local"] = _gain(name, LOCAL)
        both = f"{name}: both"
        if both in self._sums:
            figures["object_error_px"] = mean("off", both)
            figures["object_lost"] = mean("lost", "seen")
            figures["object_extra"] = Figure(
                "looked", lambda sums: sums[f"{name}: extra"] / (sums["looked"] - sums["seen"])
            )
            if self._finder is not None and self._finder.measures_area:
                figures["object_area"] = mean("area", "area")
            else:
                figures["object_turn_deg"] = mean("turn", both)
        if name in self._contenders.models:
            figures["action_sensitivity"] = self._sensitivity(name, "square", "count")
            if both in self._sums:
                figures["object_action_sensitivity"] = self._sensitivity(name, "off", "both")
        return figures

    def _sensitivity(self, name: str, quantity: str, count: str) -> Figure:
        """Mean error with the actions of another episode, divided by that with the true ones."""

        def ratio(sums: Sums) -> Array:
            astray = sums[f"{name} astray: {quantity}"] / sums[f"{name} astray: {count}"]
            true: Array = sums[f"{name}: {quantity}"] / sums[f"{name}: {count}"]
            return astray / true

        return Figure(f"{name} astray: {count}", ratio)


def _psnr(sums: Sums, name: str) -> Array:
    """Of the squared error averaged over windows, dB; the range of the values is 2."""
    error = sums[f"{name}: square"] / sums["windows"]
    result: Array = 10 * np.log10(4.0 / np.maximum(error, 4e-10))
    return result


def _gain(name: str, rival: str) -> Figure:
    """By how many dB the frames are closer than another's; its interval is a paired one."""
    return Figure("windows", lambda sums: _psnr(sums, name) - _psnr(sums, rival))


def _correlation(sums: Sums, name: str) -> Array:
    """Pearson's, of the reward foretold with the recorded one; NaN when one does not vary."""
    n = sums["windows"]
    real, foretold = sums["reward"] / n, sums[f"{name}: reward"] / n
    covariance = sums[f"{name}: reward product"] / n - real * foretold
    spread = sums["reward squared"] / n - real**2
    spread_foretold = sums[f"{name}: reward squared"] / n - foretold**2
    scale = np.sqrt(np.maximum(spread, 0) * np.maximum(spread_foretold, 0))
    return np.where(scale > 1e-9, covariance / np.where(scale > 1e-9, scale, 1), np.nan)


def _sharpness(image: Tensor) -> npt.NDArray[np.float32]:
    """Mean absolute difference of neighbouring pixels, ``[window]``."""
    across = image.diff(dim=-1).abs().mean((-3, -2, -1))
    down = image.diff(dim=-2).abs().mean((-3, -2, -1))
    return ((across + down) / 2).cpu().numpy()
