"""What an evaluation of a global model says: claims, each computed, none taken for granted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fog_bringup.report_verdict import Claim
from fog_world_model.evaluation.horizon_errors import COPY, LOCAL

Figures = Mapping[str, Any]

OBJECT_PX = 3.0
"""How far off an object may be in a picture 64 pixels wide."""
LOST = 0.1
"""Share of frames in which a model may lose an object."""
SENSITIVITY = 3.0
"""Action sensitivity that is aimed at."""
COLOUR, SHARPNESS = 5.0, (0.75, 1.33)
"""How far colours (of 255) and sharpness (imagined by recorded) may drift."""


def claims(figures: Figures) -> list[Claim]:
    """Judge the first model of an evaluation, at the reference horizon and at the last one.

    Args:
        figures: The content of ``evaluation.json``.
    """
    model = next(iter(figures["models"].values()))
    at, last = figures["reference_horizon"], figures["horizon"][-1]
    mine = model["figures"]
    found = [
        _gain(f"Frames closer than a repeated last one, {at} steps ahead", mine, "psnr_gain", at)
    ]
    if LOCAL in figures["baselines"]:
        title = f"Frames closer than the local model's, {at} steps ahead"
        found.append(_gain(title, mine, "psnr_gain_over_local", at))
    if figures["object"]:
        found.append(_object(figures, mine, at))
    found += [_actions(mine, at), _drift(mine, last)]
    return found


def at_horizon(figures: Figures, key: str, horizon: int) -> tuple[float, float, float] | None:
    """Value and interval of a figure; None where it was not measured."""
    found = figures.get(key)
    if found is None or found["value"][horizon - 1] is None:
        return None
    value, low, high = (found[part][horizon - 1] for part in ("value", "low", "high"))
    # Without an interval (a single episode) nothing can be told from chance.
    return (value, float("-inf"), float("inf")) if low is None else (value, low, high)


def interval(figures: Figures, key: str, horizon: int, places: int = 2) -> str:
    """``1.23 [1.10, 1.35]``; empty where it was not measured."""
    found = at_horizon(figures, key, horizon)
    if found is None:
        return ""
    value, low, high = found
    text = f"{value:.{places}f}"
    return text if low == float("-inf") else f"{text} [{low:.{places}f}, {high:.{places}f}]"


def _gain(title: str, mine: Figures, key: str, at: int) -> Claim:
    found = at_horizon(mine, key, at)
    if found is None:
        return Claim(title, None, "–", "No window is that long.")
    return Claim(
        title,
        found[1] > 0,
        f"{found[0]:+.2f} dB",
        f"Difference of PSNR {interval(mine, key, at)}, paired by episode; it holds when the "
        "whole interval is above 0.",
    )


def _object(figures: Figures, mine: Figures, at: int) -> Claim:
    name = figures["object"]["name"]
    title = f"The {name} followed to {OBJECT_PX:g} px, {at} steps ahead"
    off, lost = (at_horizon(mine, k, at) for k in ("object_error_px", "object_lost"))
    if lost is None:
        return Claim(title, None, "–", f"The {name} was not seen in the recorded frames.")
    detail = f"Lost in {interval(mine, 'object_lost', at)} of the frames that should show it"
    copy = interval(figures["baselines"][COPY]["figures"], "object_error_px", at)
    if off is None:
        return Claim(title, False, "lost", f"{detail}; at most {LOST:g} may be.")
    detail += f" (at most {LOST:g} may be); off by {interval(mine, 'object_error_px', at)} px"
    detail += f", a repeated last frame by {copy}." if copy else "."
    if lost[0] > LOST:
        return Claim(title, False, f"lost in {100 * lost[0]:.0f}\u00a0%", detail)
    return Claim(title, off[2] < OBJECT_PX, f"{off[0]:.1f} px", detail)


def _actions(mine: Figures, at: int) -> Claim:
    title = f"Actions matter, {at} steps ahead"
    found = at_horizon(mine, "action_sensitivity", at)
    if found is None:
        return Claim(title, None, "–", "Not measured.")
    return Claim(
        title,
        found[1] > SENSITIVITY,
        f"{found[0]:.2f} times",
        "Error with another episode's commands by that with the true ones: "
        f"{interval(mine, 'action_sensitivity', at)}; aimed at: above {SENSITIVITY:g}.",
    )


def _drift(mine: Figures, last: int) -> Claim:
    title = f"No drift within {last} steps"
    colour, sharpness = (at_horizon(mine, k, last) for k in ("colour_shift", "sharpness"))
    if colour is None or sharpness is None:
        return Claim(title, None, "–", "Not measured.")
    low, high = SHARPNESS
    return Claim(
        title,
        colour[0] <= COLOUR and low <= sharpness[0] <= high,
        f"{colour[0]:.1f} of 255",
        f"Shift of the mean colour (at most {COLOUR:g}); sharpness "
        f"{sharpness[0]:.2f} of the recorded one (between {low:g} and {high:g}).",
    )
