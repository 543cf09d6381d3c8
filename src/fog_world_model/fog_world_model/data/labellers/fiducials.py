"""Poses of boxes that carry known fiducial markers, from one picture each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from fog_world_model.data.labellers.labeller import CameraModel
from fog_world_model.data.labellers.marker_layout import Marker, face_axes

Array = npt.NDArray[np.float64]

_LARGE_PX = 960
"""Pictures with fewer columns are doubled first: corners of markers with modules of less than about
three pixels are found too far inside otherwise, which makes far markers seem still farther."""
_NOISE_PX = 0.3
"""A corner is hardly ever found more exactly than this (standard deviation)."""
_WORST_PX = 4.0
"""Root mean square distance of corners, px, above which a pose is none."""
_AMBIGUOUS = 2.0
"""Two poses whose errors differ by less than this factor both explain the picture."""
_UPRIGHT = math.cos(math.radians(30.0))


@dataclass(frozen=True)
class BoxSight:
    """Where a box is, in the frame that was asked for."""

    rotation: Array
    """``[3, 3]``, box to frame."""
    position: Array
    """``[3]`` of its centre, m."""
    std_m: float
    """How far off the position may be in the plane (one standard deviation, from the corners'
    noise and from a second pose that explains the picture as well)."""

    @property
    def yaw(self) -> float:
        """Angle of the box's x axis about z, rad in (-pi, pi]."""
        return math.atan2(self.rotation[1, 0], self.rotation[0, 0])


@dataclass(frozen=True)
class Mounting:
    """Where the camera sits on the robot, in the base frame (x forwards, y left, z up)."""

    x_m: float
    y_m: float
    z_m: float
    pitch_deg: float
    """How far it looks down."""
    yaw_deg: float = 0.0
    """How far it looks to the left."""

    def rotation(self) -> Array:
        """``[3, 3]``, optical frame (x right, y down, z into the picture) to base."""
        pitch, yaw = math.radians(self.pitch_deg), math.radians(self.yaw_deg)
        c, s = math.cos(pitch), math.sin(pitch)
        down = np.array([[0.0, -s, c], [-1.0, 0.0, 0.0], [0.0, -c, -s]])
        turn = np.array(
            [
                [math.cos(yaw), -math.sin(yaw), 0.0],
                [math.sin(yaw), math.cos(yaw), 0.0],
                [0.0, 0.0, 1.0],
            ]
        )
        rotation: Array = turn @ down
        return rotation

    def position(self) -> Array:
        """``[3]``, m."""
        return np.array([self.x_m, self.y_m, self.z_m])


class MarkerDetector:
    """Finds the markers of one dictionary.

    Args:
        dictionary: OpenCV's.
    """

    def __init__(self, dictionary: cv2.aruco.Dictionary) -> None:
        parameters = cv2.aruco.DetectorParameters()
        parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
        # No wider than 0.4 modules, or the refinement finds corners of the pattern instead.
        parameters.cornerRefinementWinSize = 5
        parameters.relativeCornerRefinmentWinSize = 0.4
        parameters.minMarkerPerimeterRate = 0.015
        parameters.adaptiveThreshWinSizeMax = 63
        self._detector = cv2.aruco.ArucoDetector(dictionary, parameters)

    def find(self, image: npt.NDArray[np.uint8]) -> dict[int, Array]:
        """Corners of every marker in a picture.

        Args:
            image: ``[height, width, channel]`` uint8 RGB.

        Returns:
            Identifier -> ``[corner, axis]`` px, pixel centres at whole numbers. An identifier that
            is there twice is left out: one of the two is a mistake.
        """
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        factor = 2 if image.shape[1] < _LARGE_PX else 1
        if factor > 1:
            grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        corners, identifiers, _ = self._detector.detectMarkers(grey)
        found: dict[int, Array] = {}
        twice = set()
        numbers = [] if identifiers is None else [int(i) for i in np.ravel(identifiers)]
        for quad, identifier in zip(corners, numbers, strict=True):
            if identifier in found:
                twice.add(identifier)
            corner = np.asarray(quad, np.float64).reshape(4, 2)
            found[identifier] = (corner + 0.5) / factor - 0.5
        return {k: v for k, v in found.items() if k not in twice}


