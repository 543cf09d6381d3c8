"""What closed-loop records come to: the figures of ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fog_bringup.closed_loop import Record
from fog_bringup.closed_loop_film import film
from fog_bringup.closed_loop_plan import Row
from fog_bringup.closed_loop_records import ClosedLoopRecords
from fog_bringup.robots.variations import VARIATIONS
from fog_bringup.success import Criterion, judge
from fog_policy.evaluation import (
    bootstrap_mean,
    paired_difference,
    summarise_returns,
    wilson,
)
from fog_world_model.errors import FogError


def figures_of(measured: ClosedLoopRecords) -> dict[str, Any]:
    """The content of ``evaluation.json``, see ``closed_loop_page``.

    Raises:
        FogError: A record lacks what its task's success is read off.
    """
    records, plan, task = measured.records(), measured.plan, measured.task
    criterion = measured.criterion
    summaries: dict[str, dict[str, Any]] = {}
    for row in measured.rows:
        nominal = summaries.get(row.contender.name)
        try:
            summary = summarise(records[row.key], criterion, nominal if row.vary else None)
        except FogError as error:
            raise FogError(
                f"{measured.path(row)}: {error}; delete the file to measure it again"
            ) from error
        summaries[row.key] = {
            "contender": row.contender.name,
            "variation": row.variation,
            **summary,
        }
    done = sum(s["episodes"] for s in summaries.values())
    return {
        "task": {
            "name": task.name,
            "hash": task.hash,
            "description": task.description,
            "control_hz": task.control_hz,
            "action": list(task.action.fields),
            "arena_m": task.options.get("arena_m"),
        },
        "criterion": None if criterion is None else criterion.to_dict(),
        "limit_s": measured.max_steps / task.control_hz,
        "seeds": {"first": plan.first_seed, "episodes": plan.episodes},
        "speed": plan.speed,
        "episodes": {"done": done, "planned": plan.episodes * len(measured.rows)},
        "contenders": {
            c.name: {
                "kind": c.kind,
                "title": c.title,
                "bundle": c.hash,
                "over_ros": c.over_ros,
            }
            for c in measured.contenders
        },
        "variations": {v: {"title": VARIATIONS[v].title, "words": VARIATIONS[v].words}
                       for v in plan.vary},
        "rows": summaries,
    }  # fmt: skip


def films_of(
    measured: ClosedLoopRecords, figures: Mapping[str, Any]
) -> dict[str, dict[int, bytes]]:
    """Films of the first episodes.

    Args:
        measured: Episodes, and the pictures that were kept of them.
        figures: What they came to.

    Returns:
        Contender -> seed -> animated WebP; nothing of those without pictures.

    Raises:
        FogError: A file of pictures is damaged.
    """
    found: dict[str, dict[int, bytes]] = {}
    records = measured.records()
    for contender in measured.contenders:
        takes = measured.takes(contender)
        episodes = {e["seed"]: e for e in records[contender.name]["episodes"]}
        success = {
            r["seed"]: r.get("success") for r in figures["rows"][contender.name]["per_episode"]
        }
        if takes:
            found[contender.name] = {
                seed: film(
                    episodes[seed],
                    take,
                    measured.task.control_hz,
                    arena_m=figures["task"]["arena_m"],
                    success=success[seed],
                )
                for seed, take in takes.items()
            }
    return found


def line(row: Row, found: Mapping[str, Any]) -> str:
    """What a row came to, in a line.

    Args:
        row: The row.
        found: Its figures.
    """
    if not found["episodes"]:
        return f"{row.key}: no episode"
    success = found["success"]
    share = (
        f"success {success['share']:.0%} [{success['low']:.0%}, {success['high']:.0%}], "
        if success
        else ""
    )
    return (
        f"{row.key}: {share}return {found['mean']:.2f} "
        f"[{found['low']:.2f}, {found['high']:.2f}], {found['episodes']} episodes"
    )


def summarise(
    record: Record, criterion: Criterion | None, nominal: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Figures of one row.

    Args:
        record: Its episodes.
        criterion: Of the task; None: nothing is known about success.
        nominal: Figures of the same contender without variation, for the difference.

    Returns:
        What :func:`fog_policy.evaluation.summarise_returns` gives; ``success`` (``count``,
        ``share``, ``low``, ``high``; Wilson's interval); ``time_to_success_s`` and
        ``final_distance_m`` (over all episodes); ``fell``, how many; ``missed_steps``; ``images``
        (pictures taken, images that arrived) where they were counted; ``difference`` to the nominal
        share, over the seeds that both have; ``stopped`` (control steps in which the safety filter
        held the robot, of all, and by cause) where a policy's node drove; ``per_episode``. Nothing
        but ``episodes``, 0, and ``success``, None, where there is none.
    """
    episodes = record["episodes"]
    if not episodes:
        return {"episodes": 0, "success": None, "difference": None, "per_episode": []}
    found: dict[str, Any] = {**summarise_returns(record), "success": None, "difference": None}
    found["missed_steps"] = sum(e["missed"] for e in episodes)
    if driven := [e for e in episodes if "stopped" in e]:
        stops = [e["stopped"] for e in driven]
        of, held = sum(len(e["base"]) - 1 for e in driven), sum(s["steps"] for s in stops)
        causes = {cause for stop in stops for cause in stop["causes"]}
        found["stopped"] = {
            "steps": held,
            "share": held / max(of, 1),
            "causes": {c: sum(s["causes"].get(c, 0) for s in stops) for c in sorted(causes)},
        }
    if counted := [e for e in episodes if "images" in e]:
        taken, arrived = (sum(e[k] for e in counted) for k in ("pictures", "images"))
        found["images"] = {
            "pictures": taken,
            "arrived": arrived,
            "lost_share": 1 - arrived / max(taken, 1),
        }
    rows = [
        {"seed": e["seed"], "return": e["return"], "conditions": e.get("conditions", {})}
        for e in episodes
    ]
    found["per_episode"] = rows
    if criterion is None:
        return found
    outcomes = [judge(criterion, e, record["control_hz"]) for e in episodes]
    for row, outcome in zip(rows, outcomes, strict=True):
        row.update(vars(outcome))
    count = sum(o.success for o in outcomes)
    found["success"] = {"count": count, **_interval(wilson(count, len(outcomes)))}
    times = [o.time_s for o in outcomes if o.time_s is not None]
    found["time_to_success_s"] = (
        {"median": float(np.median(times)), "p90": float(np.percentile(times, 90))}
        if times
        else None
    )
    finals = [o.final_m for o in outcomes]
    interval = bootstrap_mean(finals)
    found["final_distance_m"] = {**vars(interval), "median": float(np.median(finals))}
    found["fell"] = sum(o.fell for o in outcomes)
    if nominal is not None and nominal["success"] is not None:
        theirs = {r["seed"]: r["success"] for r in nominal["per_episode"]}
        if pairs := [(r["success"], theirs[r["seed"]]) for r in rows if r["seed"] in theirs]:
            first, second = zip(*pairs, strict=True)
            found["difference"] = {
                "episodes": len(pairs),
                **_interval(paired_difference(first, second)),
            }
    return found


def _interval(found: Any) -> dict[str, float]:
    return {"share": found.mean, "low": found.low, "high": found.high}
