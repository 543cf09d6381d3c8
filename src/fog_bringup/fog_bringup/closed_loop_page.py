"""The page about closed-loop episodes: ``evaluation.json``, ``evaluation.html``, maps as PNG."""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from fog_bringup import closed_loop_figures as drawing
from fog_bringup.closed_loop import Record
from fog_bringup.report_page import (
    contents,
    folded,
    heading,
    page,
    paragraph,
    picture,
    table,
    write_together,
)
from fog_bringup.report_theme import LIGHT, Draw, png
from fog_world_model.errors import FogError

Figures = Mapping[str, Any]
"""Content of ``evaluation.json``."""

RESULTS, PAGE = "evaluation.json", "evaluation.html"
SECTIONS = {
    "success": "How often it succeeds",
    "variations": "When the robot or its world differs",
    "paths": "First ten episodes, good or bad",
    "films": "Films of the first episodes",
    "method": "How it was measured",
}
"""Anchor -> heading."""
_STYLE = """
tbody th { white-space: nowrap; }
main { max-width: 1160px; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
.films { display: flex; flex-wrap: wrap; gap: 0 18px; }
.films figure { margin: .4rem 0 .8rem; }
.films img { border: 3px solid var(--muted); border-radius: 4px; }
.films .yes img { border-color: var(--yes); } .films .no img { border-color: var(--no); }
"""


def write_page(
    folder: Path,
    figures: Figures,
    records: Mapping[str, Record],
    films: Mapping[str, Mapping[int, bytes]] | None = None,
) -> None:
    """Write ``evaluation.json``, ``evaluation.html`` and ``paths_<contender>.png``.

    Args:
        folder: Where to.
        figures: What was measured.
        records: Row -> its episodes.
        films: Contender -> seed -> animated WebP of that episode.

    Raises:
        FogError: A file cannot be written; pages of before then stay.
    """
    text = json.dumps(figures, indent=1, allow_nan=False) + "\n"
    write_together(folder, {RESULTS: text, PAGE: _html(figures, records, films or {})})
    try:
        for name, draw in _maps(figures, records):
            (folder / f"paths_{name}.png").write_bytes(_on_white(png(draw, LIGHT)))
    except OSError as error:
        raise FogError(f"report {folder}: cannot be written ({error.strerror})") from error


def _on_white(data: bytes) -> bytes:
    """The page's figures are transparent, which is for pages."""
    drawn = Image.open(io.BytesIO(data)).convert("RGBA")
    sheet = Image.new("RGBA", drawn.size, "white")
    buffer = io.BytesIO()
    Image.alpha_composite(sheet, drawn).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _html(
    figures: Figures, records: Mapping[str, Record], films: Mapping[str, Mapping[int, bytes]]
) -> str:
    task, episodes = figures["task"], figures["episodes"]
    criterion = figures["criterion"]
    goal = (
        f"Success: {_small(criterion['words'])[:-1]}, within {figures['limit_s']:g} s."
        if criterion
        else f"No criterion of success can be read off these records of {task['name']} (for "
        "Push-T see 'fog evaluate zero-shot'); returns only."
    )
    body = [
        f"<header>{paragraph('Policies in closed loop on the simulated robot', 'lead')}",
        f"<h1>{escape(task['name'])}: {escape(', '.join(figures['contenders']))}</h1>",
        paragraph(f"{task['description']} {goal}", "lead"),
        "</header>",
    ]
    if episodes["done"] < episodes["planned"]:
        body.append(
            paragraph(
                f"Not complete: {episodes['done']} of {episodes['planned']} episodes are finished. "
                "The same command goes on with the rest.",
                "verdict",
            )
        )
    there = {"variations": figures["variations"], "films": films}
    shown = {anchor: title for anchor, title in SECTIONS.items() if there.get(anchor, True)}
    body += [
        contents(shown.items()),
        *_success(figures),
        *(_variations(figures) if figures["variations"] else ()),
        *_paths(figures, records),
        *(_films(figures, films) if films else ()),
        *_method(figures),
    ]
    return page(f"Closed loop: {task['name']}", body, _STYLE)


def _section(anchor: str, *parts: str) -> Iterator[str]:
    yield f"<section>{heading(anchor, SECTIONS[anchor])}"
    yield from parts
    yield "</section>"


