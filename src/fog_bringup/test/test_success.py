"""Criteria of success on episodes worked out by hand, and the drivers that should meet them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fog_bringup.closed_loop import episode_record
from fog_bringup.reference_drivers import make_reference_driver
from fog_bringup.robots import make_robot
from fog_bringup.success import Criterion, Outcome, criterion_of, judge, limit_steps
from fog_bringup.tasks import find_task
from fog_bringup.worlds import find_part
from fog_world_model.errors import FogError

PUSH = Criterion("push", 0.4)
REACH = Criterion("reach", 0.8, 30.0, 0.6)
HZ = 5.0


def pushed(*distances: float, **more: Any) -> dict[str, Any]:
    """An episode in which the cube lies so far from a post at (2, 1), step by step."""
    steps = len(distances)
    return {
        "seed": 7,
        "base": [[0.0, 0.0, 0.0]] * steps,
        "cube": [[2.0 - 0.6 * d, 1.0 + 0.8 * d, 1.0] for d in distances],
        "goal": [2.0, 1.0, 0.0],
        "end": False,
        "rewards": [0.1] * 20,
        **more,
    }


def test_a_push_succeeds_at_the_first_step_within_the_distance() -> None:
    found = judge(PUSH, pushed(1.0, 0.7, 0.39, 0.2, end=True), HZ)
    assert found.success
    assert found.time_s == pytest.approx(0.4)
    assert found.final_m == pytest.approx(0.2)
    assert found.nearest_m == pytest.approx(0.2)
    assert not found.fell


def test_a_push_that_comes_near_and_leaves_again_has_succeeded() -> None:
    found = judge(PUSH, pushed(1.0, 0.3, 0.9), HZ)
    assert (found.success, found.time_s) == (True, pytest.approx(0.2))
    assert found.final_m == pytest.approx(0.9)


def test_a_push_that_only_just_misses_and_a_fall_have_not() -> None:
    missed = judge(PUSH, pushed(1.0, 0.41, 0.5), HZ)
    assert missed == Outcome(False, None, pytest.approx(0.5), pytest.approx(0.41), False)
    assert judge(PUSH, pushed(1.0, 0.6, end=True), HZ).fell


def test_what_the_robot_saw_between_two_control_steps_counts() -> None:
    # Four poses are three transitions: the last one's reward has the bonus of 5.
    rewards = [0.1, 0.1, 4.9, *[0.0] * 17]
    found = judge(PUSH, pushed(1.0, 0.6, 0.5, 0.45, end=True, rewards=rewards), HZ)
    assert (found.success, found.time_s, found.fell) == (True, pytest.approx(0.6), False)
    rewards = [0.1, 4.9, 0.1, *[0.0] * 17]
    assert not judge(PUSH, pushed(1.0, 0.6, 0.5, 0.45, end=True, rewards=rewards), HZ).success


def reached(*poses: tuple[float, float], **more: Any) -> dict[str, Any]:
    """An episode: distances from the base to the cube, and bearings in degrees."""
    bases, cubes = [], []
    for distance, bearing in poses:
        yaw = 2.0
        angle = yaw + math.radians(bearing)
        bases.append([1.0, -1.0, yaw])
        cubes.append([1.0 + distance * math.cos(angle), -1.0 + distance * math.sin(angle), 0.3])
    return {"seed": 3, "base": bases, "cube": cubes, "goal": None, "end": False,
            "rewards": [0.0] * 20, **more}  # fmt: skip


def test_reaching_takes_three_steps_in_a_row_for_0_6_s() -> None:
    near, far = (0.7, 20.0), (0.9, 0.0)
    found = judge(REACH, reached(far, near, near, near, near, far), HZ)
    assert found.success
    assert found.time_s == pytest.approx(4 / HZ)
    assert found.final_m == pytest.approx(0.9)
    assert found.nearest_m == pytest.approx(0.7)
    assert not judge(REACH, reached(far, near, near, near, far, near, near, near), HZ).success


def test_reaching_takes_facing() -> None:
    beside, ahead = (0.5, -31.0), (0.5, -29.0)
    assert not judge(REACH, reached(*[beside] * 9), HZ).success
    assert judge(REACH, reached(*[ahead] * 9), HZ).time_s == pytest.approx(0.6)
    assert not judge(REACH, reached(ahead, ahead, ahead, beside, ahead, ahead, ahead), HZ).success
    # A fall after having been there does not take back that it was.
    fallen = judge(REACH, reached(*[ahead] * 5, end=True), HZ)
    assert fallen.success
    assert fallen.fell


def test_an_incomplete_ground_truth_is_named() -> None:
    with pytest.raises(FogError, match="episode of seed 7: 2 poses of the base, 0 of the cube"):
        judge(PUSH, pushed(1.0, 0.3, cube=[]), HZ)
    with pytest.raises(FogError, match="no goal"):
        judge(PUSH, pushed(1.0, 0.3, goal=None), HZ)


def test_criteria_are_the_task_s_options_or_defaults() -> None:
    push, reach = find_task("push_cube"), find_task("reach_cube")
    assert criterion_of(push) == Criterion("push", 0.4)
    assert criterion_of(reach) == Criterion("reach", 0.8, 30.0, 1.0)
    assert criterion_of(find_task("pusht")) is None
    assert limit_steps(push) == 200
    assert limit_steps(reach) == 60
    assert limit_steps(push, 6.0) == 30
    own = dataclasses.replace(
        reach,
        options={**reach.options, "reached_distance_m": 1.0, "success_limit_s": 20.0},
    )
    assert criterion_of(own) == Criterion("reach", 1.0, 30.0, 1.0)
    assert limit_steps(own) == 100


@pytest.mark.parametrize("name", ["reach_cube", "push_cube", "pusht"])
def test_criteria_leave_the_hashes_alone_that_shipped_worlds_carry(name: str) -> None:
    manifest = json.loads((find_part(Path(name), "global") / "manifest.json").read_text())
    assert find_task(name).hash == manifest["task_hash"]


@pytest.mark.parametrize("name", ["reach_cube", "push_cube"])
def test_the_reference_driver_succeeds_where_it_can(name: str) -> None:
    task = find_task(name)
    criterion = criterion_of(task)
    assert criterion is not None
    robot, driver = make_robot(task), make_reference_driver(task)
    outcomes = []
    for seed in (1_000_000, 1_000_001, 1_000_002):
        robot.reset(seed)
        driver.reset(seed)
        seen = [robot.observe(image=False)]
        while len(seen) <= limit_steps(task) and not seen[-1].end:
            command = driver.command(seen[-1])
            for _ in range(task.period_ns // robot.step_ns):
                robot.step(command)
            seen.append(robot.observe(image=False))
        record = episode_record(task, seed, seen, commands=0, max_steps=limit_steps(task))
        outcomes.append(judge(criterion, record, task.control_hz))
    robot.close()
    assert sum(o.success for o in outcomes) >= 2
    assert all(o.time_s is None or o.time_s <= limit_steps(task) / 5 for o in outcomes)
