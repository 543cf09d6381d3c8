"""Labellers against the truth of the simulators: rendered views, driven episodes, the same reward.

The bounds are about 1.5 times what was measured, which is given beside them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import shapely

from fog_bringup.driver_base import Driver
from fog_bringup.robots import Observation, Robot, make_robot, rewards
from fog_bringup.robots.go2_markers import mark_cube
from fog_bringup.robots.mujoco_gl import mujoco, open_renderer
from fog_bringup.robots.pusht import PushTRobot
from fog_bringup.robots.streams import camera_messages
from fog_bringup.seek_drivers import base_pose, make_seek_driver
from fog_bringup.tasks import find_task
from fog_world_model.data.labellers import CameraModel, Labeller, Labels, make_labeller, tee
from fog_world_model.data.labellers.fiducials import MarkerDetector, Mounting, locate_box
from fog_world_model.data.labellers.marker_layout import FACES, MarkerLayout, face_axes
from fog_world_model.data.labellers.push_cube_markers import PushCubeLabeller, to_ground
from fog_world_model.data.labellers.pusht_image import PushTLabeller
from fog_world_model.data.messages import deserialise
from fog_world_model.errors import FogError
from fog_world_model.task import LabellerConfig, TaskConfig

Array = npt.NDArray[np.float64]


def camera_model(robot: Robot, observation: Observation) -> CameraModel:
    """What an importer makes of the CameraInfo that is recorded beside the picture."""
    _, typename, data = camera_messages(robot, observation)[0]
    info = deserialise(data, typename)
    return CameraModel(info.k.reshape(3, 3), info.d, info.height, info.width)


def whole_pose(observation: Observation) -> Array:
    return np.concatenate([observation.position, observation.orientation])


@dataclasses.dataclass(frozen=True)
class Driven:
    """One episode, as it was and as the labeller saw it."""

    labels: Labels
    reward: Array
    """``[step - 1]`` the simulator's."""
    ended: bool
    objects: dict[str, Array]
    """``[step, 3]`` true poses."""
    sights: npt.NDArray[np.float32]
    base: Array


