"""Closed-loop episodes of several policies and of what they are measured against, side by side.

A row is one contender under one variation. Its record, ``<contender>.json`` or
``<contender>.<variation>.json``, grows episode by episode, so that an interruption costs no episode
that was finished; the report is drawn from the records there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fog_bringup.closed_loop import Record, evaluate_over_ros, evaluate_without_ros, make_record
from fog_bringup.progress import Report
from fog_bringup.reference_drivers import make_reference_driver
from fog_bringup.robots.variations import SCENE, VARIATIONS
from fog_bringup.success import Criterion, criterion_of, judge, limit_steps
from fog_policy.bundle import load_bundle
from fog_policy.control_report import write_json
from fog_policy.evaluation import (
    bootstrap_mean,
    paired_difference,
    summarise_returns,
    wilson,
)
from fog_policy.shipped_policies import find_bundle
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

NOMINAL = "nominal"
FIRST_SEED = 1_000_000
"""First seed of the start states; recordings draw theirs from the whole range of 32 bits."""
EPISODES = 50
Kind = Literal["bundle", "driver", "random", "standing"]
_WORDS = {
    "driver": "scripted driver, sees the ground truth",
    "random": "random commands",
    "standing": "standing still",
}


@dataclass(frozen=True)
class Contender:
    """Who drives."""

    name: str
    kind: Kind
    bundle: Path | None = None

    @property
    def title(self) -> str:
        """For people."""
        return _WORDS.get(self.kind, self.name)


@dataclass(frozen=True)
class Plan:
    """What is measured, and how."""

    episodes: int = EPISODES
    first_seed: int = FIRST_SEED
    speed: float = 4.0
    """Robot seconds per second; 0: as fast as possible."""
    limit_s: float = 0.0
    """Longest episode, s; 0: see :func:`fog_bringup.success.limit_steps`."""
    vary: tuple[str, ...] = ()
    driver: bool = False
    """Whether the scripted driver is measured too."""

    @property
    def seeds(self) -> range:
        """One episode starts from each."""
        return range(self.first_seed, self.first_seed + self.episodes)


@dataclass(frozen=True)
class Row:
    """One contender under one variation, or under none."""

    contender: Contender
    variation: str

    @property
    def vary(self) -> tuple[str, ...]:
        """What differs from episode to episode."""
        return () if self.variation == NOMINAL else (self.variation,)

    @property
    def key(self) -> str:
        """``name``, or ``name.variation``."""
        tail = "" if self.variation == NOMINAL else f".{self.variation}"
        return f"{self.contender.name}{tail}"


def contenders_of(bundles: Sequence[Path], *, driver: bool) -> tuple[TaskConfig, list[Contender]]:
    """Open bundles, and put beside them what they are measured against.

    Args:
        bundles: Folders, or names of shipped policies; each is called by its folder's name without
            ``.bundle``, after its parent's where two are called the same.
        driver: Whether the scripted driver is one of them.

    Returns:
        Their task, and the contenders: bundles, driver, random, standing.

    Raises:
        FogError: A bundle cannot be opened, two are of different tasks, or names are taken.
    """
    if not bundles:
        raise FogError("evaluate policy: give at least one bundle")
    bundles = [find_bundle(bundle) for bundle in bundles]
    task = load_bundle(bundles[0]).task
    for bundle in bundles[1:]:
        load_bundle(bundle, task)
    names = [_stem(bundle) for bundle in bundles]
    if len(set(names)) < len(names):
        names = [f"{bundle.absolute().parent.name}-{_stem(bundle)}" for bundle in bundles]
    others: list[Kind] = ["random", "standing"]
    if driver:
        others.insert(0, "driver")
    if doubled := sorted({n for n in names if names.count(n) > 1 or n in others}):
        raise FogError(
            f"bundle names {', '.join(doubled)}: taken twice; rename the folders, which are the "
            "names in the report"
        )
    found = [Contender(n, "bundle", b) for n, b in zip(names, bundles, strict=True)]
    return task, [*found, *(Contender(kind, kind) for kind in others)]


def _stem(bundle: Path) -> str:
    return bundle.absolute().name.removesuffix(".bundle")


class ClosedLoopReport:
    """Measures what is missing, and says what there is."""

    def __init__(
        self, folder: Path, task: TaskConfig, contenders: Sequence[Contender], plan: Plan
    ) -> None:
        """Look at what is in the folder; nothing is written yet.

        Args:
            folder: For the records.
            task: Of all bundles.
            contenders: See :func:`contenders_of`.
            plan: What is measured.

        Raises:
            FogError: The plan is impossible, or a record there was measured in another way.
        """
        if plan.episodes < 1:
            raise FogError(f"--episodes {plan.episodes}: expected at least 1")
        if task.robot != "go2" and (scene := [v for v in plan.vary if v in SCENE]):
            raise FogError(
                f"--vary {','.join(scene)}: the scene of the simulated {task.robot} cannot be "
                "varied; what can be is latency, lost-frames"
            )
        if plan.driver:
            make_reference_driver(task)
        self.folder, self.task, self.plan = folder, task, plan
        self.contenders = list(contenders)
        self.criterion: Criterion | None = criterion_of(task)
        self.max_steps = limit_steps(task, plan.limit_s)
        driving = [c for c in contenders if c.kind in ("bundle", "driver")]
        self.rows = [Row(c, NOMINAL) for c in contenders]
        self.rows += [Row(c, v) for v in plan.vary for c in driving]
        self._records = {row.key: self._open(row) for row in self.rows}

    # Measuring

    def measure(
        self, progress: Report, finished: Callable[[str], None] = lambda line: None
    ) -> None:
        """Run the episodes that are not on record yet.

        Args:
            progress: Told the episodes done, of a row and of all together.
            finished: Given a line about each row that has become complete.

        Raises:
            FogError: A node failed; what was finished before is on record.
            KeyboardInterrupt: The same.
        """
        left = {row.key: self._left(row) for row in self.rows}
        total, before = sum(map(len, left.values())), 0
        for row in self.rows:
            seeds = left[row.key]
            if not seeds:
                continue

            def tell(text: str, done: int, of: int, row: Row = row, before: int = before) -> None:
                progress(row.key, done, of)
                progress("all episodes", before + done, total)

            tell("", 0, len(seeds))
            self._measure(row, seeds, tell)
            before += len(seeds)
            finished(self.line(row))

    def _left(self, row: Row) -> list[int]:
        known = {e["seed"] for e in self._records[row.key]["episodes"]}
        return [seed for seed in self.plan.seeds if seed not in known]

    def _measure(self, row: Row, seeds: Sequence[int], progress: Report) -> None:
        contender = row.contender
        self._save(row)  # from now on a part beside it belongs to this setting
        if contender.kind in ("random", "standing"):

            def keep(episode: dict[str, Any]) -> None:
                self._records[row.key]["episodes"].append(episode)
                self._save(row)

            evaluate_without_ros(
                self.task,
                contender.kind,
                seeds,
                max_steps=self.max_steps,
                progress=progress,
                finished=keep,
            )
            return
        try:
            evaluate_over_ros(
                self.task,
                contender.bundle,
                seeds,
                output=self._part(row),
                max_steps=self.max_steps,
                vary=row.vary,
                speed=self.plan.speed,
                progress=progress,
            )
        finally:
            self._take_part(row)

    # Records

    def _path(self, row: Row) -> Path:
        return self.folder / f"{row.key}.json"

    def _part(self, row: Row) -> Path:
        return self.folder / f"{row.key}.now.json"

    def _open(self, row: Row) -> Record:
        path, setting = self._path(row), self._setting(row)
        record = make_record(self.task, row.contender.kind, [], self.max_steps)
        record["setting"] = setting
        self._records = {**getattr(self, "_records", {}), row.key: record}
        if not path.exists():
            return record
        try:
            known: Record = json.loads(path.read_text(encoding="utf-8"))
            record["episodes"] = list(known["episodes"])
        except (ValueError, KeyError, TypeError) as error:
            raise FogError(f"{path}: not a record of episodes ({error}); delete it") from error
        before = known.get("setting", {})
        if differs := [k for k in setting if before.get(k) != setting[k]]:
            changes = "; ".join(
                f"{k} {before.get(k, 'unknown')}, now {setting[k]}" for k in differs
            )
            raise FogError(
                f"{path} was measured in another way ({changes}): give another --output, or delete "
                "the file"
            )
        if self._part(row).exists():
            self._take_part(row)
        return record

    def _setting(self, row: Row) -> dict[str, Any]:
        """What episodes on one record have in common."""
        bundle = row.contender.bundle
        over_ros = row.contender.kind in ("bundle", "driver")
        return {
            "controller": row.contender.kind,
            "bundle": None if bundle is None else _hash(bundle),
            "task": self.task.hash,
            "max_steps": self.max_steps,
            "vary": list(row.vary),
            "speed": self.plan.speed if over_ros else None,
        }

    def _take_part(self, row: Row) -> None:
        """Put what the node has written to what is known."""
        part = self._part(row)
        if not part.exists():
            return
        episodes = self._records[row.key]["episodes"]
        known = {e["seed"] for e in episodes}
        new: Record = json.loads(part.read_text(encoding="utf-8"))
        episodes += [e for e in new["episodes"] if e["seed"] not in known]
        self._save(row)
        part.unlink()

    def _save(self, row: Row) -> None:
        write_json(self._path(row), self._records[row.key])

    def records(self) -> dict[str, Record]:
        """Row -> its record, with the plan's episodes alone, in the order of their seeds."""
        planned = set(self.plan.seeds)
        return {
            key: {
                **record,
                "episodes": sorted(
                    (e for e in record["episodes"] if e["seed"] in planned),
                    key=lambda e: int(e["seed"]),
                ),
            }
            for key, record in self._records.items()
        }

    # What it came to

    def figures(self) -> dict[str, Any]:
        """The content of ``evaluation.json``, see ``closed_loop_page``."""
        records, plan = self.records(), self.plan
        summaries: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            nominal = summaries.get(row.contender.name)
            try:
                summary = summarise(records[row.key], self.criterion, nominal if row.vary else None)
            except FogError as error:
                raise FogError(
                    f"{self._path(row)}: {error}; delete the file to measure it again"
                ) from error
            summaries[row.key] = {
                "contender": row.contender.name,
                "variation": row.variation,
                **summary,
            }
        done = sum(s["episodes"] for s in summaries.values())
        criterion = self.criterion
        return {
            "task": {
                "name": self.task.name,
                "hash": self.task.hash,
                "description": self.task.description,
                "control_hz": self.task.control_hz,
                "arena_m": self.task.options.get("arena_m"),
            },
            "criterion": None if criterion is None else criterion.to_dict(),
            "limit_s": self.max_steps / self.task.control_hz,
            "seeds": {"first": plan.first_seed, "episodes": plan.episodes},
            "speed": plan.speed,
            "episodes": {"done": done, "planned": plan.episodes * len(self.rows)},
            "contenders": {
                c.name: {
                    "kind": c.kind,
                    "title": c.title,
                    "bundle": None if c.bundle is None else _hash(c.bundle),
                    "over_ros": c.kind in ("bundle", "driver"),
                }
                for c in self.contenders
            },
            "variations": {v: {"title": VARIATIONS[v].title, "words": VARIATIONS[v].words}
                           for v in plan.vary},
            "rows": summaries,
        }  # fmt: skip

    def line(self, row: Row) -> str:
        """What a row came to, in a line."""
        found = self.figures()["rows"][row.key]
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
        share, over the seeds that both have; ``per_episode``. Nothing but ``episodes``, 0, and
        ``success``, None, where there is none.
    """
    episodes = record["episodes"]
    if not episodes:
        return {"episodes": 0, "success": None, "difference": None, "per_episode": []}
    found: dict[str, Any] = {**summarise_returns(record), "success": None, "difference": None}
    found["missed_steps"] = sum(e["missed"] for e in episodes)
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


def _hash(bundle: Path) -> str:
    """Of the manifest, which has the hash of the weights."""
    return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()[:16]
