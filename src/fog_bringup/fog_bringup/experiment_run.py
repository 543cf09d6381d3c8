"""One method with one seed: learning, with evaluations on the real game along the way.

The folder of a run is enough to go on after it was interrupted: ``policy`` holds the learner until
the end, then ``policy.bundle`` what it has learned; ``run.json``, which says what it came to, is
written last.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fog_bringup.film import film_of
from fog_bringup.zero_shot import FILMED, ZeroShot, evaluate_policy
from fog_policy.bundle import export_bundle
from fog_policy.learner import Learner
from fog_policy.policy_training import Finishing, LearnerCheckpoint, Scheduled
from fog_world_model.data.durable import replace_file
from fog_world_model.data.episodes import EpisodeStore, Normalisation
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

RUN, POLICY, BUNDLE, FILM = "run.json", "policy", "policy.bundle", "film.webp"
ROWS = 400
"""Rows of the learner's log that are kept, besides those with a check of its gradient."""
CHECKED = "gradient_cosine"

Show = Callable[[float, str], None]
"""Told the share of the run that is over, and a line for people."""


@dataclass(frozen=True)
class RunPlan:
    """How long to learn, and when to look at what was learned."""

    time_budget_s: float
    """Wall-clock seconds of learning; evaluations are not counted."""
    max_imagined_steps: int | None = None
    """Steps of environments after which learning ends, if the time does not run out before."""
    evaluations: int = 8
    """Evaluations after the beginning, at equal shares of the run; the last one is its end."""
    episodes: int = 100
    """Episodes at the end."""
    episodes_along: int = 50
    """Episodes of every evaluation before: the first ones of those at the end."""
    checkpoint_every_s: float = 120.0

    def done(self, seconds: float, imagined_steps: int) -> float:
        """Share of the run that is over, at least 1 at its end."""
        share = seconds / self.time_budget_s
        if self.max_imagined_steps:
            share = max(share, imagined_steps / self.max_imagined_steps)
        return share

    def due(self, done: float, after: float | None) -> float | None:
        """The latest point at which there should be an evaluation that has not been.

        Args:
            done: Share of the run that is over.
            after: Point of the last evaluation; None before the first.

        Returns:
            A share in [0, 1], or None.
        """
        reached = [k / self.evaluations for k in range(self.evaluations + 1)
                   if k / self.evaluations <= done]  # fmt: skip
        return reached[-1] if after is None or reached[-1] > after else None


@dataclass
class _Place:
    """How far a run has come."""

    updates: int
    seconds: float
    curve: list[dict[str, float]]
    evaluations: list[dict[str, Any]]


