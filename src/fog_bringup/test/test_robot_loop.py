"""The loop around a robot, with a made-up robot and no ROS."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fog_bringup.image_faults import ImageFaults
from fog_bringup.live_scene import stamp_of
from fog_bringup.robot_loop import Frame, RobotLoop
from fog_bringup.robots.robot import Observation, Robot
from fog_bringup.tasks import find_task
from fog_world_model.data.messages import deserialise
from fog_world_model.errors import FogError
from fog_world_model.task import EpisodeConfig

MS = 1_000_000
TASK = replace(find_task("reach_cube"), episode=EpisodeConfig(max_steps=4))


def crowding() -> float:
    """By how much other work slows this machine down, at least 1: wall-clock bounds give way."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Cart(Robot):
    """Moves along x at the commanded velocity, 50 Hz, with a picture at 10 Hz."""

    step_ns, camera_ns = 20 * MS, 100 * MS
    image_height = image_width = 16
    fovy_deg = 90.0
    has_inertial = True

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.stamp, self.episode, self.x = 1000 * MS, -1, 0.0
        self.end_at: float = np.inf
        self.closed = False

    def reset(self, seed: int) -> None:
        assert threading.get_ident() == self.thread
        self.stamp = -(-(self.stamp + 200 * MS) // (200 * MS)) * 200 * MS
        self.episode += 1
        self.x = float(seed)

    def step(self, command: npt.ArrayLike) -> None:
        assert threading.get_ident() == self.thread, "a rendering context belongs to its thread"
        self.x += float(np.asarray(command)[0]) * 0.02
        self.stamp += self.step_ns

    def observe(self, *, image: bool = True) -> Observation:
        return Observation(
            stamp_ns=self.stamp,
            image=np.zeros((16, 16, 3), np.uint8) if image else None,
            position=np.array([self.x, 0.0, 0.0]),
            orientation=np.array([0.0, 0.0, 0.0, 1.0]),
            linear_velocity=np.zeros(3),
            angular_velocity=np.zeros(3),
            linear_acceleration=np.zeros(3),
            reward=self.x,
            end=self.x >= self.end_at,
            episode=max(self.episode, 0),
        )

    def close(self) -> None:
        assert threading.get_ident() == self.thread
        self.closed = True


class Running:
    """A loop with everything that it has published."""

    def __init__(self, cart: type[Cart] = Cart, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "seed": 3,
            "speed": 0.0,
            "auto_reset": False,
            "command_timeout_s": 0.5,
        }
        self.frames: list[Frame] = []
        self.wall: list[int] = []
        self.errors: list[Exception] = []
        self.limit = 10**9
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.made: list[Cart] = []

        def make() -> Cart:
            self.made.append(cart())
            return self.made[0]

        self.loop = RobotLoop(make, TASK, **{**defaults, **options})

    def publish(self, frame: Frame) -> None:
        self.wall.append(time.time_ns())
        self.frames.append(frame)
        if len(self.frames) == self.limit:
            self.reached.set()
            self.go_on.wait(10.0)

    def start(self, limit: int) -> None:
        """Run until ``limit`` frames are out; there the loop stands, inside the callback."""
        self.limit = limit
        self.loop.start(self.publish, self.errors.append)
        assert self.reached.wait(10.0)

    def positions(self) -> list[float]:
        return [
            deserialise(data, typename).pose.pose.position.x
            for frame in self.frames
            for topic, typename, data in frame.messages
            if topic == "/odom"
        ]


@contextmanager
def running(**options: Any) -> Iterator[Running]:
    made = Running(**options)
    made.loop.open()
    try:
        yield made
    finally:
        made.go_on.set()
        made.loop.close()
        assert made.made[0].closed


def test_every_step_is_published_and_every_fifth_with_a_picture() -> None:
    with running() as run:
        run.start(11)
    frames = run.frames[:11]
    assert [f.robot_ns for f in frames] == [1200 * MS + k * 20 * MS for k in range(11)]
    with_picture = [any(t == "/camera/image_raw" for t, *_ in f.messages) for f in frames]
    assert with_picture == [k % 5 == 0 for k in range(11)]
    with_reward = [any(t == "/task/reward" for t, *_ in f.messages) for f in frames]
    assert with_reward == with_picture, "what has no stamp comes with the picture"
    assert frames[0].messages[-1][0] == "/camera/image_raw", "and before it"
    assert [f.first for f in frames] == [True] + [False] * 10


def test_state_hz_thins_out_what_comes_between_pictures() -> None:
    with running(state_hz=10.0) as run:
        run.start(11)
    assert [bool(f.messages) for f in run.frames[:11]] == [k % 5 == 0 for k in range(11)]


def test_a_command_is_obeyed_until_it_times_out() -> None:
    with running(command_timeout_s=0.2) as run:
        run.start(1)
        assert run.loop.command(np.array([1.0, 0.0, 0.0]))
        run.limit, run.reached = 31, threading.Event()
        run.go_on.set()
        assert run.reached.wait(10.0)
    assert not run.loop.obeying
    moved = np.diff(run.positions()[:31])
    # given at 0 ms, obeyed up to and including the step that begins at 200 ms
    assert moved == pytest.approx([0.02] * 11 + [0.0] * 19)


class Stalling(Cart):
    """Stands still for a while, wall time, in the first step in which it moves."""

    stall_s = 1.3

    def step(self, command: npt.ArrayLike) -> None:
        super().step(command)
        if np.any(command) and self.stall_s:
            time.sleep(self.stall_s)
            self.stall_s = 0.0


@pytest.mark.parametrize(("wall", "steps"), [(True, 1), (False, 51)])
def test_a_command_times_out_while_the_robot_s_thread_stands_still(wall: bool, steps: int) -> None:
    """Skipped robot time made a command with wall stamps last 1.3 s longer than it may.

    By robot time the stall has no length: the command is obeyed up to and including the step that
    begins 1 s after it.
    """
    wall_ns = time.time_ns if wall else None
    with running(cart=Stalling, command_timeout_s=1.0, speed=1.0, wall_ns=wall_ns) as run:
        run.start(1)
        run.loop.command(np.array([1.0, 0.0, 0.0]))
        run.limit, run.reached = 60, threading.Event()
        run.go_on.set()
        assert run.reached.wait(30.0)
        assert run.loop.pace.skipped_s > 1.0
    moved = np.diff(run.positions()[:60])
    assert np.count_nonzero(moved) == pytest.approx(steps, abs=1 if steps > 1 else 0)


@pytest.mark.parametrize("wall", [True, False])
def test_a_command_is_as_old_as_its_way_to_the_robot_was_long(wall: bool) -> None:
    """Read from the middleware too late: no longer obeyed; robot time waits for its driver."""
    wall_ns = time.time_ns if wall else None
    with running(command_timeout_s=20.0, speed=1.0, wall_ns=wall_ns) as run:
        run.start(1)
        assert run.loop.command(np.array([1.0, 0.0, 0.0]), waited_s=20.5)
        run.limit, run.reached = 5, threading.Event()
        run.go_on.set()
        assert run.reached.wait(30.0)
    assert np.any(np.diff(run.positions()[:5])) != wall


def test_what_is_not_finite_or_of_another_size_is_refused() -> None:
    with running() as run:
        assert not run.loop.command(np.array([np.nan, 0.0, 0.0]))
        assert not run.loop.command(np.array([1.0, 0.0]))
        assert (run.loop.commands, run.loop.refused) == (0, 2)


def test_resets_count_the_seed_up_and_forget_the_command() -> None:
    with running(speed=50.0) as run:
        run.loop.start(run.publish, run.errors.append)
        run.loop.command(np.array([1.0, 0.0, 0.0]))
        first = run.loop.reset()
        assert (first.seed, first.number) == (4, 1)
        run.loop.next_seed = 40
        second = run.loop.reset()
        assert (second.seed, second.number) == (40, 2)
        assert second.stamp_ns > first.stamp_ns
        time.sleep(0.1)
    after = [x for x in run.positions() if x >= 39]
    assert after
    assert set(after) == {40.0}


def test_auto_reset_after_max_steps_and_on_the_grid_after_an_end() -> None:
    class Ending(Cart):
        def reset(self, seed: int) -> None:
            super().reset(seed)
            # Seed 3 never ends; seed 4 has ended from the start on, which its first picture shows.
            self.end_at = np.inf if seed == 3 else 4.0

    with running(cart=Ending, auto_reset=True) as run:
        run.start(43)
    firsts = [f.robot_ns for f in run.frames if f.first]
    # four control periods of 200 ms, then 200 ms of reset; the ended episode has one picture
    assert firsts[:3] == [1200 * MS, 2200 * MS, 2400 * MS]


def test_speed_sets_the_pace() -> None:
    with running(speed=10.0) as run:
        begin = time.monotonic()
        run.start(101)  # 2 s of robot time
        elapsed = time.monotonic() - begin
    assert 0.19 < elapsed < 1.0 * crowding()


def test_wall_stamps_follow_the_wall_clock_on_the_control_grid() -> None:
    with running(speed=1.0, wall_ns=time.time_ns) as run:
        run.start(26)
    late = [wall - f.stamp_ns for wall, f in zip(run.wall, run.frames, strict=True)]
    pictures = [f.stamp_ns for f in run.frames[:26] if len(f.messages) > 3]
    assert all(stamp % (100 * MS) == 0 for stamp in pictures)
    assert np.median(late[:26]) < 20 * MS * crowding()
    assert min(late[:26]) > -5 * MS


def test_being_late_is_no_waiting_and_is_made_up_for() -> None:
    """Were it taken for a wait, stamps would lag behind the wall clock by more and more."""
    with running(speed=1.0, wall_ns=time.time_ns) as run:
        run.start(26)
        assert run.loop.held_s == 0.0


@pytest.mark.parametrize("jump_s", [-30, 30])
def test_stamps_follow_a_wall_clock_that_is_set(jump_s: int) -> None:
    """Without that, whoever reads them would find them too old, or too new, for good."""
    shift_ns = [0]
    with running(speed=1.0, wall_ns=lambda: time.time_ns() + shift_ns[0]) as run:
        run.start(11)
        shift_ns[0] = jump_s * 10**9
        run.limit, run.reached = 40, threading.Event()
        run.go_on.set()
        assert run.reached.wait(30.0)
    stamps = np.array([f.stamp_ns for f in run.frames[:40]])
    # One frame had been computed before.
    assert np.count_nonzero(np.abs(np.diff(stamps)) > 10 * 10**9) == 1
    assert stamps[-1] - stamps[0] == pytest.approx(jump_s * 1e9, abs=9e9)
    pictures = [f.stamp_ns for f in run.frames[:40] if len(f.messages) > 3]
    assert all(stamp % (100 * MS) == 0 for stamp in pictures), "still on the control grid"


def test_robot_time_waits_for_an_overdue_command() -> None:
    with running(patience_s=5.0, command_timeout_s=10.0) as run:
        run.start(1)
        run.loop.command(np.array([1.0, 0.0, 0.0]))  # at phase 0
        run.limit = 10**9
        run.go_on.set()
        deadline = time.monotonic() + 5.0
        while run.loop.now_ns < 1420 * MS and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert run.loop.now_ns == 1420 * MS, "a period and a tick after the first"
        run.loop.command(np.array([1.0, 0.0, 0.0]))
        while run.loop.now_ns < 1620 * MS and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert run.loop.now_ns == 1620 * MS, "the phase stays that of the earliest command"
        assert run.loop.held_s > 0.2


def test_patience_ends() -> None:
    with running(patience_s=0.2) as run:
        run.start(1)
        run.loop.command(np.zeros(3))
        run.limit, run.reached = 200, threading.Event()
        run.go_on.set()
        assert run.reached.wait(10.0), "nobody commands any more, and time goes on"
        assert run.loop.given_up == 1


def test_pause_stops_time_without_a_jump_afterwards() -> None:
    with running(speed=10.0) as run:
        run.loop.start(run.publish, run.errors.append)
        time.sleep(0.1)
        run.loop.pause(True)
        count = len(run.frames)
        time.sleep(0.2)
        assert len(run.frames) == count
        run.loop.pause(False)
        deadline = time.monotonic() + 10.0
        while len(run.frames) < count + 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(run.frames) >= count + 10
    assert set(np.diff([f.robot_ns for f in run.frames])) == {20 * MS}


def test_a_robot_that_cannot_be_made_says_why() -> None:
    class Broken(Cart):
        def __init__(self) -> None:
            raise FogError("no GL library")

    with pytest.raises(FogError, match="no GL library"):
        Running(cart=Broken).loop.open()


def test_a_failure_in_the_robot_s_thread_is_told() -> None:
    class Falling(Cart):
        def step(self, command: npt.ArrayLike) -> None:
            raise RuntimeError("the physics diverged")

    with running(cart=Falling) as run:
        run.loop.start(run.publish, run.errors.append)
        deadline = time.monotonic() + 5.0
        while not run.errors and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "diverged" in str(run.errors[0])
        with pytest.raises(RuntimeError):
            run.loop.reset()


def arrivals(run: Running, topic: str = "/camera/image_raw") -> list[tuple[int, int]]:
    """Robot time at which messages were published, and their stamps."""
    return [
        (frame.robot_ns, stamp_of(data))
        for frame in run.frames
        for name, _, data in frame.messages
        if name == topic
    ]


def test_late_images_come_between_two_steps_exactly_50_ms_after_their_stamps() -> None:
    with running(faults=ImageFaults(["latency"])) as run:
        run.start(101)
    images = arrivals(run)
    assert len(images) >= 9
    assert {came - stamp for came, stamp in images} == {50 * MS}
    stamps = [stamp for _, stamp in images]
    assert stamps == [1200 * MS + k * 100 * MS for k in range(len(stamps))], "none is missing"
    assert {came - stamp for came, stamp in arrivals(run, "/camera/camera_info")} == {0}
    assert {came - stamp for came, stamp in arrivals(run, "/odom")} == {0}


def test_lost_images_leave_everything_else_as_it_is() -> None:
    with running(faults=(faults := ImageFaults(["lost-frames"]))) as run:
        run.start(1001)
    images, infos = arrivals(run), arrivals(run, "/camera/camera_info")
    assert len(infos) == 201
    assert len(infos) - len(images) == faults.lost > 2
    assert set(images) < set(infos)
    assert run.loop.episode is not None
    assert run.loop.episode.conditions == {"image_loss": 0.05}


def test_conditions_are_told_with_the_reset_and_nothing_is_where_nothing_varies() -> None:
    class Varied(Cart):
        def reset(self, seed: int) -> None:
            super().reset(seed)
            self.conditions = {"cube_mass_factor": float(seed)}

    with running(cart=Varied, faults=ImageFaults(["latency"]), speed=50.0) as run:
        run.loop.start(run.publish, run.errors.append)
        assert run.loop.reset().conditions == {"cube_mass_factor": 4.0, "image_delay_s": 0.05}
    with running(speed=50.0) as run:
        run.loop.start(run.publish, run.errors.append)
        assert run.loop.reset().conditions == {}
