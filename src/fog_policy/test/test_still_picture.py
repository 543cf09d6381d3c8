"""Which pictures are the same, how long they stay, and what counts as moving: by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fog_policy.still_picture import StillPicture
from fog_world_model.data.messages import header, make, serialise
from fog_world_model.task import TaskConfig

MS = 1_000_000
GO, STAND = np.array([0.5, 0.0, 0.0]), np.zeros(3)
ODOM = "/odom"


def picture(stamp_ms: int, *, pixel: int = 0, at: int = 0, width: int = 64) -> bytes:
    """48 rows of black, but for one byte."""
    data = np.zeros(48 * width * 3, np.uint8)
    data[at] = pixel
    return serialise(
        make(
            "sensor_msgs/msg/Image",
            header=header(stamp_ms * MS, "camera"),
            height=48,
            width=width,
            encoding="rgb8",
            step=3 * width,
            data=data,
        )
    )


class Watched:
    """A camera at 10 Hz, and a robot whose speed is reported before every picture."""

    def __init__(self, task: TaskConfig) -> None:
        self.still = StillPicture(task)
        self.now_ms = 1000

    def see(self, command: np.ndarray = GO, *, speed: float = 0.0, after_ms: int = 100) -> float:
        self.now_ms += after_ms
        self.still.values(ODOM, np.array([speed, 0.0], np.float32))
        self.still.picture(picture(self.now_ms), self.now_ms * MS, command)
        return self.still.seconds


def test_time_counts_while_the_robot_is_told_to_move_and_does(tiny_task: TaskConfig) -> None:
    one = Watched(tiny_task)
    assert one.see() == 0.0, "the first picture"
    assert one.see(speed=0.02) == pytest.approx(0.1)
    assert one.see(STAND) == pytest.approx(0.1), "told to stand"
    # The bounds are 1, 0.5 and 2; a tenth of one of them is still no movement.
    assert one.see(np.array([0.1, -0.05, 0.2])) == pytest.approx(0.1)
    assert one.see(np.array([0.0, 0.0, -0.21])) == pytest.approx(0.2)
    # A pause of the camera is not a time in which it showed the same: 0.5 s is its timeout.
    assert one.see(after_ms=9000) == pytest.approx(0.7)


def test_small_changes_add_up_and_none_is_none(tiny_task: TaskConfig) -> None:
    one = Watched(tiny_task)
    one.see()
    for step in range(1, 9):
        # 1.2 mm/s to and fro: 0.0096 after eight changes.
        assert one.see(speed=0.0012 * (step % 2)) == 0.0
    assert one.see(speed=0.0012) == pytest.approx(0.9), "0.0108 after nine"
    stuck = Watched(tiny_task)
    for _ in range(100):
        assert stuck.see(speed=0.3) == 0.0
    alone = Watched(dataclasses.replace(tiny_task, proprioception=()))
    alone.see()
    assert alone.see() == pytest.approx(0.1), "nobody to ask"


def test_values_that_are_not_finite_are_no_movement(tiny_task: TaskConfig) -> None:
    one = Watched(tiny_task)
    one.see()
    for speed in (np.nan, 0.0, np.inf, 0.0):
        assert one.see(speed=speed) == 0.0


@pytest.mark.parametrize(
    "other",
    [
        {"pixel": 1},
        {"pixel": 1, "at": 4095},
        {"pixel": 1, "at": 4096},
        {"pixel": 255, "at": 48 * 64 * 3 - 1},
        {"width": 65},
    ],
)
def test_one_byte_makes_another_picture(tiny_task: TaskConfig, other: dict[str, int]) -> None:
    one = Watched(tiny_task)
    one.see()
    assert one.see(speed=1.0) == pytest.approx(0.1)
    one.still.picture(picture(2000, **other), 2000 * MS, GO)
    assert one.still.seconds == 0.0
    one.still.values(ODOM, np.zeros(2, np.float32))
    one.still.picture(picture(2100, **other), 2100 * MS, GO)
    assert one.still.seconds == pytest.approx(0.1)


def test_a_late_picture_and_a_damaged_one_say_nothing(tiny_task: TaskConfig) -> None:
    one = Watched(tiny_task)
    one.see()
    one.see(speed=1.0)
    one.still.picture(picture(1100, pixel=9), 1100 * MS, GO)  # older than the newest
    one.still.picture(b"\x00\x01\x00\x00\x07", 1300 * MS, GO)
    assert one.see() == pytest.approx(0.2)


def test_a_camera_with_noise_is_never_still(tiny_task: TaskConfig) -> None:
    rng = np.random.default_rng(0)
    still = StillPicture(tiny_task)
    for step in range(200):
        still.values(ODOM, rng.normal(size=2).astype(np.float32))
        at, now_ms = int(rng.integers(0, 9000)), 1000 + 33 * step
        still.picture(picture(now_ms, pixel=1 + step % 250, at=at), now_ms * MS, GO)
        assert still.seconds == 0.0
