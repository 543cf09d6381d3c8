"""When an episode of a task counts as a success, read off its record.

A criterion belongs to the task: its numbers may be given under ``options`` of the task file, and
are these defaults where they are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fog_bringup.robots.rewards import DONE_BONUS, distance_and_bearing
from fog_bringup.tasks import purpose_of
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

PUSH_LIMIT_S = 40.0
"""Time for a push; episodes are recorded in shorter pieces (``episode.max_steps``)."""
DONE_DISTANCE_M = 0.4
REACHED_DISTANCE_M, REACHED_BEARING_DEG, REACHED_HOLD_S = 0.8, 30.0, 1.0
"""The nose touches the cube at 0.55 m."""


@dataclass(frozen=True)
class Criterion:
    """What makes an episode a success."""

    kind: Literal["push", "reach"]
    distance_m: float
    """push: between the cube's centre and the post; reach: between the base and the cube's centre.
    It has to be less."""
    bearing_deg: float = 180.0
    """reach: the cube is at most so far from straight ahead."""
    hold_s: float = 0.0
    """reach: for so long without a break."""

    @property
    def words(self) -> str:
        """As a sentence."""
        if self.kind == "push":
            return f"The cube's centre is less than {self.distance_m:g} m from the post."
        return (
            f"The base is less than {self.distance_m:g} m from the cube's centre and faces it "
            f"within {self.bearing_deg:g} degrees, for {self.hold_s:g} s without a break."
        )

    @property
    def of_distance(self) -> str:
        """Which distance it is about."""
        return "cube to post" if self.kind == "push" else "base to cube"

    def to_dict(self) -> dict[str, Any]:
        """Its numbers, and both in words."""
        return {**vars(self), "words": self.words, "of_distance": self.of_distance}


@dataclass(frozen=True)
class Outcome:
    """What an episode came to."""

    success: bool
    time_s: float | None
    """From the start until the criterion is fulfilled; None without a success."""
    final_m: float
    """The criterion's distance at the end of the episode."""
    nearest_m: float
    """The smallest one."""
    fell: bool
    """The episode ended early, and not by a success: the robot fell."""


def criterion_of(task: TaskConfig) -> Criterion | None:
    """The criterion of a task; None where its record does not tell, as for Push-T.

    ``options`` of the task: ``done_distance_m`` (push_cube), ``reached_distance_m``,
    ``reached_bearing_deg`` and ``reached_hold_s`` (reach_cube).
    """
    options = task.options
    if purpose_of(task) == "push_cube":
        return Criterion("push", options.get("done_distance_m", DONE_DISTANCE_M))
    if task.name == "reach_cube":
        return Criterion(
            "reach",
            options.get("reached_distance_m", REACHED_DISTANCE_M),
            options.get("reached_bearing_deg", REACHED_BEARING_DEG),
            options.get("reached_hold_s", REACHED_HOLD_S),
        )
    return None


def limit_steps(task: TaskConfig, limit_s: float = 0.0) -> int:
    """Control steps that an evaluated episode may take.

    Args:
        task: ``success_limit_s`` of its options counts where the caller gives 0; without it, 40 s
            for push_cube and ``episode.max_steps`` for every other task.
        limit_s: What the caller wants, s.
    """
    known = PUSH_LIMIT_S if purpose_of(task) == "push_cube" else 0.0
    seconds = limit_s or task.options.get("success_limit_s", known)
    return max(1, round(seconds * task.control_hz)) if seconds else task.episode.max_steps


def judge(criterion: Criterion, episode: Mapping[str, Any], control_hz: float) -> Outcome:
    """Judge an episode.

    Args:
        criterion: Of its task.
        episode: What :func:`fog_bringup.closed_loop.episode_record` gives.
        control_hz: Of its task.

    Raises:
        FogError: The record lacks the ground truth.
    """
    bases, cubes, goal = episode["base"], episode["cube"], episode["goal"]
    if not bases or len(bases) != len(cubes) or (criterion.kind == "push" and goal is None):
        raise FogError(
            f"episode of seed {episode['seed']}: {len(bases)} poses of the base, {len(cubes)} of "
            f"the cube, {'no' if goal is None else 'a'} goal: the ground truth is incomplete "
            "(/sim/cube_pose, /sim/goal_pose)"
        )
    if criterion.kind == "push":
        distances = [math.dist(cube[:2], goal[:2]) for cube in cubes]
        step = next((k for k, d in enumerate(distances) if d < criterion.distance_m), None)
        # The cube may have been there between two control steps, which the robot has seen.
        last = episode["rewards"][len(bases) - 2] if len(bases) > 1 else 0.0
        if step is None and episode["end"] and last > DONE_BONUS / 2:
            step = len(bases) - 1
    else:
        seen = [distance_and_bearing(b, c[:2]) for b, c in zip(bases, cubes, strict=True)]
        distances = [distance for distance, _ in seen]
        widest = math.radians(criterion.bearing_deg)
        step = _held(
            [d < criterion.distance_m and abs(a) <= widest for d, a in seen],
            math.ceil(criterion.hold_s * control_hz - 1e-9),
        )
    return Outcome(
        success=step is not None,
        time_s=None if step is None else step / control_hz,
        final_m=distances[-1],
        nearest_m=min(distances),
        fell=bool(episode["end"]) and (criterion.kind == "reach" or step is None),
    )


def _held(there: Sequence[bool], steps: int) -> int | None:
    """The first step that ends so many in a row, all there and at both ends too."""
    since: int | None = None
    for k, now in enumerate(there):
        since = (k if since is None else since) if now else None
        if since is not None and k - since >= steps:
            return k
    return None
