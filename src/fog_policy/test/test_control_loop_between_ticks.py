"""What the control loop finds between two ticks, and while the policy computes."""

from __future__ import annotations

import math

from control_bench import IMU, JOINTS, MARKER, MS, Bench, imu, joints, marker

from fog_policy.decision import Question


def test_between_ticks_a_stop_is_found_before_the_next_decision() -> None:
    bench = Bench()
    bench.feed(1000)
    bench.tick(1000)
    assert bench.loop.check(1040 * MS) is None
    bench.loop.receive(IMU, imu(1050, 0.7), 1050 * MS)
    decision = bench.loop.check(1060 * MS)
    assert decision is not None and decision.command.tolist() == [0.0, 0.0]
    assert [r.cause for r in decision.verdict.stops] == ["tilt"]
    bench.loop.receive(IMU, imu(1070), 1070 * MS)
    assert bench.loop.check(1080 * MS) is None
    bench.loop.receive(JOINTS, joints(1090, math.nan), 1090 * MS)
    decision = bench.loop.check(1100 * MS)
    assert decision is not None
    assert str(decision.verdict.stops[0]) == (
        "proprioception: not finite: /joint_states position.knee"
    )


def asked(bench: Bench, now_ms: int) -> Question:
    question = bench.loop.begin(now_ms * MS)
    assert isinstance(question, Question)
    return question


def test_an_answer_that_comes_after_a_stop_does_not_move_the_robot() -> None:
    bench = Bench()
    bench.feed(1000)
    question = asked(bench, 1000)
    answer = bench.loop.compute(question)
    bench.loop.emergency_stop.engage("test")
    decision = bench.loop.finish(question, answer, 1010 * MS)
    assert decision is not None and decision.command.tolist() == [0.0, 0.0]


def test_an_answer_about_the_previous_episode_is_dropped() -> None:
    bench = Bench()
    bench.loop.receive(MARKER, marker(4), 990 * MS)
    bench.feed(1000)
    question = asked(bench, 1000)
    answer = bench.loop.compute(question)
    assert bench.loop.receive(MARKER, marker(5), 1005 * MS)
    assert bench.loop.finish(question, answer, 1010 * MS) is None
    bench.feed(1200)
    assert asked(bench, 1200).first


def test_a_fall_between_two_ticks_latches_too() -> None:
    bench = Bench()
    bench.feed(1000)
    bench.tick(1005)
    bench.loop.receive(IMU, imu(1040, 1.3), 1040 * MS)
    found = bench.loop.check(1045 * MS)
    assert found is not None and [r.cause for r in found.verdict.stops] == ["fall"]
    bench.feed(1200)
    assert bench.tick(1205) == ([0.0, 0.0], ["emergency_stop"])
