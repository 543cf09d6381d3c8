"""Cut a segment where its content is unusable: values that are not finite, labels that are unknown.

The synchroniser works on times alone; only when messages are decoded does it show that one holds
NaN or that a picture is damaged. Such a step breaks the episode as a missing message would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fog_world_model.data.labellers.labeller import Labels

Piece = tuple[int, int]
"""First step, and the end (exclusive)."""


def usable_pieces(
    step_faults: Sequence[str], transition_faults: Sequence[str], breaks: Counter[str]
) -> list[Piece]:
    """Cut at faulty steps and faulty transitions.

    Args:
        step_faults: ``[step]``: what is wrong with a step, or nothing.
        transition_faults: ``[step - 1]``: the same for the transition from step t to t + 1.
        breaks: Counts the reasons; changed in place.

    Returns:
        Pieces of at least two steps.
    """
    pieces: list[Piece] = []
    first, steps = 0, len(step_faults)

    def close(end: int, reason: str) -> None:
        if end - first >= 2:
            pieces.append((first, end))
        if reason:
            breaks[reason if end - first >= 2 else f"no start, {reason}"] += 1

    for t in range(steps):
        if step_faults[t]:
            close(t, step_faults[t])
            first = t + 1
        elif t + 1 < steps and transition_faults[t] and not step_faults[t + 1]:
            close(t + 1, transition_faults[t])
            first = t + 1
    close(steps, "")
    return pieces


def labelled_pieces(labels: Labels, unknown: str, breaks: Counter[str]) -> list[Piece]:
    """Cut where a label is missing, and after ends.

    As with a recorded end, the episode's last transition is the first one with an end, and no
    episode begins before it is over.

    Args:
        labels: Of the segment's transitions.
        unknown: Why a label is missing.
        breaks: Counts the reasons; changed in place.

    Returns:
        Pieces of at least two steps, whose rewards are all known.
    """
    pieces: list[Piece] = []
    first, t, count = 0, 0, len(labels.reward)
    while t < count:
        missing, end = not np.isfinite(labels.reward[t]), bool(labels.end[t])
        if not missing and not end:
            t += 1
            continue
        last = t + 1 if missing else t + 2
        reason = f"label: {unknown}" if missing else "end"
        if last - first >= 2:
            pieces.append((first, last))
            breaks[reason] += 1
        else:
            breaks[f"no start, {reason}"] += 1
        t += 1
        if end and not missing:
            while t < count and labels.end[t]:  # after the end, until it is taken back
                t += 1
            first = t + 1 if t < count else count + 1
            t += 1
        else:
            first = t
    if count + 1 - first >= 2:
        pieces.append((first, count + 1))
    return pieces
