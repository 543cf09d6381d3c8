"""All that the page shows, collected by the ROS callbacks and read by the web server.

A callback only puts down what came; whatever takes time is done by who reads. What is kept is the
newest of each: nothing grows with time.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from fog_bringup.dashboard.camera import Camera
from fog_bringup.dashboard.safety_words import LEVELS, RELEASED, Status, Words, silent, words
from fog_bringup.dashboard.stream import Clock, Stream
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

BATTERY_TYPE = "sensor_msgs/msg/BatteryState"
_MOST_OTHERS = 12
"""Other nodes that are shown."""
_FORGOTTEN_S = 60.0
"""Another node that is silent for so long is no longer shown."""
_STALE_S = 1.0
"""A camera or command that is silent for so long is said to be silent, at least."""
_FIGURES = (
    *("declared_hz", "achieved_hz", "commands", "missed_deadlines", "overruns", "speed_scale"),
    *("latency_ms.p50", "latency_ms.p99", "latency_ms.max"),
    *("inference_ms.p50", "inference_ms.p99"),
)
"""Values of the policy node's status that are numbers of interest."""
_TEXTS = ("task", "bundle", "backend", "limited_by")


class Board:
    """The newest of everything.

    Args:
        task: Names the topics and the fields of the command.
        policy_node: The policy node's name, as its diagnostics have it.
        diagnostics_timeout_s: Silence after which its state is not known.
        camera_width: Wider pictures are scaled down to this.
        clock: Seconds, never running backwards.
    """

    def __init__(
        self,
        task: TaskConfig,
        policy_node: str,
        *,
        diagnostics_timeout_s: float = 3.0,
        camera_width: int = 640,
        clock: Clock = time.monotonic,
    ) -> None:
        self.task, self._clock = task, clock
        self._policy_node = policy_node.rpartition("/")[2]
        self._timeout_s = diagnostics_timeout_s
        safety = task.safety
        image_s = safety.timeouts_s.get(task.image.topic, safety.image_timeout_s)
        self.camera = Camera(max(_STALE_S, image_s), max_width=camera_width, clock=clock)
        self.command = Stream(clock)
        """On the action's topic: what is in force."""
        self.proposed = Stream(clock)
        """What the policy wanted, before the safety filter."""
        self.battery = Stream(clock)
        self._lock = threading.Lock()
        self._status: tuple[float, Status] | None = None
        self._words: Words | None = None
        self._since_s = clock()
        """When what the policy node says last changed."""
        self._others: dict[str, tuple[float, Status]] = {}
        self._lifecycle: tuple[float, str] | None = None
        self._transition = ""

    # What comes, from the ROS callbacks

    def diagnostics(self, statuses: Iterable[Status]) -> None:
        """Take the statuses of one message."""
        now = self._clock()
        with self._lock:
            for name, (then, _) in list(self._others.items()):
                if now - then > _FORGOTTEN_S:
                    del self._others[name]
            for status in statuses:
                if status.name == f"{self._policy_node}: control":
                    self._say(now, status)
                elif status.name in self._others or len(self._others) < _MOST_OTHERS:
                    self._others[status.name] = (now, status)

    def _say(self, now: float, status: Status) -> None:
        found, before = words(status), self._status
        silent_before = before is None or now - before[0] > self._timeout_s
        if silent_before or self._words is None or found.key != self._words.key:
            self._since_s = now
        self._status, self._words = (now, status), found

    def lifecycle(self, state: str) -> None:
        """The policy node says in which state of its lifecycle it is.

        Args:
            state: ``unconfigured``, ``inactive``, ``active``, ... or a state between two.
        """
        with self._lock:
            self._lifecycle = (self._clock(), state)

    def transition(self, name: str) -> None:
        """A transition was asked for and is not answered yet; empty: none is."""
        with self._lock:
            self._transition = name

    # What is shown, to the web server

    def snapshot(self) -> dict[str, Any]:
        """Everything but the picture itself, as plain data; ages in seconds."""
        with self._lock:
            now = self._clock()
            status = self._status[1] if self._status is not None else None
            age_s = now - self._status[0] if self._status is not None else None
            said, since_s, others = self._words, now - self._since_s, list(self._others.items())
            lifecycle, transition = self._lifecycle, self._transition
        if age_s is None or age_s > self._timeout_s:
            # What it said last is no longer true of now.
            status, said = None, silent(age_s, self._policy_node)
            since_s = since_s if age_s is None else age_s
        assert said is not None
        values = {} if status is None else status.values
        stop = values.get("emergency_stop")
        return {
            "camera": self.camera.describe(),
            "command": self._command(self.command),
            "proposed": self._command(self.proposed),
            "safety": {
                "level": said.level,
                "headline": said.headline,
                "reasons": [dataclasses.asdict(reason) for reason in said.reasons],
                "since_s": since_s,
                "age_s": age_s,
                "emergency_stop": None if stop is None else stop != RELEASED,
            },
            "lifecycle": self._lifecycle_state(now, lifecycle, transition),
            "figures": _figures(values),
            "battery": self._battery([s for _, (_, s) in others]),
            "others": [
                {
                    "name": name,
                    "level": LEVELS.get(other.level, "unknown"),
                    "message": other.message,
                    "age_s": now - then,
                }
                for name, (then, other) in sorted(others, key=lambda item: item[0])
            ],
        }

    def _lifecycle_state(
        self, now: float, lifecycle: tuple[float, str] | None, transition: str
    ) -> Any:
        age_s = None if lifecycle is None else now - lifecycle[0]
        fresh = age_s is not None and age_s <= self._timeout_s
        return {
            "state": lifecycle[1] if lifecycle is not None and (fresh or transition) else "unknown",
            "transition": transition,
            "age_s": age_s,
        }

    def _command(self, stream: Stream) -> Any:
        """Physical values of a message of the action's type."""
        newest, action = stream.newest, self.task.action
        values: list[float] | None = None
        if newest is not None:
            try:
                message = deserialise(newest.data, action.type)
                values = [_finite(v) for v in read_fields(message, action.fields)]
            except FogError:
                values = None
        age_s = None if newest is None else stream.age_of_s(newest)
        stale_s = max(_STALE_S, 2.0 / self.task.control_hz)
        return {
            "values": values,
            "age_s": age_s,
            "rate_hz": stream.rate_hz(),
            "stale": age_s is None or age_s > stale_s,
        }

    def _battery(self, others: Iterable[Status]) -> Any:
        """From the battery's topic, or else from what a robot's driver says of itself."""
        watch, newest = self.task.safety.battery, self.battery.newest
        found: dict[str, Any] = {
            "voltage": None,
            "percent": None,
            "min_v": None if watch is None else watch.min_v,
        }
        if newest is not None:
            fields = ("voltage", "percentage") if watch is None else (watch.field,)
            try:
                message = deserialise(newest.data, watch.type if watch else BATTERY_TYPE)
                values = [_finite(v) for v in read_fields(message, fields)]
            except FogError:
                return None
            share = values[1] if len(values) > 1 else None
            found |= {"voltage": values[0], "percent": None if share is None else 100.0 * share}
            return {**found, "age_s": self.battery.age_of_s(newest)}
        for status in others:
            if "battery_v" in status.values:
                voltage, percent = (
                    _number(status.values.get(key)) for key in ("battery_v", "battery_percent")
                )
                return {**found, "voltage": voltage, "percent": percent, "age_s": None}
        return None


def _figures(values: Mapping[str, str]) -> dict[str, Any]:
    return {
        **{name: _number(values.get(name)) for name in _FIGURES},
        **{name: values.get(name) or None for name in _TEXTS},
        "shadow": values.get("shadow") == "True",
        "stops": {
            name.split(".")[1]: int(_number(value) or 0)
            for name, value in values.items()
            if name.startswith("stops.") and name.endswith(".events")
        },
    }


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:  # "None": not measured
        return None
    return value if math.isfinite(value) else None


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
