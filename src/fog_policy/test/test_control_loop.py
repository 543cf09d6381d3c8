"""What the control loop shows the policy, and what becomes of its answer."""

from __future__ import annotations

import math

import pytest
from control_bench import IMAGE, IMU, JOINTS, JOY, MARKER, MS, ODOM, Bench

from fog_world_model.data import messages


def test_drives_and_tells_the_policy_what_it_did_last() -> None:
    bench = Bench()
    for now_ms in (1000, 1200):
        bench.feed(now_ms)
        # Actions of 0.5 and -0.5 within bounds of +-1 and +-2.
        assert bench.tick(now_ms + 20) == ([0.5, -1.0], [])
    assert bench.controller.resets == 1
    assert bench.controller.seen == [
        (100, [0.25, 0.5, 1.5], [0.0, 0.0]),
        (120, [0.25, 0.5, 1.5], [0.5, -0.5]),
    ]


def test_the_policy_is_told_the_filtered_command() -> None:
    bench = Bench(slew_per_s=[1.0, 100.0])
    for now_ms in (1000, 1200):
        bench.feed(now_ms)
        bench.tick(now_ms)
    # The slew rate of 1 per second let linear.x reach 0.2 of the 0.5 wanted.
    assert bench.controller.seen[1][2] == pytest.approx([0.2, -0.5])


def test_a_policy_that_fails_stops_and_starts_anew() -> None:
    bench = Bench()
    bench.controller.action = (math.nan, 0.0)
    bench.feed(1000)
    assert bench.tick(1000) == ([0.0, 0.0], ["policy"])
    bench.controller.error = RuntimeError("out of memory")
    bench.feed(1200)
    decision = bench.loop.tick(1200 * MS)
    assert "policy: RuntimeError: out of memory" in str(decision.verdict.stops[0])
    bench.controller.error, bench.controller.action = None, (0.5, -0.5)
    bench.feed(1400)
    assert bench.tick(1400) == ([0.5, -1.0], [])
    assert bench.controller.resets == 3


def test_topics_are_those_of_the_task() -> None:
    assert Bench(deadman_topic=JOY).loop.topics() == {
        IMAGE: "sensor_msgs/msg/Image",
        JOINTS: "sensor_msgs/msg/JointState",
        ODOM: "std_msgs/msg/Float32",
        IMU: "sensor_msgs/msg/Imu",
        MARKER: "std_msgs/msg/Int32",
        JOY: "sensor_msgs/msg/Joy",
    }


def test_speed_scale_multiplies_what_the_policy_proposes() -> None:
    bench = Bench()
    bench.loop.speed_scale = 0.5
    bench.feed(1000)
    assert bench.tick(1000) == ([0.25, -0.5], [])
    bench.feed(1200)
    bench.tick(1200)
    # The policy is told what the robot was told: half of it.
    assert bench.controller.seen[1][2] == pytest.approx([0.25, -0.25])


def test_what_was_proposed_is_told_before_it_is_limited() -> None:
    """Scaled for speed, not slowed by the slew rate; none where nothing usable was answered."""
    bench = Bench(slew_per_s=[1.0, 100.0])
    bench.loop.speed_scale = 0.8
    bench.feed(1000)
    decision = bench.loop.tick(1000 * MS)
    assert decision.command.tolist() == pytest.approx([0.2, -0.8])
    assert decision.proposed is not None
    assert decision.proposed.tolist() == pytest.approx([0.4, -0.8])
    bench.controller.action = (math.nan, 0.0)
    bench.feed(1200)
    assert bench.loop.tick(1200 * MS).proposed is None
    assert bench.loop.tick(9000 * MS).proposed is None, "it was not asked: the image is stale"


def test_in_shadow_the_policy_is_told_what_somebody_else_commanded() -> None:
    bench = Bench(shadow=True)
    assert bench.loop.topics()["/cmd_vel"] == "geometry_msgs/msg/Twist"
    vector = messages.make("geometry_msgs/msg/Vector3", x=0.2)
    told = messages.serialise(messages.make("geometry_msgs/msg/Twist", linear=vector))
    bench.feed(1000)
    bench.tick(1000)
    bench.loop.receive("/cmd_vel", told, 1010 * MS)
    bench.loop.receive("/cmd_vel", told, 1110 * MS)
    bench.feed(1200)
    bench.tick(1200)
    assert bench.controller.seen[1][2] == pytest.approx([0.2, 0.0])
    # It wanted (0.5, -1.0); the robot got (0.2, 0). One decision is compared once.
    assert bench.loop.report.to_dict()["shadow"] == {
        "commands": 1,
        "mean_absolute_difference": pytest.approx([0.3, 1.0]),
    }
