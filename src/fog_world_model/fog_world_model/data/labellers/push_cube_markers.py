"""The reward of push_cube from fiducial markers on the cube and on the goal post.

Both are often out of the camera's sight: while the robot pushes, the post may be hidden, and while
it looks for its way, the cube may be behind it. The robot's odometry then carries what was seen
before and what is seen afterwards to the steps in between, but only where that is knowledge:

- the post never moves, so all sightings of it count, the nearer in time and the surer the more;
- the cube moves only when the robot is within ``touch_m`` of it. Over steps at which the robot was
  farther away all sightings count likewise, unless they contradict each other: then somebody else
  moved it, and between the two nothing is known;
- within ``touch_m`` only what the step itself shows counts. A gap of a few steps there is bridged
  in a straight line between the sightings at its two ends, and one of any length where both ends
  agree that nothing moved;
- whatever remains is unknown, and its transitions have no label.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fog_world_model.data.labellers.fiducials import MarkerDetector, Mounting, locate_box
from fog_world_model.data.labellers.labeller import CameraModel, Labels, read_options
from fog_world_model.data.labellers.marker_layout import DEFAULT_DICTIONARY, MarkerLayout
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, LabellerConfig

Array = npt.NDArray[np.float64]

FIELDS = (
    *("cube_x", "cube_y", "cube_z", "cube_std", "cube_yaw"),
    *("post_x", "post_y", "post_z", "post_std"),
)
"""What :meth:`PushCubeLabeller.look` returns: m and rad in the base frame."""
_CUBE, _CUBE_STD, _POST, _POST_STD = slice(0, 3), 3, slice(5, 8), 8


@dataclass(frozen=True)
class PushCubeOptions(MarkerLayout):
    """Numbers of the camera, of the markers (see :class:`MarkerLayout`) and of the reward."""

    camera_x_m: float = 0.327
    """Where the camera sits in the base frame: x forwards, y left, z up."""
    camera_y_m: float = 0.0
    camera_z_m: float = 0.043
    camera_pitch_deg: float = 18.0
    """How far it looks down."""
    camera_yaw_deg: float = 0.0
    """How far it looks to the left."""
    done_distance_m: float = 0.4
    """From cube to post, centre to centre, at which the episode ends."""
    push_distance_m: float = 0.55
    """From the base to the cube's centre when the robot touches the cube with its nose."""
    scale: float = 5.0
    """Reward per metre of progress."""
    bonus: float = 5.0
    """Reward for the end."""
    fallen_tilt_rad: float = 0.9
    """Tilt of the base, by the odometry, at which the robot has fallen, which ends the episode."""
    fallen_height_m: float = 0.0
    """Height of the base, by the odometry, below which it has fallen; 0: not looked at."""
    touch_m: float = 0.8
    """Farther than this from base to cube, the robot cannot move the cube."""
    bridge_steps: int = 3
    """Steps in a row without a sight of a cube that may be moving that are bridged."""
    agree_m: float = 0.05
    """Sightings of the cube before and after a gap that differ by less show that it lay still."""
    memory_steps: int = 100
    """Steps after which a sighting counts by 1/e less: how long odometry stays exact."""
    worst_std_m: float = 0.3
    """Sightings less sure than this (one standard deviation) are left out."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            FogError: Markers that do not fit, or a length or number that is not positive.
        """
        super().__post_init__()
        for name in (
            "done_distance_m",
            "touch_m",
            "agree_m",
            "memory_steps",
            "worst_std_m",
            "fallen_tilt_rad",
        ):
            if getattr(self, name) <= 0:
                raise FogError(f"labeller.options.{name} must be positive")
        if self.bridge_steps < 0:
            raise FogError("labeller.options.bridge_steps must not be negative")

    @property
    def mounting(self) -> Mounting:
        """Of the camera."""
        return Mounting(
            self.camera_x_m,
            self.camera_y_m,
            self.camera_z_m,
            self.camera_pitch_deg,
            self.camera_yaw_deg,
        )


