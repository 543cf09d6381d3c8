"""The control loop on hand-made messages: which observation it takes, and what stops it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fog_policy.control_loop import ControlLoop
from fog_policy.decision import Question
from fog_policy.observation_buffer import LiveObservation, ObservationBuffer
from fog_policy.safety import Reason
from fog_policy.surprise import SurpriseGuard, SurpriseRange
from fog_world_model.data import messages
from fog_world_model.task import TaskConfig, task_from_dict

MS = 1_000_000
IMAGE, JOINTS, ODOM, IMU = "/camera/image_raw", "/joint_states", "/speed", "/imu/data"
MARKER, JOY = "/task/episode", "/joy"


def make_task(**safety: Any) -> TaskConfig:
    """5 Hz; joints may be 100 ms older than the image; /speed has no header and 20 ms of slack."""
    return task_from_dict(
        {
            "name": "test",
            "control_hz": 5.0,
            "image": {
                "topic": IMAGE,
                "camera_info_topic": "/camera/camera_info",
                "height": 16,
                "width": 16,
            },
            "proprioception": [
                {
                    "topic": JOINTS,
                    "type": "sensor_msgs/msg/JointState",
                    "fields": ["position.knee", "velocity.hip"],
                    "max_age_s": 0.1,
                },
                {
                    "topic": ODOM,
                    "type": "std_msgs/msg/Float32",
                    "fields": ["data"],
                    "max_age_s": 0.1,
                    "slack_s": 0.02,
                },
            ],
            "action": {
                "topic": "/cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "angular.z"],
                "low": [-1.0, -2.0],
                "high": [1.0, 2.0],
            },
            "marker": {"topic": MARKER, "type": "std_msgs/msg/Int32", "fields": ["data"]},
            "episode": {"max_steps": 60},
            "safety": {
                "slew_per_s": [100.0, 100.0],
                "tilt_topic": IMU,
                "deadman_topic": "",
                **safety,
            },
        }
    )


def image(stamp_ms: int, brightness: int = 0) -> bytes:
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/Image",
            header=messages.header(stamp_ms * MS, "camera"),
            height=32,
            width=32,
            encoding="rgb8",
            step=96,
            data=np.full(32 * 96, brightness, np.uint8),
        )
    )


def joints(stamp_ms: int, knee: float = 0.0) -> bytes:
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/JointState",
            header=messages.header(stamp_ms * MS, "base"),
            name=["hip", "knee"],
            position=np.array([7.0, knee]),
            velocity=np.array([0.5, 8.0]),
            effort=np.zeros(2),
        )
    )


def imu(stamp_ms: int, roll: float = 0.0) -> bytes:
    orientation = messages.make(
        "geometry_msgs/msg/Quaternion", x=math.sin(roll / 2), w=math.cos(roll / 2)
    )
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/Imu",
            header=messages.header(stamp_ms * MS, "imu"),
            orientation=orientation,
        )
    )


def number(value: float) -> bytes:
    return messages.serialise(messages.make("std_msgs/msg/Float32", data=value))


def marker(value: int) -> bytes:
    return messages.serialise(messages.make("std_msgs/msg/Int32", data=value))


def joy(*buttons: int) -> bytes:
    return messages.serialise(
        messages.make("sensor_msgs/msg/Joy", buttons=np.asarray(buttons, np.int32))
    )


class Recorder:
    """A controller that remembers its calls and always answers the same."""

    def __init__(self, action: tuple[float, ...] = (0.5, -0.5)) -> None:
        self.action = action
        self.resets = 0
        self.seen: list[tuple[int, list[float], list[float]]] = []
        self.error: Exception | None = None
        self.surprise: float | None = None

    def reset(self) -> None:
        self.resets += 1

    def act(
        self,
        image: npt.NDArray[np.uint8],
        proprioception: npt.NDArray[np.float32],
        previous_action: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        assert image.shape == (16, 16, 3)
        self.seen.append((int(image[0, 0, 0]), proprioception.tolist(), previous_action.tolist()))
        if self.error is not None:
            raise self.error
        return np.asarray(self.action, np.float32)


class Bench:
    """A loop with streams that can be stopped one by one."""

    def __init__(
        self, *, shadow: bool = False, guard: SurpriseGuard | None = None, **safety: Any
    ) -> None:
        self.controller = Recorder()
        self.steady_s = 0.0
        self.loop = ControlLoop(
            make_task(**safety),
            self.controller,
            steady_s=lambda: self.steady_s,
            shadow=shadow,
            guard=guard,
        )

    def feed(self, now_ms: int, *, but: str = "") -> None:
        """All streams at one instant; the image last, as a robot sends it."""
        everything = {
            JOINTS: joints(now_ms, 0.25),
            ODOM: number(1.5),
            IMU: imu(now_ms),
            IMAGE: image(now_ms, now_ms // 10 % 250),
        }
        for topic, data in everything.items():
            if topic != but:
                self.loop.receive(topic, data, now_ms * MS)

    def tick(self, now_ms: int) -> tuple[list[float], list[str]]:
        decision = self.loop.tick(now_ms * MS)
        return decision.command.tolist(), [str(r.cause) for r in decision.verdict.stops]


# The observation


def buffered(*received: tuple[str, bytes, int]) -> ObservationBuffer:
    buffer = ObservationBuffer(make_task())
    for topic, data, arrival_ms in received:
        buffer.receive(topic, data, arrival_ms * MS)
    return buffer


def test_each_topic_gives_its_newest_message_not_later_than_the_image() -> None:
    buffer = buffered(
        (JOINTS, joints(80, 1.0), 85),
        (JOINTS, joints(100, 2.0), 105),
        (JOINTS, joints(90, 3.0), 107),  # late: older than the one before it
        (IMAGE, image(100, 9), 110),
        (JOINTS, joints(101, 4.0), 111),  # later than the image
        (ODOM, number(1.0), 109),
        (ODOM, number(2.0), 125),  # without a stamp: 15 ms after the image's arrival, in the slack
        (ODOM, number(3.0), 131),  # 21 ms after it
    )
    observation = buffer.newest(140 * MS)
    assert isinstance(observation, LiveObservation)
    assert observation.stamp_ns == 100 * MS
    assert observation.proprioception.tolist() == [2.0, 0.5, 2.0]
    assert (observation.image == 9).all()


def test_an_image_that_cannot_be_completed_gives_way_to_an_older_one() -> None:
    buffer = buffered(
        (JOINTS, joints(100, 1.0), 100),
        (ODOM, number(0.0), 100),
        (IMAGE, image(100, 1), 100),
        (ODOM, number(0.0), 201),
        (IMAGE, image(201, 2), 201),  # its joints are 101 ms older than it
    )
    observation = buffer.newest(210 * MS)
    assert isinstance(observation, LiveObservation)
    assert observation.stamp_ns == 100 * MS
    # Once the older image is past the task's timeout of 0.5 s, there is nothing.
    reason = buffer.newest(601 * MS)
    assert isinstance(reason, Reason)
    assert reason.cause == "proprioception"
    assert "/joint_states is 0.101 s older than the image (limit 0.1 s)" in reason.detail


def test_no_image_and_no_message() -> None:
    reason = buffered().newest(0)
    assert isinstance(reason, Reason)
    assert reason.cause == "image"
    reason = buffered((IMAGE, image(100), 100), (JOINTS, joints(101), 101)).newest(110 * MS)
    assert isinstance(reason, Reason)
    assert "/joint_states has nothing as old as the newest image" in reason.detail


def test_the_reason_says_why_messages_cannot_be_used() -> None:
    other = messages.make(
        "sensor_msgs/msg/JointState",
        header=messages.header(100 * MS, ""),
        name=["ankle"],
        position=np.zeros(1),
    )
    buffer = buffered((IMAGE, image(100), 100), (JOINTS, messages.serialise(other), 100))
    reason = buffer.newest(100 * MS)
    assert isinstance(reason, Reason)
    assert "'position.knee'; its joints are ankle" in reason.detail
    buffer = buffered((IMAGE, image(9_000_000), 100))
    reason = buffer.newest(100 * MS)
    assert isinstance(reason, Reason)
    assert "stamped 8999.9 s ahead of this node's clock" in reason.detail
    reason = buffered((IMAGE, b"\x00\x01\x00", 100)).newest(0)
    assert isinstance(reason, Reason)
    assert "3 bytes do not decode as sensor_msgs/msg/Image" in reason.detail


def test_ages_are_those_of_the_newest_messages() -> None:
    buffer = buffered((JOINTS, joints(100), 130), (IMAGE, image(90), 131), (IMU, imu(95, 0.2), 132))
    assert buffer.image_age_s(200 * MS) == pytest.approx(0.11)
    assert buffer.proprioception_age_s(200 * MS) == {JOINTS: pytest.approx(0.1), ODOM: None}
    assert buffer.orientation_age_s(200 * MS) == pytest.approx(0.105)
    assert buffer.orientation() == pytest.approx([math.sin(0.1), 0, 0, math.cos(0.1)])


# The loop


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


def test_a_gap_in_the_observations_resets_the_policy() -> None:
    bench = Bench()
    bench.feed(1000)
    bench.tick(1000)
    bench.feed(2000, but=JOINTS)
    assert bench.tick(2000)[1] == ["proprioception"]
    bench.feed(2200)
    assert bench.tick(2200)[1] == []
    assert bench.controller.resets == 2


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


def test_topics_are_those_of_the_task() -> None:
    assert Bench(deadman_topic=JOY).loop.topics() == {
        IMAGE: "sensor_msgs/msg/Image",
        JOINTS: "sensor_msgs/msg/JointState",
        ODOM: "std_msgs/msg/Float32",
        IMU: "sensor_msgs/msg/Imu",
        MARKER: "std_msgs/msg/Int32",
        JOY: "sensor_msgs/msg/Joy",
    }


# Between ticks, and in another thread


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


# What the safety filter watches beside the observation


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


def test_a_fall_between_two_ticks_latches_too() -> None:
    bench = Bench()
    bench.feed(1000)
    bench.tick(1005)
    bench.loop.receive(IMU, imu(1040, 1.3), 1040 * MS)
    found = bench.loop.check(1045 * MS)
    assert found is not None and [r.cause for r in found.verdict.stops] == ["fall"]
    bench.feed(1200)
    assert bench.tick(1205) == ([0.0, 0.0], ["emergency_stop"])


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


# The camera that goes on sending one picture


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
