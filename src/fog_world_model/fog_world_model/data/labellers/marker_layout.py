"""Where the fiducial markers sit on the cube and on the goal post, and what they look like.

Each of the cube's six faces carries a large marker, to be seen from afar, and around it a ring of
small ones along the edges: while the robot pushes, its camera is so near that it sees a strip of
the cube's top and nothing else, and a cube that was tipped over has another face on top. The post
carries a box with one marker on each of its four sides. A marker is a black square with a white
border around it; its size is that of the black square.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import numpy.typing as npt

from fog_world_model.data.labellers.labeller import read_options
from fog_world_model.errors import FogError
from fog_world_model.task import LabellerConfig

Array = npt.NDArray[np.float64]

FACES = ("+x", "+y", "-x", "-y", "+z", "-z")
"""Sides of a box by their outward normal."""
_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
DEFAULT_DICTIONARY = "4X4_250"


def dictionaries() -> tuple[str, ...]:
    """Names of the dictionaries that OpenCV knows, such as ``4X4_50`` and ``APRILTAG_36h11``.

    Raises:
        FogError: OpenCV is too old.
    """
    # Not at the import of this module: scenes without markers do without.
    if not hasattr(getattr(cv2, "aruco", None), "ArucoDetector"):
        raise FogError(
            f"fiducial markers need OpenCV 4.7 or later with its aruco module; this is "
            f"{cv2.__version__}: pip install opencv-python"
        )
    return tuple(sorted(n[len("DICT_") :] for n in dir(cv2.aruco) if n.startswith("DICT_")))


@dataclass(frozen=True)
class Marker:
    """One marker on a side of a box."""

    identifier: int
    face: str
    """One of :data:`FACES`."""
    size_m: float
    """Side of the black square."""
    right_m: float = 0.0
    """Where its centre lies, from the centre of the face as one looks at it."""
    up_m: float = 0.0

    def corners(self, box_m: float) -> Array:
        """``[corner, axis]`` in the frame of a box of that size (origin at its centre, z up).

        In OpenCV's order: clockwise from the marker's own left top, as one looks at it.
        """
        normal, right, up = face_axes(self.face)
        centre = normal * box_m / 2 + right * self.right_m + up * self.up_m
        half = self.size_m / 2
        around = ((-half, half), (half, half), (half, -half), (-half, -half))
        return np.array([centre + a * right + b * up for a, b in around])


def face_axes(face: str) -> tuple[Array, Array, Array]:
    """Outward normal, right and up of a box's side, as one looks at it.

    Up is z on the four sides, and x on top and bottom.
    """
    normal = np.array(_AXES[face[1]]) * (1.0 if face[0] == "+" else -1.0)
    up = np.array(_AXES["x" if face[1] == "z" else "z"])
    return normal, np.cross(up, normal), up


@dataclass(frozen=True)
class MarkerLayout:
    """Sizes and identifiers of all markers of the push_cube scene."""

    dictionary: str = DEFAULT_DICTIONARY
    """One of :func:`dictionaries`."""
    cube_size_m: float = 0.30
    cube_marker_m: float = 0.15
    """The marker in the middle of a face."""
    cube_ring: int = 5
    """Small markers along an edge of a face, those in the corners included."""
    cube_ring_marker_m: float = 0.045
    """The small markers."""
    cube_first_id: int = 0
    """Face by face (+x, +y, -x, -y, +z, -z), the middle first, then the ring row by row."""
    post_box_m: float = 0.36
    """Side of the box on the post."""
    post_marker_m: float = 0.30
    post_first_id: int = 120
    """Sides +x, +y, -x, -y: four identifiers."""

    def __post_init__(self) -> None:
        """Check that the markers fit.

        Raises:
            FogError: No such dictionary, too few identifiers in it, identifiers used twice, or a
                marker that leaves no white border on its face.
        """
        known = dictionaries()
        if self.dictionary not in known:
            raise FogError(
                f"labeller.dictionary: OpenCV has no markers {self.dictionary!r}; known are "
                f"{', '.join(known)}"
            )
        if self.cube_ring < 3:
            raise FogError("labeller.options.cube_ring must be at least 3")
        used = [m.identifier for m in (*self.cube(), *self.post())]
        count = len(self.opencv().bytesList)
        if len(set(used)) < len(used) or min(used) < 0 or max(used) >= count:
            raise FogError(
                f"labeller.options: the identifiers of cube ({len(self.cube())} from "
                f"cube_first_id) and post ({len(self.post())} from post_first_id) must differ and "
                f"lie in 0 to {count - 1}, those that {self.dictionary} has"
            )
        for name, size, room in (
            ("cube_marker_m", self.cube_marker_m, self.cube_size_m * (1 - 2 / self.cube_ring)),
            ("cube_ring_marker_m", self.cube_ring_marker_m, self.cube_size_m / self.cube_ring),
            ("post_marker_m", self.post_marker_m, self.post_box_m),
        ):
            if not 0.0 < size < room:
                raise FogError(
                    f"labeller.options.{name} must be positive and below {room:g} m, so that white "
                    f"is left around the marker; it is {size:g}"
                )

    def opencv(self) -> cv2.aruco.Dictionary:
        """The dictionary."""
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{self.dictionary}"))

    def cube(self) -> tuple[Marker, ...]:
        """Markers of the cube."""
        count = self.cube_ring
        pitch, middle = self.cube_size_m / count, (count - 1) / 2
        ring = [k for k in range(count**2) if {k % count, k // count} & {0, count - 1}]
        markers = []
        for number, face in enumerate(FACES):
            first = self.cube_first_id + number * (1 + len(ring))
            markers.append(Marker(first, face, self.cube_marker_m))
            markers += [
                Marker(
                    first + 1 + place,
                    face,
                    self.cube_ring_marker_m,
                    (k % count - middle) * pitch,
                    (middle - k // count) * pitch,
                )
                for place, k in enumerate(ring)
            ]
        return tuple(markers)

    def post(self) -> tuple[Marker, ...]:
        """Markers of the post's box."""
        return tuple(
            Marker(self.post_first_id + k, face, self.post_marker_m)
            for k, face in enumerate(FACES[:4])
        )

    def draw_marker(self, identifier: int, side_px: int) -> npt.NDArray[np.uint8]:
        """The black square of a marker, ``[row, column]`` uint8, without its white border."""
        return np.asarray(cv2.aruco.generateImageMarker(self.opencv(), identifier, side_px))

    def draw_face(
        self, markers: tuple[Marker, ...], face: str, box_m: float, side_px: int
    ) -> npt.NDArray[np.uint8]:
        """A side of a box as one looks at it: ``[row, column]`` uint8, white but for its markers.

        Args:
            markers: Those of the box; others than this face's are left out.
            face: One of :data:`FACES`.
            box_m: Side of the box.
            side_px: Side of the picture.
        """
        picture = np.full((side_px, side_px), 255, np.uint8)
        scale = side_px / box_m
        for marker in (m for m in markers if m.face == face):
            size = round(marker.size_m * scale)
            left = round((box_m / 2 + marker.right_m) * scale - size / 2)
            top = round((box_m / 2 - marker.up_m) * scale - size / 2)
            picture[top : top + size, left : left + size] = self.draw_marker(
                marker.identifier, size
            )
        return picture


def marker_layout(config: LabellerConfig | None) -> MarkerLayout:
    """The markers that a labeller looks for; the usual ones where there is no labeller.

    Args:
        config: Its ``dictionary`` and those of its ``options`` that are about markers.

    Raises:
        FogError: They do not fit, see :class:`MarkerLayout`.
    """
    if config is None:
        return MarkerLayout()
    names = {f.name for f in fields(MarkerLayout)}
    about = {name: value for name, value in config.options.items() if name in names}
    dictionary = config.dictionary or DEFAULT_DICTIONARY
    return read_options(MarkerLayout, replace(config, options=about), dictionary=dictionary)
