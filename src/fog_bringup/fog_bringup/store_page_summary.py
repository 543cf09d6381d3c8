"""The top of a store's page: what the import said, distributions, and the table of episodes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_bringup import store_figures
from fog_bringup.report_page import beside, folded, heading, paragraph, table
from fog_bringup.report_theme import Draw
from fog_bringup.store_page_episodes import EpisodeFacts, chip, plot, split_name, swatch
from fog_world_model.data.episodes import EpisodeStore

MAX_WARNINGS = 200
MAX_REPORT_CHARACTERS = 200_000
_SPLIT_KEY = (
    '<span class="key training">■ training</span><span class="key validation">■ validation</span>'
)


def summary(store: EpisodeStore, facts: Sequence[EpisodeFacts], shown: Sequence[int]) -> list[str]:
    """HTML above the episodes."""
    report = store.attributes["report"]
    return [
        _facts(store, facts),
        heading("warnings", "Warnings of the import"),
        _warnings(list(warnings(report))),
        heading("distributions", "Distributions"),
        f'<p class="note">{_SPLIT_KEY}</p>',
        *_distributions(store, facts),
        heading("fields", "Fields"),
        *_fields(store),
        heading("table", "All episodes"),
        _table(facts, set(shown)),
        heading("import", "Import"),
        *_import(store, report),
    ]


def warnings(report: Any, place: str = "") -> Iterator[str]:
    """Every warning in a report, with where it is: those of bags name the bag."""
    if isinstance(report, Mapping):
        place = str(report.get("bag", place))
        for name, value in report.items():
            if "warning" not in str(name).lower():
                yield from warnings(value, place)
                continue
            for entry in value if isinstance(value, (list, tuple)) else [value]:
                words = entry if isinstance(entry, str) else json.dumps(entry)
                yield f"{place}: {words}" if place and place not in words else words
    elif isinstance(report, (list, tuple)):
        for value in report:
            yield from warnings(value, place)


def _warnings(found: list[str]) -> str:
    unique = list(dict.fromkeys(found))
    if not unique:
        return '<ul class="warnings none"><li>The import report has no warning.</li></ul>'
    items = [f"<li>{escape(w)}</li>" for w in unique[:MAX_WARNINGS]]
    if len(unique) > MAX_WARNINGS:
        items.append(f"<li>{len(unique) - MAX_WARNINGS} more, in report.json of the store</li>")
    return f'<ul class="warnings">{"".join(items)}</ul>'


def _facts(store: EpisodeStore, facts: Sequence[EpisodeFacts]) -> str:
    held_out = sum(f.held_out for f in facts)
    outcomes = Counter(f.outcome for f in facts)
    marked = len(facts) - outcomes[""]
    hours = sum(f.duration_s for f in facts) / 3600
    gap = max(f.longest_gap_ms for f in facts)
    period = store.task.period_ns / 1e6
    returns = np.array([f.total_reward for f in facts])
    cards = [
        ("Episodes", f"{len(facts)}", f"{len(facts) - held_out} training, {held_out} validation"),
        ("Transitions", f"{store.transitions:,}", f"{hours:.2f} h of images"),
        (
            "Outcome",
            f"{outcomes['success']} succeeded" if marked else "not marked",
            f"{outcomes['failure']} failed, {outcomes['']} not marked" if marked else "",
        ),
        ("Ended", f"{sum(f.ended for f in facts)}", "the others were cut"),
        (
            "Return",
            f"{returns.mean():.4g}",
            f"mean; from {returns.min():.4g} to {returns.max():.4g}",
        ),
        ("Longest time between images", f"{gap:.0f} ms", f"control period {period:.0f} ms"),
    ]
    return '<div class="facts">' + "".join(
        f'<div class="card"><h3>{escape(title)}</h3><p class="figure">{escape(figure)}</p>'
        f"<p>{escape(detail)}</p></div>"
        for title, figure, detail in cards
    ) + "</div>"  # fmt: skip


def _rows(store: EpisodeStore) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """``[row]`` each: whether it holds a transition, and whether it is held out."""
    made = np.ones(int(store.lengths.sum()), np.bool_)
    made[store.starts + store.lengths - 1] = False
    held_out = np.repeat([e.held_out for e in store.episodes], store.lengths)
    return made, held_out


def _distributions(store: EpisodeStore, facts: Sequence[EpisodeFacts]) -> list[str]:
    made, held_out = _rows(store)

    def histogram(values: npt.NDArray[np.float32]) -> Draw:
        numbers = values.astype(np.float64)
        training, validation = numbers[made & ~held_out], numbers[made & held_out]
        return partial(store_figures.histogram, training, validation)

    lengths = np.array([f.steps for f in facts], np.float64)
    outside = np.array([f.held_out for f in facts], np.bool_)
    returns = np.array([f.total_reward for f in facts], np.float64)
    found = [
        plot(f"Command {name}, of [-1, 1]", "", histogram(store.column("action")[:, i]))
        for i, name in enumerate(store.task.action.fields)
    ]
    found += [
        plot("Reward of a step", "", histogram(store.column("reward"))),
        plot(
            "Steps of an episode",
            "",
            partial(store_figures.histogram, lengths[~outside], lengths[outside], whole=True),
        ),
        plot(
            "Return, episode by episode",
            "",
            partial(store_figures.by_episode, returns, outside),
        ),
    ]
    return [f'<div class="plots">{"".join(found)}</div>']


def _fields(store: EpisodeStore) -> list[str]:
    made, _ = _rows(store)
    action = store.task.action.to_physical(store.column("action")[made])
    streams = [(f"{store.task.action.topic} (command)", store.task.action.fields, action)]
    first = 0
    for stream in store.task.proprioception:
        last = first + len(stream.fields)
        values = store.column("proprioception")[:, first:last]
        streams.append((stream.topic, stream.fields, values))
        first = last
    rows = []
    for topic, fields, values in streams:
        numbers = values.astype(np.float64)
        for field, name in enumerate(fields):
            column = numbers[:, field]
            figures = (column.min(), column.mean(), column.max(), column.std())
            cells = "".join(f'<td class="number">{x:.4g}</td>' for x in figures)
            rows.append(
                f'<tr><th scope="row">{swatch(field)} {escape(name)}</th>'
                f"<td>{escape(topic)}</td>{cells}</tr>"
            )
    head = "".join(
        f'<th scope="col" class="number">{n}</th>' for n in ("min", "mean", "max", "std")
    )
    words = "Physical units, over both splits. The lines are those of the time plots."
    head = '<th scope="col">field</th><th scope="col">topic</th>' + head
    return [paragraph(words, "note"), _long_table(head, rows)]


def _table(facts: Sequence[EpisodeFacts], shown: set[int]) -> str:
    rows = []
    for f in facts:
        name = f'<a href="#episode-{f.index}">{f.index}</a>' if f.index in shown else str(f.index)
        numbers = (f"{f.steps}", f"{f.duration_s:.1f}", f"{f.total_reward:.4g}",
                   f"{f.longest_gap_ms:.0f}")  # fmt: skip
        cells = "".join(f'<td class="number">{n}</td>' for n in numbers)
        rows.append(
            f'<tr><th scope="row">{name}</th><td>{escape(f.source)}</td>'
            f"<td>{chip(split_name(f))}</td><td>{chip(f.outcome) if f.outcome else ''}</td>{cells}"
            f"<td>{'ended' if f.ended else 'cut'}</td></tr>"
        )
    names = ("steps", "seconds", "return", "longest gap, ms")
    head = "".join(f'<th scope="col" class="number">{n}</th>' for n in names)
    before = "".join(f'<th scope="col">{n}</th>' for n in ("episode", "source", "split", "outcome"))
    return _long_table(f'{before}{head}<th scope="col">end</th>', rows)


def _long_table(head: str, rows: Sequence[str]) -> str:
    """A table that scrolls by itself; head and rows are HTML."""
    return (
        f'<div class="scroll long"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _import(store: EpisodeStore, report: Mapping[str, Any]) -> list[str]:
    found = []
    breaks = report.get("breaks")
    if isinstance(breaks, Mapping) and breaks:
        found.append(table("Why episodes were cut", list(breaks.items()), numbers=True))
    topics = _topics(report)
    if topics:
        header = list(dict.fromkeys(name for counts in topics.values() for name in counts))
        rows = [[topic, *(f"{c.get(n, 0):,}" for n in header)] for topic, c in topics.items()]
        found.append(table("Messages, all bags", rows, ["topic", *header], numbers=True))
    text = json.dumps(report, indent=1)
    if len(text) > MAX_REPORT_CHARACTERS:
        text = text[:MAX_REPORT_CHARACTERS] + "\n... the rest is in report.json of the store"
    return [
        beside(found),
        paragraph(f"Data {store.data_hash[:16]}, task {store.task.hash[:16]}.", "note"),
        folded("The whole report", text),
    ]


def _topics(report: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Topic -> sums over the bags of all that was counted."""
    found: dict[str, Counter[str]] = {}
    for bag in report.get("bags", ()):
        for topic, account in bag.get("topics", {}).items():
            counts = {k: v for k, v in account.items() if isinstance(v, int)}
            found.setdefault(topic, Counter()).update(counts)
    return found