def drive(robot: Robot, task: TaskConfig, labeller: Labeller, driver: Driver, seed: int) -> Driven:
    robot.reset(seed)
    driver.reset(seed)
    seen, sights = [], []
    camera = camera_model(robot, robot.observe())
    while True:
        observation = robot.observe()
        assert observation.image is not None
        sights.append(labeller.look(observation.image, camera))
        seen.append(dataclasses.replace(observation, image=None))
        if observation.end or len(seen) > task.episode.max_steps:
            break
        command = driver.command(observation)
        for _ in range(task.period_ns // robot.step_ns):
            robot.step(command)
    base = np.array([whole_pose(o) for o in seen])
    stacked = np.array(sights)
    assert task.labeller is not None
    labels = labeller.label(stacked, base.astype(np.float32) if task.labeller.odometry_topic
                            else None)  # fmt: skip
    names = seen[0].objects
    return Driven(
        labels,
        np.array([o.reward for o in seen[1:]]),
        seen[-1].end,
        {name: np.array([o.objects[name] for o in seen]) for name in names},
        stacked,
        base,
    )


# --- Push-T ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[64, 96, 256])
def table(request: pytest.FixtureRequest) -> Iterator[PushTRobot]:
    robot = make_robot(
        find_task("pusht_image"), image_height=request.param, image_width=request.param
    )
    assert isinstance(robot, PushTRobot)
    yield robot
    robot.close()


def place(
    robot: PushTRobot, block: tuple[float, float, float], pusher: tuple[float, float]
) -> None:
    env = robot._env
    env.block.angle = block[2]
    env.block.position = block[:2]
    env.agent.position = pusher
    env.space.reindex_shapes_for_body(env.block)
    env.space.reindex_shapes_for_body(env.agent)
    robot.coverage = float(env._get_coverage())


def test_pusht_pose_and_coverage_of_random_tables(table: PushTRobot) -> None:
    """Measured at 64, 96 and 256 px.

    Position off by 0.4 px on average and 1.0 at most, angle by 0.6 degrees at most, coverage by
    0.0022 on average and 0.010 at most.
    """
    labeller = PushTLabeller(LabellerConfig("pusht_image"))
    random = np.random.default_rng(0)
    table.reset(0)
    apart, turned, covered = [], [], []
    for k in range(45):
        if k % 2:
            x, y = random.normal(tee.GOAL[:2], 12.0)
            pose = (float(x), float(y), float(random.normal(tee.GOAL[2], 0.2)))
        else:
            x, y = random.uniform(150.0, 360.0, 2)
            pose = (float(x), float(y), float(random.uniform(-math.pi, math.pi)))
        angle = random.uniform(-math.pi, math.pi)  # every third time the pusher hides a part
        far = 40.0 if k % 3 == 0 else 150.0
        centre = tee.bars(pose).mean((0, 1))
        pusher = np.clip(centre + far * np.array([math.cos(angle), math.sin(angle)]), 15, 497)
        place(table, pose, (float(pusher[0]), float(pusher[1])))
        image = table.observe().image
        assert image is not None
        found = labeller.look(image, None)
        apart.append(math.dist(found[:2], pose[:2]))
        turned.append(abs(math.remainder(found[2] - pose[2], 2 * math.pi)))
        covered.append(abs(found[3] - table.coverage))
        # The geometry alone, against gym-pusht's own score.
        assert tee.coverage(pose, tee.GOAL) == pytest.approx(table.coverage, abs=1e-9)
    assert np.mean(apart) < 0.8 and np.max(apart) < 2.0
    assert np.max(turned) < math.radians(1.0)
    assert np.mean(covered) < 0.005 and np.max(covered) < 0.02


@pytest.mark.parametrize("seed", [3, 4])
def test_pusht_reward_of_driven_episodes(seed: int) -> None:
    """Measured at 96 px: off by 0.002 on average, 0.007 at most; seed 3 ends, seed 4 does not."""
    task = find_task("pusht_image")
    robot, labeller = make_robot(task), make_labeller(task)
    assert labeller is not None
    episode = drive(robot, task, labeller, make_seek_driver(task), seed)
    robot.close()
    error = np.abs(episode.labels.reward - episode.reward)
    assert np.ptp(episode.reward) > 0.1  # there was something to be told apart
    assert error.mean() < 0.005 and error.max() < 0.015
    assert bool(episode.labels.end[-1]) == episode.ended
    assert not episode.labels.end[:-1].any()


def _gap_by_shapely(block: tuple[float, float, float], pusher: tuple[float, float]) -> float:
    """Distance to the nearer bar as shapely has it, less the pusher's radius of 15 px."""
    parts = [shapely.Polygon(corners) for corners in tee.bars(block)]
    return min(float(part.distance(shapely.Point(pusher))) for part in parts) - 15.0


def test_pusht_reward_is_the_simulators_formula() -> None:
    labeller = PushTLabeller(LabellerConfig("pusht_image", options={"approach_weight": 0.3}))
    random = np.random.default_rng(0)
    sights = random.uniform((0, 0, -math.pi, 0, 0, 0), (512, 512, math.pi, 1, 512, 512), (50, 6))
    found = labeller.label(sights.astype(np.float32), None).reward
    expected = [
        rewards.pusht(
            (x, y, a), tee.GOAL, c, gap=_gap_by_shapely((x, y, a), (u, v)), approach_weight=0.3
        )
        for x, y, a, c, u, v in sights[1:]
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# --- markers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_textures_lie_on_the_simulated_cube_as_the_layout_says(face: str) -> None:
    """Looked at straight and slantwise, from what this face alone shows."""
    layout = MarkerLayout()
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(
        name="cube", type=mujoco.mjtGeom.mjGEOM_BOX, size=[layout.cube_size_m / 2] * 3
    )
    mark_cube(spec, layout)
    spec.visual.headlight.ambient = np.full(3, 0.6)
    normal, right, up = face_axes(face)
    slant = 0.6 * normal + 0.15 * right + 0.1 * up
    for name, place in (("straight", 0.6 * normal), ("slantwise", slant)):
        ahead = place / np.linalg.norm(place)
        x = np.cross(up, ahead) / np.linalg.norm(np.cross(up, ahead))
        spec.worldbody.add_camera(name=name, pos=place, xyaxes=[*x, *np.cross(ahead, x)], fovy=50)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = open_renderer(model, 480, 480)
    detector = MarkerDetector(layout.opencv())
    focal = 240.0 / math.tan(math.radians(25.0))
    camera = CameraModel(
        np.array([[focal, 0, 239.5], [0, focal, 239.5], [0, 0, 1]]), np.zeros(5), 480, 480
    )
    markers = tuple(m for m in layout.cube() if m.face == face)
    # The camera as the base: optical axes are right, down and into the picture.
    level = Mounting(0.0, 0.0, 0.0, 0.0)
    for name in ("straight", "slantwise"):
        renderer.update_scene(data, name)
        found = detector.find(renderer.render())
        seen = {k: v for k, v in found.items() if k in {m.identifier for m in markers}}
        assert len(seen) == len(markers)
        sight = locate_box(seen, markers, layout.cube_size_m, camera, level)
        assert sight is not None
        number = model.camera(name).id
        # OpenGL's camera looks along -z with y up; the base looks along x with z up.
        to_base = np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]])
        turn = to_base @ data.cam_xmat[number].reshape(3, 3).T
        np.testing.assert_allclose(sight.position, turn @ -data.cam_xpos[number], atol=0.002)
        np.testing.assert_allclose(sight.rotation, turn, atol=0.02)
    renderer.close()


