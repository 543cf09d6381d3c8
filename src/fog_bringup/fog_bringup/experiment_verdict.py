"""What an experiment says: methods side by side at equal budgets, each interval computed.

Coverage is bootstrapped over two levels: training seeds are drawn with replacement, and start
states with replacement, the same for all seeds (Davison and Hinkley 1997, section 3.8). With three
training seeds that is a coarse interval and not a narrow one, as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_bringup.report_verdict import Claim
from fog_bringup.zero_shot import with_interval
from fog_policy.evaluation import Interval

Figures = Mapping[str, Any]
"""Content of ``results.json``."""

AHEAD, BEHIND, OPEN = "ahead", "behind", "not separated"
MEASURES = {"seconds": "seconds of learning", "imagined_steps": "imagined samples"}
BUDGETS = 4
"""Budgets of each kind at which methods are compared."""
TOLERANCE = 0.05
"""By how much of a budget an evaluation may come too late and still count."""
RESAMPLES = 4000
_WORDS = {"ppo": "PPO", "local": "no diffusion", "bc": "cloning"}


def bootstrap_two_level(
    values: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over training seeds and start states with a 95 % interval.

    Args:
        values: ``[training seed][start state]``; rows of one length.
        resamples: Bootstrap samples.
        seed: Of the resampling.
    """
    data = np.asarray(values, np.float64)
    runs, starts = data.shape
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    drawn = generator.multinomial(starts, np.full(starts, 1 / starts), size=resamples) / starts
    means = np.einsum("br,rs,bs->b", weights, data, drawn)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(data.mean()), float(low), float(high))


def pooled(evaluations: Sequence[Figures], episodes: int | None = None) -> dict[str, Any]:
    """Figures of several training seeds together.

    Args:
        evaluations: One of each training seed, with its ``max_coverage`` per start state.
        episodes: Start states that count, the first ones: evaluations on the way play fewer than
            the last one, and figures over other start states cannot be compared. None: as many as
            all of them have.

    Returns:
        As :func:`.zero_shot.coverage_figures`, with ``training_seeds``.
    """
    common = min([len(e["max_coverage"]) for e in evaluations] + ([episodes] if episodes else []))
    rows = np.array([e["max_coverage"][:common] for e in evaluations])
    return {"training_seeds": len(rows), **with_interval(rows, bootstrap_two_level(rows))}


def pooled_curve(runs: Sequence[Figures]) -> list[dict[str, Any]]:
    """Evaluations along the way of several training seeds together.

    Args:
        runs: With a ``curve`` each.

    Returns:
        One entry for every share of the run at which all were evaluated: ``share``, the mean
        ``seconds`` and ``imagined_steps``, and pooled figures. All are over the start states that
        every evaluation has, so that the end, which plays more, fits to what came before.
    """
    episodes = min((len(e["max_coverage"]) for run in runs for e in run["curve"]), default=0)
    by_share = [{e["share"]: e for e in run["curve"]} for run in runs]
    shares = set.intersection(*map(set, by_share)) if by_share else set()
    found = []
    for share in sorted(shares):
        rows = [evaluations[share] for evaluations in by_share]
        means = {m: float(np.mean([row[m] for row in rows])) for m in MEASURES}
        found.append({"share": share, **means, **pooled(rows, episodes)})
    return found


def at_budget(curve: Sequence[Figures], measure: str, budget: float) -> Figures | None:
    """The last evaluation that a budget pays for; None when it does not even pay for the first.

    An evaluation comes after the update during which it fell due, so that a budget may be
    exceeded by :data:`TOLERANCE`.
    """
    paid = [e for e in curve if e[measure] <= budget * (1 + TOLERANCE)]
    return paid[-1] if paid else None


def budgets(mine: Sequence[Figures], other: Sequence[Figures], measure: str) -> list[float]:
    """Where two methods are compared: even shares of what there is to compare.

    Args:
        mine: Runs of FoG, with a ``curve`` each.
        other: Runs of the other method.
        measure: ``seconds``: shares of FoG's shortest run, because a method that has finished
            before stays what it is. ``imagined_steps``: of the shortest run of both.
    """
    runs = mine if measure == "seconds" else (*mine, *other)
    end = min((run["curve"][-1][measure] for run in runs), default=0)
    return [end * k / BUDGETS for k in range(1, BUDGETS + 1)] if end > 0 else []


def verdict(mine: Figures, other: Figures) -> str:
    """Whether an interval of the mean maximal coverage is clear of another."""
    if mine["low"] > other["high"]:
        return AHEAD
    return BEHIND if mine["high"] < other["low"] else OPEN


