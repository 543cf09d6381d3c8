"""What the demo's figures say: three claims, each computed, none taken for granted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

BASELINES = {"random": "random commands", "standing": "standing still"}
HORIZONS = (8, 16)
"""Steps ahead at which the world model has to beat repeating the last frame."""
EPISODES = 20
"""Closed-loop episodes from which on the intervals mean something."""
RATE_TOLERANCE = 0.02
"""How far the achieved control rate may be from the declared one, as a share."""
MISSED_SHARE = 0.01
"""Deadlines that may be missed, as a share of the commands."""
REAL_TIME_S = 60.0
"""How long the control loop has to be watched in real time."""


@dataclass(frozen=True)
class Claim:
    """One thing that the run is meant to show."""

    title: str
    holds: bool | None
    """None: it was not measured."""
    figure: str
    """The number that matters most, short."""
    detail: str
    """What was measured, in a sentence or two."""


def claims(report: Mapping[str, Any]) -> list[Claim]:
    """Judge a report.

    Args:
        report: The content of ``report.json``.
    """
    return [
        _policy(report.get("closed_loop") or {}),
        _world_model(report.get("open_loop") or {}),
        _control(report.get("control") or {}),
    ]


def headline(judged: Sequence[Claim]) -> str:
    """Say in one sentence how many claims hold, and name those that do not."""
    failed, unknown = (
        [c.title[0].lower() + c.title[1:] for c in judged if c.holds is state]
        for state in (False, None)
    )
    if not failed and not unknown:
        return f"All {len(judged)} checks hold."
    text = f"{sum(c.holds is True for c in judged)} of {len(judged)} checks hold."
    if failed:
        text += f" Not shown: {'; '.join(failed)}."
    if unknown:
        text += f" Not measured: {'; '.join(unknown)}."
    return text


def number(value: object, digits: int = 3) -> str:
    """A figure for people, ``digits`` significant; a dash where there is none."""
    if not is_finite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a number that can be compared (None and NaN are not)."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _policy(returns: Mapping[str, Mapping[str, Any]]) -> Claim:
    title = "The policy does better than both baselines"
    if not all(
        name in returns and is_finite(returns[name].get(key))
        for name in ("policy", *BASELINES)
        for key in ("mean", "low", "high")
    ):
        return Claim(title, None, "–", "The closed-loop episodes are missing.")
    policy = returns["policy"]
    summaries = [returns[name] for name in ("policy", *BASELINES)]
    places = decimals(*(s[key] for s in summaries for key in ("low", "high")))
    parts = []
    for name, words in BASELINES.items():
        other = returns[name]
        if policy["low"] > other["high"]:
            verdict = "clearly above"
        elif policy["high"] < other["low"]:
            verdict = "clearly below"
        else:
            verdict = "not separated from"
        parts.append(f"{verdict} {words} ({_interval(other, places)})")
    detail = (
        f"Mean return over {policy['episodes']} episodes, with 95 % intervals: "
        f"{_interval(policy, places)}, {' and '.join(parts)}."
    )
    if policy["episodes"] < EPISODES:
        detail += " So few episodes are not to be relied on."
    best = max(returns[name]["mean"] for name in BASELINES)
    return Claim(
        title,
        all(policy["low"] > returns[name]["high"] for name in BASELINES),
        f"{policy['mean']:.{places}f} against {best:.{places}f}",
        detail,
    )


def _world_model(figures: Mapping[str, Any]) -> Claim:
    title = "The world model predicts better than repeating the last frame"
    measured = _pairs(figures, "")
    if not all(h in measured for h in HORIZONS):
        missing = " and ".join(str(h) for h in HORIZONS if h not in measured)
        return Claim(title, None, "–", f"There are no figures for {missing} steps ahead.")
    parts = []
    for h in HORIZONS:
        model, copy = measured[h]
        verdict = "closer" if model > copy else "not closer"
        parts.append(f"{verdict} at {h} steps ({model:.1f} dB against {copy:.1f} dB)")
    detail = f"On held-out episodes its frames are {' and '.join(parts)}."
    each = _pairs(figures, "_per_window")
    lost = [h for h in HORIZONS if h in each and each[h][0] <= each[h][1]]
    if lost:
        # Another fair way to average tells another story: say so.
        detail += (
            " By the mean of each window's own ratio they are not closer at "
            + " and ".join(f"{h} ({each[h][0]:.1f} against {each[h][1]:.1f} dB)" for h in lost)
            + " steps."
        )
    gain = measured[HORIZONS[-1]][0] - measured[HORIZONS[-1]][1]
    return Claim(
        title,
        all(measured[h][0] > measured[h][1] for h in HORIZONS),
        f"{gain:+.1f} dB at {HORIZONS[-1]} steps",
        detail,
    )


def _pairs(figures: Mapping[str, Any], suffix: str) -> dict[int, tuple[float, float]]:
    """The model's ratio and that of copying, by horizon, where both are known."""
    rows = (
        figures.get(key, ())
        for key in ("horizon", f"model_psnr{suffix}", f"copy_last_psnr{suffix}")
    )
    return {
        horizon: (model, copy)
        for horizon, model, copy in zip(*rows, strict=False)
        if is_finite(model) and is_finite(copy)
    }


def _control(control: Mapping[str, Any]) -> Claim:
    title = "The policy keeps its control rate on the robot"
    declared, achieved = control.get("declared_hz"), control.get("achieved_hz")
    if not is_finite(declared) or not is_finite(achieved):
        return Claim(title, None, "–", "No control rate was measured.")
    latency = control.get("latency_ms") or {}
    commands, missed = int(control.get("commands", 0)), int(control.get("missed_deadlines", 0))
    on_time = abs(achieved / declared - 1) <= RATE_TOLERANCE
    rarely_late = missed <= MISSED_SHARE * commands
    drove = is_finite(latency.get("p50"))
    detail = (
        f"{number(achieved)} Hz of {declared:g} Hz; {missed} of {commands + missed} deadlines "
        "missed. "
    )
    if drove:
        detail += (
            f"From image to command it takes {number(latency['p50'], 2)} ms (median), "
            f"{number(latency.get('p99'), 2)} ms in 99 of 100 cases at most."
        )
    else:
        detail += "But no command of the policy passed the safety filter."
    seconds = control.get("seconds")
    if is_finite(seconds) and seconds < REAL_TIME_S:
        detail += f" Watched for only {seconds:.0f} s."
    return Claim(title, on_time and rarely_late and drove, f"{number(achieved)} Hz", detail)


def decimals(*values: object) -> int:
    """Decimals with which the largest of some figures has three significant digits."""
    largest = max([abs(v) for v in values if is_finite(v)], default=0.0)
    return max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 1


def _interval(summary: Mapping[str, Any], places: int) -> str:
    mean, low, high = (f"{summary[k]:.{places}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