@pytest.fixture(scope="module")
def marked() -> Iterator[tuple[Robot, TaskConfig]]:
    task = find_task("push_cube_markers")
    robot = make_robot(task)
    yield robot, task
    robot.close()


def test_markers_of_rendered_views() -> None:
    """Detection and error by distance from the base, in pictures of 640x480.

    Measured over 250 starts (the post never stands within 1.5 m and the camera's height):
    cube found in 1.0 of the views up to 3 m and 0.8 at 3 to 4 m; error 0.2 cm up to 1.5 m, 0.5 cm
    to 2 m, 1.4 cm to 3 m (median), yaw 0.2, 0.3 and 1.3 degrees. Post found in 1.0 of the views
    from 1.5 to 5 m; 0.3 cm to 2 m, 1 cm to 3 m, 5 cm to 4 m.
    """
    task = find_task("push_cube_markers")
    options = {**task.options, "start_bearing_deg": 35.0, "cube_distance_m": 4.5}
    task = dataclasses.replace(task, options={**options, "cube_margin_m": 0.7})
    robot, labeller = make_robot(task), make_labeller(task)
    assert labeller is not None
    views = []
    for seed in range(110):
        robot.reset(seed)
        observation = robot.observe()
        assert observation.image is not None
        sight = labeller.look(observation.image, camera_model(robot, observation)).astype(float)
        base = base_pose(observation)
        for name, first in (("cube", 0), ("goal", 5)):
            true = observation.objects[name]
            distance, bearing = rewards.distance_and_bearing(base, true[:2])
            if abs(bearing) > math.radians(40.0):
                continue
            found = to_ground(sight[None, first : first + 3], whole_pose(observation)[None])[0]
            turn = math.remainder(sight[4] + base[2] - true[2], 2 * math.pi)
            views.append((name == "goal", distance, math.dist(found, true[:2]), abs(turn)))
    robot.close()
    table = np.array(views)

    def between(post: bool, low: float, high: float) -> Array:
        chosen: Array = table[(table[:, 0] == post) & (table[:, 1] > low) & (table[:, 1] <= high)]
        return chosen

    for post, low, high, rate, error_m, turn_deg in (
        (False, 0.8, 1.5, 1.0, 0.004, 0.4),
        (False, 1.5, 2.0, 1.0, 0.012, 1.0),
        (False, 2.0, 3.0, 0.95, 0.03, 3.0),
        (False, 3.0, 4.0, 0.6, 0.15, math.inf),
        (True, 1.5, 2.0, 0.8, 0.01, math.inf),
        (True, 2.0, 3.0, 1.0, 0.02, math.inf),
        (True, 3.0, 4.0, 1.0, 0.08, math.inf),
    ):
        rows = between(post, low, high)
        seen = rows[~np.isnan(rows[:, 2])]
        where = f"{'post' if post else 'cube'} at {low} to {high} m ({len(rows)} views)"
        assert len(rows) >= 5, where
        assert len(seen) >= rate * len(rows), where
        assert np.median(seen[:, 2]) < error_m, where
        if not post:
            assert np.median(seen[:, 3]) < math.radians(turn_deg), where


@pytest.fixture(scope="module")
def pushed(marked: tuple[Robot, TaskConfig]) -> dict[int, Driven]:
    """Two episodes that end at the post."""
    robot, task = marked
    labeller = make_labeller(task)
    assert labeller is not None
    return {k: drive(robot, task, labeller, make_seek_driver(task), k) for k in (8, 12)}


