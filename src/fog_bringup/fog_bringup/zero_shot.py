"""Zero-shot episodes on Push-T: a policy that has only ever imagined the table meets the real game.

Many robots run side by side under one pass through the networks, without ROS. What a policy is
shown and how its answers become commands is the deployed control loop's way, see
:class:`fog_policy.batched_controller.BatchedController`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from fog_bringup.driver_base import Driver, RandomDriver
from fog_bringup.robots import Observation, make_robot
from fog_bringup.robots.pusht import PushTRobot
from fog_bringup.robots.streams import camera_messages, sensor_messages
from fog_bringup.seek_drivers import PushTDriver
from fog_policy.actor_critic import Actor
from fog_policy.batched_controller import BatchedController
from fog_policy.command_limits import Command
from fog_policy.evaluation import Interval, bootstrap_mean, wilson
from fog_world_model.data.episodes import Normalisation
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.task import TaskConfig

FIRST_SEED = 1_000_000
"""First seed of the start states; recordings draw theirs from the whole range of 32 bits."""
FILMED = 10
"""Episodes of which frames are kept: the first ones, good or bad."""
Baseline = Literal["driver", "random", "standing"]
BASELINES: tuple[Baseline, ...] = ("driver", "random", "standing")

Stop = Callable[[], bool]
Report = Callable[[int, int], None]
"""Called with the control steps done and their greatest number."""
_Decide = Callable[[list[PushTRobot], list[Observation]], Sequence[npt.ArrayLike]]


@dataclass(frozen=True)
class ZeroShot:
    """Episodes on the environment itself."""

    seeds: tuple[int, ...]
    coverage: tuple[tuple[float, ...], ...]
    """``[episode][step]``: at the start and after every control step, up to the end."""
    frames: tuple[npt.NDArray[np.uint8], ...]
    """Of the first episodes, ``[step, height, width, 3]`` as the camera shows them."""

    @property
    def max_coverage(self) -> list[float]:
        """The greatest coverage of every episode, its start included."""
        return [max(steps) for steps in self.coverage]

    def figures(self) -> dict[str, Any]:
        """What is reported; see :func:`coverage_figures`."""
        return coverage_figures(self.max_coverage)


def coverage_figures(max_coverage: Sequence[float]) -> dict[str, Any]:
    """Figures of episodes.

    Args:
        max_coverage: ``[episode]``, the greatest coverage of each.

    Returns:
        ``episodes``; ``success_95`` and ``success_80``, shares of episodes that reach that
        coverage, each with a 95 % interval (``success_95_low`` and so on, Wilson's);
        ``mean_max_coverage`` with ``low`` and ``high`` (95 % bootstrap over episodes).
    """
    values = np.asarray(max_coverage, np.float64)
    return with_interval(values, bootstrap_mean(values))


def with_interval(values: npt.NDArray[np.float64], interval: Interval) -> dict[str, Any]:
    """:func:`coverage_figures` of values of any shape, whose mean has this interval."""
    figures: dict[str, Any] = {"episodes": values.size}
    for percent in (95, 80):
        share = wilson(int((values >= percent / 100).sum()), values.size)
        figures[f"success_{percent}"] = share.mean
        figures[f"success_{percent}_low"] = share.low
        figures[f"success_{percent}_high"] = share.high
    return figures | {
        "mean_max_coverage": interval.mean,
        "low": interval.low,
        "high": interval.high,
    }


def evaluate_policy(
    task: TaskConfig,
    local: LocalModel,
    actor: Actor,
    normalisation: Normalisation,
    seeds: Sequence[int],
    *,
    robots: int = 25,
    filmed: int = FILMED,
    device: torch.device | str = "cpu",
    report: Report | None = None,
    stopped: Stop = lambda: False,
) -> ZeroShot:
    """Let a policy drive.

    Args:
        task: A Push-T task.
        local: Filters observations into the actor's features.
        actor: The policy; its mean acts, without noise.
        normalisation: Of the proprioception.
        seeds: One episode starts from each.
        robots: Most of them side by side.
        filmed: Episodes of which frames are kept.
        device: Where the networks run.
        report: Told how far it is.
        stopped: Asked between steps whether to give up.

    Raises:
        FogError: The task is not one of Push-T.
        KeyboardInterrupt: ``stopped`` said so.
    """
    controllers: dict[int, BatchedController] = {}

    def begin(count: int) -> _Decide:
        if count not in controllers:
            controllers[count] = BatchedController(
                task, local, actor, normalisation, robots=count, device=device
            )
        controller = controllers[count]
        controller.reset()

        def decide(bodies: list[PushTRobot], seen: list[Observation]) -> list[Command]:
            for i, (body, observation) in enumerate(zip(bodies, seen, strict=True)):
                encoded = [
                    *sensor_messages(body, observation),
                    *camera_messages(body, observation),
                ]
                controller.receive(i, encoded, observation.stamp_ns)
            return controller.tick()

        return decide

    return _episodes(
        task, seeds, begin, robots=robots, filmed=filmed, picture=True, report=report,
        stopped=stopped,
    )  # fmt: skip


def evaluate_baseline(
    task: TaskConfig,
    baseline: Baseline,
    seeds: Sequence[int],
    *,
    filmed: int = FILMED,
    report: Report | None = None,
    stopped: Stop = lambda: False,
) -> ZeroShot:
    """What needs no learning, from the same start states.

    Args:
        task: A Push-T task.
        baseline: ``driver``, the scripted one that knows where the block is, without noise;
            ``random``, smooth random commands; ``standing``, none.
        seeds: One episode starts from each, and the baseline's own random numbers too.
        filmed: Episodes of which frames are kept.
        report: Told how far it is.
        stopped: Asked between steps whether to give up.

    Raises:
        FogError: The task is not one of Push-T.
        KeyboardInterrupt: ``stopped`` said so.
    """
    order = iter(seeds)

    def begin(count: int) -> _Decide:
        drivers = [_driver(task, baseline) for _ in range(count)]
        for driver in drivers:
            seed = next(order)
            if driver is not None:
                driver.reset(seed)

        def decide(bodies: list[PushTRobot], seen: list[Observation]) -> list[npt.ArrayLike]:
            return [
                np.zeros(task.action_size) if driver is None else driver.command(observation)
                for driver, observation in zip(drivers, seen, strict=True)
            ]

        return decide

    return _episodes(
        task, seeds, begin, robots=1, filmed=filmed, picture=False, report=report, stopped=stopped
    )


def _driver(task: TaskConfig, baseline: Baseline) -> Driver | None:
    if baseline == "standing":
        return None
    if baseline == "random":
        return RandomDriver(task)
    driver = PushTDriver(task)
    driver.noise = 0.0
    return driver


def _episodes(
    task: TaskConfig,
    seeds: Sequence[int],
    begin: Callable[[int], _Decide],
    *,
    robots: int,
    filmed: int,
    picture: bool,
    report: Report | None,
    stopped: Stop,
) -> ZeroShot:
    """Run episodes, as many side by side as there are robots.

    ``begin`` is called with the number of robots of every group, and gives what decides for them.
    """
    coverage: list[list[float]] = []
    frames: list[npt.NDArray[np.uint8]] = []
    total, done = len(seeds) * task.episode.max_steps, 0
    bodies = [_push_t(task) for _ in range(min(robots, len(seeds)))]
    periods = task.period_ns // bodies[0].step_ns
    try:
        for first in range(0, len(seeds), robots):
            group = bodies[: len(seeds[first : first + robots])]
            for body, seed in zip(group, seeds[first:], strict=False):
                body.reset(int(seed))
            decide = begin(len(group))
            shown = [first + i < filmed for i in range(len(group))]
            seen = [b.observe(image=picture or f) for b, f in zip(group, shown, strict=True)]
            tracks = [[body.coverage] for body in group]
            films = [[o.image] if f else [] for o, f in zip(seen, shown, strict=True)]
            ended = [o.end for o in seen]
            for _ in range(task.episode.max_steps):
                if all(ended):
                    break
                if stopped():
                    raise KeyboardInterrupt
                # The networks go on seeing one that has ended: a batch keeps its size.
                commands = decide(group, seen)
                for i, body in enumerate(group):
                    if ended[i]:
                        continue
                    for _ in range(periods):
                        body.step(commands[i])
                    seen[i] = body.observe(image=picture or shown[i])
                    tracks[i].append(body.coverage)
                    ended[i] = seen[i].end
                    if shown[i]:
                        films[i].append(seen[i].image)
                done += len(group)
                if report is not None:
                    report(done, total)
            coverage += tracks
            frames += [np.stack(film) for film in films if film]  # type: ignore[arg-type]
    finally:
        for body in bodies:
            body.close()
    return ZeroShot(tuple(map(int, seeds)), tuple(map(tuple, coverage)), tuple(frames))


def _push_t(task: TaskConfig) -> PushTRobot:
    robot = make_robot(task) if task.robot == "pusht" else None
    if not isinstance(robot, PushTRobot):
        raise FogError(
            f"task '{task.name}': robot is {task.robot}; zero-shot episodes are scored by the "
            "coverage of Push-T, so give a task whose robot is pusht"
        )
    if task.period_ns % robot.step_ns:
        raise FogError(
            f"task '{task.name}': control_hz {task.control_hz:g} does not divide the robot's rate "
            f"of {1e9 / robot.step_ns:g} Hz"
        )
    return robot