def comparisons(methods: Mapping[str, Any]) -> list[dict[str, Any]]:
    """FoG beside every other method at equal budgets.

    Args:
        methods: ``methods`` of the results.

    Returns:
        One entry for each pair, measure and budget: ``against``, ``measure``, ``budget``, the
        pooled figures of both over the same start states as ``fog`` and ``other``, and
        ``verdict``: :data:`AHEAD`, :data:`BEHIND` or :data:`OPEN`. Methods that imagine nothing
        are compared by time alone. By samples, a budget of which an evaluation had used less than
        half is left out: what a method was before its first evaluation is not what it had become
        (one that imagines ten times as fast is evaluated after ten times as many).
    """
    found: list[dict[str, Any]] = []
    mine = methods["fog"]["seeds"] if "fog" in methods else []
    for name, method in methods.items():
        for measure in MEASURES if name != "fog" and mine and method["seeds"] else ():
            for budget in budgets(mine, method["seeds"], measure):
                pair = [
                    [at_budget(run["curve"], measure, budget) for run in runs]
                    for runs in (mine, method["seeds"])
                ]
                least = budget / 2 if measure == "imagined_steps" else 0.0
                sides = [[e for e in side if e is not None and e[measure] >= least]
                         for side in pair]  # fmt: skip
                if not all(len(side) == len(runs) for side, runs in zip(sides, pair, strict=True)):
                    continue
                common = min(len(e["max_coverage"]) for side in sides for e in side)
                fog, other = (pooled(side, common) for side in sides)
                found.append(
                    {
                        "against": name,
                        "measure": measure,
                        "budget": budget,
                        "fog": fog,
                        "other": other,
                        "verdict": verdict(fog, other),
                    }
                )
    return found


def claims(results: Figures) -> list[Claim]:
    """Judge an experiment: is FoG ahead of the others at every budget, and how far does it get?

    Args:
        results: The content of ``results.json``.
    """
    found = [_level(results)]
    for name in results["methods"]:
        for measure, words in MEASURES.items():
            rows = [
                c
                for c in results["comparisons"]
                if c["against"] == name and c["measure"] == measure
            ]
            if rows:
                found.append(_ahead(name, words, rows))
    return found


def sentence(row: Figures) -> str:
    """One comparison in words."""
    amount = (
        f"{row['budget']:,.0f} s"
        if row["measure"] == "seconds"
        else f"{row['budget']:,.0f} samples"
    )
    words = {
        AHEAD: "FoG is ahead of",
        BEHIND: "FoG is behind",
        OPEN: "the intervals of FoG overlap those of",
    }[row["verdict"]]
    mine, other = interval(row["fog"]), interval(row["other"])
    return f"After {amount} {words} {_name(row['against'])}: {mine} against {other}."


def interval(figures: Figures) -> str:
    """Mean maximal coverage as ``0.52 [0.48, 0.57]``."""
    return f"{figures['mean_max_coverage']:.2f} [{figures['low']:.2f}, {figures['high']:.2f}]"


def success(figures: Figures, percent: int) -> str:
    """Share of episodes that reach a coverage, as ``62 % [57, 67]``."""
    share, low, high = (100 * figures[f"success_{percent}{end}"] for end in ("", "_low", "_high"))
    return f"{share:.0f}\u00a0% [{low:.0f}, {high:.0f}]"


def _level(results: Figures) -> Claim:
    percent = results["task"]["success_percent"]
    title = f"The policy covers {percent}\u00a0% of the goal in 90 of 100 episodes"
    method = results["methods"].get("fog")
    if method is None or method["pooled"] is None:
        return Claim(title, None, "–", "FoG was not measured.")
    figures = method["pooled"]
    share = figures[f"success_{percent}"]
    detail = (
        f"Coverage of at least 0.95 in {success(figures, 95)} and of at least 0.80 in "
        f"{success(figures, 80)} of {figures['episodes']} episodes over "
        f"{figures['training_seeds']} training seeds; mean maximal coverage {interval(figures)}."
    )
    return Claim(title, share >= 0.9, f"{100 * share:.0f}\u00a0%", detail)


def _ahead(name: str, words: str, rows: Sequence[Figures]) -> Claim:
    counts = {
        state: sum(row["verdict"] == state for row in rows) for state in (AHEAD, BEHIND, OPEN)
    }
    told = ", ".join(f"{state} at {n}" for state, n in counts.items() if n)
    return Claim(
        f"Ahead of {_name(name)} at every budget of {words}",
        counts[AHEAD] == len(rows),
        f"{counts[AHEAD]} of {len(rows)}",
        f"{told[0].upper()}{told[1:]} of {len(rows)} budgets. {sentence(rows[-1])}",
    )


def _name(method: str) -> str:
    return _WORDS.get(method, method)
