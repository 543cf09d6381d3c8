"""Scripted drivers that a policy can imitate: they know only what the camera has shown.

Behaviour cloning from a driver that knows more than the policy sees fails: the clone cannot tell
why the driver turned to a cube behind its back (the imitation gap: Weihs et al. 2021, "Bridging the
Imitation Gap by Adaptive Insubordination"). These drive as a person does by the camera's picture:
they look for the object, remember where they saw it, and act on that memory. They do it in one way,
at one speed; only how steady the hand is differs from episode to episode, so that recordings hold
deviations and how they are put right. In some recorded episodes the hand slips now and then: for a
moment the command is any, and then the operator goes on from wherever that led. Without it a clone
that happens to walk while it sees nothing goes on walking, because in the recordings whoever walks
has seen the cube (a copycat: de Haan et al. 2019, "Causal Confusion in Imitation Learning"; the
cure is that of Laskey et al. 2017, "DART").
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from fog_bringup.driver_base import Driver, Noise
from fog_bringup.reference_drivers import reach_wish
from fog_bringup.robots.ego_camera import EgoCamera
from fog_bringup.robots.rewards import Pose, distance_and_bearing
from fog_bringup.robots.robot import Observation
from fog_bringup.seek_drivers import PushTDriver, base_pose, driver_of, push_wish
from fog_world_model.task import TaskConfig

Array = npt.NDArray[np.float64]
Place = tuple[float, float]

NOISE_LEVELS = (0.0, 0.35)
"""Each episode draws its own between these."""
SLIPPING = 0.5
"""Share of the recorded episodes in which the hand slips."""
SLIPS_PER_S = 0.25
SLIP_S = (0.4, 1.2)
"""How long a slip lasts."""
SEARCH_TURN = 0.85
"""Rate of turning while looking for something, as a share of the task's bound."""
PUSH_SPEED = 0.8
"""The same of the speed of a push."""
_SEEN_WITHIN = 0.95
"""Of the picture's half: what lies there is seen. Nearer to the border too little of an object is
in a small picture."""
_MISSED_WITHIN = 0.7
"""A remembered place that lies there is seen to be empty. Less than above: a cube that is pushed
out of the picture was near the border just before."""


class SeenPlace:
    """Where something was last seen in this episode.

    Args:
        height_m: At which to look for it above the floor.
        reach_m: It is seen where its middle is, or a point so far from that along the axes of the
            odometry frame: close by, the middle of a cube may be beside a picture that is full
            of it.
    """

    def __init__(self, height_m: float, reach_m: float = 0.0) -> None:
        self._height, self._reach = height_m, reach_m
        self.place: Place | None = None
        """``(x, y)`` in the odometry frame, m; None: not seen yet, or gone from there."""
        self.side = 1.0
        """To which side it was last seen: 1 left, -1 right; left where it never was."""

    def look(self, camera: EgoCamera, observation: Observation, truth: Place) -> None:
        """Take in a picture.

        Args:
            camera: Whose picture it is.
            observation: Its base pose counts.
            truth: Where the thing is, ``(x, y)``, m; it counts only if the picture shows it.
        """
        if self._in_picture(camera, observation, truth):
            self.place = truth
            _, bearing = distance_and_bearing(base_pose(observation), truth)
            self.side = math.copysign(1.0, bearing)
        elif self.place is not None and camera.shows(
            observation, (*self.place, self._height), _MISSED_WITHIN
        ):
            self.place = None

    def _in_picture(self, camera: EgoCamera, observation: Observation, truth: Place) -> bool:
        (x, y), r = truth, self._reach
        points = ((x, y), (x - r, y), (x + r, y), (x, y - r), (x, y + r))
        return any(camera.shows(observation, (*p, self._height), _SEEN_WITHIN) for p in points)


