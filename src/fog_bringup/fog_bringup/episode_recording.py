"""Drive a simulated robot through episodes and write what it observes into a bag."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fog_bringup.driver_base import Driver
from fog_bringup.drivers import DriverMix, make_driver
from fog_bringup.robots import Robot, make_robot
from fog_bringup.robots.streams import (
    Encoded,
    camera_messages,
    scene_messages,
    sensor_messages,
)
from fog_policy.encoding import encode_command
from fog_world_model.data.bag_writer import BagWriter, task_custom_data
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

COMMAND_DELAY_NS = 1_000_000
"""A command follows the picture that it answers by this much."""

Logged = tuple[int, Encoded]
"""Time of arrival in ns, message."""


class Stop(Protocol):
    """An event of ``threading`` or of ``multiprocessing``."""

    def is_set(self) -> bool:
        """Whether to stop."""


@dataclass(frozen=True)
class Share:
    """What one process records."""

    task: TaskConfig
    path: Path
    """Bag folder to be."""
    seed: int
    mix: DriverMix
    robot: dict[str, Any]
    """Arguments for :func:`fog_bringup.robots.make_robot`."""
    first: int
    """Index of the first episode."""
    stride: int
    """From one episode's index to the next one's."""
    episodes: int | None
    """Number of episodes; None: until ``steps`` are done."""
    steps: int


def record_share(share: Share, report: Callable[[int, int], None], stop: Stop) -> None:
    """Record a share into its bag.

    Args:
        share: What to record.
        report: Told (control steps, episodes) newly written.
        stop: When it is set, the episode at hand is dropped and the bag closed. A bag that would
            be empty is not left behind.

    Raises:
        FogError: The robot does not work here, or the bag cannot be written.
    """
    robot = make_robot(share.task, **share.robot)
    driver = make_driver(share.task, share.mix, robot)
    # Not where the bundle lies on this machine, but which one it is.
    mix = {**asdict(share.mix), "bundle": driver.policy}
    origin = {
        "seed": share.seed,
        "first_episode": share.first,
        "mix": mix,
        "vary": share.robot.get("vary", ()),
    }
    custom = {**task_custom_data(share.task), "fog_collect": json.dumps(origin)}
    with BagWriter(share.path, custom, replace_part=True) as bag:
        done = written = 0
        while written < share.episodes if share.episodes is not None else done < share.steps:
            index = share.first + written * share.stride
            messages = episode_messages(
                robot, driver, share.task, episode_seed(share.seed, index), stop
            )
            if messages is None:
                break
            for log_ns, (topic, typename, data) in messages:
                bag.write(topic, typename, data, log_ns)
            steps = sum(1 for _, (topic, *_) in messages if topic == share.task.action.topic)
            done, written = done + steps, written + 1
            report(steps, 1)
        if not written:
            bag.abort()
    robot.close()
    if not written:
        shutil.rmtree(bag.part)


def episode_seed(seed: int, index: int) -> int:
    """Seed of one episode of a recording: no two episodes or recordings share a stream."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def episode_messages(
    robot: Robot, driver: Driver, task: TaskConfig, seed: int, stop: Stop
) -> list[Logged] | None:
    """Drive one episode.

    Joint states, IMU and odometry come at the rate of the robot's steps, pictures, rewards, ends
    and the true poses of the scene at the camera's, commands at the control rate, right after the
    picture. The last observation has no command.

    Args:
        robot: It is reset first.
        driver: It is reset first.
        task: Control rate and length of the episode.
        seed: For robot and driver.
        stop: Checked once per control step.

    Returns:
        Messages in the order of their arrival; None when stopped.

    Raises:
        FogError: The control period is not a multiple of the robot's step.
    """
    if task.period_ns % robot.step_ns:
        raise FogError(
            f"task '{task.name}': control_hz {task.control_hz} does not divide the robot's rate "
            f"of {1e9 / robot.step_ns:g} Hz"
        )
    found: list[Logged] = []
    robot.reset(seed)
    driver.reset(seed)
    first_ns = robot.observe(image=False).stamp_ns
    substeps = task.period_ns // robot.step_ns
    command = np.zeros(task.action_size, np.float32)
    for substep in range(task.episode.max_steps * substeps + 1):
        on_grid = substep % substeps == 0
        camera = on_grid or (substep * robot.step_ns) % robot.camera_ns == 0
        observation = robot.observe(image=camera)
        now = first_ns + substep * robot.step_ns
        encoded = sensor_messages(robot, observation)
        if camera:
            encoded += scene_messages(observation) + camera_messages(robot, observation)
        found += [(now, message) for message in encoded]
        if on_grid:
            if stop.is_set():
                return None
            if observation.end or substep == task.episode.max_steps * substeps:
                break
            command = driver.command(observation)
            data = encode_command(task, command, now + COMMAND_DELAY_NS)
            found.append((now + COMMAND_DELAY_NS, (task.action.topic, task.action.type, data)))
        robot.step(command)
    return found
