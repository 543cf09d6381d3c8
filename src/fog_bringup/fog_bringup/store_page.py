"""A page for people about an episode store: to look at before training on it.

One HTML file that needs nothing but itself, and no script: what the import said, how values are
distributed over both splits, and for each shown episode a contact sheet and time plots.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from fog_bringup.progress import Report
from fog_bringup.report_page import contents, heading, page, paragraph
from fog_bringup.store_page_episodes import EpisodeFacts, episode_facts, episode_section
from fog_bringup.store_page_style import STYLE
from fog_bringup.store_page_summary import summary
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError

LIMIT = 24
"""Episodes with pictures, unless one asks for others; some 10 MB of page at 64x64."""


def write_store_page(
    store: EpisodeStore,
    output: Path,
    *,
    episodes: Sequence[int] = (),
    limit: int = LIMIT,
    progress: Report | None = None,
) -> list[int]:
    """Write the page; an older one stays until the new one is whole.

    Args:
        store: What to show.
        output: File to write.
        episodes: Numbers of the episodes to show; empty: ``limit`` of them, evenly spread.
        limit: How many to show when none are named.
        progress: Told about every episode.

    Returns:
        Numbers of the episodes that are shown. All of them are in the table and in the
        distributions.

    Raises:
        FogError: There is no episode of that number, the file cannot be written, or the store is
            damaged.
    """
    shown = choose(len(store.episodes), episodes, limit)
    facts = episode_facts(store)
    body = [*_header(store, facts), *summary(store, facts, shown)]
    body += [heading("episodes", "Episodes"), _shown_words(len(facts), shown, bool(episodes))]
    for done, index in enumerate(shown):
        body.append(episode_section(store, facts[index]))
        if progress is not None:
            progress("drawing", done + 1, len(shown))
    text = page(f"Episodes: {store.path.name}", body, STYLE)
    part = output.with_name(output.name + ".part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FogError(f"--output {output}: cannot be written ({error.strerror})") from error
    return shown


def choose(count: int, episodes: Sequence[int], limit: int) -> list[int]:
    """Which of ``count`` episodes are shown.

    Raises:
        FogError: A number is not that of an episode, or the limit is negative.
    """
    missing = sorted({e for e in episodes if not 0 <= e < count})
    if missing:
        raise FogError(
            f"--episodes {' '.join(map(str, missing))}: the store has episodes 0 to {count - 1}"
        )
    if limit < 0:
        raise FogError(f"--limit {limit}: expected 0 or more episodes")
    if episodes:
        return sorted(set(episodes))
    spread = np.linspace(0, count - 1, min(limit, count)).round().astype(int)
    return [int(i) for i in spread]


def _header(store: EpisodeStore, facts: Sequence[EpisodeFacts]) -> list[str]:
    task = store.task
    image = task.image
    sections = [
        ("warnings", "Warnings"),
        ("distributions", "Distributions"),
        ("fields", "Fields"),
        ("table", "All episodes"),
        ("import", "Import"),
        ("episodes", "Pictures and time plots"),
    ]
    return [
        f"<header>{paragraph('Episode store', 'lead')}",
        f"<h1>{escape(store.path.name)}</h1>",
        paragraph(
            f"{len(facts)} episodes of the task {task.name}: {task.description} "
            f"Images of {image.width}x{image.height} pixels at {task.control_hz:g} Hz.",
            "lead",
        ),
        "</header>",
        contents(sections),
    ]


def _shown_words(count: int, shown: list[int], named: bool) -> str:
    words = (
        f"{len(shown)} of {count} are shown, "
        + ("as asked for" if named else "evenly spread")
        + ". Others: fog data view --episodes 3 14 15; more: --limit 60."
        if len(shown) < count
        else f"All {count} are shown."
    )
    return paragraph(
        f"{words} Below each picture is its step. Commands are drawn as they hold, in [-1, 1]; an "
        "orange upright line is the end of an episode. The last plot is the time from each image "
        "to the next, a dashed line the control period.",
        "note",
    )
