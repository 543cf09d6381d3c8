"""The safety section of a task file: the limits within which a deployed policy may act.

What needs a topic is watched where the task names the topic; everything else is on by default, and
off only where the task says so. Options that came after the first recordings are left out of a
task's content while they have their defaults, so that the hash of an older task stays what it was.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from typing import Any

from fog_world_model.errors import FogError

_LATER = {"left_out_at_default": True}

JERK_RISE_PERIODS = 0.1
"""Without ``jerk_per_s2``, the rate of change reaches the slew rate in this share of a control
period: at 5 Hz within 20 ms, one period of a command hold at 50 Hz. A command that changes once in
a control period hardly notices; one that is published more often starts and ends a change softly.
"""


@dataclass(frozen=True)
class TemperatureConfig:
    """Joint temperatures on a topic."""

    topic: str
    type: str
    """ROS interface name, for example ``sensor_msgs/msg/Temperature``."""
    fields: tuple[str, ...]
    """Dotted paths of the temperatures, degrees Celsius."""
    max_c: float
    """A joint hotter than this stops the robot, until it is reset."""
    max_age_s: float = 5.0
    """An older message stops the robot."""


@dataclass(frozen=True)
class BatteryConfig:
    """Battery voltage on a topic."""

    topic: str
    min_v: float
    """A voltage below this stops the robot, until it is reset."""
    type: str = "sensor_msgs/msg/BatteryState"
    field: str = "voltage"
    """Dotted path of the voltage, V."""
    max_age_s: float = 5.0
    """An older message stops the robot."""


@dataclass(frozen=True)
class GeofenceConfig:
    """The rectangle that the robot may not leave, in the frame of its odometry (REP-105)."""

    topic: str
    """nav_msgs/msg/Odometry topic."""
    x_m: tuple[float, ...]
    """``[lowest, highest]`` x."""
    y_m: tuple[float, ...]
    """``[lowest, highest]`` y."""
    max_age_s: float = 0.5
    """An older message stops the robot."""


@dataclass(frozen=True)
class SafetyConfig:
    """Bounds that the deployed policy may not leave; on by default."""

    slew_per_s: tuple[float, ...]
    """Largest change of each command field per second, physical units."""
    image_timeout_s: float = 0.5
    proprioception_timeout_s: float = 0.3
    tilt_topic: str = ""
    """sensor_msgs/msg/Imu topic whose orientation is watched; empty: tilt is not watched."""
    max_tilt_rad: float = 0.6
    """Tilted further than this the robot stops, and goes on when it stands upright again."""
    deadman_topic: str = ""
    """sensor_msgs/msg/Joy topic that must show a held button; empty: no dead-man's switch."""
    deadman_timeout_s: float = 0.5
    timeouts_s: dict[str, float] = field(default_factory=dict, metadata=_LATER)
    """Topic -> age in seconds beyond which it stops the robot, for a camera, proprioceptive or tilt
    topic that needs another bound than the two timeouts above."""
    jerk_per_s2: tuple[float, ...] = field(default=(), metadata=_LATER)
    """Largest change per second of each field's rate of change, physical units per s^2; 0: this
    field is not bounded; empty: from the slew rate (:data:`JERK_RISE_PERIODS`). Kept where commands
    are published between decisions, so not in simulated time."""
    out_of_range: float = field(default=1.0, metadata=_LATER)
    """What the policy proposes beyond a bound is clipped; beyond it by more than this many times
    the field's range (high - low) it is a fault that stops the robot. 0: always clipped."""
    fall_tilt_rad: float = field(default=1.0, metadata=_LATER)
    """Tilted further than this the robot has fallen: it stays stopped until it is reset. 0: off.
    Watched on ``tilt_topic``."""
    deadman_button: int = field(default=-1, metadata=_LATER)
    """Index in the Joy message's ``buttons`` of the one to hold; -1: any."""
    temperature: TemperatureConfig | None = field(default=None, metadata=_LATER)
    battery: BatteryConfig | None = field(default=None, metadata=_LATER)
    geofence: GeofenceConfig | None = field(default=None, metadata=_LATER)
    surprise_margin: float = field(default=1.0, metadata=_LATER)
    """The robot stops when the local model is surprised by more than this many times its range on
    the recordings; 0: off. A bundle that does not hold the range cannot be watched."""
    frozen_image_s: float = field(default=1.0, metadata=_LATER)
    """The camera is taken for frozen, and stops the robot until it shows another picture, when it
    has shown the same one, to the bit and with fresh stamps, while the robot was told to move for
    longer than this, s, and proprioception showed that it did. 0: off."""

    def jerk(self, control_hz: float) -> tuple[float, ...]:
        """Jerk bound of each command field, physical units per s^2; 0: not bounded.

        Args:
            control_hz: The task's control rate.
        """
        rise_s = JERK_RISE_PERIODS / control_hz
        return self.jerk_per_s2 or tuple(slew / rise_s for slew in self.slew_per_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; options added later are there only where they are not at their default."""
        content = typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(self))))
        for f in dataclasses.fields(self):
            if not f.metadata.get("left_out_at_default"):
                continue
            make = f.default_factory
            default = f.default if make is dataclasses.MISSING else make()
            if getattr(self, f.name) == default:
                del content[f.name]
        return content

    def require_valid(self, action_fields: int, watched: set[str]) -> None:
        """Check what the types cannot say.

        Args:
            action_fields: Number of command fields.
            watched: Topics whose age is bounded: those of the camera and of proprioception.

        Raises:
            FogError: A bound is impossible, or is given for a topic that is not watched.
        """
        for name in ("slew_per_s", "jerk_per_s2"):
            values = getattr(self, name)
            _require(
                len(values) == action_fields or (name == "jerk_per_s2" and not values),
                f"safety.{name} needs one value for each of action.fields",
            )
        _require(all(s > 0 for s in self.slew_per_s), "safety.slew_per_s must be positive")
        _require(all(j >= 0 for j in self.jerk_per_s2), "safety.jerk_per_s2 must not be negative")
        for name in ("out_of_range", "fall_tilt_rad", "surprise_margin", "frozen_image_s"):
            _require(getattr(self, name) >= 0, f"safety.{name} must not be negative; 0 is off")
        _require(self.deadman_button >= -1, "safety.deadman_button must be an index, or -1: any")
        known = watched | ({self.tilt_topic} if self.tilt_topic else set())
        for topic, timeout_s in self.timeouts_s.items():
            _require(
                topic in known,
                f"safety.timeouts_s: {topic} is no topic of the camera, of proprioception or of "
                f"the tilt; these are {', '.join(sorted(known))}",
            )
            _require(timeout_s > 0, f"safety.timeouts_s: {topic} must be positive")
        self._require_watches()

    def _require_watches(self) -> None:
        for name in ("temperature", "battery", "geofence"):
            watch = getattr(self, name)
            if watch is not None:
                _require(bool(watch.topic), f"safety.{name}.topic is empty; remove the section")
                _require(watch.max_age_s > 0, f"safety.{name}.max_age_s must be positive")
        if self.temperature is not None:
            _require(bool(self.temperature.fields), "safety.temperature.fields is empty")
        if self.battery is not None:
            _require(self.battery.min_v > 0, "safety.battery.min_v must be positive")
        if self.geofence is not None:
            for name in ("x_m", "y_m"):
                side = getattr(self.geofence, name)
                _require(
                    len(side) == 2 and side[0] < side[1],
                    f"safety.geofence.{name} must be [lowest, highest]",
                )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FogError(message)