class OperatorDriver(Driver):
    """Looks for what it needs, turning on the spot, then acts on where it saw that last."""

    needs: tuple[str, ...] = ("cube",)
    """Objects that it has to have seen before it starts."""
    slipping = 0.0
    """Share of the episodes in which the hand slips."""

    def reset(self, seed: int) -> None:
        """Begin an episode: nothing is known, and the steadiness of the hand is drawn."""
        super().reset(seed)
        self._level = float(self._random.uniform(*NOISE_LEVELS))
        self._noise = Noise((self._high - self._low) / 2, self._dt)
        slipping = self.slipping and self._random.random() < self.slipping
        self._slips = SLIPS_PER_S * self._dt if slipping else 0.0
        self._slip, self._left = np.zeros(len(self._low)), 0
        if slipping and self._random.random() < 0.5:  # before anything was seen
            self._begin_slip()
        self._camera = EgoCamera.of_task(self._task)
        # The tall and thin post shows at half the cube's height as well, from afar and from nearby.
        size = self._task.options.get("cube_size_m", 0.3)
        self._seen = {n: SeenPlace(size / 2, size / 3 if n == "cube" else 0.0) for n in self.needs}

    def drive(self, observation: Observation) -> Array:
        """Wish for the coming step."""
        for name, seen in self._seen.items():
            seen.look(self._camera, observation, observation.objects[name][:2])
        places = {n: seen.place for n, seen in self._seen.items() if seen.place is not None}
        if missing := [seen for name, seen in self._seen.items() if name not in places]:
            wish = np.array([0.0, 0.0, missing[0].side * SEARCH_TURN * self._high[2]])
        else:
            wish = self.act(base_pose(observation), places)
        wish = wish + self._noise.draw(self._random, self._level)
        if self._left == 0 and self._slips and self._random.random() < self._slips:
            self._begin_slip()
        if self._left > 0:
            self._left -= 1
            return self._slip
        return wish

    def _begin_slip(self) -> None:
        self._slip = self._random.uniform(self._low, self._high)
        self._left = self._steps(*SLIP_S)

    @abstractmethod
    def act(self, base: Pose, places: dict[str, Place]) -> Array:
        """Wish ``[vx, vy, wz]`` when all is seen that it needs.

        Args:
            base: ``(x, y, yaw)`` in the odometry frame.
            places: Object -> where it was last seen, in the same frame.
        """


class ReachCubeOperator(OperatorDriver):
    """Walks up to the cube and stays in front of it."""

    def act(self, base: Pose, places: dict[str, Place]) -> Array:
        """Wish towards the cube."""
        return reach_wish(base, places["cube"])


class PushCubeOperator(OperatorDriver):
    """Gets behind the cube, seen from the post, and pushes it there."""

    needs = ("cube", "goal")

    def act(self, base: Pose, places: dict[str, Place]) -> Array:
        """Wish towards the place behind the cube, or against the cube."""
        wish = push_wish(base, places["cube"], places["goal"], PUSH_SPEED * float(self._high[0]))
        # Slower rather than elsewhere: cut off axis by axis, the way round the cube leads into it.
        most = np.where(wish[:2] > 0, self._high[:2], -self._low[:2])
        wish[:2] /= max(1.0, float((np.abs(wish[:2]) / most).max()))
        return wish


class PushTOperator(PushTDriver):
    """Sees all of the table, so that there is nothing to look for; a fairly steady hand."""

    noise = 0.25


_DRIVERS: dict[str, type[Driver]] = {
    "reach_cube": ReachCubeOperator,
    "push_cube": PushCubeOperator,
    "pusht": PushTOperator,
}


def make_operator_driver(task: TaskConfig, *, slipping: float = 0.0) -> Driver:
    """Make the operator of a task.

    Args:
        task: Gives bounds, rate, and by its name the purpose.
        slipping: Share of the episodes in which the hand slips; on Push-T it never does.

    Raises:
        FogError: There is none for a task of that name.
    """
    made = driver_of(task, _DRIVERS, " Drive it by hand, or with random commands only.")
    if isinstance(made, OperatorDriver):
        made.slipping = slipping
        made.reset(0)
    return made
