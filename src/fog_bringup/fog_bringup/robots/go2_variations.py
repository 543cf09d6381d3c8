"""Changes the simulated quadruped's scene for an episode: cube, light and camera.

Only numbers of the compiled model change, each from what it was compiled with; without conditions
nothing is touched.
"""

from __future__ import annotations

import math

import numpy as np

from fog_bringup.robots.go2_scene import FLOOR_PAIR
from fog_bringup.robots.mujoco_gl import mujoco
from fog_bringup.robots.variations import Conditions


class SceneVariation:
    """Applies conditions to a model.

    Args:
        model: As it was compiled.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._cube = model.body("cube").id
        self._camera = model.camera("ego").id
        self._mass = float(model.body_mass[self._cube])
        self._inertia = model.body_inertia[self._cube].copy()
        self._slide = model.pair(FLOOR_PAIR).friction[:2].copy()
        self._camera_quat = model.cam_quat[self._camera].copy()
        light = model.vis.headlight
        self._light = (
            model.light_diffuse.copy(),
            np.array(light.ambient),
            np.array(light.diffuse),
        )

    def apply(self, conditions: Conditions) -> None:
        """Set the model for an episode; what the conditions do not name stays as it is.

        Args:
            conditions: See :func:`fog_bringup.robots.variations.draw_conditions`; conditions of
                the stream are none of the scene's.
        """
        model = self._model
        if (factor := conditions.get("cube_mass_factor")) is not None:
            model.body_mass[self._cube] = factor * self._mass
            model.body_inertia[self._cube] = factor * self._inertia
            # What the solver derives from masses; the scratch data keep the episode's own.
            mujoco.mj_setConst(model, mujoco.MjData(model))
        if (factor := conditions.get("cube_friction_factor")) is not None:
            model.pair(FLOOR_PAIR).friction[:2] = factor * self._slide
        if (factor := conditions.get("light_factor")) is not None:
            diffuse, ambient, head = self._light
            model.light_diffuse[:] = factor * diffuse
            model.vis.headlight.ambient = factor * ambient
            model.vis.headlight.diffuse = factor * head
            azimuth = math.radians(conditions["light_azimuth_deg"])
            height = math.radians(conditions["light_height_deg"])
            model.light_dir[:] = (
                -math.cos(height) * math.cos(azimuth),
                -math.cos(height) * math.sin(azimuth),
                -math.sin(height),
            )
        if (change := conditions.get("camera_pitch_change_deg")) is not None:
            # A camera looks along -z with x to the right: to look down is to turn about -x.
            half = math.radians(-change) / 2
            turn = np.array([math.cos(half), math.sin(half), 0.0, 0.0])
            mujoco.mju_mulQuat(model.cam_quat[self._camera], self._camera_quat, turn)
