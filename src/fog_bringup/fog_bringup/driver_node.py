"""Drives a robot for recordings: exploring by itself, or with a joystick or a keyboard."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.subscription import Subscription
from sensor_msgs.msg import Joy

from fog_bringup.base_node import OK, WARN, FogNode, message_class, run
from fog_bringup.driver_base import Driver
from fog_bringup.drivers import DriverMix, make_driver
from fog_bringup.keyboard import Keyboard
from fog_bringup.live_scene import (
    ODOMETRY,
    POSE,
    ControlGrid,
    LiveScene,
    object_name,
    stamp_of,
)
from fog_bringup.reference_drivers import make_reference_driver
from fog_bringup.tasks import find_task
from fog_policy.encoding import encode_command
from fog_world_model.data import messages
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray

_JOY_TIMEOUT_S = 0.5
_LOOK_FOR_OBJECTS_S = 0.25


class DriverNode(FogNode):
    """Publishes one command after each picture on the control grid.

    Modes:
        ``reference``: the scripted driver that only wants to succeed, see
        :mod:`fog_bringup.reference_drivers`; otherwise as ``explore``.
        ``explore``: a scripted driver, drawn anew whenever the episode marker changes; needs
        odometry and, to seek an object, the ground truth of a simulation. The hand-over button of
        a joystick switches to ``joy`` and back.
        ``joy``: the sticks, as long as the enable button is held.
        ``keyboard``: the keys of the terminal that the node runs in.
    """

    def __init__(self) -> None:
        super().__init__("driver_node")
        self._keyboard: Keyboard | None = None
        task_name = self.declare("task", "reach_cube", "name of a task, or path of a task file")
        self._mode = self.declare(
            "mode",
            "explore",
            "who drives",
            choices=("explore", "reference", "joy", "keyboard"),
        )
        self._seed = self.declare("seed", 0, "seed of the driver's choices", low=0)
        shares = {
            name: self.declare(
                name, default, f"share of episodes driven like this: {what}", low=0.0, high=1.0
            )
            for name, default, what in (
                ("seek", DriverMix.seek, "towards the object, with noise"),
                ("random", DriverMix.random, "smooth random commands"),
                ("stand", DriverMix.stand, "hardly at all"),
                ("operator", DriverMix.operator, "by what the camera has shown"),
            )
        }
        odometry = self.declare("odometry_topic", "/odom", "nav_msgs/msg/Odometry of the base")
        self._axes = self.declare("axes", [1, 0, 3], "joystick axis of each action field")
        self._axis_scale = self.declare(
            "axis_scale", [1.0, 1.0, 1.0], "factor of each axis; -1.0 turns it round"
        )
        self._enable = self.declare(
            "enable_button", 4, "must be held for the sticks to count; -1: none", low=-1, high=63
        )
        self._hand_over = self.declare(
            "hand_over_button", 7, "switches between explore and joy; -1: none", low=-1, high=63
        )
        keys = self.declare("keys", ["ws", "qe", "ad"], "keys that push each field up and down")
        self.check_parameters()
        self._task = find_task(task_name)
        self._check_mappings(keys)
        self._scripted = "reference" if self._mode == "reference" else "explore"
        self._driver: Driver = (
            make_reference_driver(self._task)
            if self._mode == "reference"
            else make_driver(self._task, DriverMix(**shares))
        )
        self._driver.reset(self._seed)
        self._marker: float | None = None
        self._scene = LiveScene()
        self._grid = ControlGrid(self._task.period_ns)
        self._joy: tuple[float, Joy] | None = None
        self._commands = self._episodes = 0
        self._trouble = "no picture yet"
        if self._mode == "keyboard":
            self._keyboard = Keyboard(keys)
            self.get_logger().info(f"keys {' '.join(keys)}; the space bar stops")

        task = self._task
        self._publisher = self.create_publisher(
            message_class(task.action.type), task.action.topic, 1
        )
        self._listen(ODOMETRY, odometry, self._scene.receive_odometry, qos_profile_sensor_data)
        if task.marker is not None:
            self._listen(task.marker.type, task.marker.topic, self._on_marker, QoSProfile(depth=1))
        self.create_subscription(Joy, "/joy", self._on_joy, QoSProfile(depth=1))
        self._objects: set[str] = set()
        self._camera: Subscription[Any] | None = None
        self._look_for_objects()
        self.every(_LOOK_FOR_OBJECTS_S, self._look_for_objects)
        self.every(1.0, self._report)
        self.get_logger().info(
            f"drives task {task.name} ({self._mode}); commands on {task.action.topic}"
        )

    def close(self) -> None:
        """Stop the robot and give the terminal back."""
        if self._keyboard is not None:
            self._keyboard.close()
        if self.context.ok() and hasattr(self, "_publisher"):
            self._send(np.zeros(self._task.action_size, np.float32))

    def _check_mappings(self, keys: Sequence[str]) -> None:
        count = self._task.action_size
        for name, values in (
            ("axes", self._axes),
            ("axis_scale", self._axis_scale),
            ("keys", keys),
        ):
            if len(values) < count:
                raise FogError(
                    f"driver_node: parameter {name} needs {count} entries, one for each of "
                    f"{', '.join(self._task.action.fields)}, not {len(values)}"
                )
        if wrong := [k for k in keys if len(k) != 2]:
            raise FogError(
                f"driver_node: parameter keys: each entry must be two keys such as ws, not {wrong}"
            )

    def _look_for_objects(self) -> None:
        """Subscribe to a simulation's ground truth as it appears, and to pictures last of all.

        What is ready together is taken in the order of subscription, so that a picture finds the
        state that was published with it.
        """
        new = False
        for topic, types in self.get_topic_names_and_types():
            name = object_name(topic, types[0])
            if name is not None and name not in self._objects:
                new = True
                self._objects.add(name)
                receive = functools.partial(self._scene.receive_pose, name)
                self._listen(POSE, topic, receive, qos_profile_sensor_data)
        if new or self._camera is None:
            if self._camera is not None:
                self.destroy_subscription(self._camera)
            self._camera = self._listen(
                "sensor_msgs/msg/Image",
                self._task.image.topic,
                self._on_image,
                qos_profile_sensor_data,
            )

    def _listen(self, typename: str, topic: str, callback: Any, qos: QoSProfile) -> Any:
        return self.create_subscription(message_class(typename), topic, callback, qos, raw=True)

    def _on_marker(self, data: bytes) -> None:
        marker = self._task.marker
        assert marker is not None
        message = messages.deserialise(data, marker.type)
        value = float(messages.read_fields(message, marker.fields)[0])
        if value == self._marker:
            return
        self._marker = value
        self._episodes += 1
        self._driver.reset(self._seed + self._episodes)
        self._grid.restart()

    def _on_joy(self, joy: Joy) -> None:
        before = self._joy
        self._joy = (time.monotonic(), joy)
        pressed = _button(joy, self._hand_over)
        newly = pressed and not (before and _button(before[1], self._hand_over))
        if newly and self._mode != "keyboard":
            self._mode = self._scripted if self._mode == "joy" else "joy"
            self.get_logger().info(f"the joystick hands over to {self._mode}")

    def _on_image(self, data: bytes) -> None:
        stamp_ns = stamp_of(data)
        if self._grid.due(stamp_ns):
            command, self._trouble = self._decide(stamp_ns)
            self._send(command)
            self._commands += 1

    def _send(self, command: FloatArray) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self._publisher.publish(encode_command(self._task, command, now_ns))

    def _decide(self, stamp_ns: int) -> tuple[FloatArray, str]:
        """A command, and why it is zero when it has to be."""
        zero = np.zeros(self._task.action_size, np.float32)
        if self._keyboard is not None:
            return self._scaled(self._keyboard.deflection()), ""
        if self._mode == "joy":
            if self._joy is None or time.monotonic() - self._joy[0] > _JOY_TIMEOUT_S:
                return zero, "nothing comes from /joy"
            joy = self._joy[1]
            if self._enable >= 0 and not _button(joy, self._enable):
                return zero, ""
            if max(self._axes[: len(zero)]) >= len(joy.axes):
                return zero, f"the joystick has only {len(joy.axes)} axes"
            pairs = zip(self._axes, self._axis_scale, strict=False)
            return self._scaled([joy.axes[a] * s for a, s in pairs][: len(zero)]), ""
        observation = self._scene.observation(stamp_ns)
        if observation is None:
            return zero, "no odometry yet"
        try:
            return self._driver.command(observation), ""
        except KeyError as missing:
            return zero, (
                f"the driver seeks an object, but nothing comes from /sim/{missing.args[0]}_pose; "
                "without a simulation use seek:=0.0"
            )

    def _scaled(self, deflection: Sequence[float]) -> FloatArray:
        """Full deflection is the task's bound on that side; no deflection is zero."""
        low, high = np.asarray(self._task.action.low), np.asarray(self._task.action.high)
        value = np.clip(np.asarray(deflection[: len(low)], np.float64), -1.0, 1.0)
        scaled: FloatArray = np.where(value >= 0, value * high, -value * low).astype(np.float32)
        return scaled

    def _report(self) -> None:
        if self._trouble:
            self.get_logger().warning(self._trouble, throttle_duration_sec=5.0)
        self.diagnose(
            "driver",
            WARN if self._trouble else OK,
            self._trouble or "driving",
            {
                "mode": self._mode,
                "manner": getattr(self._driver, "mode", self._mode),
                "commands": self._commands,
                "episodes": self._episodes,
            },
        )


def _button(joy: Joy, index: int) -> bool:
    return 0 <= index < len(joy.buttons) and bool(joy.buttons[index])


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(DriverNode, args)


if __name__ == "__main__":
    sys.exit(main())
