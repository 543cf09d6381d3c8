"""What every labeller is: rewards and ends from what a robot saw, computed on import."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, LabellerConfig

Options = TypeVar("Options")

BASE_FIELDS = (
    *(f"pose.pose.position.{axis}" for axis in "xyz"),
    *(f"pose.pose.orientation.{axis}" for axis in "xyzw"),
)
"""Fields of the nav_msgs/msg/Odometry that :meth:`Labeller.label` is given, in this order."""

PlanarPose = tuple[float, float, float]
"""``(x, y, yaw)`` in m and rad, x forwards and y to the left (REP-103)."""


@dataclass(frozen=True)
class CameraModel:
    """Pinhole camera with lens distortion, as a ``sensor_msgs/msg/CameraInfo`` gives it."""

    matrix: npt.NDArray[np.float64]
    """``[3, 3]`` intrinsic matrix K, px."""
    distortion: npt.NDArray[np.float64]
    """``[coefficient]`` in OpenCV's order."""
    height: int
    width: int


@dataclass(frozen=True)
class Labels:
    """Labels of the transitions of an episode."""

    reward: FloatArray
    """``[step - 1]``: r_t of the transition from step t to step t + 1; NaN where the labeller
    cannot tell, which breaks the episode there."""
    end: npt.NDArray[np.bool_]
    """``[step - 1]``: whether the transition ended the episode."""


class Labeller(Protocol):
    """Computes labels in two passes: over single images (in parallel), then over episodes."""

    unknown: str
    """Why a label is missing, for the account of breaks (for example ``cube not seen``)."""

    def look(self, image: npt.NDArray[np.uint8], camera: CameraModel | None) -> FloatArray:
        """Measure one image.

        Args:
            image: ``[height, width, channel]`` uint8 RGB at the size at which it was recorded.
            camera: Camera that took it; None when the bag has no CameraInfo.

        Returns:
            ``[field]`` float32, NaN for what the image does not show.
        """

    def label(self, sights: FloatArray, base: FloatArray | None) -> Labels:
        """Label the transitions of one episode.

        Args:
            sights: ``[step, field]``: what :meth:`look` returned.
            base: ``[step, 7]``: pose of the robot in its odometry's frame at every step, m and a
                unit quaternion, see :data:`BASE_FIELDS`; None when the task names no odometry for
                the labeller.
        """


def read_options(kind: type[Options], config: LabellerConfig, **others: str) -> Options:
    """Read a labeller's options into a dataclass of numbers.

    Args:
        kind: Every field has a default; a field annotated ``int`` takes whole numbers only.
        config: Its ``options`` override the defaults.
        **others: Fields that are no numbers and come from elsewhere.

    Raises:
        FogError: An option is unknown or not whole; what ``kind`` itself refuses.
    """
    # Annotations are strings here, whatever the version of Python.
    types = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    known = {name: of for name, of in types.items() if of in ("int", "float")}
    unknown = sorted(set(config.options) - set(known))
    if unknown:
        raise FogError(
            f"labeller.options: '{config.name}' has no option {', '.join(unknown)}; known are "
            f"{', '.join(known)}"
        )
    given: dict[str, Any] = dict(config.options)
    for name in [n for n in given if known[n] == "int"]:
        if given[name] != int(given[name]):
            raise FogError(f"labeller.options.{name} must be a whole number, not {given[name]!r}")
        given[name] = int(given[name])
    return kind(**given, **others)
