"""Objects found in drawn pictures whose object is known."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fog_world_model.data.labellers import tee
from fog_world_model.evaluation.object_position import BlobFinder, TeeFinder, object_finder
from fog_world_model.task import LabellerConfig, TaskConfig, task_from_dict


@pytest.fixture
def pusht(content: dict[str, Any]) -> TaskConfig:
    """A Push-T task with pictures of 64x64."""
    content = copy.deepcopy(content)
    content["robot"] = "pusht"
    content["image"].update(height=64, width=64)
    return task_from_dict(content)


def _table(pose: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
    """The block at ``(x, y, angle)`` px of the table, in gym-pusht's colour, 64x64."""
    picture = np.full((1024, 1024, 3), 255, np.uint8)
    for corners in tee.bars(pose):
        cv2.fillPoly(picture, [np.round(corners * 2).astype(np.int32)], (0x8F, 0xA3, 0xB8))
    return np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.parametrize("angle", [0.0, 1.0, -2.5])
def test_the_centre_of_the_block(pusht: TaskConfig, angle: float) -> None:
    """The centre of mass of the drawn pixels, and the angle that was drawn."""
    finder = object_finder(pusht)
    assert isinstance(finder, TeeFinder)
    picture = _table((260.0, 230.0, angle))
    sight = finder.find(picture)
    assert sight is not None
    share = (255.0 - picture[..., 0]) / (255.0 - 0x8F)
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    assert sight.x == pytest.approx((share * columns).sum() / share.sum(), abs=0.15)
    assert sight.y == pytest.approx((share * rows).sum() / share.sum(), abs=0.15)
    assert sight.angle is not None
    assert math.cos(sight.angle - angle) > math.cos(math.radians(2))


def test_a_block_that_fades_or_dissolves_is_lost(pusht: TaskConfig) -> None:
    finder = object_finder(pusht)
    assert finder is not None
    picture = _table((260.0, 230.0, 1.0))
    faded = (255 - (255 - picture.astype(float)) * 0.25).astype(np.uint8)
    spread = cv2.GaussianBlur(picture, (0, 0), 6)
    assert finder.find(faded) is None
    assert finder.find(np.asarray(spread, np.uint8)) is None
    assert finder.find(np.full((64, 64, 3), 255, np.uint8)) is None


def test_a_red_patch() -> None:
    """Lit and shaded faces count alike; the magenta post, yellow walls and specks do not."""
    picture = np.full((64, 64, 3), 120, np.uint8)
    picture[:20] = (190, 215, 240)  # sky
    picture[20:40, :20] = (216, 178, 51)  # wall
    picture[5:60, 44:50] = (255, 0, 216)  # post
    picture[30:40, 20:30] = (242, 25, 13)
    picture[30:40, 30:34] = (120, 13, 7)
    picture[60, 60] = (242, 25, 13)
    sight = BlobFinder("cube").find(picture)
    assert sight is not None
    assert (sight.x, sight.y) == (26.5, 34.5)  # columns 20 to 33, rows 30 to 39
    assert sight.area == 140
    picture[30:40, 20:34] = 120
    assert BlobFinder("cube").find(picture) is None, "a speck is no cube"


def test_what_can_be_measured(tiny_task: TaskConfig, pusht: TaskConfig) -> None:
    assert isinstance(object_finder(tiny_task), BlobFinder)  # its robot is the go2
    markers = dataclasses.replace(
        tiny_task, reward=None, end=None, labeller=LabellerConfig("push_cube_markers")
    )
    assert object_finder(markers) is None
    labelled = dataclasses.replace(
        pusht, reward=None, end=None, labeller=LabellerConfig("pusht_image")
    )
    assert isinstance(object_finder(labelled), TeeFinder)
