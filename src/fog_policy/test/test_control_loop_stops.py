"""What stops a robot under the control loop, and what lets it go on."""

from __future__ import annotations

import math

import pytest
from control_bench import IMAGE, IMU, JOINTS, JOY, MS, Bench, imu, joints, joy

from fog_policy.decision import Question
from fog_policy.safety import Reason
from fog_policy.surprise import SurpriseGuard, SurpriseRange
from fog_world_model.data import messages


@pytest.mark.parametrize(
    ("topic", "stops_at_ms", "cause"),
    # 0.5 s for images and 0.3 s for the others after the last message at 1000 ms; a joint state is
    # 100 ms too old for a new image already at 1200 ms, but the old image does until then.
    [(IMAGE, 1600, "image"), (JOINTS, 1400, "proprioception"), (IMU, 1400, "tilt")],
)
def test_a_stream_that_falls_silent_stops_the_robot(
    topic: str, stops_at_ms: int, cause: str
) -> None:
    bench = Bench()
    bench.feed(1000)
    assert bench.tick(1000)[1] == []
    for now_ms in range(1200, stops_at_ms, 200):
        bench.feed(now_ms, but=topic)
        assert bench.tick(now_ms)[1] == []
    bench.feed(stops_at_ms, but=topic)
    assert bench.tick(stops_at_ms) == ([0.0, 0.0], [cause])
    # When it speaks again the robot goes on.
    bench.feed(stops_at_ms + 200)
    assert bench.tick(stops_at_ms + 200) == ([0.5, -1.0], [])


def test_joints_that_are_not_finite_stop_and_never_reach_the_policy() -> None:
    bench = Bench()
    bench.feed(1000)
    bench.tick(1000)
    bench.feed(1200, but=JOINTS)
    bench.loop.receive(JOINTS, joints(1200, math.nan), 1200 * MS)
    decision = bench.loop.tick(1200 * MS)
    assert decision.command.tolist() == [0.0, 0.0]
    assert str(decision.verdict.stops[0]) == (
        "proprioception: not finite: /joint_states position.knee"
    )
    assert len(bench.controller.seen) == 1


def test_joints_that_are_not_finite_stop_before_an_image_needs_them() -> None:
    """The image of 1000 ms would still go with the joints of 1000 ms: the robot must not drive."""
    bench = Bench()
    bench.feed(1000)
    assert bench.tick(1000)[1] == []
    bench.loop.receive(JOINTS, joints(1150, math.nan), 1150 * MS)
    assert bench.loop.check(1160 * MS) is not None
    for now_ms in (1200, 1400):
        command, causes = bench.tick(now_ms)
        assert command == [0.0, 0.0]
        assert causes[0] == "proprioception"
    assert len(bench.controller.seen) == 1
    bench.feed(1600)
    assert bench.tick(1600)[1] == []


def test_joints_that_are_not_finite_stop_what_the_policy_was_asked_before() -> None:
    bench = Bench()
    bench.feed(1000)
    question = bench.loop.begin(1000 * MS)
    assert isinstance(question, Question)
    answer = bench.loop.compute(question)
    bench.loop.receive(JOINTS, joints(1010, math.nan), 1010 * MS)
    decision = bench.loop.finish(question, answer, 1020 * MS)
    assert decision is not None
    assert decision.command.tolist() == [0.0, 0.0]
    assert decision.verdict.stops[0].cause == "proprioception"


def test_emergency_stop_holds_until_it_is_reset() -> None:
    bench = Bench()
    bench.feed(1000)
    bench.tick(1000)
    bench.loop.emergency_stop.engage("test")
    assert bench.loop.stop(Reason("emergency_stop", "test")).command.tolist() == [0.0, 0.0]
    for now_ms in (1200, 1400):
        bench.feed(now_ms)
        assert bench.tick(now_ms) == ([0.0, 0.0], ["emergency_stop"])
    bench.loop.start()
    bench.feed(1600)
    assert bench.tick(1600)[1] == ["emergency_stop"]
    bench.loop.emergency_stop.reset()
    bench.feed(1800)
    assert bench.tick(1800) == ([0.5, -1.0], [])
    # The policy went on watching, and knew that the robot stood.
    assert bench.controller.seen[-2][2] == [0.0, 0.0]


