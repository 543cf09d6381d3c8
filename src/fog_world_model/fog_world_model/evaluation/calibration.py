"""Do predicted ends and rewards mean what they say? Reliability tables, and a correction of ends.

An end probability of 0.1 should come true once in ten times, and a predicted reward should be the
mean of what is observed when it is predicted. A loss does not tell: it mixes how sharp predictions
are with how honest they are (Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv
1706.04599, sections 2 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.global_model.outcome import symlog

Values = npt.NDArray[np.float64]
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_EPSILON = 1e-7


@dataclass(frozen=True)
class EndReliability:
    """Predicted end probabilities against what happened."""

    low: list[float]
    """``[bin]``: where each bin begins; it goes to the next, the last to 1."""
    count: list[int]
    """Transitions in each bin."""
    predicted: list[float | None]
    """Mean predicted probability in each bin, none where there is nothing."""
    observed: list[float | None]
    """Share of ends in each bin."""
    expected_error: float
    """Expected calibration error: |predicted - observed|, weighted by the counts."""
    log_loss: float
    """Mean negative log likelihood, nats."""
    base_log_loss: float
    """The same for always predicting the share of ends: a head above it knows nothing."""
    brier: float
    """Mean squared difference of probability and event."""
    ends: int


def end_reliability(
    probability: npt.ArrayLike, ended: npt.ArrayLike, *, bins: int = 10
) -> EndReliability:
    """Compare end probabilities with events, in bins of equal width.

    Args:
        probability: ``[transition]`` in [0, 1].
        ended: ``[transition]``, 0 or 1.
        bins: Number of bins over [0, 1].

    Raises:
        FogError: There are no transitions.
    """
    p, e = np.asarray(probability, np.float64), np.asarray(ended, np.float64)
    if not len(p):
        raise FogError("calibration: there is no transition to compare predictions with")
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    mean_p, mean_e = _means(place, p, bins), _means(place, e, bins)
    return EndReliability(
        low=[i / bins for i in range(bins)],
        count=count.tolist(),
        predicted=mean_p,
        observed=mean_e,
        expected_error=sum(
            int(n) / len(p) * abs(a - b)
            for n, a, b in zip(count, mean_p, mean_e, strict=True)
            if a is not None and b is not None
        ),
        log_loss=_log_loss(p, e),
        base_log_loss=_log_loss(np.full_like(p, e.mean()), e),
        brier=float(((p - e) ** 2).mean()),
        ends=int(e.sum()),
    )


@dataclass(frozen=True)
class RewardReliability:
    """Predicted rewards against observed ones, in bins with about equally many transitions."""

    count: list[int]
    predicted: list[float]
    """Mean predicted reward in each bin, ascending."""
    observed: list[float]
    """Mean observed reward in each bin."""
    deviation: list[float]
    """Standard deviation of the observed rewards in each bin."""
    expected_error: float
    """|predicted - observed|, weighted by the counts."""
    bias: float
    """Mean of predicted minus observed."""
    levels: list[float] = field(default_factory=list)
    """Quantiles of the predicted distribution, and ..."""
    coverage: list[float] = field(default_factory=list)
    """... the share of observed rewards below each: equal to the level when calibrated."""


def reward_reliability(
    predicted: npt.ArrayLike,
    observed: npt.ArrayLike,
    *,
    bins: int = 10,
    below: npt.ArrayLike | None = None,
    levels: Sequence[float] = LEVELS,
) -> RewardReliability:
    """Compare predicted with observed rewards.

    Args:
        predicted: ``[transition]``.
        observed: ``[transition]``.
        bins: Number of bins of the predicted reward.
        below: ``[transition]``: how much of the predicted distribution lies below what was
            observed, from :func:`probability_below`.
        levels: Quantiles whose coverage is taken.

    Raises:
        FogError: There are no transitions.
    """
    p, o = np.asarray(predicted, np.float64), np.asarray(observed, np.float64)
    if not len(p):
        raise FogError("calibration: there is no transition to compare predictions with")
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), bins) if len(part)]
    gaps = [abs(float(p[i].mean() - o[i].mean())) * len(i) / len(p) for i in parts]
    under = None if below is None else np.asarray(below, np.float64)
    return RewardReliability(
        count=[len(i) for i in parts],
        predicted=[float(p[i].mean()) for i in parts],
        observed=[float(o[i].mean()) for i in parts],
        deviation=[float(o[i].std()) for i in parts],
        expected_error=sum(gaps),
        bias=float((p - o).mean()),
        levels=[] if under is None else list(levels),
        coverage=[] if under is None else [float((under <= level).mean()) for level in levels],
    )


def probability_below(weights: Tensor, bins: Tensor, value: Tensor) -> Tensor:
    """How much of a two-hot distribution lies below a value.

    A two-hot target spreads a value over its two neighbours in proportion, so a weight stands for
    a triangle of one bin's width to either side. (Its width is what the distribution can resolve:
    of a reward that is known exactly, about one half is always said to lie below.)

    Args:
        weights: ``[..., bin]``, rows sum to 1.
        bins: ``[bin]``, equally spaced, ascending.
        value: ``[...]``, on the scale of the bins.

    Returns:
        ``[...]`` in [0, 1].
    """
    place = ((value[..., None] - bins) / (bins[1] - bins[0])).clamp(-1.0, 1.0)
    rising, falling = (1 + place).square() / 2, 1 - (1 - place).square() / 2
    return (weights * torch.where(place < 0, rising, falling)).sum(-1)


@dataclass(frozen=True)
class EndCalibration:
    """A correction of end probabilities: logit <- scale x logit + bias (Platt 1999)."""

    scale: float = 1.0
    bias: float = 0.0

    def apply(self, probability: npt.ArrayLike) -> Values:
        """Corrected probabilities."""
        return _sigmoid(self.scale * _logit(np.asarray(probability, np.float64)) + self.bias)


def fit_end_calibration(probability: npt.ArrayLike, ended: npt.ArrayLike) -> EndCalibration:
    """Scale and bias of the logits with the least log loss, by Newton's method.

    Events count as slightly less than certain, as Platt does, so that the scale stays finite where
    the two kinds can be told apart without error: with n of a kind, 1 / (n + 2) short of it.

    Args:
        probability: ``[transition]`` in [0, 1].
        ended: ``[transition]``, 0 or 1.

    Raises:
        FogError: There is no end, or nothing else.
    """
    x, e = _logit(np.asarray(probability, np.float64)), np.asarray(ended, np.float64)
    positive, negative = e.sum(), len(e) - e.sum()
    if not positive or not negative:
        raise FogError(
            f"calibration of ends: {positive:.0f} ends among {len(e)} transitions; both kinds "
            "are needed, record or hold out more episodes"
        )
    target = np.where(e > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    features = np.stack([x, np.ones_like(x)], axis=1)
    # The pull towards the identity decides where the data do not: all logits equal, for example.
    pull, identity = 1e-3, np.asarray([1.0, 0.0])

    def loss(at: Values) -> float:
        z = features @ at
        data = np.logaddexp(0.0, z).sum() - (target * z).sum()
        return float(data + pull / 2 * ((at - identity) ** 2).sum())

    found = identity.copy()
    for _ in range(100):
        p = _sigmoid(features @ found)
        gradient = features.T @ (p - target) + pull * (found - identity)
        curvature = (features * (p * (1 - p))[:, None]).T @ features + pull * np.eye(2)
        step, length = np.linalg.solve(curvature, gradient), 1.0
        while loss(found - length * step) > loss(found) and length > 1e-6:
            length /= 2
        found = found - length * step
        if np.abs(length * step).max() < 1e-9:
            break
    return EndCalibration(float(found[0]), float(found[1]))


@dataclass(frozen=True)
class Predictions:
    """Predictions of transitions and what was recorded, one row each."""

    reward: Values
    end: Values
    observed_reward: Values
    observed_end: Values
    below: Values
    """From :func:`probability_below`."""
    episode: npt.NDArray[np.int64]
    """Which episode of the store each is from."""

    def of(self, episodes: Sequence[int]) -> Predictions:
        """Those of some episodes."""
        chosen = np.isin(self.episode, list(episodes))
        return Predictions(**{name: values[chosen] for name, values in vars(self).items()})


@torch.no_grad()
def predict_outcomes(
    model: GlobalModel,
    store: EpisodeStore,
    *,
    horizon: int = 8,
    context: int = 0,
    split: str = "validation",
    windows: int = 512,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Predictions:
    """Imagine along recorded actions, and keep what was predicted at every step.

    The frames are imagined, because that is what the heads read when a policy is trained.

    Args:
        model: The global model.
        store: The recorded episodes.
        horizon: Imagined steps of a window.
        context: Observations before them; the model's own number unless given.
        split: Which episodes.
        windows: Most windows, spread evenly; ends of episodes lie in the windows at their ends.
        batch: Windows imagined side by side.
        seed: Seed of the imagination.
        device: Where the model is.

    Raises:
        FogError: No episode is long enough.
    """
    context = max(context, model.context_frames)
    sampler = WindowSampler(store, length=context + horizon, split=split, seed=seed)
    starts = [
        np.arange(store.starts[i] + store.lengths[i] - context - horizon, store.starts[i] - 1, -1)
        for i in store.split(split)
        if store.lengths[i] >= context + horizon
    ]
    # From the end of each episode backwards: the last transition, which may be an end, is in.
    places = np.concatenate([rows[::horizon] for rows in starts])
    places = places[np.unique(np.linspace(0, len(places) - 1, windows).round().astype(int))]
    generator = torch.Generator(device=device).manual_seed(seed)
    names = ("reward", "end", "observed_reward", "observed_end", "below")
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    episode = []
    for first in range(0, len(places), batch):
        chosen = places[first : first + batch]
        data = sampler.at(chosen, device)
        state = model.start(Windows(**{k: v[:, :context] for k, v in vars(data).items()}))
        for t in range(context - 1, context + horizon - 1):
            state, outcome = model.step(state, data.action[:, t], generator)
            logits, bins = outcome.reward_logits, model.outcome.bins
            observed = symlog(data.reward[:, t]).clamp(bins[0], bins[-1])
            assert logits is not None
            rows["below"].append(probability_below(logits.softmax(-1), bins, observed))
            rows["reward"].append(outcome.reward)
            rows["end"].append(outcome.end_probability)
            rows["observed_reward"].append(data.reward[:, t])
            rows["observed_end"].append(data.end[:, t])
            episode.append(np.searchsorted(store.starts, chosen, side="right") - 1)
    columns = {k: torch.cat(v).double().cpu().numpy() for k, v in rows.items()}
    return Predictions(**columns, episode=np.concatenate(episode).astype(np.int64))


@dataclass(frozen=True)
class CalibrationReport:
    """Reliability of both heads, and whether a correction of the ends would help."""

    end: EndReliability
    reward: RewardReliability
    correction: EndCalibration | None
    """Fitted on all held-out episodes; none where it did not lower the log loss of episodes that
    it was not fitted on, or where that cannot be told."""
    log_loss_before: float | None
    """Of the half of the episodes that the trial correction was not fitted on, and ..."""
    log_loss_after: float | None
    """... with that correction."""

    def figures(self) -> dict[str, object]:
        """Everything as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Both tables as text."""
        end, reward = self.end, self.reward
        lines = [
            f"ends: {end.ends} of {sum(end.count)} transitions",
            f"expected calibration error {end.expected_error:.4f}",
            f"log loss {end.log_loss:.4f} (of always saying the mean {end.base_log_loss:.4f})",
            f"{'probability':>12} {'count':>7} {'predicted':>10} {'observed':>10}",
        ]
        for low, n, p, o in zip(end.low, end.count, end.predicted, end.observed, strict=True):
            if p is not None and o is not None:
                lines.append(f"{f'from {low:.2f}':>12} {n:>7} {p:>10.4f} {o:>10.4f}")
        lines += [
            f"reward: expected error {reward.expected_error:.4f}, bias {reward.bias:+.4f}",
            f"{'count':>7} {'predicted':>10} {'observed':>10} {'deviation':>10}",
        ]
        for row in zip(
            reward.count, reward.predicted, reward.observed, reward.deviation, strict=True
        ):
            lines.append("{:>7} {:>10.4f} {:>10.4f} {:>10.4f}".format(*row))
        if reward.levels:
            pairs = zip(reward.levels, reward.coverage, strict=True)
            lines.append("quantile: coverage  " + "  ".join(f"{q:g}: {c:.3f}" for q, c in pairs))
        return lines


def calibration_report(found: Predictions, *, bins: int = 10) -> CalibrationReport:
    """Tables of both heads, and a correction of the ends where it helps on other episodes.

    Raises:
        FogError: There are no transitions.
    """
    episodes = np.unique(found.episode)
    fitted, tried = found.of(episodes[::2].tolist()), found.of(episodes[1::2].tolist())
    correction, before, after = None, None, None
    if all(0 < part.observed_end.sum() < len(part.observed_end) for part in (fitted, tried)):
        trial = fit_end_calibration(fitted.end, fitted.observed_end)
        before = _log_loss(tried.end, tried.observed_end)
        after = _log_loss(trial.apply(tried.end), tried.observed_end)
        if after < before:
            correction = fit_end_calibration(found.end, found.observed_end)
    return CalibrationReport(
        end=end_reliability(found.end, found.observed_end, bins=bins),
        reward=reward_reliability(
            found.reward, found.observed_reward, bins=bins, below=found.below
        ),
        correction=correction,
        log_loss_before=before,
        log_loss_after=after,
    )


def _means(place: npt.NDArray[np.int64], values: Values, bins: int) -> list[float | None]:
    return [float(values[place == i].mean()) if (place == i).any() else None for i in range(bins)]


def _log_loss(probability: Values, ended: Values) -> float:
    p = np.clip(probability, _EPSILON, 1 - _EPSILON)
    return float(-(ended * np.log(p) + (1 - ended) * np.log1p(-p)).mean())


def _logit(probability: Values) -> Values:
    p = np.clip(probability, _EPSILON, 1 - _EPSILON)
    return np.asarray(np.log(p) - np.log1p(-p))


def _sigmoid(x: Values) -> Values:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))
