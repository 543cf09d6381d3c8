"""The policy node's own parts that decide and publish, on a made-up machine, for tests.

Everything that decides and publishes is genuine; the middleware and the clock are made up, so that
any delay may come at any place: before a callback, between what it computes and what it publishes,
and after that.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import control_bench
import numpy as np
import numpy.typing as npt
import pytest
from control_bench import IMAGE, MARKER

from fog_policy import driving_node, robot_topics_node
from fog_policy.callback_guard import CallbackGuard
from fog_policy.control_loop import ControlLoop
from fog_policy.driving_node import Driving
from fog_policy.robot_topics_node import RobotTopics
from fog_policy.safety import Reason, Verdict
from fog_world_model.data import messages
from fog_world_model.task import TaskConfig

SLEW = np.array([2.0, 4.0])


def make_task() -> TaskConfig:
    """5 Hz, camera alone, bounds +-1 and +-2."""
    bench = control_bench.make_task(slew_per_s=SLEW.tolist(), tilt_topic="", frozen_image_s=0.0)
    return dataclasses.replace(bench, proprioception=())


class Machine:
    """Clock, timers, middleware and the policy's thread, of one computer that may be slow.

    Args:
        delays_us: By so much the time passes with every look at the clock, in turn.
        simulated: Whether the node has a /clock.
    """

    hold_hz, speed_scale = 50.0, 1.0

    def __init__(self, delays_us: list[int], *, simulated: bool) -> None:
        self.now = 10**12
        self.simulated = simulated
        self.hold = "off" if simulated else "on"
        self.sent: list[tuple[int, npt.NDArray[np.float64]]] = []
        self.timer_period_ns = 200_000_000
        self.work: tuple[Callable[[], Any], Future[Any]] | None = None
        self._delays = itertools.cycle(delays_us or [0])
        self._callbacks: list[Callable[[], None]] = []

    # The clock, and time.monotonic

    def pass_by(self, microseconds: int) -> None:
        self.now += 1000 * microseconds

    def now_ns(self) -> int:
        self.pass_by(next(self._delays))
        return self.now

    steady_ns = now_ns

    def monotonic(self) -> float:
        return self.now_ns() / 1e9

    def rate(self, since: object) -> float:
        return 1.0

    # The node

    def longest_hold_s(self, control_hz: float) -> float:
        return 2.0 / control_hz

    def create_timer(self, period_s: float, callback: Callable[[], None]) -> Machine:
        self._callbacks.append(callback)
        return self

    def destroy_timer(self, timer: Machine) -> None:
        pass

    def reset(self) -> None:
        pass

    def cancel(self) -> None:
        pass

    def time_until_next_call(self) -> int:
        return self.timer_period_ns

    def create_lifecycle_publisher(self, kind: object, topic: str, qos: object) -> Any:
        return self if topic == "/cmd_vel" else Machine([], simulated=True)

    def create_subscription(self, *_: object, **__: object) -> None:
        pass

    def publish(self, data: bytes) -> None:
        """The middleware takes the message at some moment between the call and its return."""
        self.pass_by(next(self._delays))
        twist = messages.deserialise(data, "geometry_msgs/msg/Twist")
        self.sent.append((self.now, np.array([twist.linear.x, twist.angular.z])))
        self.pass_by(next(self._delays))

    # The policy's thread

    @property
    def busy(self) -> bool:
        return self.work is not None and not self.work[1].done()

    def submit(self, work: Callable[[], Any], finished: object) -> Future[Any] | None:
        self.work = work, Future()
        return self.work[1]

    def answer(self) -> None:
        if self.work is not None and not self.work[1].done():
            self.work[1].set_result(self.work[0]())

    def tick(self) -> None:
        self._callbacks[0]()

    def held(self) -> None:
        if len(self._callbacks) > 2:
            self._callbacks[1]()

    def patience(self) -> None:
        self._callbacks[-1]()


class Wish:
    """A policy that wants what it is told to."""

    surprise = None

    def __init__(self) -> None:
        self.action = (1.0, -1.0)

    def reset(self) -> None:
        pass

    def act(self, *_: object) -> npt.NDArray[np.float32]:
        return np.asarray(self.action, np.float32)


class Rig:
    """The node's own parts on that machine."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, delays_us: list[int], *, simulated: bool = False
    ) -> None:
        self.machine = machine = Machine(delays_us, simulated=simulated)
        monkeypatch.setattr(robot_topics_node, "graph_misfit", lambda *_: ([], []))
        monkeypatch.setattr(driving_node, "time", SimpleNamespace(monotonic=machine.monotonic))
        self.policy, self.episode = Wish(), 0
        self.shown: list[Verdict] = []
        self.loop = loop = ControlLoop(make_task(), self.policy)
        guard = CallbackGuard(self.failed)
        node: Any = machine
        topics = RobotTopics(
            node, loop, node, lambda *_: None, guard,
            bundle="", shadow=False, discover_s=0.0, check_s=0.0, pause_s=0.02,
        )  # fmt: skip
        self.driving = Driving(
            node, loop, topics, node, node, guard, lambda: None, self.shown.append
        )  # fmt: skip
        self.marker()

    @staticmethod
    def failed(where: str, error: Exception) -> None:
        raise error

    def image(self) -> None:
        stamp = messages.header(self.machine.now, "camera")
        picture = {"height": 16, "width": 16, "encoding": "rgb8", "step": 48, "header": stamp}
        data = messages.make("sensor_msgs/msg/Image", data=np.zeros(16 * 48, np.uint8), **picture)
        self.driving.receive(IMAGE, messages.serialise(data))

    def marker(self) -> None:
        self.episode += 1
        data = messages.make("std_msgs/msg/Int32", data=self.episode)
        self.driving.receive(MARKER, messages.serialise(data))

    def do(self, what: str) -> None:
        """One thing that may happen."""
        machine, driving = self.machine, self.driving
        if what == "answer":
            machine.answer()
            driving.on_answer()
        elif what == "stop":
            driving.stop(Reason("emergency_stop", "test"))
        elif what == "back":
            machine.now -= 3 * 10**9
        elif what == "broken":
            self.policy.action = (math.nan, 0.0)
        elif what == "decision":
            for part in ("image", "tick", "answer"):
                self.do(part)
        elif what in ("image", "marker"):
            getattr(self, what)()
        else:
            getattr(machine, what)()
