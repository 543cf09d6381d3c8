"""Variations of the simulated quadruped's scene: they change what they should, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fog_bringup.robots import make_robot
from fog_bringup.robots.go2 import Go2Robot
from fog_bringup.robots.go2_scene import Scene, build_model
from fog_bringup.robots.go2_variations import SceneVariation
from fog_bringup.robots.mujoco_gl import mujoco
from fog_bringup.robots.variations import VARIATIONS, draw_conditions, parse_variations
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError

SCENE = Scene.from_options(find_task("push_cube").options)
SEEDS = range(200)
FOLLOWING = {"cam_mat0", "light_dir0"}
"""What MuJoCo keeps for cameras and lamps that follow a body; these do not."""


def go2(name: str = "push_cube", **overrides: Any) -> Go2Robot:
    robot = make_robot(find_task(name), **overrides)
    assert isinstance(robot, Go2Robot)
    return robot


@pytest.fixture(scope="module")
def plain() -> Iterator[Go2Robot]:
    robot = go2()
    yield robot
    robot.close()


def arrays(model: mujoco.MjModel) -> dict[str, npt.NDArray[Any]]:
    """Every array of a model, and the lamp that goes with the camera."""
    found = {n: getattr(model, n) for n in dir(model) if not n.startswith("_")}
    light = model.vis.headlight
    numbers = {n: a.copy() for n, a in found.items() if isinstance(a, np.ndarray)}
    return numbers | {
        "ambient": np.array(light.ambient),
        "headlight": np.array(light.diffuse),
    }


def changed(model: mujoco.MjModel, other: mujoco.MjModel) -> set[str]:
    mine, theirs = arrays(model), arrays(other)
    assert mine.keys() == theirs.keys()
    return {
        n
        for n, a in mine.items()
        if a.shape != theirs[n].shape
        or (a.dtype.kind == "f" and not np.allclose(a, theirs[n], rtol=1e-9, atol=1e-12))
        or (a.dtype.kind != "f" and not np.array_equal(a, theirs[n]))
    }


def varied(**conditions: float) -> mujoco.MjModel:
    model = build_model(SCENE)
    SceneVariation(model).apply(conditions)
    return model


def test_a_heavier_cube_is_the_model_compiled_with_that_mass() -> None:
    heavy = build_model(dataclasses.replace(SCENE, cube_mass_kg=3.0))
    assert changed(varied(cube_mass_factor=2.0), heavy) == set()
    assert "body_mass" in changed(heavy, build_model(SCENE))


def test_factors_do_not_pile_up_from_episode_to_episode() -> None:
    model = build_model(SCENE)
    variation = SceneVariation(model)
    light = {"light_factor": 0.5, "light_azimuth_deg": 90.0, "light_height_deg": 45.0}
    for _ in range(3):
        variation.apply({"cube_mass_factor": 2.0, "camera_pitch_change_deg": 5.0, **light})
    assert model.body("cube").mass[0] == pytest.approx(3.0)
    assert model.vis.headlight.ambient == pytest.approx([0.225] * 3)
    other = varied(cube_mass_factor=2.0, camera_pitch_change_deg=5.0, **light)
    assert changed(model, other) <= FOLLOWING


@pytest.mark.parametrize("change", [5.0, -5.0])
def test_pitch_is_the_model_compiled_with_that_pitch(change: float) -> None:
    tilted = build_model(dataclasses.replace(SCENE, camera_pitch_deg=18.0 + change))
    mine = varied(camera_pitch_change_deg=change)
    assert changed(mine, build_model(SCENE)) == {"cam_quat"}
    assert changed(mine, tilted) <= FOLLOWING


def test_pitch_moves_what_the_picture_shows_by_so_many_rows(plain: Go2Robot) -> None:
    robot = go2(vary=("pitch",))
    seen = 0
    for seed in range(40):
        plain.reset(seed)
        robot.reset(seed)
        assert dict(robot.conditions) == draw_conditions(["pitch"], seed)
        rows = [_red_rows(r) for r in (plain, robot)]
        if any(len(r) < 30 or not 15 < r.mean() < 80 for r in rows):
            continue
        # A ray at angle a below the optical axis meets the row 47.5 + focal * tan(a).
        focal = 48.0 / math.tan(math.radians(95.0) / 2)
        before = math.atan((rows[0].mean() - 47.5) / focal)
        turn = math.radians(robot.conditions["camera_pitch_change_deg"])
        # A cube near the side of the picture lies at a greater angle than its row tells.
        expected = 47.5 + focal * math.tan(before - turn)
        assert rows[1].mean() == pytest.approx(expected, abs=2.5)
        seen += 1
    robot.close()
    assert seen >= 4


def _red_rows(robot: Go2Robot) -> npt.NDArray[np.int64]:
    image = robot.observe().image
    assert image is not None
    r, g, b = (image[..., i].astype(int) for i in range(3))
    found = (r > 100) & (r > 3 * g) & (r > 3 * b)
    found[:, :25] = found[:, 70:] = False
    return np.nonzero(found)[0]


def test_light_changes_the_light_alone_and_the_picture_with_it() -> None:
    model = varied(light_factor=0.5, light_azimuth_deg=90.0, light_height_deg=30.0)
    expected = {"light_dir", "light_diffuse", "ambient", "headlight"}
    assert changed(model, build_model(SCENE)) == expected
    # From +y, 30 degrees high: it shines towards -y and down.
    assert model.light_dir[0] == pytest.approx([0.0, -math.sqrt(0.75), -0.5], abs=1e-12)
    assert model.light_diffuse[0] == pytest.approx([0.2] * 3)
    robot = go2(vary=("light",))
    bright = {}
    for seed in range(20):
        robot.reset(seed)
        image = robot.observe().image
        assert image is not None
        bright[robot.conditions["light_factor"]] = image.mean()
    robot.close()
    assert np.corrcoef(list(bright), list(bright.values()))[0, 1] > 0.8


def cube_contacts(robot: Go2Robot) -> list[npt.NDArray[np.float64]]:
    """Friction of every contact of the cube with the floor."""
    geoms = {robot._model.geom("cube").id, robot._model.geom("floor").id}
    contacts = robot._data.contact
    return [c.friction.copy() for c in contacts if {int(c.geom1), int(c.geom2)} == geoms]


def test_friction_is_that_of_the_cube_on_the_floor_in_contact(plain: Go2Robot) -> None:
    robot = go2(vary=("friction",))
    for seed in (1, 2, 3):
        for r in (plain, robot):
            r.reset(seed)
            for _ in range(5):
                r.step((0.0, 0.0, 0.0))
        factor = robot.conditions["cube_friction_factor"]
        assert len(cube_contacts(robot)) == len(cube_contacts(plain)) == 4, "none is doubled"
        for mine, theirs in zip(cube_contacts(robot), cube_contacts(plain), strict=True):
            assert mine == pytest.approx(theirs * (factor, factor, 1, 1, 1))
        # The robot stands as before.
        np.testing.assert_allclose(robot._data.qpos[:19], plain._data.qpos[:19], atol=1e-6)
    robot.close()


def test_a_slippery_cube_slides_farther() -> None:
    way = {}
    for factor in (0.5, 1.0, 2.0):
        robot = go2(vary=("friction",))
        robot.reset(0)
        assert robot._variation is not None
        robot._variation.apply({"cube_friction_factor": factor})
        data, c = robot._data, robot._cube
        data.qpos[c : c + 2] = 0.0, -2.0
        data.qpos[:2] = 0.0, 2.0
        data.qpos[c + 3 : c + 7] = 1.0, 0.0, 0.0, 0.0
        data.qvel[-6:] = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for _ in range(50):
            robot.step((0.0, 0.0, 0.0))
        way[factor] = float(data.qpos[c])
        robot.close()
    # v^2 / (2 mu g) for a friction of 0.4 by the scene
    assert way == pytest.approx({0.5: 0.255, 1.0: 0.127, 2.0: 0.064}, abs=0.02)


def test_every_variation_leaves_the_starts_alone(plain: Go2Robot) -> None:
    robot = go2(vary=("mass", "friction", "light", "pitch"))
    for seed in (1_000_000, 1_000_003):
        plain.reset(seed)
        robot.reset(seed)
        a, b = plain.observe(image=False), robot.observe(image=False)
        np.testing.assert_allclose(a.position, b.position, atol=1e-6)
        assert b.objects["cube"] == pytest.approx(a.objects["cube"], abs=1e-4)
        assert a.joint_position == pytest.approx(b.joint_position, abs=1e-5)
    assert plain.conditions == {}
    robot.close()


def test_without_variations_no_number_of_the_model_is_ever_touched(plain: Go2Robot) -> None:
    for seed in (3, 4):
        plain.reset(seed)
        plain.step((0.3, 0.0, 0.0))
    assert changed(plain._model, build_model(SCENE)) == set()


def test_conditions_are_spread_over_their_ranges_and_belong_to_the_seed() -> None:
    drawn = [draw_conditions(VARIATIONS, seed) for seed in SEEDS]
    assert drawn[7] == draw_conditions(VARIATIONS, 7)
    for key in ("cube_mass_factor", "cube_friction_factor"):
        logs = np.log2([d[key] for d in drawn])
        assert -1 <= logs.min() < -0.9
        assert 0.9 < logs.max() <= 1
        assert abs(logs.mean()) < 0.15
    assert {d["camera_pitch_change_deg"] for d in drawn} == {-5.0, 5.0}
    assert 70 < sum(d["camera_pitch_change_deg"] > 0 for d in drawn) < 130
    assert np.corrcoef([list(d.values())[:2] for d in drawn], rowvar=False)[0, 1] < 0.3
    assert drawn[3]["cube_mass_factor"] == draw_conditions(["mass"], 3)["cube_mass_factor"]


def test_names_of_variations() -> None:
    assert parse_variations("lost-frames, mass", "--vary") == ("mass", "lost-frames")
    assert parse_variations("all", "--vary") == tuple(VARIATIONS)
    assert parse_variations("", "--vary") == ()
    with pytest.raises(FogError, match="--vary mass,colour: no variation colour; there are mass"):
        parse_variations("mass,colour", "--vary")
    with pytest.raises(FogError, match="the scene of the simulated pusht cannot be varied"):
        make_robot(find_task("pusht"), vary=("mass",))