def _success(figures: Figures) -> Iterator[str]:
    names = figures["contenders"]
    rows = [[_title(names, name), *_cells(figures["rows"][name])] for name in names]
    distance = figures["criterion"]["of_distance"] if figures["criterion"] else "distance"
    header = ("", "episodes", "success", "median time to it", f"{distance} at the end", "falls",
              "return", "held by the safety filter")  # fmt: skip
    parts = [table("The same start states for all", rows, header, numbers=True)]
    if any(row["success"] for row in figures["rows"].values()):
        parts.append(
            picture(
                functools.partial(drawing.success, figures),
                "Share of episodes that succeed for every contender, with intervals.",
                "Bars are Wilson's 95\u00a0% intervals. Where two overlap widely, this many "
                "episodes do not tell them apart.",
            )
        )
    yield from _section("success", *parts)


def _title(names: Mapping[str, Any], name: str) -> str:
    return str(name if names[name]["kind"] == "bundle" else f"{name} ({names[name]['title']})")


def _cells(found: Figures) -> list[str]:
    if not found["episodes"]:
        return ["0", *["–"] * 6]
    success = found["success"]
    if success is None:
        judged = ["–"] * 4
    else:
        time, final = found["time_to_success_s"], found["final_distance_m"]
        judged = [
            f"{success['share']:.0%} [{success['low']:.0%}, {success['high']:.0%}]",
            "–" if time is None else f"{time['median']:.1f} s",
            f"{final['mean']:.2f} [{final['low']:.2f}, {final['high']:.2f}] m",
            str(found["fell"]),
        ]
    returns = f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    return [str(found["episodes"]), *judged, returns, _held(found)]


def _held(found: Figures) -> str:
    """Share of the control steps, and why, the most frequent cause first."""
    stopped = found.get("stopped")
    if stopped is None:
        return "–"
    causes = sorted(stopped["causes"].items(), key=lambda item: -item[1])
    words = ", ".join(cause.replace("_", " ") for cause, _ in causes)
    return f"{stopped['share']:.1%} of steps" + (f" ({words})" if words else "")


def _variations(figures: Figures) -> Iterator[str]:
    rows = []
    for variation, about in figures["variations"].items():
        for name in figures["contenders"]:
            found = figures["rows"].get(f"{name}.{variation}")
            if found is None:
                continue
            rows.append([f"{about['title']}: {name}", *_varied(found)])
    header = ("", "episodes", "success", "difference to nominal", "median time to it",
              "images that did not arrive", "held by the safety filter")  # fmt: skip
    words = "; ".join(f"{v['title']}: {v['words']}" for v in figures["variations"].values())
    yield from _section(
        "variations",
        paragraph(
            f"The same start states, one thing changed at a time; what was drawn for an episode "
            f"is in evaluation.json. {words}."
        ),
        table("Differences are over the same start states", rows, header, numbers=True),
        paragraph(
            "Intervals of differences: Newcombe's method 10 for paired shares. Random commands "
            "and standing are measured without variations only.",
            "note",
        ),
    )


def _varied(found: Figures) -> list[str]:
    if not found["episodes"]:
        return ["0", *["–"] * 5]
    success, change = found["success"], found["difference"]
    time, images = found.get("time_to_success_s"), found.get("images")
    return [
        str(found["episodes"]),
        f"{success['share']:.0%} [{success['low']:.0%}, {success['high']:.0%}]" if success else "–",
        f"{100 * change['share']:+.0f} [{100 * change['low']:+.0f}, {100 * change['high']:+.0f}] "
        "points"
        if change
        else "–",
        "–" if time is None else f"{time['median']:.1f} s",
        "–" if images is None else f"{images['lost_share']:.1%} of {images['pictures']:,}",
        _held(found),
    ]


def _maps(figures: Figures, records: Mapping[str, Record]) -> Iterator[tuple[str, Draw]]:
    """Contenders, and what draws their first episodes without variation."""
    for name in figures["contenders"]:
        if episodes := records[name]["episodes"][: drawing.SHOWN]:
            judged = {r["seed"]: r for r in figures["rows"][name]["per_episode"]}
            titles = [_outcome(judged[e["seed"]]) for e in episodes]
            arena_m = figures["task"]["arena_m"]
            yield name, functools.partial(drawing.paths, episodes, titles, arena_m)


