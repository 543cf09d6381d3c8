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

MAX_REMARKS = 200
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
        *_remarks(report),
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


def remarks(report: Any, kind: str, bag: str = "") -> Iterator[str]:
    """Every sentence of a kind in a report, with the bag it is about.

    Args:
        report: Of an import; that of a merged store holds those of its parts.
        kind: ``warnings`` or ``notes``: the name of lists of sentences, wherever they are.
        bag: Which bag the report is about, if it does not say so itself.
    """
    if isinstance(report, Mapping):
        bag = str(report.get("bag", bag))
        for name, value in report.items():
            if name == kind and isinstance(value, (list, tuple)):
                yield from (f"{bag}: {words}" if bag else str(words) for words in value)
            else:
                yield from remarks(value, kind, bag)
    elif isinstance(report, (list, tuple)):
        for value in report:
            yield from remarks(value, kind, bag)


def _remarks(report: Any) -> list[str]:
    warnings = list(dict.fromkeys(remarks(report, "warnings")))
    notes = list(dict.fromkeys(remarks(report, "notes")))
    if not warnings:
        warnings_html = '<ul class="warnings none"><li>The import warned of nothing.</li></ul>'
    else:
        warnings_html = _list(warnings, "warnings")
    return [warnings_html, *([_list(notes, "warnings notes")] if notes else [])]


def _list(found: Sequence[str], kind: str) -> str:
    items = [f"<li>{escape(words)}</li>" for words in found[:MAX_REMARKS]]
    if len(found) > MAX_REMARKS:
        items.append(f"<li>{len(found) - MAX_REMARKS} more, in report.json of the store</li>")
    return f'<ul class="{kind}">{"".join(items)}</ul>'


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
    for title, counts in (
        ("Why episodes were cut", report.get("breaks")),
        ("Why steps were left out", (report.get("steps") or {}).get("broken")),
    ):
        if counts:
            found.append(table(title, list(counts.items()), numbers=True))
    bags = [b for b in report.get("bags", ()) if isinstance(b, Mapping)]
    topics = _topics(bags)
    if topics:
        header = list(dict.fromkeys(name for counts in topics.values() for name in counts))
        rows = [[topic, *(_number(c.get(n)) for n in header)] for topic, c in topics.items()]
        found.append(table("Messages, all bags", rows, ["topic", *header], numbers=True))
    text = json.dumps(report, indent=1)
    if len(text) > MAX_REPORT_CHARACTERS:
        text = text[:MAX_REPORT_CHARACTERS] + "\n... the rest is in report.json of the store"
    return [
        beside(found),
        *_bags(bags),
        paragraph(f"Data {store.data_hash[:16]}, task {store.task.hash[:16]}.", "note"),
        folded("The whole report", text),
    ]


def _bags(bags: Sequence[Mapping[str, Any]]) -> list[str]:
    if not bags:
        return []
    rows = []
    for bag in bags:
        camera = bag.get("camera") or {}
        sizes = ", ".join(camera.get("sizes", ()))
        cells = "".join(
            f'<td class="number">{_number(value)}</td>'
            for value in (
                bag.get("episodes"),
                bag.get("transitions"),
                camera.get("rate_hz"),
                camera.get("jitter_ms"),
                camera.get("longest_gap_ms"),
                len(bag.get("warnings", ())),
            )
        )
        name = escape(str(bag.get("bag", "")))
        rows.append(f'<tr><th scope="row">{name}</th><td>{escape(sizes)}</td>{cells}</tr>')
    names = (
        "episodes", "transitions", "camera, Hz", "jitter, ms", "longest gap, ms", "warnings",
    )  # fmt: skip
    head = "".join(f'<th scope="col" class="number">{n}</th>' for n in names)
    return [_long_table(f'<th scope="col">bag</th><th scope="col">images</th>{head}', rows)]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _topics(bags: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Topic -> sums over the bags of all that was counted, and the oldest message used."""
    found: dict[str, dict[str, float]] = {}
    for bag in bags:
        for topic, account in bag.get("topics", {}).items():
            figures = found.setdefault(topic, {})
            for name, value in account.items():
                if isinstance(value, int):
                    figures[name] = figures.get(name, 0) + value
            for name, value in account.get("staleness_ms", {}).items():
                title = f"age {name}, ms"  # of the worst bag
                figures[title] = max(figures.get(title, 0.0), float(value))
    return found
