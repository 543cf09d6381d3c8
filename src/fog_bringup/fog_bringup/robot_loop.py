"""Steps a robot in a thread of its own, at the pace of the wall clock or faster. No ROS here.

One thread makes the robot, steps it, draws its pictures and closes it, because a rendering context
belongs to the thread that made it. Everybody else hands in commands and requests, which never wait
for a picture, and gets encoded messages through a callback.

A step is computed just ahead of its time and published when it is due, so that neither the physics
nor the drawing delays a stamp, and a command that comes meanwhile still counts.
"""

from __future__ import annotations

import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_bringup.image_faults import ImageFaults
from fog_bringup.lockstep import Lockstep
from fog_bringup.pace import Pace
from fog_bringup.robots.robot import Robot
from fog_bringup.robots.streams import (
    Encoded,
    camera_messages,
    scene_messages,
    sensor_messages,
)
from fog_world_model.task import TaskConfig

_START_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 20.0
_TICK_NS = 20_000_000
"""Robot time passes in ticks no longer than this, also where a step is longer, so that timers in
simulated time go off between two steps. A command may come one tick later than usual before robot
time waits for it."""
_REPEAT_S = 0.05
_SET_NS = 1_000_000_000
"""Stamps that are off by more than this are those of a clock that has been set: what comes late for
want of a processor is off by less."""
_LEAD_DECAY = 0.95


@dataclasses.dataclass(frozen=True)
class Frame:
    """What is published at one instant."""

    robot_ns: int
    """The robot's own time, ns."""
    stamp_ns: int
    """The stamp in the headers, ns: robot time, or wall time."""
    first: bool
    """Whether an episode begins with it: time has jumped."""
    messages: list[Encoded]


@dataclasses.dataclass(frozen=True)
class Episode:
    """What a reset led to."""

    seed: int
    number: int
    """The robot's count of episodes."""
    stamp_ns: int
    """Stamp of the first observation, ns."""
    conditions: dict[str, float] = dataclasses.field(default_factory=dict)
    """What is varied, and how much; see :mod:`fog_bringup.robots.variations`."""


@dataclasses.dataclass(frozen=True)
class _Command:
    values: npt.NDArray[np.float64]
    """``[action]``, physical units."""
    robot_ns: int
    """When it came, robot time."""
    wall_s: float
    """And by a wall clock that does not jump."""


