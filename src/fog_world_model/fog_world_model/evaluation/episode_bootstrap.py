"""Figures by horizon with confidence intervals that treat an episode, not a frame, as a sample.

Windows of one episode resemble each other, so counting each of them as a sample of its own would
make intervals far too narrow. Only sums per episode and horizon are kept, whatever the number of
windows, and whole episodes are drawn with replacement (cluster bootstrap; Field and Welsh 2007,
"Bootstrapping clustered data").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Sums = Mapping[str, Array]
"""Name of a quantity -> sums over windows, ``[..., horizon]``."""
Statistic = Callable[[Sums], Array]
"""Sums -> a figure, of the same shape as each sum; NaN where it has no value."""


@dataclass(frozen=True)
class Figure:
    """A figure that follows from sums."""

    counted: str
    """The sum that counts what the figure is a mean of: an episode that has none at a horizon
    says nothing about the figure there."""
    how: Statistic


@dataclass(frozen=True)
class Estimate:
    """A figure at every horizon, and the interval that holds its true value."""

    value: Array
    """``[horizon]``; NaN where nothing was measured."""
    low: Array
    """``[horizon]``; NaN where there are fewer than two episodes."""
    high: Array

    def rounded(self) -> dict[str, list[float | None]]:
        """Plain lists for JSON, six significant digits; None for NaN."""
        return {name: _plain(values) for name, values in vars(self).items()}


class EpisodeSums:
    """Adds up what windows measure, by episode and horizon."""

    def __init__(self, episodes: int, horizon: int) -> None:
        """Start from nothing.

        Args:
            episodes: Number of episodes.
            horizon: Number of horizons.
        """
        self._shape = (episodes, horizon)
        self._sums: dict[str, Array] = {}

    def add(
        self, name: str, episode: npt.NDArray[np.int64], step: int, values: npt.ArrayLike
    ) -> None:
        """Add one value of each window at one horizon.

        Args:
            name: The quantity.
            episode: ``[window]``: which episode each window is of.
            step: Place of the horizon.
            values: ``[window]``; NaN counts as nothing (count what was measured beside it).
        """
        sums = self._sums.setdefault(name, np.zeros(self._shape))
        np.add.at(sums[:, step], episode, np.nan_to_num(np.asarray(values, np.float64)))

    def __contains__(self, name: str) -> bool:
        """Whether anything was added under a name."""
        return name in self._sums

    def totals(self, name: str) -> Array:
        """Sums over all episodes, ``[horizon]``."""
        sums: Array = self._sums.get(name, np.zeros(self._shape)).sum(0)
        return sums

    def episodes(self, name: str) -> npt.NDArray[np.int64]:
        """How many episodes have any of a quantity, ``[horizon]``."""
        some = self._sums.get(name, np.zeros(self._shape)) != 0
        return np.asarray(some.sum(0), np.int64)

    def estimates(
        self,
        figures: Mapping[str, Figure],
        *,
        level: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, Estimate]:
        """Figures and their percentile bootstrap intervals.

        The same episodes are drawn for all figures, so that a difference of two of them is paired.

        Args:
            figures: Name -> what it is.
            level: Coverage of the intervals.
            resamples: Bootstrap samples.
            seed: Seed of the resampling.
        """
        episodes, horizon = self._shape
        draws = np.random.default_rng(seed).multinomial(
            episodes, np.full(episodes, 1 / max(1, episodes)), size=resamples
        )
        once = np.ones((1, episodes))
        resampled = _Lazy(self._sums, np.concatenate([once, draws]))
        tails = [50 * (1 - level), 100 - 50 * (1 - level)]
        found = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            for name, figure in figures.items():
                values = figure.how(resampled)
                limits = np.full((2, horizon), np.nan)
                for step in np.flatnonzero(self.episodes(figure.counted) > 1):
                    drawn = values[1:, step]
                    drawn = drawn[np.isfinite(drawn)]
                    if len(drawn) and np.isfinite(values[0, step]):
                        limits[:, step] = np.percentile(drawn, tails)
                found[name] = Estimate(values[0], *limits)
        return found


class _Lazy(dict[str, Array]):
    """Resampled sums, computed when they are asked for."""

    def __init__(self, sums: Mapping[str, Array], weights: Array) -> None:
        super().__init__()
        self._source, self._weights = sums, weights

    def __missing__(self, name: str) -> Array:
        self[name] = self._weights @ self._source[name]
        return self[name]


def _plain(values: Array) -> list[float | None]:
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]
