"""Push-T's reward from the picture: find the T by its colour, fit its pose, score the coverage.

The picture is unmixed into shares of the known colours, and the pose is the one at which a drawn T
agrees best with the share of the block's colour (Gauss-Newton from several angles). A pixel at the
T's outline is partly of its colour, which is what gives the pose to a fraction of a pixel.

Measured on gym-pusht's picture at 96x96 over 200 random poses, half of them near the goal: position
off by 0.42 px of 512 on average (95 %: 0.69, largest 0.89), angle by 0.10 degrees (0.24, 0.42),
coverage by 0.0027 (0.010, 0.015); from JPEG of quality 85 the coverage is off by 0.005 (0.017,
0.029). At 64x64 it is 0.0024 (0.008, 0.012).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from fog_world_model.data.labellers import tee
from fog_world_model.data.labellers.labeller import CameraModel, Labels, PlanarPose, read_options
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, LabellerConfig

Array = npt.NDArray[np.float64]

_WIDEST_PX = 192
"""Larger pictures are reduced to this first: more pixels than that cost time and add little."""
_ANGLES = 24
_REFINED = 2
_ITERATIONS = 10
_FIELDS = ("x", "y", "angle", "coverage", "pusher_x", "pusher_y")
_NO_COLOUR = -1.0
_FAINT = 0.2
"""Share of the block's colour that a camera's noise may give to any pixel."""


@dataclass(frozen=True)
class PushTOptions:
    """What the labeller knows of the table; the defaults are gym-pusht's.

    Colours are RGB numbers such as 0x8FA3B8; -1 stands for one that does not occur.
    """

    block_rgb: float = 0x8FA3B8
    block_edge_rgb: float = 0x778899
    """Second colour of the block (its outline)."""
    pusher_rgb: float = 0x4E7EFF
    pusher_edge_rgb: float = 0x4169E1
    table_rgb: float = 0xFFFFFF
    goal_rgb: float = 0x90EE90
    """Colour of the goal's outline or area on the table."""
    wall_rgb: float = 0xD3D3D3
    goal_x: float = tee.GOAL[0]
    """Where the T belongs: the middle of its top edge, px of the 512 px table, x right, y down."""
    goal_y: float = tee.GOAL[1]
    goal_angle: float = tee.GOAL[2]
    """Clockwise, rad; 0 is an upright letter T."""
    unit_px: float = tee.UNIT_PX
    """Width of the T's bars in px of the table."""
    edge_px: float = 2.0
    """How far the picture of the block reaches beyond its shape (gym-pusht's outline)."""
    approach_weight: float = 0.0
    """Share of the reward, in [0, 1], that is for the pusher's being near the T."""
    solved: float = tee.SOLVED
    """Coverage at which the episode ends."""
    left_top_u: float = 0.0
    """Where the table's corners lie in the picture: u from 0 at the left edge to 1 at the right, v
    from 0 at the top to 1 at the bottom."""
    left_top_v: float = 0.0
    right_top_u: float = 1.0
    right_top_v: float = 0.0
    right_bottom_u: float = 1.0
    right_bottom_v: float = 1.0
    left_bottom_u: float = 0.0
    left_bottom_v: float = 1.0
    least_visible: float = 0.5
    """Share of the T that must not be hidden by the pusher."""
    least_agreement: float = 0.75
    """Intersection over union of the T found and the block's colour, below which nothing counts as
    found."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            FogError: A colour is no RGB number, a size is not positive, a share beyond [0, 1].
        """
        for name in ("block_rgb", "table_rgb"):
            if getattr(self, name) == _NO_COLOUR:
                raise FogError(f"labeller.options.{name} must be a colour")
        for name, value in vars(self).items():
            if name.endswith("_rgb") and not (-1 <= value <= 0xFFFFFF and value == int(value)):
                raise FogError(f"labeller.options.{name} must be 0x000000 to 0xFFFFFF, or -1")
        if not 0.0 <= self.approach_weight <= 1.0:
            raise FogError("labeller.options.approach_weight must be in [0, 1]")
        for name in ("solved", "least_visible", "least_agreement"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise FogError(f"labeller.options.{name} must be in (0, 1]")
        if self.unit_px <= 0 or self.edge_px < 0:
            raise FogError("labeller.options: unit_px must be positive, edge_px not negative")

    @property
    def goal(self) -> PlanarPose:
        """``(x, y, angle)`` of the goal."""
        return self.goal_x, self.goal_y, self.goal_angle

    @property
    def corners(self) -> Array:
        """``[corner, axis]``: the table's corners in the picture, clockwise from the left top."""
        names = ("left_top", "right_top", "right_bottom", "left_bottom")
        return np.array([[getattr(self, f"{n}_{axis}") for axis in "uv"] for n in names])


class PushTLabeller:
    """Finds the T and scores it; every picture is judged by itself.

    The reward is that of the simulated task (fog_bringup's ``rewards.pusht``): the mean of the
    coverage and of the closeness, exp(-distance / 100 px - angle / 1.5 rad), of which a share of
    ``approach_weight`` is replaced by exp(-gap / 100 px), the gap being that between the pusher and
    the T. A pusher that the picture does not show is not near. The episode ends at a coverage of
    ``solved``.

    Args:
        config: See :class:`PushTOptions`.

    Raises:
        FogError: An option is unknown or impossible.
    """

    unknown = "block not seen"

    def __init__(self, config: LabellerConfig) -> None:
        self.options = read_options(PushTOptions, config)
        self._unmixing = _Unmixing(self.options)

    def look(self, image: npt.NDArray[np.uint8], camera: CameraModel | None) -> FloatArray:
        """Find the T in one picture.

        Args:
            image: ``[height, width, channel]`` uint8 RGB.
            camera: Its distortion is undone first; None: there is none.

        Returns:
            ``[x, y, angle, coverage, pusher_x, pusher_y]`` float32: px of the 512 px table, rad in
            (-pi, pi], share; NaN when the block is not seen well enough, the last two also when
            the pusher is not seen.
        """
        table = self._table(image, camera)
        block, pusher = self._unmixing.shares(table)
        pose = fit_pose(block, 1.0 - pusher, self.options)
        if pose is None:
            return np.full(len(_FIELDS), np.nan, np.float32)
        covered = tee.coverage(pose, self.options.goal, self.options.unit_px)
        return np.array([*pose, covered, *_pusher(pusher)], np.float32)

    def label(self, sights: FloatArray, base: FloatArray | None) -> Labels:
        """Reward and end of every transition, from the picture that it led to.

        Args:
            sights: ``[step, field]``: what :meth:`look` returned.
            base: Not used.
        """
        x, y, angle, covered, *pusher = np.asarray(sights, np.float64)[1:].T
        goal = self.options.goal
        turn = np.abs(np.angle(np.exp(1j * (angle - goal[2]))))
        distance = np.hypot(x - goal[0], y - goal[1])
        closeness = np.exp(-distance / 100.0 - turn / 1.5)
        poses = np.stack([x, y, angle], 1)
        gaps = [
            tee.gap(p, (pose[0], pose[1], pose[2]), self.options.unit_px)
            for p, pose in zip(np.stack(pusher, 1), poses, strict=True)
        ]
        nearness = np.nan_to_num(np.exp(-np.maximum(np.array(gaps), 0.0) / 100.0))
        share = self.options.approach_weight
        return Labels(
            reward=((1.0 - share) * (closeness + covered) / 2.0 + share * nearness).astype(
                np.float32
            ),
            end=np.nan_to_num(covered) >= self.options.solved,
        )

    def _table(self, image: npt.NDArray[np.uint8], camera: CameraModel | None) -> Array:
        """The table alone, square, as seen from straight above: ``[row, column, channel]``."""
        if camera is not None and np.any(camera.distortion):
            image = np.asarray(cv2.undistort(image, camera.matrix, camera.distortion), np.uint8)
        height, width = image.shape[:2]
        whole = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
        corners = self.options.corners
        if np.array_equal(corners, whole):
            side = min(max(height, width), _WIDEST_PX)
            if (height, width) != (side, side):
                image = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))
            return image.astype(np.float64)
        spread = (np.ptp(corners, axis=0) * (width, height)).max()
        side = int(np.clip(spread, 32, _WIDEST_PX))
        # Reduced before it is warped, so that every pixel of the result is a mean and no sample.
        factor = min(1.0, side / spread)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        reduced = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        # Pixel centres lie at whole numbers.
        source = (corners * size - 0.5).astype(np.float32)
        target = (whole * side - 0.5).astype(np.float32)
        transform = cv2.getPerspectiveTransform(source, target)
        return cv2.warpPerspective(reduced, transform, (side, side)).astype(np.float64)


