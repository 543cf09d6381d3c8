"""One episode on the page of a store: a contact sheet and time plots."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

import cv2
import numpy as np
import numpy.typing as npt

from fog_bringup import store_figures
from fog_bringup.report_theme import VARIABLES, Draw, svg
from fog_world_model.data.episodes import Episode, EpisodeStore
from fog_world_model.task import TaskConfig

FRAMES = 26
"""Pictures of an episode, evenly spread, the first and the last among them."""
FIELDS_IN_KEY = 4
"""A plot with more lines leaves the key to the table of fields."""
_LOSSLESS_PIXELS = 96 * 96
"""Larger pictures are shown as JPEG."""
_DASH_ARRAYS = dict(zip(store_figures.DASHES, ("", "5 2", "1.5 2", "5 2 1.5 2"), strict=True))


@dataclass(frozen=True)
class EpisodeFacts:
    """What the table says of an episode."""

    index: int
    source: str
    outcome: str
    held_out: bool
    steps: int
    """Rows; there is one transition less."""
    duration_s: float
    """From the first image to the last, by their stamps."""
    total_reward: float
    ended: bool
    """Whether the last transition is an end, not a cut."""
    longest_gap_ms: float
    """Longest time from an image to the next."""


def episode_facts(store: EpisodeStore) -> list[EpisodeFacts]:
    """What is known of each episode without looking at its images."""
    reward, end = store.column("reward"), store.column("end")
    stamps = store.column("stamp_ns")
    found = []
    for index, entry in enumerate(store.episodes):
        rows = slice(int(store.starts[index]), int(store.starts[index] + store.lengths[index]))
        times = stamps[rows]
        found.append(
            EpisodeFacts(
                index=index,
                source=entry.source,
                outcome=entry.outcome,
                held_out=entry.held_out,
                steps=int(store.lengths[index]),
                duration_s=float(times[-1] - times[0]) / 1e9,
                total_reward=float(reward[rows].sum()),
                ended=bool(end[rows][:-1].any()),
                longest_gap_ms=float(np.diff(times).max(initial=0)) / 1e6,
            )
        )
    return found


def chip(text: str) -> str:
    """A split or an outcome, in its colour."""
    kind = text or "open"
    return f'<span class="chip {escape(kind)}">{escape(text or "no outcome")}</span>'


def split_name(facts: EpisodeFacts) -> str:
    """Which split an episode belongs to."""
    return "validation" if facts.held_out else "training"


def key(names: Sequence[str]) -> str:
    """Which line is which."""
    return "".join(
        f'<span class="key">{swatch(i)} {escape(name)}</span>' for i, name in enumerate(names)
    )


def swatch(field: int) -> str:
    """A piece of a field's line."""
    color, dashes = store_figures.line_style(field, VARIABLES)
    kind = {VARIABLES.blue: "blue", VARIABLES.orange: "orange", VARIABLES.green: "green"}[color]
    return (
        '<svg class="swatch" viewBox="0 0 24 6" aria-hidden="true"><line x1="0" y1="3" x2="24" '
        f'y2="3" stroke="var(--{kind})" stroke-width="2" '
        f'stroke-dasharray="{_DASH_ARRAYS[dashes]}"/></svg>'
    )


def plot(title: str, note: str, draw: Draw) -> str:
    """A chart with words above it; the note is HTML."""
    return (
        f"<figure><figcaption>{escape(title)} <span>{note}</span></figcaption>"
        f"{svg(draw, title)}</figure>"
    )


def episode_section(store: EpisodeStore, facts: EpisodeFacts) -> str:
    """HTML of an episode."""
    episode = store.episode(facts.index)
    about = (
        f"{facts.steps} steps in {facts.duration_s:.1f} s, return {facts.total_reward:.4g}, "
        + ("ended" if facts.ended else "cut without an end")
        + f", longest time between images {facts.longest_gap_ms:.0f} ms"
    )
    return (
        f'<section class="episode" id="episode-{facts.index}">'
        f"<h3>Episode {facts.index}: {escape(facts.source)} "
        f"{chip(split_name(facts))} {chip(facts.outcome)}</h3>"
        f'<p class="about">{escape(about)}</p>'
        f"{_sheet(episode, store.task)}"
        f'<div class="plots">{"".join(_plots(episode, store.task))}</div></section>'
    )


def _sheet(episode: Episode, task: TaskConfig) -> str:
    picked = np.unique(np.linspace(0, len(episode) - 1, FRAMES).round().astype(int))
    size = f'width="{task.image.width}" height="{task.image.height}"'
    cells = [
        f'<div><img src="{_picture(episode.image[i])}" {size} alt="step {i}" loading="lazy" '
        f'decoding="async">{i}</div>'
        for i in picked
    ]
    return f'<div class="sheet">{"".join(cells)}</div>'


def _picture(image: npt.NDArray[np.uint8]) -> str:
    """An image as it is, or, if it is large, nearly so."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if image.shape[0] * image.shape[1] <= _LOSSLESS_PIXELS:
        kind, options = "png", [cv2.IMWRITE_PNG_COMPRESSION, 9]
    else:
        kind, options = "jpeg", [cv2.IMWRITE_JPEG_QUALITY, 88]
    _, data = cv2.imencode(f".{kind}", bgr, options)
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def _plots(episode: Episode, task: TaskConfig) -> list[str]:
    made = len(episode) - 1  # transitions
    course = store_figures.course
    found = [
        plot(
            f"Command, {task.action.topic}",
            _key(task.action.fields),
            partial(
                course,
                episode.action[:made].astype(np.float64),
                limits=(-1.08, 1.08),
                ticks=(-1, 0, 1),
                held=True,
            ),
        ),
        plot(
            "Reward",
            "",
            partial(
                course,
                episode.reward[:made, None].astype(np.float64),
                ends=np.flatnonzero(episode.end[:made]).tolist(),
            ),
        ),
    ]
    first = 0
    for stream in task.proprioception:
        last = first + len(stream.fields)
        values = episode.proprioception[:, first:last].astype(np.float64)
        found.append(plot(stream.topic, _key(stream.fields), partial(course, values)))
        first = last
    spacing = np.diff(episode.stamp_ns)[:, None] / 1e6
    period = task.period_ns / 1e6
    lowest = min(0.0, float(spacing.min(initial=0.0)))
    highest = max(1.5 * period, 1.08 * float(spacing.max(initial=0.0)))
    found.append(
        plot(
            "Time between images, ms",
            "",
            partial(course, spacing, level=period, limits=(lowest, highest)),
        )
    )
    return found


def _key(names: Sequence[str]) -> str:
    return key(names) if len(names) <= FIELDS_IN_KEY else f"{len(names)} fields"