class PushCubeLabeller:
    """Progress of the push, as fog_bringup's ``rewards.push_cube`` pays it, and its end.

    The progress is that of a potential: minus the cube's way to the post, minus half the robot's
    way to the spot behind the cube from where it can push. All of it are distances, so that it does
    not matter in which frame they are measured. A fall of the robot, as the odometry shows it, ends
    the episode without the bonus.

    Args:
        config: ``dictionary`` names the markers; for ``options`` see :class:`PushCubeOptions`;
            without ``odometry_topic`` a step counts only when its own picture shows both.

    Raises:
        FogError: An option is unknown or impossible.
    """

    unknown = "cube or post not seen"

    def __init__(self, config: LabellerConfig) -> None:
        dictionary = config.dictionary or DEFAULT_DICTIONARY
        self.options = read_options(PushCubeOptions, config, dictionary=dictionary)
        self._detector = MarkerDetector(self.options.opencv())

    def look(self, image: npt.NDArray[np.uint8], camera: CameraModel | None) -> FloatArray:
        """Find cube and post in one picture.

        Args:
            image: ``[height, width, channel]`` uint8 RGB at the size at which it was recorded.
            camera: Camera that took it.

        Returns:
            ``[field]`` float32, see :data:`FIELDS`; the standard deviations say how sure the
            positions are; NaN for what is not seen.

        Raises:
            FogError: There is no camera model.
        """
        if camera is None:
            raise FogError(
                "labeller 'push_cube_markers' needs the camera's CameraInfo in the recording: "
                "record image.camera_info_topic too"
            )
        found = self._detector.find(image)
        layout, mounting = self.options, self.options.mounting
        cube = locate_box(found, layout.cube(), layout.cube_size_m, camera, mounting)
        post = locate_box(found, layout.post(), layout.post_box_m, camera, mounting)
        sight = np.full(len(FIELDS), np.nan, np.float32)
        if cube is not None and cube.std_m < self.options.worst_std_m:
            sight[:5] = *cube.position, cube.std_m, cube.yaw
        if post is not None and post.std_m < self.options.worst_std_m:
            sight[5:] = *post.position, post.std_m
        return sight

    def label(self, sights: FloatArray, base: FloatArray | None) -> Labels:
        """Progress and end of every transition.

        Args:
            sights: ``[step, field]``: what :meth:`look` returned.
            base: ``[step, 7]``: pose in the odometry's frame, see ``BASE_FIELDS``; its tilt counts,
                because a robot that pushes leans on the cube. None: nothing is carried from one
                step to another, and the robot is taken as upright.
        """
        options = self.options
        seen = np.asarray(sights, np.float64)
        if base is None:
            robot = np.zeros((len(seen), 2))
            cube, post = seen[:, _CUBE][:, :2], seen[:, _POST][:, :2]
        else:
            pose = np.asarray(base, np.float64)
            robot = pose[:, :2]
            cube = carry_cube(to_ground(seen[:, _CUBE], pose), seen[:, _CUBE_STD], robot, options)
            post = _weighted(
                to_ground(seen[:, _POST], pose), seen[:, _POST_STD], options.memory_steps
            )
        way = post - cube
        to_post = np.hypot(*way.T)
        behind = cube - way * (options.push_distance_m / np.maximum(to_post, 1e-6))[:, None]
        potential = -to_post - 0.5 * np.hypot(*(robot - behind).T)
        done = np.nan_to_num(to_post, nan=math.inf)[1:] < options.done_distance_m
        reward = options.scale * np.diff(potential) + options.bonus * done
        end = done if base is None else done | self._fallen(np.asarray(base, np.float64)[1:])
        return Labels(reward.astype(np.float32), end)

    def _fallen(self, base: Array) -> npt.NDArray[np.bool_]:
        upright = 1.0 - 2.0 * (base[:, 3] ** 2 + base[:, 4] ** 2)  # cosine of the tilt
        fallen: npt.NDArray[np.bool_] = upright < math.cos(self.options.fallen_tilt_rad)
        return fallen | (base[:, 2] < self.options.fallen_height_m)