class _Unmixing:
    """Shares of block and pusher in every pixel.

    A pixel is taken as a mixture of two of the known colours: of that pair whose line segment in
    RGB space passes nearest.
    """

    def __init__(self, options: PushTOptions) -> None:
        groups = {
            "block": (options.block_rgb, options.block_edge_rgb),
            "pusher": (options.pusher_rgb, options.pusher_edge_rgb),
            "table": (options.table_rgb, options.goal_rgb, options.wall_rgb),
        }
        colours = [
            (group, _rgb(number))
            for group, numbers in groups.items()
            for number in dict.fromkeys(numbers)
            if number != _NO_COLOUR
        ]
        pairs = list(itertools.combinations(colours, 2))
        self._start = np.array([a for (_, a), _ in pairs])
        self._way = np.array([b - a for (_, a), (_, b) in pairs])
        self._square = (self._way**2).sum(1)
        self._groups = {
            name: np.array([[float(g == name), float(h == name)] for (g, _), (h, _) in pairs])
            for name in ("block", "pusher")
        }

    def shares(self, image: Array) -> tuple[Array, Array]:
        """Shares of block and pusher, ``[row, column]`` each, of ``[row, column, channel]``."""
        pixels = image.reshape(-1, 3)
        along = pixels @ self._way.T - (self._start * self._way).sum(1)
        t = np.clip(along / self._square, 0.0, 1.0)  # [pixel, pair]
        # |p - a - t w|^2, less |p|^2, which is the same for all pairs
        rest = (self._start**2).sum(1) - 2.0 * pixels @ self._start.T
        error = rest - 2.0 * t * along + t * t * self._square
        best = error.argmin(1)
        share = t[np.arange(len(pixels)), best]

        def of(group: str) -> Array:
            ends = self._groups[group][best]
            mixed: Array = ends[:, 0] * (1.0 - share) + ends[:, 1] * share
            return mixed.reshape(image.shape[:2])

        return of("block"), of("pusher")