def locate_box(
    found: dict[int, Array],
    markers: Iterable[Marker],
    box_m: float,
    camera: CameraModel,
    mounting: Mounting,
) -> BoxSight | None:
    """Pose of a box in the base frame, from all of its markers that were found.

    A single square may be explained by two poses (Collins and Bartoli, "Infinitesimal plane-based
    pose estimation", 2014), and so may all squares of one face. Both are tried for every face, each
    is refined over the corners on all faces, and the one with the least error is taken, or the one
    with a face up where both fit.

    Args:
        found: What :meth:`MarkerDetector.find` gave.
        markers: Those of the box.
        box_m: Its side.
        camera: Gave the picture.
        mounting: Of the camera on the robot.

    Returns:
        None when no marker of the box was found, or none of the poses explains the picture.
    """
    seen = [m for m in markers if m.identifier in found]
    if not seen:
        return None
    corners = {m.identifier: m.corners(box_m) for m in seen}
    objects = np.concatenate([corners[m.identifier] for m in seen])
    pixels = np.concatenate([found[m.identifier] for m in seen])
    candidates = []
    for face in {m.face for m in seen}:
        there = [m.identifier for m in seen if m.face == face]
        on_face = np.concatenate([corners[i] for i in there])
        in_picture = np.concatenate([found[i] for i in there])
        for turn, shift in _poses_of_face(face, on_face, in_picture, camera):
            candidates.append(_refined(objects, pixels, camera, turn, shift))
    candidates = [c for c in candidates if c[0] < _WORST_PX and c[2][2] > 0.0]
    if not candidates:
        return None
    best = max(min(c[0] for c in candidates), _NOISE_PX)
    to_base, origin = mounting.rotation(), mounting.position()
    fitting = [
        (to_base @ cv2.Rodrigues(turn)[0], to_base @ shift + origin, error, turn, shift)
        for error, turn, shift in candidates
        if error <= _AMBIGUOUS * best
    ]
    upright = [f for f in fitting if np.abs(f[0][2]).max() > _UPRIGHT] or fitting
    rotation, position, error, turn, shift = min(upright, key=lambda f: f[2])
    spread = max(float(np.hypot(*(p - position)[:2])) * error / max(e, 1e-9)
                 for _, p, e, _, _ in upright)  # fmt: skip
    noise = _planar_noise(objects, camera, turn, shift, max(error, _NOISE_PX), to_base)
    return BoxSight(rotation, position, math.hypot(noise, 0.5 * spread))


def _poses_of_face(
    face: str, corners: Array, pixels: Array, camera: CameraModel
) -> list[tuple[Array, Array]]:
    """Rotation vectors and translations, box to camera, that explain the markers of one face."""
    normal, right, up = face_axes(face)
    # In axes of the face's own, because IPPE wants points with z = 0 and OpenCV's, when given a
    # plane at another height, finds a wrong pose without a word.
    from_box = np.stack([right, up, normal])
    flat = corners @ from_box.T
    depth = flat[:, 2].mean() * normal
    flat[:, 2] = 0.0
    count, turns, shifts, _ = cv2.solvePnPGeneric(
        flat, pixels, camera.matrix, camera.distortion, flags=cv2.SOLVEPNP_IPPE
    )
    poses: list[tuple[Array, Array]] = []
    for turn, shift in zip(turns[:count], shifts[:count], strict=True):
        rotation = cv2.Rodrigues(np.array(turn, np.float64))[0] @ from_box
        moved = np.array(shift, np.float64).ravel() - rotation @ depth
        poses.append((np.array(cv2.Rodrigues(rotation)[0], np.float64).ravel(), moved))
    return poses


def _refined(
    objects: Array, pixels: Array, camera: CameraModel, turn: Array, shift: Array
) -> tuple[float, Array, Array]:
    """Least-squares pose near a first guess: error in px, rotation vector, translation."""
    better = cv2.solvePnPRefineLM(
        objects, pixels, camera.matrix, camera.distortion, turn.copy(), shift.copy()
    )
    turn, shift = (np.array(x, np.float64).ravel() for x in better)
    projected, _ = cv2.projectPoints(objects, turn, shift, camera.matrix, camera.distortion)
    error = float(np.sqrt(((projected.reshape(-1, 2) - pixels) ** 2).sum(1).mean()))
    if not np.isfinite(error):
        error = math.inf
    return error, turn, shift


def _planar_noise(
    objects: Array, camera: CameraModel, turn: Array, shift: Array, pixel_std: float, to_base: Array
) -> float:
    """Standard deviation of the position in the base's plane, m, that the corners' noise makes."""
    _, jacobian = cv2.projectPoints(objects, turn, shift, camera.matrix, camera.distortion)
    information = jacobian[:, :6].T @ jacobian[:, :6] + 1e-9 * np.eye(6)
    covariance = np.linalg.inv(information)[3:, 3:] * pixel_std**2
    planar = (to_base @ covariance @ to_base.T)[:2, :2]
    return math.sqrt(max(float(np.trace(planar)), 0.0))
