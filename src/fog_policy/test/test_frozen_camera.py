"""A camera that goes on sending one picture, under the control loop."""

from __future__ import annotations

import pytest
from control_bench import (
    IMAGE,
    IMU,
    JOINTS,
    MARKER,
    MS,
    ODOM,
    Bench,
    image,
    imu,
    joints,
    marker,
    number,
)

from fog_world_model.data import messages


def still_feed(bench: Bench, now_ms: int, *, brightness: int = 7, knee: float = 0.0) -> None:
    bench.loop.receive(JOINTS, joints(now_ms, knee), now_ms * MS)
    bench.loop.receive(ODOM, number(1.5), now_ms * MS)
    bench.loop.receive(IMU, imu(now_ms), now_ms * MS)
    bench.loop.receive(IMAGE, image(now_ms, brightness), now_ms * MS)


def test_a_camera_that_freezes_stops_the_robot_until_it_shows_something_else() -> None:
    bench = Bench()
    for step in range(7):
        still_feed(bench, 1000 + 200 * step, knee=0.02 * step)
        # The first command is given upon the first picture; 1.2 s of it are too much, 1.0 s not.
        expected = ["frozen_image"] if step == 6 else []
        assert bench.tick(1000 + 200 * step)[1] == expected, step
    # The robot stands, and the cause is still there: it must not start again to try.
    for now_ms in range(2400, 6000, 200):
        still_feed(bench, now_ms)
        assert bench.tick(now_ms) == ([0.0, 0.0], ["frozen_image"])
    still_feed(bench, 6000, brightness=8)
    assert bench.tick(6000) == ([0.5, -1.0], [])
    assert bench.loop.report.to_dict()["stops"]["frozen_image"]["events"] == 1


def test_between_ticks_a_frozen_camera_is_found_too() -> None:
    bench = Bench(frozen_image_s=0.5)
    for step in range(3):
        still_feed(bench, 1000 + 200 * step, knee=0.02 * step)
        assert bench.tick(1000 + 200 * step)[1] == []
    assert bench.loop.check(1500 * MS) is None
    still_feed(bench, 1550, knee=0.06)
    found = bench.loop.check(1560 * MS)
    assert found is not None and [r.cause for r in found.verdict.stops] == ["frozen_image"]


@pytest.mark.parametrize("what", ["told to stand", "told to creep", "blocked", "off"])
def test_a_picture_may_stay_as_long_as_the_robot_does(what: str) -> None:
    bench = Bench(frozen_image_s=0.0 if what == "off" else 1.0)
    # 0.09 of the bounds is no movement that has to show in a picture.
    bench.controller.action = {"told to stand": (0.0, 0.0), "told to creep": (0.09, -0.09)}.get(
        what, (0.5, -0.5)
    )
    for step in range(50):
        still_feed(bench, 1000 + 200 * step, knee=0.0 if what == "blocked" else 0.02 * step)
        assert bench.tick(1000 + 200 * step)[1] == []


def test_what_begins_anew_has_not_seen_the_picture_before() -> None:
    bench = Bench()

    def drive(begin_ms: int) -> list[str]:
        for step in range(7):
            still_feed(bench, begin_ms + 200 * step, knee=0.02 * step)
            causes = bench.tick(begin_ms + 200 * step)[1]
        return causes

    bench.loop.receive(MARKER, marker(4), 990 * MS)
    assert drive(1000) == ["frozen_image"]
    assert bench.loop.receive(MARKER, marker(5), 2350 * MS)
    assert drive(2400) == ["frozen_image"], "seven pictures of this episode"
    bench.loop.let_go_on()
    still_feed(bench, 3800)
    assert bench.tick(3800)[1] == [], "a person has looked"
    bench.loop.start()
    still_feed(bench, 4000)
    assert bench.tick(4000)[1] == []


def test_in_shadow_the_command_is_somebody_elses() -> None:
    bench = Bench(shadow=True)
    vector = messages.make("geometry_msgs/msg/Vector3", x=0.0)
    told = messages.serialise(messages.make("geometry_msgs/msg/Twist", linear=vector))
    for step in range(20):
        bench.loop.receive("/cmd_vel", told, (1000 + 200 * step) * MS)
        still_feed(bench, 1000 + 200 * step, knee=0.02 * step)
        assert bench.tick(1000 + 200 * step)[1] == [], "the policy's own wish moves nobody"
