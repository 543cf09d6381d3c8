"""The page about global models' errors: ``evaluation.json`` and ``evaluation.html``."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from fog_bringup import evaluation_figures as drawing
from fog_bringup.evaluation_verdict import claims, interval
from fog_bringup.report_page import (
    beside,
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
from fog_world_model.evaluation.evaluate_global import GlobalEvaluation
from fog_world_model.evaluation.horizon_errors import LOCAL, MARKS

Figures = Mapping[str, Any]
"""Content of ``evaluation.json``."""

SECTIONS = {
    "frames": "What is imagined",
    "likeness": "How alike the frames are",
    "object": "Where the object is",
    "actions": "Whether actions matter",
    "reward": "Reward and end",
    "drift": "Drift",
    "table": "All figures",
    "cost": "What was trained",
    "method": "How it was measured",
}
"""Anchor -> heading."""
_COLUMNS = {
    "psnr": ("PSNR, dB", 2),
    "psnr_gain": ("PSNR gain on the last frame, dB", 2),
    "psnr_gain_over_local": ("PSNR gain on the local model, dB", 2),
    "ssim": ("SSIM", 3),
    "perceptual_distance": ("perceptual distance", 3),
    "object_error_px": ("object off, px", 2),
    "object_lost": ("object lost", 2),
    "reward_error": ("reward off", 3),
    "reward_correlation": ("reward correlation", 2),
    "action_sensitivity": ("action sensitivity", 3),
    "colour_shift": ("colour shift, of 255", 2),
    "sharpness": ("sharpness", 2),
}
"""Figure -> caption of its table, and decimals."""
_GLANCE = ("psnr", "ssim", "object_error_px", "object_lost", "action_sensitivity")
_STYLE = """
.cards { margin-bottom: 1.6rem; }
img.film { width: 100%; image-rendering: pixelated; }
tbody th { white-space: nowrap; }
.side .scroll { flex: none; max-width: 100%; }
"""


def write_evaluation(folder: Path, evaluation: GlobalEvaluation) -> None:
    """Write ``evaluation.json`` and ``evaluation.html``; older ones stay until both are whole.

    Raises:
        FogError: A file cannot be written.
    """
    text = json.dumps(evaluation.figures, indent=1, allow_nan=False) + "\n"
    html = _html(evaluation, text)
    write_together(folder, {"evaluation.json": text, "evaluation.html": html})


def summary(figures: Figures) -> list[str]:
    """A few lines for the terminal: what was measured, and the figures at one horizon."""
    at = figures["reference_horizon"]
    lines = [f"{_windows(figures)}; {at} steps ahead:"]
    everyone = {**figures["models"], **figures["baselines"]}
    width = max(map(len, everyone))
    for name, content in everyone.items():
        parts = []
        for key, (words, places) in _COLUMNS.items():
            if key in _GLANCE:
                cell = interval(content["figures"], key, at, places)
                parts += [f"{words} {cell}"] if cell else []
        lines.append(f"  {name:{width}}  {'; '.join(parts)}")
    return lines


def _html(evaluation: GlobalEvaluation, text: str) -> str:
    figures = evaluation.figures
    judged = claims(figures)
    names, first = ", ".join(figures["models"]), next(iter(figures["models"]))
    sections = {k: v for k, v in SECTIONS.items() if k != "object" or figures["object"]}
    body = [
        f"<header>{paragraph('Evaluation of global world models', 'lead')}",
        f"<h1>{escape(figures['task']['name'])}: {escape(names)}</h1>",
        paragraph(
            f"Each model sees {figures['context']} recorded frames and then imagines what follows, "
            f"given only the commands. {_windows(figures)}; none of them was trained on. Shaded "
            "are 95\u00a0% intervals over episodes.",
            "lead",
        ),
        "</header>",
        *(paragraph(warning, "verdict") for warning in _warnings(figures)),
        paragraph(f"{first}: {headline(judged)}", "verdict"),
        cards(judged),
        _glance(figures),
        contents(sections.items()),
        *_frames(evaluation),
        *_likeness(figures),
        *_object(figures),
        *_actions(figures),
        *_reward(figures),
        *_drift(figures),
        *_tables(figures),
        *_cost(figures),
        *_method(figures, text),
    ]
    return page(f"Evaluation: {names}", body, _STYLE)


def _glance(figures: Figures) -> str:
    """What everybody comes to at one horizon, beside what it cost: to compare models by."""
    at = figures["reference_horizon"]
    everyone = {**figures["models"], **figures["baselines"]}
    columns = {
        key: found
        for key, found in _COLUMNS.items()
        if key in _GLANCE and any(key in c["figures"] for c in everyone.values())
    }
    rows = []
    for name, content in everyone.items():
        seconds = content.get("training", {}).get("seconds")
        cells = (interval(content["figures"], k, at, p) or "–" for k, (_, p) in columns.items())
        rows.append(
            [drawing.short(name, 28), *cells, "–" if seconds is None else f"{seconds:,.0f} s"]
        )
    header = ("", *(words for words, _ in columns.values()), "trained for")
    return table(f"{_steps(at)} ahead", rows, header, numbers=True)


def _windows(figures: Figures) -> str:
    data, last = figures["data"], figures["horizon"][-1]
    words = f"{data['windows']} windows of {data['episodes']} held-out episodes"
    at_last, episodes = data["windows_by_horizon"][-1], data["episodes_by_horizon"][-1]
    if at_last < data["windows"]:
        words += f", {at_last} of {episodes} episodes up to {last} steps"
    return words


def _warnings(figures: Figures) -> Iterator[str]:
    everyone = {**figures["models"], **figures["baselines"]}
    for name, content in everyone.items():
        if content.get("training", {}).get("same_data") is False:
            yield (
                f"{name} was trained on another store than this one: what is held out here may "
                "have been seen in its training."
            )
    if figures["data"]["episodes"] < 10:
        yield (
            f"There are only {figures['data']['episodes']} held-out episodes: intervals over so "
            "few are too narrow."
        )


def _section(anchor: str, *parts: str) -> Iterator[str]:
    yield "<section>"
    yield heading(anchor, SECTIONS[anchor])
    yield from parts
    yield "</section>"


def _frames(evaluation: GlobalEvaluation) -> Iterator[str]:
    at = evaluation.figures["reference_horizon"]
    first = next(iter(evaluation.figures["models"]))
    if not evaluation.examples:
        return _section("frames", paragraph("There are no windows to show."))
    parts = []
    for example in evaluation.examples:
        likeness = ", ".join(f"{name} {value:.1f} dB" for name, value in example.psnr.items())
        parts.append(
            picture(
                functools.partial(drawing.strips, [example]),
                f"Rows of frames at {', '.join(map(str, example.horizons))} steps ahead: "
                f"{', '.join(example.rows)}.",
                f"{example.title.capitalize()} window of {first} ({example.source}). "
                f"{at} steps ahead: {likeness}.",
            )
        )
        parts.append(drawing.film(example, evaluation.figures["task"]["control_hz"]))
    return _section(
        "frames",
        paragraph(
            f"Windows are ranked by the squared error of {first} {at} steps ahead, among the half "
            "in which most happens: where nothing moves, everybody is right."
        ),
        *parts,
    )


def _likeness(figures: Figures) -> Iterator[str]:
    wanted = (
        ("psnr", "Squared error", "PSNR, dB (higher is better)"),
        ("ssim", "Structure", "SSIM (higher is better)"),
        ("perceptual_distance", "Edges and colours", "1 - HaarPSI (lower is better)"),
    )
    return _section(
        "likeness",
        picture(
            functools.partial(drawing.curves, figures, wanted),
            "Three charts over the steps ahead, one line for each model and baseline.",
            "PSNR forgives blur, SSIM less so, the perceptual distance least. A model is worth its "
            "cost where it keeps clear of the dashed line of a repeated last frame.",
        ),
    )


def _object(figures: Figures) -> Iterator[str]:
    found = figures["object"]
    if not found:
        return
    name = found["name"]
    wanted = [
        ("object_error_px", "Where it is", "off, pixels (lower is better)"),
        ("object_lost", f"Frames that lose the {name}", "share (lower is better)"),
    ]
    if any("object_turn_deg" in m["figures"] for m in figures["models"].values()):
        wanted.append(("object_turn_deg", "How it is turned", "off, degrees (lower is better)"))
    elif any("object_extra" in m["figures"] for m in figures["models"].values()):
        wanted.append(("object_extra", f"Frames that invent a {name}", "share (lower is better)"))
    low, high = (f"{100 * f(found['seen']):.0f}" for f in (min, max))
    seen = low if low == high else f"{low} to {high}"
    yield from _section(
        "object",
        picture(
            functools.partial(drawing.curves, figures, wanted),
            "Charts over the steps ahead of the object's position and of how often it is lost.",
            f"The {name} is looked for by its colour and shape in recorded and in imagined frames; "
            f"in the recorded ones it was seen in {seen} %. The position is compared where both "
            "show it, so it has to be read together with the share that is lost: what a model lets "
            "fade is not counted as misplaced.",
        ),
    )


def _actions(figures: Figures) -> Iterator[str]:
    wanted = [("action_sensitivity", "Frames", "error, wrong / true actions")]
    if any("object_action_sensitivity" in m["figures"] for m in figures["models"].values()):
        wanted.append(("object_action_sensitivity", "Object's position", "error, wrong / true"))
    levels = dict.fromkeys([key for key, *_ in wanted], 1.0)
    return _section(
        "actions",
        picture(
            functools.partial(drawing.curves, figures, wanted, levels=levels),
            "Action sensitivity over the steps ahead.",
            "Mean error with the commands of another episode divided by the mean error with the "
            "true ones. At 1 (dotted) the model does not care what the robot does, and a policy "
            "cannot learn from it.",
        ),
    )


def _reward(figures: Figures) -> Iterator[str]:
    wanted = (
        ("reward_error", "Error of the reward", "mean absolute error (lower is better)"),
        ("reward_correlation", "Foresight of the reward", "correlation with the recorded"),
    )
    parts = [
        picture(
            functools.partial(drawing.curves, figures, wanted),
            "Two charts over the steps ahead: error and correlation of the reward.",
            "The reward of each step, not summed. Beside it: the last reward that was seen, "
            "repeated.",
        )
    ]
    measured = {n: m["calibration"] for n, m in figures["models"].items() if m["calibration"]}
    if measured:
        parts.append(
            picture(
                functools.partial(drawing.reliability, measured),
                "Two charts of what was predicted against what was observed: reward and end.",
                f"Do predictions mean what they say? {_horizon(figures)} steps ahead in imagined "
                "frames. Points belong on the dotted line; an end probability of 0.1 should come "
                "true once in ten times. Bars: standard deviation of the recorded rewards.",
            )
        )
        rows = [
            [
                drawing.short(name, 24),
                f"{found['reward']['expected_error']:.4f}",
                f"{found['reward']['bias']:+.4f}",
                f"{found['end']['ends']} of {sum(found['end']['count'])}",
                f"{found['end']['expected_error']:.4f}",
                f"{found['end']['log_loss']:.4f}",
                f"{found['end']['base_log_loss']:.4f}",
            ]
            for name, found in measured.items()
        ]
        header = (
            "",
            "reward: calibration error",
            "bias",
            "ends recorded",
            "end: calibration error",
            "log loss",
            "of the mean alone",
        )
        parts.append(table("Calibration", rows, header, numbers=True))
    return _section("reward", *parts)


def _horizon(figures: Figures) -> str:
    last = min(figures["settings"]["calibration_steps"], figures["horizon"][-1])
    return f"1 to {last}" if last > 1 else "1"


def _drift(figures: Figures) -> Iterator[str]:
    wanted = [
        ("colour_shift", "Mean colour", "off, of 255 (lower is better)"),
        ("sharpness", "Contrast of neighbouring pixels", "imagined / recorded"),
    ]
    if any("object_area" in m["figures"] for m in figures["models"].values()):
        wanted.append(("object_area", "Size of the object", "imagined / recorded"))
    levels = {"sharpness": 1.0, "object_area": 1.0}
    return _section(
        "drift",
        picture(
            functools.partial(drawing.curves, figures, wanted, levels=levels),
            "Charts over the steps ahead: shift of the mean colour, and sharpness.",
            "A world that drifts changes its colours; below 1 in the second chart it blurs or "
            "fades, above it makes up texture.",
        ),
    )


def _tables(figures: Figures) -> Iterator[str]:
    data = figures["data"]
    everyone = {**figures["models"], **figures["baselines"]}
    marks = [m for m in MARKS if m <= figures["horizon"][-1]]
    counts = [
        [_steps(m), data["windows_by_horizon"][m - 1], data["episodes_by_horizon"][m - 1]]
        for m in marks
    ]
    parts = [table("Held-out data", counts, ("", "windows", "episodes"), numbers=True)]
    for key, (words, places) in _COLUMNS.items():
        having = {n: c["figures"] for n, c in everyone.items() if key in c["figures"]}
        rows = [
            [_steps(m), *(interval(found, key, m, places) or "–" for found in having.values())]
            for m in marks
        ]
        rows = [row for row in rows if set(row[1:]) != {"–"}]
        if having and rows:
            names = (drawing.short(name, 24) for name in having)
            parts.append(table(words, rows, ("", *names), numbers=True))
    return _section("table", beside(parts))


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count > 1)}"


def _cost(figures: Figures) -> Iterator[str]:
    rows = []
    for name, content in {**figures["models"], **figures["baselines"]}.items():
        found = content.get("training")
        if found:
            parameters = content.get("parameters")
            rows.append(
                [
                    name,
                    *(
                        "–" if value is None else value
                        for value in (
                            found["preset"],
                            f"{parameters:,}" if parameters else None,
                            None if found["seconds"] is None else f"{found['seconds']:,.0f}",
                            found["steps"],
                            found["samples"],
                            found["device"],
                            (found["commit"] or "")[:10] or None,
                        )
                    ),
                ]
            )
    header = ("", "preset", "parameters", "seconds", "steps", "windows seen", "device", "commit")
    return _section("cost", table("Training behind the figures", rows, header, numbers=True))


def _method(figures: Figures, text: str) -> Iterator[str]:
    local = (
        " The local model alone is filtered over the same context, then follows its prior's means "
        "and decodes them."
        if LOCAL in figures["baselines"]
        else ""
    )
    return _section(
        "method",
        paragraph(
            "Windows are spread evenly over the held-out episodes. An episode that is long enough "
            "gives windows of the whole horizon; a shorter one is used from its beginning to its "
            "end. PSNR is that of the squared error averaged over windows. SSIM is that of Wang et "
            "al. 2004. The perceptual distance is 1 - HaarPSI (Reisenhofer et al. 2018): edges at "
            "two scales and colour, by a fixed formula. It uses no network, is no LPIPS, and "
            "cannot be compared with LPIPS figures of other work." + local
        ),
        paragraph(
            "Intervals: percentile bootstrap, drawing whole episodes with replacement "
            f"{figures['settings']['resamples']} times, since windows of one episode resemble each "
            "other. They say how much the choice of episodes matters, not how much training with "
            "another seed would change. Measured in "
            f"{figures['seconds']:.0f} s on {figures['settings']['device']}."
        ),
        folded("evaluation.json", text),
    )
