"""Where the control loop lets the policy forget: episodes, gaps, clocks that jump."""

from __future__ import annotations

import pytest
from control_bench import IMAGE, IMU, JOINTS, MARKER, MS, Bench, image, imu, joints, marker

from fog_policy.decision import Question


def test_a_gap_in_the_observations_resets_the_policy() -> None:
    bench = Bench()
    bench.feed(1000)
    bench.tick(1000)
    bench.feed(2000, but=JOINTS)
    assert bench.tick(2000)[1] == ["proprioception"]
    bench.feed(2200)
    assert bench.tick(2200)[1] == []
    assert bench.controller.resets == 2


def test_a_new_episode_resets_the_policy_and_drops_old_images() -> None:
    bench = Bench()
    assert not bench.loop.receive(MARKER, marker(4), 990 * MS)
    bench.feed(1000)
    bench.tick(1000)
    assert not bench.loop.receive(MARKER, marker(4), 1100 * MS)
    bench.tick(1100)
    assert bench.controller.resets == 1
    assert bench.loop.receive(MARKER, marker(5), 1200 * MS)
    # The image of 1000 ms shows the episode before.
    assert bench.tick(1201)[1] == ["image"]
    bench.feed(1205)
    assert bench.tick(1210)[1] == []
    assert bench.controller.resets == 2
    assert bench.controller.seen[-1][2] == [0.0, 0.0]
    assert bench.loop.report.episodes == 2


def test_an_image_that_came_just_before_its_marker_is_kept() -> None:
    bench = Bench()
    bench.loop.receive(MARKER, marker(4), 990 * MS)
    bench.feed(1000)
    bench.tick(1010)
    assert bench.loop.receive(MARKER, marker(5), 1049 * MS)
    assert bench.tick(1050)[1] == []
    # An episode starts from rest for the policy, whatever the robot was told before.
    assert bench.controller.seen[-1][2] == [0.0, 0.0]


def test_time_may_jump_between_two_episodes() -> None:
    bench = Bench()
    bench.loop.receive(MARKER, marker(4), 990 * MS)
    bench.feed(1000)
    bench.loop.report.tick(1000 * MS)
    # The image of the new episode is 1 s ahead: it comes before /clock, which the marker follows.
    bench.loop.receive(IMAGE, image(2000), 1010 * MS)
    assert bench.loop.receive(MARKER, marker(5), 2000 * MS)
    assert bench.loop.has_image()
    bench.loop.report.tick(2020 * MS)
    assert bench.loop.report.missed_deadlines == 0


def test_a_clock_that_runs_back_begins_anew() -> None:
    bench = Bench()
    bench.feed(9000)
    bench.tick(9000)
    bench.feed(1000)  # a bag that starts over; the message that shows it is dropped
    bench.feed(1010)
    assert bench.tick(1020) == ([0.5, -1.0], [])
    assert bench.controller.resets == 2


def test_after_a_jump_back_the_robot_starts_from_rest_and_old_answers_are_dropped() -> None:
    bench = Bench(slew_per_s=[1.0, 1.0])
    for now_ms in (9000, 9200):
        bench.feed(now_ms)
        bench.tick(now_ms)
    question = bench.loop.begin(9400 * MS)
    assert isinstance(question, Question)
    answer = bench.loop.compute(question)
    assert bench.loop.ran_back(1000 * MS)
    assert not bench.loop.ran_back(1000 * MS), "once"
    assert bench.loop.finish(question, answer, 1001 * MS) is None
    bench.feed(1010)
    # One period's worth from zero, and not from the 0.4 that it had come to before.
    assert bench.tick(1020)[0] == pytest.approx([0.2, -0.2])


def test_what_was_sent_before_a_jump_back_does_not_pass_for_the_newest_after_it() -> None:
    """For 8 s, new joints would be discarded as long out of date, and the robot would stand."""
    bench = Bench()
    bench.feed(9000)
    bench.tick(9000)
    assert bench.loop.ran_back(1000 * MS)
    for topic, data in ((JOINTS, joints(8990)), (IMU, imu(8990)), (IMAGE, image(8990))):
        bench.loop.receive(topic, data, 1005 * MS)
    bench.feed(1010)
    assert bench.tick(1020) == ([0.5, -1.0], [])
    # A period ahead is still believed.
    bench.loop.receive(JOINTS, joints(1220), 1030 * MS)
    assert bench.loop.check(1040 * MS) is None
    # Once the clock has got there, a jump ahead, at which images come before /clock, is one again.
    bench.feed(9001)
    bench.loop.receive(IMAGE, image(10_000), 9002 * MS)
    assert bench.loop.check(10_000 * MS) is not None, "nothing but the image has come"
    bench.feed(10_000)
    assert bench.tick(10_010)[1] == []


def test_a_clock_that_is_only_corrected_is_no_jump() -> None:
    bench = Bench()
    bench.feed(9000)
    bench.tick(9000)
    assert not bench.loop.ran_back(8801 * MS), "by less than a control period"
    assert bench.loop.ran_back(8799 * MS)


def test_images_too_far_apart_are_a_gap() -> None:
    bench = Bench(image_timeout_s=5.0)
    for now_ms in (1000, 1400):  # one image lost in between: the memory is kept
        bench.feed(now_ms)
        bench.tick(now_ms)
    assert bench.controller.resets == 1
    bench.feed(2000)  # 600 ms are three periods
    bench.tick(2000)
    assert bench.controller.resets == 2
    assert bench.controller.seen[-1][2] == [0.0, 0.0]
    assert bench.loop.report.to_dict()["resets"] == 2
