"""Fiducial markers on the simulated cube and on the goal post, as one would glue on printed ones.

The textures are drawn when the scene is built; nothing is read from files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fog_bringup.robots.mujoco_gl import mujoco
from fog_world_model.data.labellers.marker_layout import FACES, Marker, MarkerLayout

_TEXTURE_PX = 600
# MuJoCo's order of the six pictures of a cube texture, and by how many quarter turns
# anticlockwise each has to be turned to stand on its face as MarkerLayout has it.
_QUARTER_TURNS = {"+x": 1, "-x": -1, "+y": 2, "-y": 0, "+z": -1, "-z": 1}
_CLEARANCE_M = 0.02
"""Between the top of the cube and the box on the post, which the cube slides under."""


def mark_cube(spec: Any, layout: MarkerLayout) -> None:
    """Cover the cube with its markers."""
    _cover(spec, spec.geom("cube"), layout, layout.cube(), layout.cube_size_m)


def add_post_box(spec: Any, goal: tuple[float, float], layout: MarkerLayout) -> None:
    """Put the box with the goal's markers on the post, just above the height of the cube."""
    half = layout.post_box_m / 2
    box = spec.worldbody.add_geom(
        name="post_box",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[*goal, layout.cube_size_m + _CLEARANCE_M + half],
        size=[half] * 3,
        contype=3,
        conaffinity=3,
    )
    _cover(spec, box, layout, layout.post(), layout.post_box_m)


def _cover(
    spec: Any, geom: Any, layout: MarkerLayout, markers: tuple[Marker, ...], box_m: float
) -> None:
    pictures = [
        np.rot90(layout.draw_face(markers, face, box_m, _TEXTURE_PX), turns)
        for face, turns in _QUARTER_TURNS.items()
    ]
    assert set(_QUARTER_TURNS) == set(FACES)
    name = f"{geom.name}_markers"
    texture = spec.add_texture(
        name=name,
        type=mujoco.mjtTexture.mjTEXTURE_CUBE,
        width=_TEXTURE_PX,
        height=len(pictures) * _TEXTURE_PX,
        nchannel=3,
    )
    texture.data = np.repeat(np.concatenate(pictures)[:, :, None], 3, axis=2).tobytes()
    material = spec.add_material(name=name)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    geom.material = name
    geom.rgba = [1.0, 1.0, 1.0, 1.0]