@pytest.mark.parametrize("seed", [8, 12])
def test_markers_reward_of_driven_episodes(pushed: dict[int, Driven], seed: int) -> None:
    """Measured over eight episodes of the mixed driver.

    Correlation 0.999, mean error 0.007 where the reward spreads by 0.22, known for 0.93 of the
    transitions, the sums over the known ones of an episode off by 0.1 at most (of up to 17).
    """
    episode = pushed[seed]
    labeller = make_labeller(find_task("push_cube_markers"))
    assert isinstance(labeller, PushCubeLabeller)
    known = ~np.isnan(episode.labels.reward)
    found, true = episode.labels.reward[known], episode.reward[known]
    assert known.mean() > 0.8
    assert np.abs(found - true).mean() < 0.02
    assert np.corrcoef(found, true)[0, 1] > 0.98
    assert found.sum() == pytest.approx(true.sum(), abs=0.3)
    assert bool(episode.labels.end[-1]) is bool(episode.ended) is True
    assert not episode.labels.end[:-1].any()
    # The camera sees post or cube now and then only; it is the odometry that carries them.
    alone = labeller.label(episode.sights, None)
    assert np.isnan(alone.reward).mean() > 0.1


def test_markers_reward_bears_odometry_that_drifts(pushed: dict[int, Driven]) -> None:
    labeller, episode = make_labeller(find_task("push_cube_markers")), pushed[8]
    assert labeller is not None
    # 3 % too far, and turning by 6 degrees over the episode.
    base = episode.base.copy()
    angle = np.linspace(0.0, math.radians(6.0), len(base))
    moves = np.diff(base[:, :2], axis=0) * 1.03
    c, s = np.cos(angle[1:]), np.sin(angle[1:])
    turned = np.stack([c * moves[:, 0] - s * moves[:, 1], s * moves[:, 0] + c * moves[:, 1]], 1)
    base[1:, :2] = base[0, :2] + np.cumsum(turned, 0)
    half = np.stack([0 * angle, 0 * angle, np.sin(angle / 2), np.cos(angle / 2)], 1)
    for k in range(len(base)):
        x, y, z, w = half[k]
        a, b, d, e = base[k, 3:7]
        base[k, 3:7] = (
            w * a + x * e + y * d - z * b,
            w * b - x * d + y * e + z * a,
            w * d + x * b - y * a + z * e,
            w * e - x * a - y * b - z * d,
        )
    labels = labeller.label(episode.sights, base.astype(np.float32))
    known = ~np.isnan(labels.reward)
    error = np.abs(labels.reward - episode.reward)[known]
    # Nothing is known before cube and post have been seen, and then nearly everything.
    assert known.mean() > 0.7
    assert known[known.argmax() :].mean() > 0.9
    assert error.mean() < 0.04


def test_markers_reward_is_the_simulators_formula() -> None:
    labeller = PushCubeLabeller(LabellerConfig("push_cube_markers"))
    random = np.random.default_rng(0)
    cube, goal = random.uniform(-2, 2, (60, 2)), random.uniform(-2, 2, (60, 2))
    goal[30:32] = cube[30:32] + 0.1
    sights = np.zeros((60, 9), np.float32)
    sights[:, 0:2], sights[:, 5:7] = cube, goal
    labels = labeller.label(sights, None)
    potential = [
        rewards.push_cube_potential((0.0, 0.0), (cx, cy), (gx, gy))
        for (cx, cy), (gx, gy) in zip(cube, goal, strict=True)
    ]
    near = np.hypot(*(goal - cube).T) < 0.4
    expected = [
        rewards.push_cube(potential[t], potential[t + 1], bool(near[t + 1])) for t in range(59)
    ]
    np.testing.assert_allclose(labels.reward, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(labels.end, near[1:])
    assert near.any()


def test_markers_are_an_option_of_the_scene() -> None:
    plain = find_task("push_cube")
    marked = find_task("push_cube_markers")
    robot = make_robot(dataclasses.replace(marked, options={**marked.options, "markers": 0.0}))
    other = make_robot(plain, image_height=480, image_width=640)
    robot.reset(5)
    other.reset(5)
    for _ in range(10):
        robot.step((0.4, 0.0, 0.2))
        other.step((0.4, 0.0, 0.2))
    ours, theirs = robot.observe().image, other.observe().image
    robot.close()
    other.close()
    assert ours is not None and theirs is not None
    np.testing.assert_array_equal(ours, theirs)
    small = dataclasses.replace(marked, options={**marked.options, "cube_size_m": 0.25})
    with pytest.raises(FogError, match=r"cube_size_m is 0\.25, but the markers .* of 0\.3 m"):
        make_robot(small)
