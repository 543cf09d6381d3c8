"""Scripted drivers: within bounds, repeatable, and better than chance at what they are for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fog_bringup.drivers import DriverMix, make_driver
from fog_bringup.robots import Robot, make_robot
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

SEEK, RANDOM, STAND = DriverMix(1, 0, 0), DriverMix(0, 1, 0), DriverMix(0, 0, 1)


def episode(
    robot: Robot, task: TaskConfig, mix: DriverMix, seed: int, steps: int
) -> tuple[float, np.ndarray]:
    """Mean reward per step and the commands ``[step, action]``."""
    driver = make_driver(task, mix)
    robot.reset(seed)
    driver.reset(seed)
    rewards, commands = [], []
    for _ in range(steps):
        commands.append(driver.command(robot.observe(image=False)))
        for _ in range(task.period_ns // robot.step_ns):
            robot.step(commands[-1])
        observation = robot.observe(image=False)
        rewards.append(observation.reward)
        if observation.end:
            break
    return float(np.mean(rewards)), np.array(commands)


@pytest.mark.parametrize(
    ("name", "seeds", "steps"),
    [("reach_cube", 5, 45), ("push_cube", 4, 50), ("pusht", 6, 100), ("pusht_easy", 6, 40)],
)
def test_seeking_earns_more_than_chance(name: str, seeds: int, steps: int) -> None:
    task = find_task(name)
    robot = make_robot(task)
    mean = {
        mix: np.mean([episode(robot, task, mix, seed, steps)[0] for seed in range(seeds)])
        for mix in (SEEK, RANDOM)
    }
    robot.close()
    margin = {"reach_cube": 0.25, "push_cube": 0.05, "pusht": 0.08, "pusht_easy": 0.1}[name]
    assert mean[SEEK] > mean[RANDOM] + margin


@pytest.mark.parametrize("name", ["reach_cube", "push_cube", "pusht"])
def test_commands_are_within_bounds_and_repeatable(name: str) -> None:
    task = find_task(name)
    robot = make_robot(task)
    low, high = np.float32(task.action.low), np.float32(task.action.high)
    for mix in (SEEK, RANDOM, STAND):
        _, first = episode(robot, task, mix, 3, 20)
        _, again = episode(robot, task, mix, 3, 20)
        _, other = episode(robot, task, mix, 4, 20)
        np.testing.assert_array_equal(first, again)
        assert first.dtype == np.float32
        assert (first >= low).all()
        assert (first <= high).all()
        if mix is not STAND:
            assert not np.array_equal(first, other)
    robot.close()


def test_random_commands_use_the_whole_range_smoothly() -> None:
    task = find_task("pusht")
    robot = make_robot(task)
    commands = [episode(robot, task, RANDOM, seed, 60)[1] for seed in range(12)]
    robot.close()
    everything = np.concatenate(commands)
    assert (everything.min(axis=0) < -0.2).all()
    assert (everything.max(axis=0) > 0.2).all()
    # A hand holds what it does: from step to step most of the command stays.
    changes = np.concatenate([np.diff(c, axis=0) for c in commands])
    assert changes.std() < 0.8 * everything.std()


def test_standing_mostly_stands() -> None:
    task = find_task("pusht")
    robot = make_robot(task)
    still = np.concatenate(
        [(episode(robot, task, STAND, s, 60)[1] == 0).all(axis=1) for s in range(6)]
    )
    robot.close()
    assert still.mean() > 0.75


def test_the_mix_decides_how_often() -> None:
    task = find_task("reach_cube")
    driver = make_driver(task, DriverMix(seek=2, random=1, stand=1))
    modes = []
    for seed in range(400):
        driver.reset(seed)
        modes.append(driver.mode)
    assert modes.count("seek") == pytest.approx(200, abs=45)
    assert modes.count("random") == pytest.approx(100, abs=40)


@pytest.mark.parametrize("mix", [DriverMix(0, 0, 0), DriverMix(-1, 2, 0)])
def test_impossible_mix(mix: DriverMix) -> None:
    with pytest.raises(FogError, match="driver mix"):
        make_driver(find_task("pusht"), mix)


def test_task_without_a_driver() -> None:
    task = dataclasses.replace(find_task("pusht"), name="juggle")
    with pytest.raises(FogError, match=r"task 'juggle'.*reach_cube"):
        make_driver(task)
    robot = make_robot(find_task("pusht"))
    robot.reset(0)
    assert make_driver(task, RANDOM).command(robot.observe(image=False)).shape == (2,)
    robot.close()