def _pusher(share: Array) -> tuple[float, float]:
    """Centre of the largest part of the pusher's colour, px of the table; NaN: there is none."""
    _, labels, figures, _ = cv2.connectedComponentsWithStats((share > 0.3).astype(np.uint8))
    if len(figures) < 2:
        return math.nan, math.nan
    weight = np.where(labels == 1 + int(figures[1:, cv2.CC_STAT_AREA].argmax()), share, 0.0)
    pixel = tee.TABLE_PX / share.shape[0]
    axis = (np.arange(share.shape[0]) + 0.5) * pixel - 0.5
    x, y = weight.sum(0) @ axis, weight.sum(1) @ axis
    return float(x / weight.sum()), float(y / weight.sum())


def _rgb(number: float) -> Array:
    value = int(number)
    return np.array([value >> 16, value >> 8 & 0xFF, value & 0xFF], np.float64)


def fit_pose(block: Array, seen: Array, options: PushTOptions) -> PlanarPose | None:
    """Pose of the T that agrees best with the block's colour.

    Args:
        block: ``[row, column]`` share of the block's colour, of a square picture of the table.
        seen: ``[row, column]`` how much each pixel counts: 0 where the pusher is.
        options: Shape of the T, and when it counts as found.

    Returns:
        ``(x, y, angle)``, px of the 512 px table and rad in (-pi, pi]; None when nothing that looks
        like the T is there.
    """
    side = block.shape[0]
    pixel = tee.TABLE_PX / side
    unit = options.unit_px
    weight = _large_parts(block * seen, 0.05 * _area(options) / pixel**2)
    if float(weight.sum()) * pixel * pixel < 0.25 * _area(options):
        return None
    # gym-pusht draws a point at the pixel whose number it rounds to, so that pixel centres of its
    # 512 px picture lie at whole coordinates.
    axis = (np.arange(side) + 0.5) * pixel - 0.5
    points = np.stack(np.meshgrid(axis, axis), -1)
    centre = (points * weight[..., None]).sum((0, 1)) / weight.sum()
    # Only what lies near the block matters; the rest of the table is far from every pose tried.
    near = np.abs(points - centre).max(-1) < 4.5 * unit
    fit = _Fit(points[near], block[near], seen[near], pixel, options)
    angles = np.arange(_ANGLES) * (2 * math.pi / _ANGLES) - math.pi
    starts = [
        (
            centre[0] + tee.CENTRE * unit * math.sin(angle),
            centre[1] - tee.CENTRE * unit * math.cos(angle),
            angle,
        )
        for angle in angles
    ]
    starts.sort(key=fit.cost)
    cost, (x, y, angle) = min(fit.refine(start) for start in starts[:_REFINED])
    del cost
    pose = x, y, math.atan2(math.sin(angle), math.cos(angle))
    return pose if fit.convinces(pose) else None


