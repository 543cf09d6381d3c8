"""The simulated pusher: does it move as told, repeat itself, and start where its task says?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gym_pusht.envs.pusht import pymunk_to_shapely

from fog_bringup.robots import make_robot
from fog_bringup.robots.pusht import PushTRobot
from fog_bringup.robots.pusht_frame import block_centre, to_pixels, to_world
from fog_bringup.tasks import find_task
from fog_world_model.data.labellers import tee
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


@pytest.fixture(scope="module")
def pusht() -> Iterator[PushTRobot]:
    robot = make_robot(find_task("pusht"))
    assert isinstance(robot, PushTRobot)
    yield robot
    robot.close()


def test_pusher_moves_at_the_commanded_velocity(pusht: PushTRobot) -> None:
    for vx, vy in ((0.2, 0.0), (0.0, 0.2), (-0.1, 0.1)):
        pusht.reset(2)
        pusht._env.block.position = 100, 100  # out of the way
        pusht._env.agent.position = 256, 300
        for _ in range(3):
            pusht.step((vx, vy))
        before = pusht.observe(image=False)
        for _ in range(4):
            pusht.step((vx, vy))
        after = pusht.observe(image=False)
        moved = (after.position - before.position)[:2] / 0.4
        np.testing.assert_allclose(moved, [vx, vy], rtol=0.03, atol=1e-3)
        np.testing.assert_allclose(after.linear_velocity[:2], moved, rtol=0.01, atol=1e-3)


def test_pusher_is_seen_right_and_up(pusht: PushTRobot) -> None:
    """In the picture x points right and y up."""
    pusht.reset(0)
    pusht._env.block.position = 250, 250
    pusht._env.agent.position = to_pixels(0.450, 0.430)
    pusht.step((0.0, 0.0))  # the shapes follow their bodies in a step only
    image = pusht.observe().image
    assert image is not None
    r, _, b = (image[..., i].astype(int) for i in range(3))
    rows, columns = np.nonzero((b > 180) & (r < 120))
    assert columns.mean() == pytest.approx(96 * 0.450 / 0.512, abs=1.0)
    assert rows.mean() == pytest.approx(96 * (1 - 0.430 / 0.512), abs=1.0)


def test_pusht_repeats_itself_and_goes_on_when_covered(pusht: PushTRobot) -> None:
    pusht.reset(4)
    first = pusht.observe()
    pusht.step((0.1, 0.1))
    pusht.reset(4)
    second = pusht.observe()
    assert second.stamp_ns > first.stamp_ns
    assert second.objects == first.objects
    assert first.image is not None
    assert second.image is not None
    np.testing.assert_array_equal(first.image, second.image)
    assert not second.end
    pusht._env._set_state(np.array([50.0, 50.0, 0.0, 0.0, 0.0]))
    block = pusht._env.block
    block.angle = math.pi / 4
    block.position = 256, 256
    pusht.step((0.0, 0.0))
    assert pusht.coverage > 0.99
    assert not pusht.observe(image=False).end, "an end would cost a policy all later rewards"
    # Solved, but for the share that is for being near: the pusher is at the other end.
    assert 0.8 * 0.98 < pusht.observe(image=False).reward < 0.8 + 0.2 * 0.2


def with_options(**options: float) -> TaskConfig:
    task = find_task("pusht")
    return dataclasses.replace(task, options={**task.options, **options})


def test_pusht_starts_as_near_the_goal_as_the_task_says() -> None:
    robot = make_robot(with_options(start_distance_px=40.0, start_angle_deg=20.0))
    assert isinstance(robot, PushTRobot)
    away, turned, pushers = [], [], []
    for seed in range(150):
        robot.reset(seed)
        seen = robot.observe(image=False).objects
        env, block = robot._env, robot._env.block
        goal = pymunk_to_shapely(env.get_goal_pose_body(env.goal_pose), block.shapes)
        away.append(pymunk_to_shapely(block, block.shapes).centroid.distance(goal.centroid))
        turned.append(math.degrees(math.remainder(seen["block"][2] - seen["goal"][2], 2 * math.pi)))
        pushers.append(np.array(env.agent.position))
        assert tee.gap(pushers[-1], (*block.position, block.angle)) > 0.5
        robot.step((0.0, 0.0))  # nothing overlaps, so nothing is shoved
        assert robot.observe(image=False).objects["block"] == pytest.approx(seen["block"], abs=1e-6)
    # Uniform between half of the distance and all of it: a quarter each side of 30 px.
    assert min(away) > 20.0
    assert max(away) < 40.0
    assert np.mean(away) == pytest.approx(30.0, abs=1.5)
    assert np.abs(turned).max() < 20.0
    assert np.std(turned) == pytest.approx(20.0 / math.sqrt(3), abs=2.0)
    # The pusher is anywhere.
    assert np.min(pushers) < 80
    assert np.max(pushers) > 420
    robot.reset(7)
    again = robot.observe(image=False)
    robot.reset(7)
    assert robot.observe(image=False).objects == again.objects
    robot.close()


def test_the_pusher_starts_behind_the_block_where_the_task_says_so() -> None:
    """The angle at the block between straight away from the goal and the pusher, from poses."""
    robot = make_robot(with_options(start_distance_px=50.0, start_behind_deg=60.0))
    turns, distances = [], []
    for seed in range(60):
        robot.reset(seed)
        seen = robot.observe(image=False)
        block, goal = (np.array(block_centre(seen.objects[k])) for k in ("block", "goal"))
        away, pusher = block - goal, seen.position[:2] - block
        cosine = away @ pusher / np.linalg.norm(away) / np.linalg.norm(pusher)
        turns.append(math.degrees(math.acos(cosine)))
        distances.append(float(np.linalg.norm(pusher)))
    robot.close()
    assert 45 < max(turns) < 62, "the whole of the allowed range is used, give or take a step"
    assert min(turns) < 10
    assert min(distances) > 0.085
    assert 0.14 < max(distances) < 0.155


def test_without_a_distance_pusht_starts_as_the_package_wants(pusht: PushTRobot) -> None:
    pusht.reset(11)
    mine = pusht._env.get_obs()
    theirs, _ = gymnasium.make("gym_pusht/PushT-v0", obs_type="state").reset(seed=11)
    np.testing.assert_array_equal(mine, theirs)


def test_the_coverage_that_solves_pusht_is_an_option() -> None:
    ends = {}
    for solved in (0.95, 0.8, 2.0):
        robot = make_robot(with_options(solved_coverage=solved))
        assert isinstance(robot, PushTRobot)
        robot.reset(0)
        block = robot._env.block
        robot._env.agent.position = 60, 60
        for right_px in (0.0, 7.0):
            robot._ended = False
            block.angle = math.pi / 4
            block.position = 256 + right_px, 256
            robot.step((0.0, 0.0))
            ends[solved, right_px] = robot.observe(image=False).end
            assert robot.coverage == pytest.approx(1.0 if right_px == 0 else 0.82, abs=0.01)
        robot.close()
    assert ends == {
        (0.95, 0.0): True,
        (0.95, 7.0): False,
        (0.8, 0.0): True,
        (0.8, 7.0): True,
        (2.0, 0.0): False,
        (2.0, 7.0): False,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_distance_px": 500.0}, "start_distance_px is 500; expected px from 0 to 150"),
        ({"start_angle_deg": 10.0}, "start_angle_deg is given without start_distance_px"),
        ({"start_behind_deg": 60.0}, "start_behind_deg is given without start_distance_px"),
        ({"solved_coverage": 0.0}, "solved_coverage is 0; expected a coverage"),
        ({"approach_weight": 1.5}, "approach_weight is 1.5; expected a share from 0 to 1"),
    ],
)
def test_impossible_options_of_pusht(options: dict[str, float], message: str) -> None:
    with pytest.raises(FogError, match=message):
        make_robot(with_options(**options))


def test_block_centre_is_the_centre_of_gravity(pusht: PushTRobot) -> None:
    for angle in (0.0, 0.7, -2.0):
        block = pusht._env.block
        block.angle = angle
        block.position = 200, 220
        expected = to_world(*block.local_to_world(block.center_of_gravity))[:2]
        found = block_centre(pusht.observe(image=False).objects["block"])
        np.testing.assert_allclose(found, expected, atol=1e-9)