class RobotLoop:
    """Runs a robot.

    Args:
        make: Makes the robot; called in the loop's thread.
        task: Gives the control period and the length of episodes.
        seed: Of the first episode; each reset takes the next one.
        speed: Robot seconds per wall second; 0: as fast as possible.
        auto_reset: Start the next episode after ``max_steps`` control periods or an end.
        command_timeout_s: Time after which a command is no longer obeyed, s: robot time and, where
            stamps are wall time, wall time as well.
        state_hz: Rate of odometry, joint states and IMU between pictures, Hz of robot time; 0: with
            every step of the robot. Every picture has its own in any case.
        patience_s: Wall time for which robot time waits for a regular command that is overdue.
        wall_ns: Gives the wall clock, ns: stamps follow it. None: stamps are robot time.
        faults: What becomes of images on their way; None: they arrive.
    """

    def __init__(
        self,
        make: Callable[[], Robot],
        task: TaskConfig,
        *,
        seed: int,
        speed: float,
        auto_reset: bool,
        command_timeout_s: float,
        state_hz: float = 0.0,
        patience_s: float = 0.0,
        wall_ns: Callable[[], int] | None = None,
        faults: ImageFaults | None = None,
    ) -> None:
        self.next_seed = seed
        self.command_timeout_s = command_timeout_s
        self.pace = Pace(speed, 1)
        self.episode: Episode | None = None
        self.commands = 0
        self.refused = 0
        """Commands that were not finite or not of the task's size."""
        self.now_ns = 0
        """Robot time of what was published last, ns."""
        self.paused = False
        self.obeying = False
        """Whether a command is in force; without one, or once it is too old, the robot stands."""
        self.held_s = 0.0
        """Wall time for which robot time has waited for commands, s."""
        self.given_up = 0
        """How often it has waited in vain."""
        self._make, self._task, self._auto_reset = make, task, auto_reset
        self._patience_s, self._state_hz = patience_s, state_hz
        self._wall_ns, self._offset_ns = wall_ns, 0
        self._faults = faults
        self._lead_s = 0.0
        self._zero = np.zeros(task.action_size)
        self._command: _Command | None = None
        self._requests: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._closing = threading.Event()
        self._opened: Future[Frame] = Future()
        self._publish: Callable[[Frame], None] = lambda frame: None
        self._failed: Callable[[Exception], None] = lambda error: None
        self._thread = threading.Thread(target=self._run, name="robot")

    def open(self) -> Frame:
        """Make and reset the robot.

        Returns:
            The first frame; :meth:`start` will publish it.

        Raises:
            FogError: The robot cannot be made.
        """
        self._thread.start()
        return self._opened.result(_START_TIMEOUT_S)

    def start(self, publish: Callable[[Frame], None], failed: Callable[[Exception], None]) -> None:
        """Let the robot's time run.

        Args:
            publish: Called in the loop's thread with every frame when it is due.
            failed: Called in the loop's thread with the error that ended it.
        """
        self._publish, self._failed = publish, failed
        self._submit(self._align)

    def command(self, values: npt.NDArray[np.floating[Any]], *, waited_s: float = 0.0) -> bool:
        """Obey a command from the next step on.

        Args:
            values: ``[action]``, physical units.
            waited_s: Wall time for which it has waited to be handed in, s; where stamps are robot
                time, a command is as new as the robot time at which it is handed in.

        Returns:
            False when it is refused: wrong size, or not finite.
        """
        if values.shape != self._zero.shape or not np.isfinite(values).all():
            self.refused += 1
            return False
        came_s = time.monotonic() - waited_s
        self._command = _Command(values.astype(np.float64), self.now_ns, came_s)
        self.commands += 1
        self._lockstep.came(self.now_ns)
        self._requests.put(None)  # robot time may be waiting for it
        return True

    def reset(self) -> Episode:
        """Start the next episode; commands given before do not reach it."""
        self._submit(self._reset)
        assert self.episode is not None
        return self.episode

    def pause(self, paused: bool) -> None:
        """Stop the robot's time, or let it run again."""

        def change() -> None:
            if self.paused and not paused:
                self._align()
            self.paused = paused

        self._submit(change)

    def close(self) -> None:
        """Close the robot and end the thread."""
        self._closing.set()
        self._requests.put(None)
        if self._thread.ident is not None:
            self._thread.join(_REQUEST_TIMEOUT_S)

    def _submit(self, action: Callable[[], None]) -> None:
        done: Future[None] = Future()
        self._requests.put((action, done))
        deadline = time.monotonic() + _REQUEST_TIMEOUT_S
        while not futures.wait([done], timeout=0.1).done:
            # A request may come just after the thread has looked for the last time.
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the robot's thread has ended, or does not answer")
        done.result()

    def _run(self) -> None:
        robot: Robot | None = None
        try:
            robot = self._robot = self._make()
            # Stamps of wall time stay on the control grid when some of it is skipped.
            grid_ns = math.lcm(self._task.period_ns, robot.camera_ns, robot.step_ns)
            self.pace = Pace(self.pace.speed, 1 if self._wall_ns is None else grid_ns)
            self._state_every = (
                max(1, round(1e9 / (self._state_hz * robot.step_ns))) if self._state_hz else 1
            )
            self._tick_ns = robot.step_ns // -(-robot.step_ns // _TICK_NS)
            self._lockstep = Lockstep(self._task.period_ns, self._tick_ns)
            if self._faults is not None and self._faults.delay_ns:
                # Late images are due between two ticks.
                self._tick_ns = math.gcd(self._tick_ns, self._faults.delay_ns)
            self._reset()
            self._opened.set_result(self._frame)
            self._serve(None)
            while not self._closing.is_set():
                self._step()
        except Exception as error:
            if self._opened.done():
                self._failed(error)
            else:
                self._opened.set_exception(error)
        finally:
            self._closing.set()
            self._refuse_requests()
            if robot is not None:
                robot.close()

    def _step(self) -> None:
        """Publish the frame when it is due, and compute the next one as late as possible.

        A reset replaces the frame; then the round is broken off.
        """
        frame, step_ns = self._frame, self._robot.step_ns
        if not self._wait_until(frame.robot_ns, frame):
            return
        self._tell(frame)
        skipped = self.pace.skip_lag(frame.robot_ns)
        if self._wall_ns is not None:
            self._offset_ns += skipped
            self._follow_jump(self._wall_ns() - frame.stamp_ns)
        if self._auto_reset and self._episode_is_over():
            self._reset()
            return
        for tick_ns in range(self._tick_ns, step_ns, self._tick_ns):
            if not (
                self._await_command(frame) and self._wait_until(frame.robot_ns + tick_ns, frame)
            ):
                return
            self._tell_time(frame.robot_ns + tick_ns)
        # What comes before the step is computed still counts for it.
        next_ns = frame.robot_ns + step_ns
        if not (self._wait_until(next_ns, frame, self._lead_s) and self._await_command(frame)):
            return
        begin = time.monotonic()
        self._robot.step(self._current_command())
        self._observe(next_ns)
        self._lead_s = max(time.monotonic() - begin, _LEAD_DECAY * self._lead_s)

    def _follow_jump(self, behind_ns: int) -> None:
        """Stamp by the wall clock again where that has been set, ahead or back.

        Args:
            behind_ns: By how much the clock shows more than the stamp that is due now.
        """
        if abs(behind_ns) > _SET_NS:
            quantum_ns = self.pace.quantum_ns
            self._offset_ns += round(behind_ns / quantum_ns) * quantum_ns

    def _tell(self, frame: Frame) -> None:
        self.now_ns = frame.robot_ns
        if self._faults is not None:
            arriving = self._faults.pass_on(frame.robot_ns, frame.messages)
            frame = dataclasses.replace(frame, messages=arriving)
        self._publish(frame)

    def _tell_time(self, robot_ns: int) -> None:
        self._tell(Frame(robot_ns, robot_ns + self._offset_ns, first=False, messages=[]))

    def _wait_until(self, robot_ns: int, frame: Frame, early_s: float = 0.0) -> bool:
        """Serve requests until a robot time is due.

        Returns:
            False when the frame does not stand any more.
        """
        while self._frame is frame and not self._closing.is_set():
            if self.paused:
                self._serve(None)
                continue
            remaining = self.pace.remaining_s(robot_ns) - early_s
            if remaining > 0:
                self._serve(remaining)
                continue
            # Let the threads that wait for the interpreter have it, however late we are.
            time.sleep(0)
            if not self._serve(0.0):
                return True
        return False

    def _await_command(self, frame: Frame) -> bool:
        """Hold robot time while a regular command is overdue, as long as patience lasts.

        Returns:
            False when the frame does not stand any more.
        """
        if self._patience_s <= 0 or not self._lockstep.overdue(self.now_ns):
            return True  # a thread that gets no processor here is late, it does not wait
        begin = time.monotonic()
        while self._lockstep.overdue(self.now_ns):
            left = begin + self._patience_s - time.monotonic()
            if left <= 0:
                self._lockstep.give_up()
                self.given_up += 1
            elif not self._serve(min(left, _REPEAT_S)):
                self._tell_time(self.now_ns)  # whoever waits for it may have missed it
            if self._frame is not frame or self._closing.is_set():
                return False
        held = time.monotonic() - begin
        self.pace.hold(held)
        self.held_s += held
        return True

    def _serve(self, timeout_s: float | None) -> bool:
        """Carry out one request; False when none came in time."""
        try:
            if timeout_s == 0.0:
                request = self._requests.get_nowait()
            else:
                request = self._requests.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if request is None:
            return True
        action, done = request
        try:
            action()
        except Exception as error:
            done.set_exception(error)
            raise
        done.set_result(None)
        return True

    def _refuse_requests(self) -> None:
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return
            if request is not None:
                request[1].set_exception(RuntimeError("the robot's thread has ended"))

    def _align(self) -> None:
        """Make the present frame due now; with wall stamps, when the wall clock shows its stamp."""
        robot_ns = self._frame.robot_ns
        if self._wall_ns is None:
            self.pace.start(robot_ns)
            return
        # Whole quanta keep the stamps of pictures on the control grid.
        quantum, now = self.pace.quantum_ns, self._wall_ns()
        self._offset_ns = -(-(now - robot_ns) // quantum) * quantum
        self.pace.start(robot_ns, delay_s=(robot_ns + self._offset_ns - now) * 1e-9)
        self._observe(robot_ns)

    def _reset(self) -> None:
        seed = self.next_seed
        self._robot.reset(seed)
        self.next_seed = seed + 1
        self._command = None
        first = self._robot.observe(image=False)
        self._start_ns = first.stamp_ns
        self._lockstep.restart(first.stamp_ns)
        if self._wall_ns is None:  # nobody needs to sit out the pause that a reset leaves
            self.pace.jump(max(0, first.stamp_ns - self.now_ns - self._robot.step_ns))
        conditions = dict(self._robot.conditions)
        if self._faults is not None:
            self._faults.restart(seed)
            conditions.update(self._faults.conditions)
        stamp_ns = first.stamp_ns + self._offset_ns
        self.episode = Episode(seed, first.episode, stamp_ns, conditions)
        self._observe(first.stamp_ns)

    def _observe(self, robot_ns: int) -> None:
        robot = self._robot
        observation = robot.observe(image=robot_ns % robot.camera_ns == 0)
        self._ended = observation.end
        observation = dataclasses.replace(observation, stamp_ns=robot_ns + self._offset_ns)
        encoded = []
        steps = (robot_ns - self._start_ns) // robot.step_ns
        if observation.image is not None or steps % self._state_every == 0:
            encoded += sensor_messages(robot, observation)
        if observation.image is not None:
            # Rewards, ends and markers have no header: they belong to the picture they come with.
            encoded += scene_messages(observation) + camera_messages(robot, observation)
        first = robot_ns == self._start_ns
        self._frame = Frame(robot_ns, observation.stamp_ns, first, encoded)

    def _episode_is_over(self) -> bool:
        """True on the control grid only: the last step of an episode needs its picture too."""
        elapsed, period = self._frame.robot_ns - self._start_ns, self._task.period_ns
        return elapsed % period == 0 and (
            self._ended or elapsed >= self._task.episode.max_steps * period
        )

    def _current_command(self) -> npt.NDArray[np.float64]:
        command = self._command
        self.obeying = command is not None and self._age_s(command) <= self.command_timeout_s
        return command.values if command is not None and self.obeying else self._zero

    def _age_s(self, command: _Command) -> float:
        age_s = (self.now_ns - command.robot_ns) * 1e-9
        if self._wall_ns is None:
            return age_s
        # While this thread gets no processor, robot time falls behind the wall clock, and what is
        # not made up for is given up: by robot time alone, a command would last longer by that.
        return max(age_s, time.monotonic() - command.wall_s)
