"""Closed-loop episodes of several policies and of what they are measured against, on record.

A row is one contender under one variation. Its record, ``<contender>.json`` or
``<contender>.<variation>.json``, grows episode by episode, so that an interruption costs no episode
that was finished. Pictures for the films of the first episodes lie in ``<contender>_films``.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from fog_bringup.closed_loop import (
    Record,
    evaluate_over_ros,
    evaluate_without_ros,
    free_domain_id,
    make_record,
)
from fog_bringup.closed_loop_plan import NOMINAL, Contender, Plan, Row
from fog_bringup.closed_loop_takes import Take
from fog_bringup.operator_drivers import make_operator_driver
from fog_bringup.progress import Report
from fog_bringup.reference_drivers import make_reference_driver
from fog_bringup.robots.variations import SCENE
from fog_bringup.success import Criterion, criterion_of, limit_steps
from fog_policy import exit_signals
from fog_policy.control_report import write_json
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


class ClosedLoopRecords:
    """Measures what is missing, and keeps what there is."""

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
        if plan.films < 0:
            raise FogError(f"--films {plan.films}: expected 0 or more")
        if task.robot != "go2" and (scene := [v for v in plan.vary if v in SCENE]):
            raise FogError(
                f"--vary {','.join(scene)}: the scene of the simulated {task.robot} cannot be "
                "varied; what can be is latency, lost-frames"
            )
        if plan.driver:
            make_reference_driver(task)
        if any(contender.kind == "operator" for contender in contenders):
            make_operator_driver(task)
        self.folder, self.task, self.plan = folder, task, plan
        self.contenders = list(contenders)
        self.criterion: Criterion | None = criterion_of(task)
        self.max_steps = limit_steps(task, plan.limit_s)
        self._given_up = threading.Event()
        self._domains: set[int] = set()
        self._domains_lock = threading.Lock()
        driving = [c for c in contenders if c.over_ros]
        self.rows = [Row(c, NOMINAL) for c in contenders]
        self.rows += [Row(c, v) for v in plan.vary for c in driving]
        self._records = {row.key: self._open(row) for row in self.rows}

    # Measuring

    def measure(
        self,
        progress: Report,
        finished: Callable[[Row], None] = lambda row: None,
        *,
        jobs: int = 1,
    ) -> None:
        """Run the episodes that are not on record yet.

        Rows know nothing of each other, so the records do not depend on how many are measured at
        the same time, but for what a busy machine does to the timing of nodes.

        Args:
            progress: Told the episodes done, of a row and of all together.
            finished: Given each row that has become complete.
            jobs: Rows over ROS topics measured side by side, each in nodes and a ROS domain of its
                own; what needs no topics comes after them.

        Raises:
            FogError: A node failed; what was finished before is on record.
            KeyboardInterrupt: The same.
        """
        if jobs < 1:
            raise FogError(f"--jobs {jobs}: expected at least 1")
        left = {row.key: seeds for row in self.rows if (seeds := self._left(row))}
        done = dict.fromkeys(left, 0)
        lock = threading.Lock()

        def go(row: Row) -> None:
            seeds = left[row.key]

            def tell(text: str, count: int, of: int) -> None:
                with lock:
                    done[row.key] = count
                    progress(row.key, count, of)
                    progress("all episodes", sum(done.values()), sum(map(len, left.values())))

            tell("", 0, len(seeds))
            self._measure(row, seeds, tell)
            with lock:
                finished(row)

        todo = [row for row in self.rows if row.key in left]
        if jobs == 1:
            for row in todo:
                go(row)
        else:
            self._side_by_side(todo, go, jobs)

    def _side_by_side(self, rows: Sequence[Row], go: Callable[[Row], None], jobs: int) -> None:
        def go_unless_given_up(row: Row) -> None:
            if self._given_up.is_set():
                return
            try:
                go(row)
            except BaseException:
                self._given_up.set()
                raise

        pool = ThreadPoolExecutor(jobs)
        try:
            running = [
                pool.submit(go_unless_given_up, row) for row in rows if row.contender.over_ros
            ]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            errors = [error for future in done if (error := future.exception()) is not None]
            # Those that were told to give up say nothing about why.
            errors.sort(key=lambda error: isinstance(error, KeyboardInterrupt))
            if errors:
                raise errors[0]
        finally:
            self._given_up.set()
            with exit_signals.ignored():
                pool.shutdown(cancel_futures=True)
            self._given_up.clear()
        for row in rows:
            if not row.contender.over_ros:
                go(row)

    def _left(self, row: Row) -> list[int]:
        known = {e["seed"] for e in self._records[row.key]["episodes"]}
        return [seed for seed in self.plan.seeds if seed not in known]

    def _measure(self, row: Row, seeds: Sequence[int], progress: Report) -> None:
        contender = row.contender
        self._save(row)  # from now on a part beside it belongs to this setting
        if not contender.over_ros:

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
        filmed = [] if row.vary else [s for s in seeds if s in self.plan.seeds[: self.plan.films]]
        try:
            with self._domain() as domain_id:
                evaluate_over_ros(
                    self.task,
                    contender.bundle,
                    seeds,
                    output=self._part(row),
                    max_steps=self.max_steps,
                    vary=row.vary,
                    speed=self.plan.speed,
                    progress=progress,
                    domain_id=domain_id,
                    films=self._films(contender),
                    filmed=filmed,
                    stopped=self._given_up.is_set,
                )
        finally:
            self._take_part(row)

    @contextlib.contextmanager
    def _domain(self) -> Iterator[int]:
        """A ROS domain that no other row has, before its nodes have taken the domain's ports."""
        with self._domains_lock:
            domain_id = free_domain_id(self._domains)
            self._domains.add(domain_id)
        try:
            yield domain_id
        finally:
            with self._domains_lock:
                self._domains.discard(domain_id)

    # Records

    def path(self, row: Row) -> Path:
        """Where a row's record lies."""
        return self.folder / f"{row.key}.json"

    def _part(self, row: Row) -> Path:
        return self.folder / f"{row.key}.now.json"

    def _open(self, row: Row) -> Record:
        path, setting = self.path(row), self._setting(row)
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
        return {
            "controller": row.contender.kind,
            "bundle": row.contender.hash,
            "task": self.task.hash,
            "max_steps": self.max_steps,
            "vary": list(row.vary),
            "speed": self.plan.speed if row.contender.over_ros else None,
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
        write_json(self.path(row), self._records[row.key])

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

    # Films

    def _films(self, contender: Contender) -> Path:
        return self.folder / f"{contender.name}_films"

    def takes(self, contender: Contender) -> dict[int, Take]:
        """Seed -> pictures of the first episodes without variation, where they were kept.

        Raises:
            FogError: A file is damaged.
        """
        folder = self._films(contender)
        seeds = [s for s in self.plan.seeds[: self.plan.films] if (folder / f"{s}.npz").exists()]
        on_record = {e["seed"] for e in self._records[Row(contender, NOMINAL).key]["episodes"]}
        return {s: Take.load(folder / f"{s}.npz") for s in seeds if s in on_record}
