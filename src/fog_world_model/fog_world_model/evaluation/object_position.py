"""Where the object of a task is in a picture, recorded or imagined, as far as colours tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from fog_world_model.data.labellers import tee
from fog_world_model.data.labellers.pusht_image import PushTLabeller
from fog_world_model.task import LabellerConfig, TaskConfig

Image = npt.NDArray[np.uint8]
"""``[height, width, 3]`` RGB"""


@dataclass(frozen=True)
class Sight:
    """Where an object was seen."""

    x: float
    """Pixels of the picture, to the right."""
    y: float
    """Pixels of the picture, downwards."""
    angle: float | None = None
    """Clockwise, rad, where the shape tells."""
    area: float | None = None
    """Pixels that it covers, where that varies."""


class ObjectFinder(Protocol):
    """Finds one object in one picture."""

    name: str
    """What is looked for."""
    measures_area: bool
    """Whether it says how large the object is seen; else it says how it is turned."""

    def find(self, image: Image) -> Sight | None:
        """Where it is; None when it is not seen well enough."""


def object_finder(task: TaskConfig) -> ObjectFinder | None:
    """What measures the object of a task; None: nothing here can.

    The block of Push-T is measured by the labeller of recordings of it, the cube of the simulated
    quadruped by its red. A cube that carries markers is too small for them in a model's picture.

    Raises:
        FogError: The labeller's options are impossible.
    """
    if task.labeller is not None:
        known = task.labeller.name == "pusht_image"
        return TeeFinder(task, task.labeller) if known else None
    if task.robot == "pusht":
        return TeeFinder(task, LabellerConfig("pusht_image"))
    return BlobFinder("cube") if task.robot == "go2" else None


class TeeFinder:
    """The block of Push-T: the centre of its area, and how it is turned.

    Pixels are those of a picture that shows the table alone, as wide as the model's picture.
    """

    name = "block"
    measures_area = False

    def __init__(self, task: TaskConfig, config: LabellerConfig) -> None:
        """Take the colours and the table's corners from the labeller's options."""
        self._labeller = PushTLabeller(config)
        self._scale = task.image.width / tee.TABLE_PX

    def find(self, image: Image) -> Sight | None:
        """Fit the block's shape; None where less than half of it is seen, or it has no such shape.

        A lens's distortion, which the store no longer knows of, is not undone.
        """
        x, y, angle = (float(v) for v in self._labeller.look(image, None)[:3])
        if not np.isfinite(x):
            return None
        length = tee.CENTRE * self._labeller.options.unit_px
        return Sight(
            (x - length * np.sin(angle)) * self._scale,
            (y + length * np.cos(angle)) * self._scale,
            angle,
        )


class BlobFinder:
    """A patch of saturated red: the cube of the simulated quadruped.

    Light and shade change how bright the cube's faces are but hardly their hue, and the goal post
    (magenta) and the walls (blue, green, yellow, violet) are of other hues. What lies beyond the
    picture's edge is not seen: the position is that of the part in view.
    """

    measures_area = True

    def __init__(self, name: str, *, hue_deg: float = 2.0, least_px: int = 4) -> None:
        """Remember what to look for.

        Args:
            name: What it is.
            hue_deg: Hue in the middle of those that count; up to 18 degrees off are taken.
            least_px: Pixels of the largest connected patch below which nothing counts as seen.
        """
        self.name, self._hue, self._least = name, hue_deg, least_px

    def find(self, image: Image) -> Sight | None:
        """Centre of the pixels of the largest connected patch."""
        hue, saturation, value = np.moveaxis(
            cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV), -1, 0
        )
        off = np.abs((hue - self._hue + 180.0) % 360.0 - 180.0)
        mask = (off <= 18.0) & (saturation >= 0.6) & (value >= 0.2)
        _, _, figures, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        areas = figures[1:, cv2.CC_STAT_AREA]  # the first is everything else
        if not len(areas) or areas.max() < self._least:
            return None
        largest = 1 + int(areas.argmax())
        x, y = centres[largest]
        return Sight(float(x), float(y), area=float(areas[largest - 1]))