def _area(options: PushTOptions) -> float:
    return 7.0 * options.unit_px**2


def _large_parts(share: Array, least: float) -> Array:
    """What belongs to connected parts of at least so many pixels; specks are set to 0."""
    _, labels, figures, _ = cv2.connectedComponentsWithStats((share > 0.5).astype(np.uint8))
    large = figures[:, cv2.CC_STAT_AREA] >= least
    large[0] = False  # everything else
    return np.where(large[labels], share, 0.0)


@dataclass(frozen=True)
class _Fit:
    """Weighted least squares between the block's colour and a drawn T."""

    points: Array
    """``[pixel, axis]`` px of the table."""
    block: Array
    seen: Array
    pixel: float
    """Side of a picture's pixel in px of the table."""
    options: PushTOptions

    def drawn(self, pose: PlanarPose) -> Array:
        """Share of every pixel, ``[pixel]``, that a T at this pose covers."""
        distance = tee.signed_distance(self.points, pose, self.options.unit_px)
        return np.clip(0.5 - (distance - self.options.edge_px) / self.pixel, 0.0, 1.0)

    def cost(self, pose: PlanarPose) -> float:
        return float((self.seen * (self.block - self.drawn(pose)) ** 2).sum())

    def refine(self, start: PlanarPose) -> tuple[float, PlanarPose]:
        """Levenberg-Marquardt from a start pose; returns the cost and the pose."""
        steps = np.array([0.2 * self.pixel, 0.2 * self.pixel, 0.2 * self.pixel / 60.0])
        pose, cost, damping = np.array(start), self.cost(start), 1e-3
        for _ in range(_ITERATIONS):
            base = self.drawn(_pose(pose))
            jacobian = np.stack(
                [(self.drawn(_pose(pose + d)) - base) / d.sum() for d in np.diag(steps)],
                1,
            )
            weighted = jacobian * self.seen[:, None]
            normal, gradient = weighted.T @ jacobian, weighted.T @ (self.block - base)
            step = np.linalg.solve(
                normal + damping * np.diag(np.diag(normal)) + 1e-9 * np.eye(3), gradient
            )
            trial = self.cost(_pose(pose + step))
            if trial < cost:
                pose, cost, damping = pose + step, trial, damping / 5.0
                if np.abs(step / steps).max() < 0.1:
                    break
            else:
                damping *= 10.0
                if damping > 1e3:
                    break
        return cost, _pose(pose)

    def convinces(self, pose: PlanarPose) -> bool:
        """Whether enough of the T is visible, and agrees with the picture."""
        drawn = self.drawn(pose)
        visible = float((drawn * self.seen).sum()) / max(float(drawn.sum()), 1e-9)
        block = np.where(self.block > _FAINT, self.block, 0.0)
        both = float((np.minimum(drawn, block) * self.seen).sum())
        either = float((np.maximum(drawn, block) * self.seen).sum())
        expected = _area(self.options) / self.pixel**2
        return (
            visible >= self.options.least_visible
            and both >= self.options.least_agreement * either
            and float(drawn.sum()) > 0.9 * expected
        )


def _pose(values: Array) -> PlanarPose:
    return float(values[0]), float(values[1]), float(values[2])
