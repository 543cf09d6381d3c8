"""Operators: they act on what the camera has shown, and on nothing else."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from fog_bringup import operator_drivers
from fog_bringup.cli import main
from fog_bringup.closed_loop import evaluate_without_ros
from fog_bringup.collect import CollectConfig, Collected
from fog_bringup.drivers import DriverMix, make_driver
from fog_bringup.operator_drivers import OperatorDriver, SeenPlace, make_operator_driver
from fog_bringup.robots import Observation, make_robot
from fog_bringup.robots.ego_camera import EgoCamera
from fog_bringup.success import criterion_of, judge, limit_steps
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

TASKS = ("reach_cube", "push_cube", "push_cube_markers")
NOBODY = np.zeros(3)
PUSH_POST = (-2.0, 0.3)
"""In view of a robot that looks back."""


def standing(
    yaw: float,
    cube: tuple[float, float],
    goal: tuple[float, float] = PUSH_POST,
    at: tuple[float, float] = (0.0, 0.0),
) -> Observation:
    """A robot that stands level at a place and looks into a direction."""
    return Observation(
        stamp_ns=1,
        image=None,
        position=np.array([*at, 0.3]),
        orientation=np.array([0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)]),
        linear_velocity=NOBODY,
        angular_velocity=NOBODY,
        linear_acceleration=NOBODY,
        reward=0.0,
        end=False,
        episode=0,
        objects={"cube": (*cube, 0.0), "goal": (*goal, 0.0)},
    )


def steady(task: TaskConfig, monkeypatch: pytest.MonkeyPatch) -> OperatorDriver:
    """The operator of a task, without noise."""
    monkeypatch.setattr(operator_drivers, "NOISE_LEVELS", (0.0, 0.0))
    driver = make_operator_driver(task)
    driver.reset(0)
    assert isinstance(driver, OperatorDriver)
    return driver


def test_the_picture_s_edges() -> None:
    """A level camera of 90 degrees sees what is nearer to its axis than it is ahead."""
    camera = EgoCamera(pitch_deg=0.0, fovy_deg=90.0)
    x, z = 0.327, 0.343  # of the camera, in the world of a robot at the origin, 0.3 m high
    ahead = standing(0.0, (1.0, 0.0))
    assert camera.project(ahead, (x + 2.0, 1.0, z + 0.5)) == pytest.approx((-0.5, 0.25))
    assert camera.shows(ahead, (x + 1.0, 0.99, z))
    assert not camera.shows(ahead, (x + 1.0, 1.01, z))
    assert not camera.shows(ahead, (x + 1.0, 0.0, z - 1.01))
    assert not camera.shows(ahead, (x + 1.0, 0.6, z), within=0.5)
    assert camera.project(ahead, (x - 1.0, 0.0, z)) is None
    # Looking down by 45 degrees, the middle of the picture is where height and distance are equal.
    down = EgoCamera(pitch_deg=45.0, fovy_deg=90.0)
    assert down.project(ahead, (x + z, 0.0, 0.0)) == pytest.approx((0.0, 0.0), abs=1e-9)
    # Turned to the left, it sees what lies there.
    assert camera.project(standing(math.pi / 2, (1, 0)), (0.5, x + 1.0, z)) == pytest.approx(
        (0.5, 0)
    )


def test_it_sees_what_the_simulated_camera_draws() -> None:
    """A cube whose middle it counts as seen is in the picture; one far outside is not."""
    task = find_task("reach_cube")
    task = dataclasses.replace(task, options={**task.options, "start_bearing_deg": 75.0})
    camera = EgoCamera.of_task(task)
    robot = make_robot(task)
    seen = unseen = 0
    for seed in range(30):
        robot.reset(seed)
        observation = robot.observe()
        assert observation.image is not None
        red = ((observation.image - (150, 60, 60)) * (1, -1, -1) > 0).all(axis=2).any()
        cube = (*observation.objects["cube"][:2], 0.15)
        if camera.shows(observation, cube, 0.95):
            seen += 1
            assert red
        elif not camera.shows(observation, cube, 1.6):
            unseen += 1
            assert not red
    robot.close()
    assert min(seen, unseen) >= 5


def test_it_remembers_and_forgets() -> None:
    camera = EgoCamera()
    place = SeenPlace(0.15)
    place.look(camera, standing(0.0, (-1.5, 0.0)), (-1.5, 0.0))
    assert (place.place, place.side) == (None, 1.0)
    place.look(camera, standing(0.0, (1.5, -0.5)), (1.5, -0.5))
    assert (place.place, place.side) == ((1.5, -0.5), -1.0)
    # Not visible: frozen, wherever the cube goes meanwhile.
    place.look(camera, standing(math.pi, (-0.5, 2.0)), (-0.5, 2.0))
    assert (place.place, place.side) == ((1.5, -0.5), -1.0)
    # The place is at the very edge of the picture, and empty: perhaps only not seen.
    place.look(camera, standing(0.30, (-0.5, 2.0)), (-0.5, 2.0))
    assert place.place == (1.5, -0.5)
    place.look(camera, standing(0.0, (-0.5, 2.0)), (-0.5, 2.0))
    assert (place.place, place.side) == (None, -1.0)
    place.look(camera, standing(2.0, (-0.5, 2.0)), (-0.5, 2.0))
    assert place.place == (-0.5, 2.0)


@pytest.mark.parametrize("name", TASKS)
def test_it_searches_to_the_left_until_it_has_seen_what_it_needs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = find_task(name)
    driver = steady(task, monkeypatch)
    search = [0.0, 0.0, pytest.approx(0.85 * 1.2)]
    # Just outside the picture to the right, where a driver that knew it would turn.
    assert driver.command(standing(0.0, (1.0, -1.5))).tolist() == search
    assert driver.command(standing(1.0, (1.0, -1.5))).tolist() == search
    found = driver.command(standing(-1.0, (1.0, -1.5))).tolist()
    if name == "reach_cube":
        assert found[0] > 0.3
    else:  # the post is still missing
        assert found == search
        assert driver.command(standing(math.pi, (1.0, -1.5))).tolist() != search


@pytest.mark.parametrize("name", TASKS)
def test_a_place_that_is_empty_makes_it_search_on_the_side_of_the_last_sight(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = steady(find_task(name), monkeypatch)
    cube, gone = (1.5, -0.5), (-2.0, -0.5)
    driver.command(standing(math.pi, cube))
    driver.command(standing(0.0, cube))
    remembered = driver.command(standing(1.5, gone))
    assert remembered.tolist() == driver.command(standing(1.5, cube)).tolist()
    assert driver.command(standing(0.0, gone)).tolist() == [0.0, 0.0, pytest.approx(-0.85 * 1.2)]


def test_the_remembered_place_is_where_it_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = steady(find_task("reach_cube"), monkeypatch)
    cube = (2.0, 0.0)
    driver.command(standing(0.0, cube))
    # 0.5 rad to the right of where it looks now: 2 rad/s for each rad.
    assert driver.command(standing(0.5, cube))[2] == pytest.approx(-1.0, abs=1e-6)
    # 1.5 rad: outside the picture, turning there at the bound.
    assert driver.command(standing(1.5, (-2.0, 2.0)))[2] == pytest.approx(-1.2)
    # At its stopping distance it stays.
    arrived = driver.command(standing(0.0, cube, at=(1.4, 0.0)))
    np.testing.assert_allclose(arrived, 0.0, atol=1e-6)


def hidden(yaw: float, random: np.random.Generator | None) -> tuple[float, float]:
    """A place that a robot at the origin does not see: right behind it, or anywhere."""
    if random is None:
        return -math.cos(yaw), -math.sin(yaw)
    angle, distance = yaw + random.uniform(1.2, 2 * math.pi - 1.2), random.uniform(0.5, 3.0)
    return distance * math.cos(angle), distance * math.sin(angle)


@pytest.mark.parametrize("name", TASKS)
def test_what_no_picture_shows_changes_no_command(name: str) -> None:
    """Bit for bit: cube (and, as long as it was not seen, post) move about where none sees them."""
    task = find_task(name)
    # Not seen yet; seen; out of the picture; seen to be gone; found again elsewhere.
    phases = ((0.0, None), (0.2, (1.8, 0.1)), (2.2, None), (0.0, None), (2.2, (-1.2, 1.2)))
    commands = []
    for random in (None, np.random.default_rng(4)):
        driver = make_operator_driver(task)
        driver.reset(7)
        given = []
        for number, (yaw, shown) in enumerate(phases):
            for _ in range(8):
                cube = shown or hidden(yaw, random)
                post = hidden(yaw, random) if number == 0 else (2.0, 0.6)
                given.append(driver.drive(standing(yaw, cube, post)))
        commands.append(np.array(given))
    np.testing.assert_array_equal(*commands)
    assert len(np.unique(commands[0], axis=0)) == 40, "there is noise to compare as well"
    turning = commands[0].reshape(5, 8, 3).mean(axis=1)[:, 2]
    assert np.ptp(turning) > 1.0, "and the phases differ"


@pytest.mark.parametrize(("name", "seeds"), [("reach_cube", (0, 1, 2, 3)), ("push_cube", (0, 1))])
def test_it_succeeds_on_the_simulated_robot(name: str, seeds: tuple[int, ...]) -> None:
    task = find_task(name)
    criterion = criterion_of(task)
    assert criterion is not None
    record = evaluate_without_ros(task, "operator", seeds, max_steps=limit_steps(task))
    done = [judge(criterion, episode, task.control_hz).success for episode in record["episodes"]]
    assert all(done), done


def test_the_hand_differs_from_episode_to_episode_and_the_manner_does_not() -> None:
    task = find_task("reach_cube")
    driver = make_operator_driver(task)
    means, levels = [], []
    for seed in range(60):
        driver.reset(seed)
        given = [driver.drive(standing(0.0, (-1.5, 0.0))) for _ in range(60)]
        means.append(np.mean(given, axis=0)[2])
        levels.append(np.std(given, axis=0)[2] / 1.2)
    assert min(levels) < 0.05
    assert 0.2 < max(levels) < 0.5
    assert np.mean(means) == pytest.approx(0.85 * 1.2, abs=0.06)


def test_in_some_episodes_the_hand_slips_and_the_operator_goes_on() -> None:
    """From where it sees nothing: any command for a moment, and the search before and after."""
    task = find_task("reach_cube")
    drivers = [make_operator_driver(task), make_operator_driver(task, slipping=0.5)]
    search, shares, first = np.array([0.0, 0.0, 0.85 * 1.2]), [], []
    for seed in range(60):
        given = []
        for driver in drivers:
            driver.reset(seed)
            wishes = [driver.drive(standing(0.0, (-1.5, 0.0))) for _ in range(60)]
            given.append(np.array(wishes))
        steady, slipped = given
        assert np.abs(steady - search)[:, :2].max() < 4 * 0.35 * 0.8, "noise alone"
        held = (np.diff(slipped, axis=0) == 0).all(axis=1)  # noise never stays as it is
        shares.append(float(held.mean()))
        first.append(bool(held[0]))
        assert not held.all(), "it goes on"
    slipping = np.array(shares) > 0
    assert 0.3 < slipping.mean() < 0.7
    assert 0.05 < np.array(shares)[slipping].mean() < 0.4
    assert 0.1 < np.mean(first) < 0.5


def test_the_table_of_push_t_has_an_operator_too() -> None:
    task = find_task("pusht_easy")
    robot = make_robot(task)
    robot.reset(0)
    driver = make_driver(task, DriverMix(0.0, 0.0, 0.0, operator=1.0))
    assert driver.command(robot.observe(image=False)).shape == (2,)
    assert driver.mode == "operator"
    robot.close()


def test_shares() -> None:
    mix = DriverMix(seek=0.30, random=0.22, stand=0.03, operator=0.45)
    assert mix.probabilities() == pytest.approx(
        {"seek": 0.30, "random": 0.22, "stand": 0.03, "operator": 0.45, "policy": 0.0}
    )
    driver = make_driver(find_task("reach_cube"), mix)
    modes = []
    for seed in range(400):
        driver.reset(seed)
        modes.append(driver.mode)
    assert modes.count("operator") == pytest.approx(180, abs=45)
    assert modes.count("seek") == pytest.approx(120, abs=40)


def test_shares_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle's share comes off all the others; standing gets what they leave of 1."""
    given: list[DriverMix] = []

    def collect(task: TaskConfig, output: Path, config: CollectConfig, **_: object) -> Collected:
        given.append(config.mix)
        return Collected((), 1, 1, 1.0, interrupted=False)

    monkeypatch.setattr("fog_bringup.collect.collect", collect)
    shares = ["--operator", "0.45", "--seek", "0.3", "--random", "0.2"]
    assert main(["collect", str(tmp_path / "a"), *shares]) == 0
    assert main(["collect", str(tmp_path / "b"), *shares, "--policy", "x"]) == 0
    assert main(["collect", str(tmp_path / "c")]) == 0
    assert [list(mix.probabilities().values()) for mix in given] == [
        pytest.approx([0.3, 0.2, 0.05, 0.45, 0.0]),
        pytest.approx([0.15, 0.1, 0.025, 0.225, 0.5]),
        pytest.approx([0.7, 0.25, 0.05, 0.0, 0.0]),
    ]


def test_a_task_without_an_operator() -> None:
    task = dataclasses.replace(find_task("pusht"), name="juggle")
    with pytest.raises(FogError, match=r"task 'juggle'.*push_cube"):
        make_driver(task, DriverMix(0.5, 0.0, 0.0, operator=0.5))
