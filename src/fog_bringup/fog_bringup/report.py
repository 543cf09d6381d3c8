"""The demo's report: ``report.json`` for machines and ``report.html`` for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from fog_bringup import report_sections as sections
from fog_bringup.report_page import cards, contents, page, paragraph, write_together
from fog_bringup.report_verdict import claims, headline


def write_report(folder: Path, content: dict[str, Any]) -> None:
    """Write ``report.json`` and ``report.html``; an older report stays until both are whole.

    Args:
        folder: Where to write.
        content: ``json`` (what report.json holds: ``task``, ``closed_loop``, ``open_loop``,
            ``control``, ``seconds``, ``steps``, ``data``, ``settings``, ``versions``), ``frames``
            (recorded episodes, uint8 ``[time, height, width, 3]`` each), ``open_loop``
            (:class:`~fog_world_model.evaluation.open_loop.OpenLoop`), ``curves`` (``global``,
            ``local`` and ``policy``: what the training runs logged), ``closed_loop`` (records of
            ``policy``, ``random`` and ``standing``) and ``arena_m`` (side of the floor, m).

    Raises:
        FogError: A file cannot be written.
    """
    # JSON knows no NaN: what is not a number is null.
    figures_text = json.dumps(_finite(content["json"]), indent=2, allow_nan=False) + "\n"
    texts = {"report.json": figures_text, "report.html": _html(content, figures_text)}
    write_together(folder, texts)


def _html(content: Mapping[str, Any], figures_text: str) -> str:
    report = content["json"]
    name = sections.task_of(report)["name"]
    judged = claims(report)
    episodes = report["closed_loop"]["policy"]["episodes"]
    body = [
        f"<header>{paragraph('FoG demo', 'lead')}",
        f"<h1>From recordings to a policy: {escape(name)}</h1>",
        paragraph(
            "A robot was recorded. Two world models learned from the recordings what its camera "
            "will see and what reward it will get. A policy was trained only inside what they "
            f"imagine, and then drove the robot over ROS topics for {episodes} episodes. This page "
            "shows what came of it.",
            "lead",
        ),
        "</header>",
        paragraph(headline(judged), "verdict"),
        cards(judged),
        contents(sections.SECTIONS.items()),
        *sections.frames(content),
        *sections.open_loop(content),
        *sections.training(content),
        *sections.closed_loop(content),
        *sections.control(report.get("control") or {}),
        *sections.costs(content),
        *sections.provenance(report, figures_text),
    ]
    return page(f"FoG report: {name}", body)


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