def carry_cube(points: Array, std: Array, robot: Array, options: PushCubeOptions) -> Array:
    """Where the cube was at every step, as far as that is known.

    Args:
        points: ``[step, 2]`` sightings in the odometry's frame, m; NaN where there is none.
        std: ``[step]`` how sure they are, m.
        robot: ``[step, 2]`` in the same frame.
        options: What counts as known, see the head of this module.

    Returns:
        ``[step, 2]``, m; NaN where it is not known.
    """
    steps, seen = len(points), ~np.isnan(points[:, 0])
    result = np.where(seen[:, None], points, np.nan)
    if not seen.any():
        return result
    # By the sightings before and after a step the robot was out of reach, so it was.
    last, following = _neighbours(seen)
    free = np.ones(steps, bool)
    for index in (last, following):
        known = index >= 0
        gap = robot[known] - points[index[known]]
        free[known] &= np.hypot(*gap.T) > options.touch_m
    for run in _runs(free):
        for start, stop in _at_rest(points, std, *run, options.agree_m):
            inside = slice(start, stop)
            result[inside] = _weighted(points[inside], std[inside], options.memory_steps)
    _bridge(result, free, options)
    return result


def _at_rest(
    points: Array, std: Array, start: int, stop: int, agree_m: float
) -> list[tuple[int, int]]:
    """Cut a stretch of steps where two sightings in a row cannot be of the same place."""
    seen = [k for k in range(start, stop) if not np.isnan(points[k, 0])]
    if not seen:
        return []
    cuts = [
        (a, b)
        for a, b in itertools.pairwise(seen)
        if np.hypot(*(points[b] - points[a])) > agree_m + 4.0 * math.hypot(std[a], std[b])
    ]
    firsts = [start, *(b for _, b in cuts)]
    ends = [*(a + 1 for a, _ in cuts), stop]
    return list(zip(firsts, ends, strict=True))


def _bridge(result: Array, free: npt.NDArray[np.bool_], options: PushCubeOptions) -> None:
    """Fill the gaps that are short, that the cube lay still in, or that the robot was far from."""
    known = ~np.isnan(result[:, 0])
    for start, stop in _runs(~known):
        before, after = start - 1, stop
        if before < 0 and after >= len(result):
            continue
        if before < 0 or after >= len(result):
            if free[start:stop].all():
                result[start:stop] = result[after if before < 0 else before]
            continue
        moved = result[after] - result[before]
        if np.hypot(*moved) < options.agree_m or stop - start <= options.bridge_steps:
            share = (np.arange(start, stop) - before)[:, None] / (after - before)
            result[start:stop] = result[before] + share * moved


def _weighted(points: Array, std: Array, memory: float) -> Array:
    """Position at every step of something that does not move, from all sightings of it.

    A sighting's weight is 1 / std^2, less by 1/e for every ``memory`` steps that it is away.
    """
    seen = np.flatnonzero(~np.isnan(points[:, 0]))
    if not len(seen):
        return np.full_like(points, np.nan)
    away = np.abs(np.arange(len(points))[:, None] - seen) / memory
    log_weight = -away - 2.0 * np.log(np.maximum(std[seen], 1e-3))
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    mean: Array = weight @ points[seen] / weight.sum(1, keepdims=True)
    return mean


def _neighbours(seen: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Index of the last sighting up to each step and of the first from it on; -1: none."""
    index = np.arange(len(seen))
    last = np.maximum.accumulate(np.where(seen, index, -1))
    following = np.minimum.accumulate(np.where(seen, index, len(seen))[::-1])[::-1]
    return last, np.where(following < len(seen), following, -1)


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches of True as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def to_ground(points: Array, base: Array) -> Array:
    """From the base frame to the plane of the odometry's frame.

    Args:
        points: ``[step, 3]``, m.
        base: ``[step, 7]``: x, y, z and the quaternion x, y, z, w.

    Returns:
        ``[step, 2]``, m.
    """
    vector, scalar = base[:, 3:6], base[:, 6:7]
    turned = 2.0 * np.cross(vector, points)
    world: Array = base[:, :3] + points + scalar * turned + np.cross(vector, turned)
    return world[:, :2]
