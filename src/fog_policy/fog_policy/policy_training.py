"""One loop for every way of learning a policy: time, checkpoints, curves, progress, resume."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fog_policy.learner import Learner
from fog_world_model.errors import FogError
from fog_world_model.task import task_from_dict
from fog_world_model.training.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from fog_world_model.training.curves import Curves
from fog_world_model.training.interruption import stop_on_signal
from fog_world_model.training.loop import require_writable
from fog_world_model.training.progress import progress_bar
from fog_world_model.training.resume import differences_between

Row = dict[str, float]
MAY_CHANGE = ("device", "threads", "check_every", "check_directions")
"""Settings that a resumed run may change: what is learned does not depend on them, but for
rounding."""
LATER = {"critic_first": 0, "actor_rate_end": 1.0, "actor_average": 0.0, "anchor": 0.0}
"""Settings that there are since later, and what runs of before meant."""
ROWS = 4000
"""Most rows of the curve that a checkpoint keeps; TensorBoard has all."""


@dataclass(frozen=True)
class PolicyLoopConfig:
    """How long to train. Whatever is reached first ends the run."""

    time_budget_s: float = 300.0
    """Wall-clock seconds; runs that were interrupted and resumed count together."""
    max_updates: int | None = None
    """Updates. When given, schedules follow them and not the time, so that a run on the CPU can be
    repeated bit for bit."""
    max_imagined_steps: int | None = None
    """Steps of environments; like ``max_updates``, schedules follow them."""
    checkpoint_every_s: float = 60.0

    def done(self, updates: int, imagined_steps: int, seconds: float) -> float:
        """Share of the run that is over, at least 1 at its end."""
        shares = [seconds / self.time_budget_s if self.time_budget_s > 0 else 1.0]
        return max(shares + self._counted(updates, imagined_steps))

    def progress(self, updates: int, imagined_steps: int, seconds: float) -> float:
        """Where in its schedules the run is, 0 to 1."""
        counted = self._counted(updates, imagined_steps)
        return min(max(counted) if counted else self.done(0, 0, seconds), 1.0)

    def _counted(self, updates: int, imagined_steps: int) -> list[float]:
        pairs = ((updates, self.max_updates), (imagined_steps, self.max_imagined_steps))
        return [now / end if end > 0 else 1.0 for now, end in pairs if end is not None]


@dataclass
class PolicyResult:
    """What a training run came to."""

    updates: int
    imagined_steps: int
    seconds: float
    curve: list[Row]
    interrupted: bool


@runtime_checkable
class Scheduled(Protocol):
    """A learner with schedules: it is told before each update how much of the run is over."""

    progress: float


@runtime_checkable
class Finishing(Protocol):
    """A learner that can come to an end of its own, before its time is over."""

    @property
    def finished(self) -> bool:
        """Whether further updates would change nothing."""


class LearnerCheckpoint:
    """The checkpoint of a learner in a folder: saved again and again, and gone on from.

    Beside what the learner returns from ``state()`` it holds what a bundle is made from.
    """

    def __init__(self, path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> None:
        """Save and load at ``path``.

        Args:
            path: The folder.
            manifest: What the checkpoint says about itself. ``kind``, ``task`` and
                ``normalisation`` are needed; a run is gone on with only where ``method``,
                ``config``, ``data_hash`` and ``made_from`` are the same.
        """
        self.path, self._manifest = Path(path), dict(manifest)
        self._held: set[str] = set()  # numbered pieces that the checkpoint holds

    def save(self, learner: Learner, **values: Any) -> None:
        """Write the learner aside, with more values for the manifest, and swap it in.

        Files whose name ends in a number (full pieces of a buffer) never change; those that the
        checkpoint holds are taken over, not written again.

        Raises:
            FogError: It cannot be written.
        """
        tensors, state = learner.state()
        save_checkpoint(
            self.path,
            tensors,
            {
                **self._manifest,
                "actor_critic": dataclasses.asdict(learner.actor.config),
                "local_config": dataclasses.asdict(learner.local_model.config),
                "imagined_steps": learner.imagined_steps,
                **values,
                "learner": state,
                "files": sorted(tensors),
            },
            unchanged=self._held,
        )
        self._held = {name for name in tensors if name.rpartition("_")[2].isdigit()}

    def load(self, learner: Learner) -> dict[str, Any]:
        """Put the learner where the run was saved.

        Returns:
            The manifest.

        Raises:
            FogError: There is no checkpoint, it is damaged, or it is of another run or version;
                the differences are named.
        """
        task = task_from_dict(self._manifest["task"])
        checkpoint = open_checkpoint(self.path, str(self._manifest["kind"]), task)
        self._require_same_run(checkpoint)
        found = checkpoint.manifest
        try:
            learner.load_state(
                {name: checkpoint.tensors(name) for name in found["files"]}, found["learner"]
            )
        except FogError as error:
            raise FogError(f"checkpoint {checkpoint.path}: {error}") from error
        self._held = {name for name in found["files"] if name.rpartition("_")[2].isdigit()}
        return found

    def _require_same_run(self, checkpoint: Checkpoint) -> None:
        found, path = checkpoint.manifest, checkpoint.path
        here = json.loads(json.dumps(self._manifest))  # tuples become lists, as in the file
        needed = ("learner", "files", "updates", "seconds", "curve")
        if missing := [key for key in needed if key not in found]:
            raise FogError(
                f"checkpoint {path}: the manifest has no {', '.join(missing)}: an earlier version "
                "made it, and training cannot go on from it; train anew in another folder"
            )
        if isinstance(settings := here.get("config"), dict):
            before = {name: value for name, value in LATER.items() if name in settings}
            found = {**found, "config": {**before, **found.get("config", {})}}
        lines = [
            line
            for key in ("method", "config", "data_hash", "made_from")
            for line in differences_between(key, found.get(key), here.get(key))
            if line.split(" ")[0] not in {f"config.{name}" for name in MAY_CHANGE}
        ]
        if lines:
            raise FogError(
                f"checkpoint {path}: does not belong to this run: {'; '.join(lines[:6])}"
                f"{'; ...' if len(lines) > 6 else ''}. Give the options it was made with, or "
                "train anew in another folder"
            )


def train_learner(
    learner: Learner,
    config: PolicyLoopConfig,
    output: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    *,
    resume: bool = False,
    description: str = "policy",
    watch: Callable[[Row], None] | None = None,
) -> PolicyResult:
    """Update a learner until the time, the updates or the steps are used up.

    An interrupted run goes on bit for bit on the CPU: what an update computes depends on nothing
    but the learner's state, and on its progress, see :class:`PolicyLoopConfig`.

    Args:
        learner: What learns.
        config: How long.
        output: Folder of the checkpoint; curves for TensorBoard go to ``OUTPUT.tensorboard``.
        manifest: See :class:`LearnerCheckpoint`.
        resume: Go on from the checkpoint in ``output``.
        description: Shown beside the progress.
        watch: Called with each row of the log, after its update; the time that it takes (to
            evaluate, say) is not counted.

    Raises:
        FogError: Something is not finite, or the checkpoint cannot be written or does not fit.
    """
    output = Path(output)
    require_writable(output)
    checkpoint = LearnerCheckpoint(output, {**manifest, "loop": dataclasses.asdict(config)})
    curve, updates, before = _Curve(), 0, 0.0
    if resume:
        found = checkpoint.load(learner)
        updates, before = int(found["updates"]), float(found["seconds"])
        curve = _Curve(list(found["curve"]), int(found.get("curve_stride", 1)))
    begun = saved = time.monotonic()
    watched = 0.0

    def seconds() -> float:
        return before + time.monotonic() - begun - watched

    def save() -> None:
        counts = {name: last[name] for name in ("imagined_steps", "local_steps") if name in last}
        checkpoint.save(
            learner, updates=updates, seconds=seconds(), curve=curve.rows,
            curve_stride=curve.stride, warnings=_warnings(learner), **counts,
        )  # fmt: skip

    last: Row = curve.rows[-1] if curve.rows else {}
    first, taken_before = updates, learner.imagined_steps
    writer = Curves(f"{output}.tensorboard", updates + 1 if updates else 0)
    with stop_on_signal() as stopped, progress_bar(description) as show:
        while not stopped():
            steps = learner.imagined_steps
            if (done := config.done(updates, steps, seconds())) >= 1:
                break
            if isinstance(learner, Finishing) and learner.finished:
                break
            if updates == first:
                show(min(done, 0.999), f"update {updates}")
            if isinstance(learner, Scheduled):
                learner.progress = config.progress(updates, steps, seconds())
            log = learner.update()
            updates += 1
            last = {"imagined_steps": learner.imagined_steps, **log,
                    "update": updates, "seconds": round(seconds(), 2)}  # fmt: skip
            curve.add(last)
            writer.add({k: v for k, v in last.items() if k != "update"}, updates)
            rate = (learner.imagined_steps - taken_before) / max(seconds() - before, 1e-9)
            reward = f", reward {log['reward']:.3f}" if "reward" in log else ""
            show(min(done, 0.999), f"update {updates}, {rate:.0f} steps/s{reward}")
            if watch is not None:
                paused = time.monotonic()
                watch(last)
                watched += time.monotonic() - paused
            if time.monotonic() - saved > config.checkpoint_every_s:
                save()
                saved = time.monotonic()
        interrupted = stopped()
        save()
        show(min(config.done(updates, learner.imagined_steps, seconds()), 1.0), f"update {updates}")
    writer.close()
    return PolicyResult(updates, learner.imagined_steps, seconds(), curve.rows, interrupted)


def _warnings(learner: Learner) -> list[str]:
    """What a learner with a monitor of its health has said."""
    said = getattr(getattr(learner, "health", None), "warnings", {})
    return list(said.values())


class _Curve:
    """Rows of the log, thinned out as they become many; rows with a check of health are kept."""

    def __init__(self, rows: list[Row] | None = None, stride: int = 1) -> None:
        self.rows, self.stride = rows or [], stride

    def add(self, row: Row) -> None:
        if self._wanted(row):
            self.rows.append(row)
        if len(self.rows) > ROWS:
            self.stride *= 2
            self.rows = [row for row in self.rows if self._wanted(row)]

    def _wanted(self, row: Row) -> bool:
        return row["update"] % self.stride == 0 or "gradient_cosine" in row