def test_dead_mans_switch_has_to_be_held() -> None:
    bench = Bench(deadman_topic=JOY, deadman_timeout_s=0.5)
    bench.feed(1000)
    assert bench.tick(1000)[1] == ["deadman"]
    bench.loop.receive(JOY, joy(0, 1), 1000 * MS)
    assert bench.tick(1000)[1] == []
    bench.steady_s = 0.51
    assert bench.tick(1010)[1] == ["deadman"]
    bench.loop.receive(JOY, joy(1, 0), 1010 * MS)
    assert bench.tick(1020)[1] == []
    # Letting go stops at once, without waiting for the timeout.
    bench.loop.receive(JOY, joy(0, 0), 1030 * MS)
    assert bench.tick(1030)[1] == ["deadman"]


def test_a_fall_stays_a_stop_until_a_person_lets_the_robot_go_on() -> None:
    bench = Bench()
    bench.feed(1000)
    assert bench.tick(1005) == ([0.5, -1.0], [])
    bench.feed(1200, but=IMU)
    bench.loop.receive(IMU, imu(1200, 1.3), 1200 * MS)  # beyond fall_tilt_rad, 1 rad
    assert bench.tick(1205) == ([0.0, 0.0], ["fall"])
    bench.feed(1400)  # on its feet again
    assert bench.tick(1405) == ([0.0, 0.0], ["emergency_stop"])
    bench.loop.let_go_on()
    bench.feed(1600)
    assert bench.tick(1605) == ([0.5, -1.0], [])


def test_leaving_the_fence_stops_the_robot() -> None:
    fence = {"topic": "/odom", "x_m": [-1.0, 1.0], "y_m": [-1.0, 1.0]}
    bench = Bench(geofence=fence)
    assert bench.loop.topics()["/odom"] == "nav_msgs/msg/Odometry"

    def at(now_ms: int, x: float) -> None:
        odometry = messages.make(
            "nav_msgs/msg/Odometry", header=messages.header(now_ms * MS, "odom")
        )
        odometry.pose.pose.position.x = x
        bench.loop.receive("/odom", messages.serialise(odometry), now_ms * MS)
        bench.feed(now_ms)

    bench.feed(1000)
    assert bench.tick(1005) == ([0.0, 0.0], ["geofence"]), "no position yet"
    at(1200, 0.9)
    assert bench.tick(1205) == ([0.5, -1.0], [])
    at(1400, 1.1)
    assert bench.tick(1405) == ([0.0, 0.0], ["geofence"])
    at(1600, 0.9)
    assert bench.tick(1605) == ([0.0, 0.0], ["emergency_stop"]), "until a person resets it"


def test_only_the_button_that_the_task_names_is_the_dead_mans_switch() -> None:
    bench = Bench(deadman_topic=JOY, deadman_button=1)
    for buttons, causes in (((1, 0), ["deadman"]), ((1, 1), []), ((1,), ["deadman"])):
        bench.loop.receive(JOY, joy(*buttons), 1000 * MS)
        bench.feed(1000)
        assert bench.tick(1005)[1] == causes, buttons


def test_a_surprised_model_stops_the_robot() -> None:
    found = SurpriseRange(
        threshold_nats=10.0,
        shock_nats=100.0,
        steps=2,
        warm_up=1,
        false_alarm=0.01,
        judged=999,
        episodes=7,
        median_nats=2.0,
        largest_nats=12.0,
    )
    bench = Bench(guard=SurpriseGuard(found))

    def step(now_ms: int, nats: float) -> list[str]:
        bench.controller.surprise = nats
        bench.feed(now_ms)
        return bench.tick(now_ms + 5)[1]

    assert step(1000, 500.0) == [], "the first step after a reset is not judged"
    assert step(1200, 11.0) == []
    assert step(1400, 11.0) == ["out_of_distribution"], "two in a row"
    assert step(1600, 1.0) == ["out_of_distribution"]
    assert step(1800, 1.0) == [], "two calm ones"
    assert step(2000, 101.0) == ["out_of_distribution"]
    assert step(2200, 1.0) == step(2400, 1.0) == step(2600, 1.0) == ["out_of_distribution"]
    bench.loop.let_go_on()
    assert step(2800, 1.0) == []
