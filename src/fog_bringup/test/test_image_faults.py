"""Images that are late or lost: which, how many, and that nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from fog_bringup.image_faults import ImageFaults
from fog_bringup.robots.streams import Encoded

MS = 1_000_000
ODOMETRY: Encoded = ("/odom", "nav_msgs/msg/Odometry", b"o")
INFO: Encoded = ("/camera/camera_info", "sensor_msgs/msg/CameraInfo", b"i")


def image(number: int) -> Encoded:
    return ("/camera/image_raw", "sensor_msgs/msg/Image", str(number).encode())


def test_a_late_image_arrives_50_ms_after_everything_else() -> None:
    faults = ImageFaults(["latency"])
    assert faults.delay_ns == 50 * MS
    assert faults.pass_on(100 * MS, [ODOMETRY, INFO, image(1)]) == [ODOMETRY, INFO]
    assert faults.pass_on(140 * MS, [ODOMETRY]) == [ODOMETRY]
    assert faults.pass_on(149 * MS, []) == []
    assert faults.pass_on(150 * MS, [ODOMETRY]) == [ODOMETRY, image(1)]
    assert faults.pass_on(160 * MS, []) == []
    assert faults.images == 1
    assert faults.lost == 0


def test_late_images_do_not_reach_the_next_episode() -> None:
    faults = ImageFaults(["latency"])
    faults.pass_on(100 * MS, [image(1)])
    faults.restart(4)
    assert faults.pass_on(900 * MS, [ODOMETRY]) == [ODOMETRY]


def lost(faults: ImageFaults, seed: int, images: int = 400) -> list[int]:
    """Numbers of the images of an episode that do not arrive at once."""
    faults.restart(seed)
    return [
        k for k in range(images) if faults.pass_on(k * 100 * MS, [INFO, image(k)]) == [INFO]
    ]  # fmt: skip


def test_five_per_cent_are_lost_the_same_for_every_policy() -> None:
    faults = ImageFaults(["lost-frames"])
    found = {seed: lost(faults, seed) for seed in range(25)}
    share = sum(map(len, found.values())) / 10_000
    # four standard deviations of a coin of 0.05, thrown 10,000 times
    assert share == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 10_000))
    assert faults.images == 10_000
    assert faults.lost == round(share * 10_000)
    other = ImageFaults(["lost-frames", "latency"])
    assert lost(ImageFaults(["lost-frames"]), 7) == found[7]
    other.restart(7)
    arrived = [
        int(m[2])
        for k in range(402)
        for m in other.pass_on(k * 100 * MS, [image(k)] if k < 400 else [])
    ]
    assert sorted({*range(400)} - {*arrived}) == found[7]
    assert found[7] != found[8]


def test_an_image_that_is_sent_again_is_one_image() -> None:
    faults = ImageFaults(["latency", "lost-frames"])
    faults.restart(2)
    for k in range(100):
        for _ in range(3):
            faults.pass_on(k * 100 * MS, [image(k)])
    assert faults.images == 100
    assert 0 < faults.lost < 15
    late = ImageFaults(["latency"])
    late.pass_on(0, [image(1)])
    late.pass_on(0, [image(2)])  # the same picture, with another stamp
    assert late.pass_on(50 * MS, []) == [image(2)]


def test_conditions_name_what_was_done() -> None:
    assert ImageFaults(["latency"]).conditions == {"image_delay_s": 0.05}
    assert ImageFaults(["lost-frames"]).conditions == {"image_loss": 0.05}