def _outcome(row: Figures) -> str:
    if "success" not in row:
        return f"return {row['return']:.1f}"
    if row["success"]:
        return f"success after {row['time_s']:.1f} s"
    return f"{'fell' if row['fell'] else 'no success'}, {row['final_m']:.2f} m off"


def _paths(figures: Figures, records: Mapping[str, Record]) -> Iterator[str]:
    parts = [
        picture(
            draw,
            f"Paths of the first episodes of {name}, seen from above.",
            f"{_title(figures['contenders'], name)}.",
        )
        for name, draw in _maps(figures, records)
    ]
    legend = paragraph(
        "Without variation. Arrows: the robot at the start (hollow) and at the end; squares: the "
        "cube likewise; cross: the goal. The more reward a step earned, the stronger the blue.",
        "note",
    )
    yield from _section("paths", legend, *parts)


def _films(figures: Figures, films: Mapping[str, Mapping[int, bytes]]) -> Iterator[str]:
    fields = ", ".join(figures["task"]["action"])
    parts = [
        paragraph(
            "Left what the policy was shown, right the path from above (arrow: the robot; square: "
            "the cube; cross: the goal), at the speed of the robot. The bars are the command in "
            f"force, each within its bounds: {fields}, from the top. The bar on the right is time.",
            "note",
        )
    ]
    for name, seeds in films.items():
        judged = {r["seed"]: r for r in figures["rows"][name]["per_episode"]}
        shown = "".join(_film(name, judged[seed], data) for seed, data in seeds.items())
        title = escape(_title(figures["contenders"], name))
        parts.append(f'<h3>{title}</h3><div class="films">{shown}</div>')
    yield from _section("films", *parts)


def _film(name: str, row: Figures, data: bytes) -> str:
    kind, mark = {True: ("yes", "✓ "), False: ("no", "✗ "), None: ("na", "")}[row.get("success")]
    words = f"seed {row['seed']}: {_outcome(row)}"
    content = base64.b64encode(data).decode()
    return (
        f'<figure class="{kind}"><img src="data:image/webp;base64,{content}"'
        f' alt="Film of an episode of {escape(name)}, {escape(words)}.">'
        f'<figcaption><span class="mark">{mark}</span>{escape(words)}.</figcaption></figure>'
    )


def _method(figures: Figures) -> Iterator[str]:
    seeds, speed = figures["seeds"], figures["speed"]
    pace = f"{speed:g} times real time" if speed else "as fast as the machine allows"
    last = seeds["first"] + seeds["episodes"] - 1
    summary = {k: v for k, v in figures.items() if k != "rows"}
    summary["rows"] = {
        key: {k: v for k, v in row.items() if k not in ("per_episode", "returns")}
        for key, row in figures["rows"].items()
    }
    yield from _section(
        "method",
        paragraph(
            f"{seeds['episodes']} episodes of at most {figures['limit_s']:g} s per row, from the "
            f"seeds {seeds['first']} to {last}, from which no recording begins but by chance (its "
            "seeds are drawn from the whole range of 32 bits). Bundles"
            + (
                " and the scripted driver, which is a little unsteady,"
                if "driver" in figures["contenders"]
                else ""
            )
            + f" drive over ROS topics, in processes of their own, at {pace}; robot time waits for "
            "a policy that the machine makes late. Random commands (uniform, drawn anew for every "
            "step) and standing"
            + (
                ", and the operator, which knows what the camera has shown so far and whose "
                "unsteadiness differs per episode,"
                if "operator" in figures["contenders"]
                else ""
            )
            + " need no topics and were measured without."
        ),
        paragraph(
            "Success is read off the ground truth at the control steps. Shares have Wilson's "
            "95\u00a0% intervals, returns and distances a bootstrap over episodes. They cover "
            "which start states were drawn, not which policy a training came to."
        ),
        folded("evaluation.json, without single episodes", json.dumps(summary, indent=1)),
    )


def _small(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def printed(figures: Figures) -> dict[str, Any]:
    """What the command prints: rows without single episodes."""
    return {
        key: {k: v for k, v in row.items() if k != "per_episode"}
        for key, row in figures["rows"].items()
    }
