"""Injected faults as a picture: how soon each kind stopped the robot, and its limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fog_bringup.report_theme import Theme, axes

_NEVER_S = 1.15
"""Faults without a stop are drawn at this many times the largest time."""
_MARKS = (
    ("safe stop", "o", "blue"),
    ("stop that is not safe", "o", "orange"),
    ("no stop", "x", "orange"),
)


def draw_faults(result: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what came of every fault.

    Args:
        result: As ``fog benchmark faults`` gives it.
        theme: Colours.
    """
    counted, each = result["faults"], result["each"]
    kinds = list(counted["kinds"])
    figure, (left, right) = axes(1.3 + 0.42 * len(kinds), 2, width_ratios=(2.2, 1), sharey=True)
    times = [one["stopped_after_s"] or 0.0 for one in each]
    farthest = _NEVER_S * max(*times, *(counted["kinds"][k]["limit_s"] for k in kinds))
    random = np.random.default_rng(0)
    labelled: set[str] = set()
    for row, kind in enumerate(kinds):
        of_kind = [one for one in each if one["kind"] == kind]
        # Each fault at its own limit: of a kind with several streams, several.
        for limit_s in {one["limit_s"] for one in of_kind}:
            left.plot(
                [limit_s] * 2,
                [row - 0.34, row + 0.34],
                color=theme.muted,
                linewidth=1.6,
                label="limit" if row == 0 and limit_s == of_kind[0]["limit_s"] else None,
            )
        for safe, mark, color in _MARKS:
            found = [one for one in of_kind if _outcome(one) == safe]
            left.plot(
                [_at(one, farthest) for one in found],
                row + random.uniform(-0.2, 0.2, len(found)),
                mark,
                color=getattr(theme, color),
                markersize=4 if mark == "o" else 6,
                alpha=0.7,
                linewidth=0,
                label=safe if found and safe not in labelled else None,
            )
            labelled |= {safe} if found else set()
        recovered = [one["recovery_s"] for one in of_kind if one["recovery_s"] is not None]
        right.plot(
            recovered,
            row + random.uniform(-0.2, 0.2, len(recovered)),
            "o",
            color=theme.green,
            markersize=4,
            alpha=0.6,
            linewidth=0,
        )
    names = [
        f"{kind.replace('_', ' ')}  {counted['kinds'][kind]['safe_stops']}"
        f"/{counted['kinds'][kind]['injected']}"
        for kind in kinds
    ]
    left.set_yticks(range(len(kinds)), names)
    left.invert_yaxis()
    left.set_title(
        f"{counted['safe_stops']} safe stops of {counted['injected']} faults; "
        f"{counted['out_of_bounds']} commands out of bounds"
    )
    left.set(xlabel="from the fault to the stop, s", xlim=(0, 1.05 * farthest))
    figure.legend(loc="outside lower left", ncols=4, frameon=False)
    right.set_title(f"{counted['recovered']} recovered")
    right.set(xlabel="from its end to walking, s")
    right.set_xlim(left=0)
    return figure


def _outcome(one: Mapping[str, Any]) -> str:
    if one["stopped_after_s"] is None:
        return "no stop"
    return "safe stop" if one["safe"] else "stop that is not safe"


def _at(one: Mapping[str, Any], farthest: float) -> float:
    after_s = one["stopped_after_s"]
    return farthest if after_s is None else float(after_s)