class ExperimentRun:
    """Learns, evaluates, saves; :meth:`go` may be called again after an interruption."""

    def __init__(
        self,
        folder: Path,
        task: TaskConfig,
        plan: RunPlan,
        seeds: Sequence[int],
        *,
        robots: int = 25,
    ) -> None:
        """Set a run up.

        Args:
            folder: Of the run.
            task: That of the learner, on Push-T.
            plan: How long, and when to evaluate.
            seeds: Start states of the evaluation at the end.
            robots: Most robots side by side in an evaluation.
        """
        self.folder, self.task, self.plan = folder, task, plan
        self._seeds, self._robots = seeds, robots

    def finished(self) -> dict[str, Any] | None:
        """What the run came to; None before its end."""
        path = self.folder / RUN
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FogError(f"{path}: not valid JSON: {error}; delete it to repeat the run") from (
                error
            )
        return content

    def go(
        self,
        learner: Learner,
        manifest: Mapping[str, Any],
        store: EpisodeStore | None = None,
        *,
        show: Show = lambda share, text: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Learn until the budget is used up, from where the folder says.

        Args:
            learner: Fresh from its factory.
            manifest: See :class:`fog_policy.policy_training.LearnerCheckpoint`.
            store: Recordings, for the range of the surprise in the bundle; None: without one.
            show: Told how far it is.
            stopped: Asked between updates, and between the steps of evaluations.

        Returns:
            The content of ``run.json``.

        Raises:
            FogError: Something is not finite, or the checkpoint is of another run.
            KeyboardInterrupt: ``stopped`` said so; the checkpoint is written.
        """
        checkpoint = LearnerCheckpoint(self.folder / POLICY, manifest)
        place = self._place(checkpoint, learner)
        normalisation = Normalisation.from_dict(dict(manifest["normalisation"]))

        def save() -> None:
            checkpoint.save(
                learner, updates=place.updates, seconds=place.seconds, curve=place.curve,
                evaluations=place.evaluations,
            )  # fmt: skip

        plan, saved, shot = self.plan, time.monotonic(), None
        while True:
            done = plan.done(place.seconds, learner.imagined_steps)
            if isinstance(learner, Finishing) and learner.finished:
                done = max(done, 1.0)
            before = place.evaluations[-1]["share"] if place.evaluations else None
            if (point := plan.due(done, before)) is not None:
                if place.evaluations or place.updates:
                    save()  # an evaluation takes a while: an interruption should not cost more
                shot = self._evaluate(learner, normalisation, point, show, stopped)
                place.evaluations.append(
                    {
                        "share": point,
                        "updates": place.updates,
                        "imagined_steps": learner.imagined_steps,
                        "seconds": place.seconds,
                        **shot.figures(),
                        "max_coverage": shot.max_coverage,
                    }
                )
                save()
                saved = time.monotonic()
            if done >= 1.0:
                break
            if stopped():
                save()
                raise KeyboardInterrupt
            if isinstance(learner, Scheduled):
                learner.progress = min(done, 1.0)
            begun = time.perf_counter()
            log = learner.update()
            place.seconds += time.perf_counter() - begun
            place.updates += 1
            row = {**log, "update": place.updates, "imagined_steps": learner.imagined_steps,
                   "seconds": round(place.seconds, 3)}  # fmt: skip
            place.curve.append({k: v for k, v in row.items() if _kept(v)})
            if len(place.curve) > 2 * ROWS:
                place.curve = [r for i, r in enumerate(place.curve) if i % 2 == 0 or CHECKED in r]
            last = place.evaluations[-1]["mean_max_coverage"]
            show(
                min(done, 0.999), f"{learner.imagined_steps:,} imagined steps, coverage {last:.2f}"
            )
            if time.monotonic() - saved > plan.checkpoint_every_s:
                save()
                saved = time.monotonic()
        shot = shot or self._again(learner, normalisation)
        return self._finish(learner, manifest, place, shot, store)

    def _place(self, checkpoint: LearnerCheckpoint, learner: Learner) -> _Place:
        path = checkpoint.path
        if not path.exists() and not path.with_name(f"{path.name}.old").exists():
            return _Place(0, 0.0, [], [])
        found = checkpoint.load(learner)
        return _Place(
            int(found["updates"]),
            float(found["seconds"]),
            list(found["curve"]),
            list(found["evaluations"]),
        )

    def _again(self, learner: Learner, normalisation: Normalisation) -> ZeroShot:
        """The last evaluation once more: its frames went when the run was interrupted after it."""
        return self._evaluate(learner, normalisation, 1.0, lambda s, t: None, lambda: False)

    def _evaluate(
        self,
        learner: Learner,
        normalisation: Normalisation,
        point: float,
        show: Show,
        stopped: Callable[[], bool],
    ) -> ZeroShot:
        final = point >= 1.0
        number = self.plan.episodes if final else self.plan.episodes_along
        show(min(point, 0.999), f"evaluating at {point:.0%}")
        return evaluate_policy(
            self.task,
            learner.local_model,
            learner.policy,
            normalisation,
            self._seeds[:number],
            robots=self._robots,
            filmed=FILMED if final else 0,
            stopped=stopped,
        )

    def _finish(
        self,
        learner: Learner,
        manifest: Mapping[str, Any],
        place: _Place,
        shot: ZeroShot,
        store: EpisodeStore | None,
    ) -> dict[str, Any]:
        policy, bundle = self.folder / POLICY, self.folder / BUNDLE
        export_bundle(policy, bundle, store)
        film = film_of(shot.frames, self.task.control_hz)
        part = self.folder / f"{FILM}.part"
        part.write_bytes(film)
        part.replace(self.folder / FILM)
        content = {
            "method": manifest["method"],
            "config": manifest["config"],
            "updates": place.updates,
            "imagined_steps": learner.imagined_steps,
            "seconds": place.seconds,
            "evaluations": place.evaluations,
            "log": place.curve,
            "warnings": list(getattr(getattr(learner, "health", None), "warnings", {}).values()),
        }
        replace_file(self.folder / RUN, json.dumps(content, indent=1, allow_nan=False) + "\n")
        # Buffers of imagined trajectories are large, and nobody goes on from here.
        shutil.rmtree(policy, ignore_errors=True)
        return content


def _kept(value: object) -> bool:
    """Whether it is a finite number; a log may hold a figure that was not to be had."""
    return isinstance(value, (int, float)) and bool(np.isfinite(value))
