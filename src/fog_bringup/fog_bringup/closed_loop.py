"""Closed-loop episodes: a policy over real ROS topics, and its baselines without ROS.

Both give the same record: the rewards at the control steps of every episode, from the same start
states. This module starts the nodes as processes and imports nothing of ROS itself.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_bringup.live_scene import yaw_of
from fog_bringup.node_processes import NodeProcesses
from fog_bringup.operator_drivers import make_operator_driver
from fog_bringup.progress import Report
from fog_bringup.robots import Observation, make_robot
from fog_bringup.robots.variations import STREAM
from fog_policy.shipped_policies import find_bundle
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

Controller = Callable[[Observation], npt.ArrayLike]
"""Gives a command ``[action]`` in physical units for what is observed."""

Record = dict[str, Any]
"""``task``, ``task_hash``, ``controller``, ``control_hz``, ``max_steps``, and ``episodes``: a list
of what :func:`episode_record` gives."""

_START_S, _PER_EPISODE_S = 120.0, 20.0


def evaluate_over_ros(
    task: TaskConfig,
    bundle: str | os.PathLike[str] | None,
    seeds: Sequence[int],
    *,
    output: str | os.PathLike[str],
    max_steps: int | None = None,
    vary: Sequence[str] = (),
    speed: float = 4.0,
    real_time: bool = False,
    patience_s: float = 0.5,
    state_hz: float = 10.0,
    progress: Report | None = None,
    domain_id: int | None = None,
    policy_report: str | os.PathLike[str] | None = None,
    robot_parameters: dict[str, Any] | None = None,
    policy_command: Sequence[str] | None = None,
    films: str | os.PathLike[str] | None = None,
    filmed: Sequence[int] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Record:
    """Let a bundle drive the simulated robot over ROS topics, each node in a process of its own.

    Args:
        task: The task; it must be the bundle's.
        bundle: Folder of the bundle, or the name of a shipped policy; None: the scripted
            driver that sees the ground truth, see :mod:`fog_bringup.reference_drivers`, in a node
            of its own too.
        seeds: One episode starts from each.
        output: JSON file for the record, written anew after every episode: what an interruption
            leaves is a record of the episodes before it. The nodes' logs lie beside it in
            ``<output stem>_logs``.
        max_steps: Control steps after which an episode is cut; None: the task's.
        vary: What differs from episode to episode, names of
            :data:`fog_bringup.robots.variations.VARIATIONS`.
        speed: Robot seconds per wall second; 0: as fast as possible.
        real_time: As with a real robot: no simulated time, stamps are wall time, nobody waits. For
            measuring rates and latencies; ``speed``, ``patience_s`` and ``state_hz`` do not count.
        patience_s: Wall time for which the robot's time waits for an overdue command, so that a
            busy machine does not make the policy late; 0: it never waits.
        state_hz: Rate of odometry, joint states and IMU in robot time. A policy is shown those of
            the picture's instant, which are always there; more of them cost a faster-than-real-time
            run much and change nothing. 0: every robot step.
        progress: Told the episodes done.
        domain_id: ROS_DOMAIN_ID; a free one unless given.
        policy_report: Where policy_node writes its rates and latencies.
        robot_parameters: More parameters of robot_node, for example ``image_height``.
        policy_command: What to start instead of policy_node: a command line that takes
            ``--ros-args`` and makes a lifecycle node of that name.
        films: Folder for the pictures of episodes, ``<seed>.npz``, see
            :class:`fog_bringup.closed_loop_film.Take`; None: none are kept.
        filmed: Seeds of those episodes.
        stopped: Asked now and then whether to give up.

    Returns:
        The record, as it was written.

    Raises:
        FogError: There is no such bundle, or a node ended early or did not answer; the message
            shows what it said last.
        KeyboardInterrupt: ``stopped`` said so; what was finished is in ``output``.
    """
    output = Path(output)
    steps = task.episode.max_steps if max_steps is None else max_steps
    # Everything else about it is policy_node's to find out.
    folder = None if bundle is None else find_bundle(bundle).resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    domain = free_domain_id() if domain_id is None else domain_id
    sim = {"use_sim_time": not real_time}
    pace: dict[str, Any] = {"speed": speed, "patience_s": patience_s, "state_hz": state_hz}
    varied = {"vary": ",".join(vary)} if vary else {}
    if real_time:
        speed, pace = 1.0, {"publish_clock": False}
    with (
        tempfile.TemporaryDirectory(prefix="fog_closed_loop_") as scratch,
        NodeProcesses(output.with_name(f"{output.stem}_logs"), domain) as nodes,
    ):
        task_file = str(Path(scratch) / "task.yaml")
        task.save(task_file)
        nodes.start(
            "robot_node",
            [sys.executable, "-m", "fog_bringup.robot_node"],
            {"task": task_file, **pace, **varied, **(robot_parameters or {})},
        )
        if bundle is None:
            nodes.start(
                "driver_node",
                [sys.executable, "-m", "fog_bringup.driver_node"],
                {"task": task_file, "mode": "reference", **sim},
            )
        else:
            nodes.start(
                "policy_node",
                policy_command or [sys.executable, "-m", "fog_policy.policy_node"],
                {"bundle": str(folder), "report_path": str(policy_report or ""), **sim},
            )
        nodes.start(
            "closed_loop_node",
            [sys.executable, "-m", "fog_bringup.closed_loop_node"],
            {
                "task": task_file,
                "seeds": list(seeds),
                "output": str(output.resolve()),
                "max_steps": steps,
                "count_images": any(name in STREAM for name in vary),
                **(
                    {"films": str(Path(films).resolve()), "filmed": list(filmed)}
                    if films is not None and filmed
                    else {}
                ),
                **({"policy": ""} if bundle is None else {}),
                **sim,
            },
        )
        real_s = steps * task.period_ns * 1e-9 / min(speed or 1.0, 1.0)
        limit_s = _START_S + len(seeds) * (_PER_EPISODE_S + 2.0 * real_s)

        def on_line(line: str) -> None:
            word, _, rest = line.partition(" ")
            if word == "episode" and progress is not None:
                progress("closed loop over ROS", int(rest.split("/")[0]), len(seeds))

        nodes.wait_for("closed_loop_node", limit_s, on_line, stopped)
    record: Record = json.loads(output.read_text())
    return record


def evaluate_without_ros(
    task: TaskConfig,
    controller: str | Controller,
    seeds: Sequence[int],
    *,
    max_steps: int | None = None,
    progress: Report | None = None,
    finished: Callable[[dict[str, Any]], None] = lambda episode: None,
    robot_options: dict[str, Any] | None = None,
) -> Record:
    """Drive the simulated robot directly, as fast as the machine allows.

    Args:
        task: The task.
        controller: ``random`` (uniform within the bounds, drawn anew for every step),
            ``standing`` (zero), ``operator`` (the scripted driver of
            :mod:`fog_bringup.operator_drivers`), or a function that is shown each observation with
            its picture.
        seeds: One episode starts from each; the start states are those of
            :func:`evaluate_over_ros`.
        max_steps: Control steps after which an episode is cut; None: the task's.
        progress: Told the episodes done.
        finished: Given each episode's record when it is over.
        robot_options: Arguments for :func:`fog_bringup.robots.make_robot`.

    Returns:
        The same record as :func:`evaluate_over_ros`.

    Raises:
        FogError: No such controller, the task has no operator, or the robot does not work here.
    """
    name = (
        controller if isinstance(controller, str) else getattr(controller, "__name__", "function")
    )
    if isinstance(controller, str) and controller not in ("random", "standing", "operator"):
        raise FogError(f"controller {controller!r}: give random, standing, operator or a function")
    operator = make_operator_driver(task) if controller == "operator" else None
    low, high = np.asarray(task.action.low), np.asarray(task.action.high)
    robot = make_robot(task, **(robot_options or {}))
    if task.period_ns % robot.step_ns:
        raise FogError(
            f"task '{task.name}': control_hz {task.control_hz} does not divide the robot's rate "
            f"of {1e9 / robot.step_ns:g} Hz"
        )
    with_picture = callable(controller)
    limit = task.episode.max_steps if max_steps is None else max_steps
    episodes = []
    try:
        for done, seed in enumerate(seeds, start=1):
            generator = np.random.default_rng(seed)
            robot.reset(seed)
            if operator is not None:
                operator.reset(seed)
            seen = [robot.observe(image=with_picture)]
            while len(seen) <= limit and not seen[-1].end:
                if callable(controller):
                    command = np.asarray(controller(seen[-1]), np.float64)
                elif operator is not None:
                    command = np.asarray(operator.command(seen[-1]), np.float64)
                elif controller == "random":
                    command = generator.uniform(low, high)
                else:
                    command = np.zeros(task.action_size)
                for _ in range(task.period_ns // robot.step_ns):
                    robot.step(command)
                seen.append(robot.observe(image=with_picture))
            episodes.append(
                episode_record(
                    task,
                    seed,
                    seen,
                    commands=len(seen) - 1,
                    max_steps=limit,
                    conditions=robot.conditions,
                )
            )
            finished(episodes[-1])
            if progress is not None:
                progress(f"closed loop, {name}", done, len(seeds))
    finally:
        robot.close()
    return make_record(task, name, episodes, limit)


def make_record(
    task: TaskConfig,
    controller: str,
    episodes: list[dict[str, Any]],
    max_steps: int | None = None,
) -> Record:
    """Put episodes together, which were cut after so many steps (None: the task's)."""
    return {
        "task": task.name,
        "task_hash": task.hash,
        "controller": controller,
        "control_hz": task.control_hz,
        "max_steps": task.episode.max_steps if max_steps is None else max_steps,
        "episodes": episodes,
    }


def episode_record(
    task: TaskConfig,
    seed: int,
    seen: Sequence[Observation],
    *,
    commands: int,
    missed: int = 0,
    max_steps: int | None = None,
    conditions: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """What is kept of an episode.

    Args:
        task: Gives the number of steps.
        seed: Of the start state.
        seen: Observations at the start and after every control step, up to the end.
        commands: Commands given.
        missed: Control steps whose picture was lost; they are counted with the next one seen.
        max_steps: Control steps after which it was cut; None: the task's.
        conditions: What was varied, and how much.

    Returns:
        ``seed``; ``rewards``, always ``max_steps`` numbers, zero after an end; ``return``, their
        sum; ``end``; ``base`` and ``cube`` (what the task is about, whatever its name), paths of
        ``[x, y, yaw]`` from the start on; ``goal``, the last ``[x, y, yaw]`` or None; ``commands``
        and ``missed``; ``conditions`` where something was varied.
    """
    limit = task.episode.max_steps if max_steps is None else max_steps
    rewards = [float(o.reward) for o in seen[1:]][:limit]
    rewards += [0.0] * (limit - len(rewards))
    moved = next((name for name in seen[0].objects if name != "goal"), None)
    goal = seen[-1].objects.get("goal")
    return {
        "seed": seed,
        "rewards": rewards,
        "return": float(np.sum(rewards)),
        "end": bool(seen[-1].end),
        "base": [
            [float(o.position[0]), float(o.position[1]), yaw_of(*o.orientation)] for o in seen
        ],
        "cube": [list(o.objects[moved]) for o in seen if moved in o.objects],
        "goal": None if goal is None else list(goal),
        "commands": commands,
        "missed": missed,
        **({"conditions": dict(conditions)} if conditions else {}),
    }


def free_domain_id(taken: Collection[int] = ()) -> int:
    """A ROS_DOMAIN_ID that nobody on this machine uses.

    Args:
        taken: Those that are promised to somebody who does not use them yet.

    Raises:
        FogError: All are taken.
    """
    # Above 100, the ports may belong to outgoing connections.
    candidates = [n for n in range(1, 101) if n not in taken]
    random.SystemRandom().shuffle(candidates)
    for domain in candidates:
        # RTPS: participant k of domain d listens on UDP port 7400 + 250 d + 10 + 2 k.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    raise FogError("every ROS_DOMAIN_ID from 1 to 100 is in use on this machine")
