"""The page about an experiment, beside ``results.json``; it needs nothing but itself."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fog_bringup import experiment_figures as drawing
from fog_bringup.experiment_verdict import (
    BUDGETS,
    TOLERANCE,
    claims,
    interval,
    sentence,
    success,
)
from fog_bringup.report_page import (
    cards,
    contents,
    folded,
    heading,
    page,
    paragraph,
    picture,
    table,
    write_together,
)
from fog_bringup.report_verdict import headline

Figures = Mapping[str, Any]
"""Content of ``results.json``."""

RESULTS, PAGE = "results.json", "experiment.html"
SECTIONS = {
    "table": "What each method came to",
    "curves": "On the way",
    "words": "FoG beside the others",
    "films": "First ten episodes, good or bad",
    "seeds": "Every run",
    "cost": "World models, and where it was measured",
    "method": "How it was measured",
}
"""Anchor -> heading."""
_BASELINES = {
    "driver": "scripted driver",
    "random": "random commands",
    "standing": "standing still",
}
_STYLE = """
.cards { margin-bottom: 1.6rem; }
img.film { width: 100%; max-width: 760px; }
main { max-width: 1160px; }
tbody th { white-space: nowrap; }
ul.words { padding-left: 1.1rem; } ul.words li { margin: .25rem 0; }
ul.words .ahead { color: var(--yes); font-weight: 600; }
ul.words .behind { color: var(--no); font-weight: 600; }
"""


def write_page(folder: Path, results: Figures, films: Mapping[str, bytes]) -> None:
    """Write ``results.json`` and ``experiment.html``; older ones stay until both are whole.

    Args:
        folder: Where to.
        results: What was measured.
        films: Method or baseline -> animated WebP of its first episodes.

    Raises:
        FogError: A file cannot be written.
    """
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    write_together(folder, {RESULTS: text, PAGE: html(results, films, text)})


def html(results: Figures, films: Mapping[str, bytes], text: str) -> str:
    """The page.

    Args:
        results: What was measured.
        films: Method or baseline -> animated WebP.
        text: Of ``results.json``.
    """
    judged = claims(results)
    task, runs = results["task"], sum(len(m["seeds"]) for m in results["methods"].values())
    planned = len(results["methods"]) * results["settings"]["seeds"]
    body = [
        f"<header>{paragraph('Ways of learning a policy in a learned world', 'lead')}",
        f"<h1>{escape(task['name'])}: {escape(_names(results))}</h1>",
        paragraph(
            f"{task['description']} Each policy has seen this game only in imagination; here it "
            f"meets gym-pusht itself, from {results['evaluation']['episodes']} start states that "
            f"are the same for all, for {task['max_steps']} steps at {task['control_hz']:g} Hz. "
            "Shaded are 95\u00a0% intervals.",
            "lead",
        ),
        "</header>",
    ]
    if runs < planned:
        body.append(paragraph(f"Not complete: {runs} of {planned} runs are finished.", "verdict"))
    body += [
        paragraph(headline(judged), "verdict"),
        cards(judged),
        contents(SECTIONS.items()),
        *_section("table", _table(results)),
        *_curves(results),
        *_words(results),
        *_films(results, films),
        *_section("seeds", _seeds(results)),
        *_cost(results),
        *_method(results, text),
    ]
    return page(f"Experiment: {task['name']}", body, _STYLE)


def _section(anchor: str, *parts: str) -> Iterator[str]:
    yield f"<section>{heading(anchor, SECTIONS[anchor])}"
    yield from parts
    yield "</section>"


def _names(results: Figures) -> str:
    return ", ".join(method["title"] for method in results["methods"].values())


def _table(results: Figures) -> str:
    rows: list[Sequence[object]] = []
    for method in results["methods"].values():
        figures, ends = method["pooled"], method["seeds"]
        if figures is None:
            rows.append([method["title"], *["–"] * 6])
            continue
        rows.append(
            [
                method["title"],
                figures["training_seeds"],
                f"{_mean(ends, 'imagined_steps'):,.0f}",
                f"{_mean(ends, 'seconds'):,.0f} s",
                success(figures, 95),
                success(figures, 80),
                interval(figures),
            ]
        )
    for name, figures in results["baselines"].items():
        rows.append(
            [_BASELINES[name], "–", "–", "–", success(figures, 95), success(figures, 80),
             interval(figures)]
        )  # fmt: skip
    header = ("", "training seeds", "imagined samples", "learning", "coverage ≥ 0.95",
              "coverage ≥ 0.80", "mean maximal coverage")  # fmt: skip
    return table("At the end", rows, header, numbers=True)


def _mean(runs: Sequence[Figures], key: str) -> float:
    return float(sum(run[key] for run in runs) / len(runs))


def _curves(results: Figures) -> Iterator[str]:
    if not any(method["curve"] for method in results["methods"].values()):
        return
    percent = results["task"]["success_percent"]
    few = results["evaluation"]["episodes_along"]
    yield from _section(
        "curves",
        picture(
            functools.partial(
                drawing.curves, results, "mean_max_coverage", "mean maximal coverage"
            ),
            "Two charts of the coverage, over imagined samples and over wall-clock.",
            f"Thin lines are training seeds, thick ones their mean, over the same {few} start "
            "states all the way; diamonds are the end over all start states. In the right chart "
            "every method begins when the world models that it needs are trained.",
        ),
        picture(
            functools.partial(
                drawing.curves, results, f"success_{percent}", f"share of episodes ≥ 0.{percent}"
            ),
            "Two charts of the share of episodes that succeed.",
            f"Episodes whose coverage reaches 0.{percent}.",
        ),
        picture(
            functools.partial(drawing.health, results),
            "Two charts over the seconds of learning: reward per imagined step, and cosines.",
            "Left: where the imagined reward rises and the coverage does not, a policy exploits "
            "its world. Right: how FoG's gradient agrees with finite differences through the "
            "global model; near zero the local model is no guide.",
        ),
        *(
            paragraph(f"{method['title']}, seed {run['seed']}: {warning}", "note")
            for method in results["methods"].values()
            for run in method["seeds"]
            for warning in run["warnings"]
        ),
    )


def _words(results: Figures) -> Iterator[str]:
    rows = results["comparisons"]
    if not rows:
        yield from _section("words", paragraph("Nothing to compare FoG with is finished."))
        return
    items = "".join(
        f'<li><span class="{row["verdict"].split()[0]}">{escape(row["verdict"])}:</span> '
        f"{escape(sentence(row))}</li>"
        for row in rows
    )
    yield from _section(
        "words",
        paragraph(
            f"Mean maximal coverage at {BUDGETS} equal budgets, over the same start states, each "
            "method by its last evaluation that the budget pays for (it may be exceeded by "
            f"{TOLERANCE:.0%}). Ahead or behind: the 95\u00a0% intervals do not overlap. The cost "
            "of the world models is not in these budgets; it is in the chart."
        ),
        f'<ul class="words">{items}</ul>',
    )


def _films(results: Figures, films: Mapping[str, bytes]) -> Iterator[str]:
    parts = []
    everyone = {n: m["title"] for n, m in results["methods"].items() if m["seeds"]} | _BASELINES
    for name, title in everyone.items():
        if name not in films:
            continue
        if name in results["methods"]:
            run = results["methods"][name]["seeds"][0]
            title = f"{title}, training seed {run['seed']}"
        else:
            run = results["baselines"][name]
        covered = ", ".join(f"{value:.2f}" for value in run["max_coverage"][:10])
        data = base64.b64encode(films[name]).decode()
        parts.append(
            f'<figure><img class="film" src="data:image/webp;base64,{data}" '
            f'alt="Film of the first episodes of {escape(title)}.">'
            f"<figcaption><b>{escape(title)}.</b> Maximal coverage, row by row: {covered}."
            "</figcaption></figure>"
        )
    yield from _section("films", *parts)


def _seeds(results: Figures) -> str:
    rows = [
        [
            f"{method['title']}, seed {run['seed']}",
            f"{run['updates']:,}",
            f"{run['imagined_steps']:,}",
            f"{run['seconds']:,.0f} s",
            success(run, 95),
            success(run, 80),
            interval(run),
        ]
        for method in results["methods"].values()
        for run in method["seeds"]
    ]
    header = ("", "updates", "imagined samples", "learning", "coverage ≥ 0.95", "coverage ≥ 0.80",
              "mean maximal coverage")  # fmt: skip
    return table("Intervals here are over episodes alone", rows, header, numbers=True)


def _cost(results: Figures) -> Iterator[str]:
    models = results["world_models"]
    rows = [
        [
            f"{kind} model",
            models[kind]["preset"],
            f"{models[kind]['seconds'] or 0:,.0f} s",
            f"{models[kind]['step']:,}",
            (models[kind]["commit"] or "–")[:10],
        ]
        for kind in ("global", "local")
    ]
    machine = results["machine"]
    changed = " with changes" if results["dirty"] else ""
    yield from _section(
        "cost",
        table("World models", rows, ("", "preset", "training", "steps", "commit"), numbers=True),
        paragraph(
            f"They were fitted to {models['data']['transitions']:,} recorded control steps. "
            f"Policies learned on {machine['device']} ({machine['cores']} cores, "
            f"{machine['threads']} threads), with version {results['commit'][:10]}{changed} of the "
            "source."
        ),
    )


def _method(results: Figures, text: str) -> Iterator[str]:
    words = "; ".join(f"{m['title']}: {m['words']}" for m in results["methods"].values())
    settings, evaluation = results["settings"], results["evaluation"]
    limit = (
        f" or {settings['imagined_steps']:,} imagined samples" if settings["imagined_steps"] else ""
    )
    yield from _section(
        "method",
        paragraph(f"{words}."),
        paragraph(
            f"Every run learned for {settings['time_budget_s']:,.0f} s{limit}; the time of "
            "evaluations is not counted. Policies act by the mean of their actor, through the "
            "observation buffer and the safety filter of the deployed control loop. On the way the "
            f"first {evaluation['episodes_along']} start states are played, at the end all "
            f"{evaluation['episodes']}. No recorded episode starts from them, and no policy was "
            "chosen by them: what counts is the last one."
        ),
        paragraph(
            "The scripted driver is told where the block is. "
            "Coverage: the greatest share of the goal that the block covered in an episode. Its "
            "intervals draw training seeds and start states with replacement; those of a single "
            "run draw start states alone. Shares of episodes have Wilson's intervals, as if the "
            "episodes of all training seeds were independent."
        ),
        folded("results.json", text),
    )
