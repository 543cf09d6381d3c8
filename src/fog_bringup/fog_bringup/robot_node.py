"""Puts a simulated robot on ROS topics, in real time or faster."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from std_srvs.srv import SetBool, Trigger

from fog_bringup.base_node import OK, WARN, FogNode, message_class, run
from fog_bringup.image_faults import ImageFaults
from fog_bringup.robot_loop import Frame, RobotLoop
from fog_bringup.robots import Robot, make_robot
from fog_bringup.robots.variations import SCENE, STREAM, VARIATIONS, parse_variations
from fog_bringup.tasks import find_task
from fog_world_model.data import messages
from fog_world_model.errors import FogError

_SENSORS = ("/camera/", "/joint_states", "/imu/", "/odom")
_LOG_EVERY = 5
"""Diagnostics are published every second and logged every so many."""
_BELIEVABLE_S = 10.0
"""A message that seems to have waited for longer has a time of another clock."""


class RobotNode(FogNode):
    """Publishes what a robot senses and obeys the task's action topic.

    Services:
        ``~/reset`` (Trigger): start the next episode; the message is JSON with ``seed``,
        ``episode`` and ``stamp_ns`` (of the first observation), and ``conditions`` where something
        is varied. Seeds count up from the parameter ``seed``, which the first episode has; setting
        the parameter gives the next reset its seed.
        ``~/pause`` (SetBool): stop the robot's time, or let it run again.
    """

    def __init__(self) -> None:
        super().__init__("robot_node")
        task_name = self.declare("task", "reach_cube", "name of a task, or path of a task file")
        speed = self.declare(
            "speed",
            1.0,
            "robot seconds per wall second; 0: as fast as possible",
            low=0.0,
            high=100.0,
        )
        seed = self.declare("seed", 0, "seed of the next episode; it counts up", low=0, fixed=False)
        auto_reset = self.declare(
            "auto_reset", False, "start the next episode after an end or episode.max_steps"
        )
        self._publish_clock = self.declare(
            "publish_clock", True, "publish robot time on /clock; false: stamps are wall time"
        )
        timeout_s = self.declare(
            "command_timeout_s",
            0.5,
            "time after which a command is replaced by zero, s: robot time; with wall stamps, wall "
            "time as well",
            low=0.0,
            high=3600.0,
            fixed=False,
        )
        state_hz = self.declare(
            "state_hz",
            0.0,
            "rate of odometry, joint states and IMU between pictures, Hz; 0: every robot step",
            low=0.0,
            high=1000.0,
        )
        patience_s = self.declare(
            "patience_s",
            0.0,
            "wall time for which robot time waits for a regular command that is overdue, s; 0: "
            "never, as with a real robot",
            low=0.0,
            high=60.0,
        )
        camera = {
            "camera_hz": self.declare(
                "camera_hz", 0.0, "rate of the camera, Hz; 0: the robot's own", low=0.0
            ),
            "image_height": self.declare(
                "image_height", 0, "rows of the picture; 0: the robot's own", low=0, high=4096
            ),
            "image_width": self.declare(
                "image_width", 0, "columns of the picture; 0: the robot's own", low=0, high=4096
            ),
        }
        vary_text = self.declare(
            "vary",
            "",
            f"what differs from episode to episode: all, or some of {', '.join(VARIATIONS)}, "
            "separated by commas",
        )
        self.check_parameters()
        vary = parse_variations(vary_text, "robot_node: parameter vary")
        if not self._publish_clock and (speed != 1.0 or patience_s > 0):
            raise FogError(
                "robot_node: publish_clock:=false stamps messages with wall time, so speed must be "
                f"1.0, not {speed}, and patience_s 0.0, not {patience_s}"
            )
        self._task = find_task(task_name)
        overrides: dict[str, Any] = {key: value for key, value in camera.items() if value}
        if of_scene := tuple(name for name in vary if name in SCENE):
            overrides["vary"] = of_scene
        of_stream = [name for name in vary if name in STREAM]
        self._faults = ImageFaults(of_stream) if of_stream else None

        def make() -> Robot:
            return make_robot(self._task, **overrides)

        self._loop = RobotLoop(
            make,
            self._task,
            seed=seed,
            speed=speed,
            auto_reset=auto_reset,
            command_timeout_s=timeout_s,
            state_hz=state_hz,
            patience_s=patience_s,
            wall_ns=None if self._publish_clock else self._wall_ns,
            faults=self._faults,
        )
        first = self._loop.open()
        self._topics: dict[str, Publisher[Any]] = {
            topic: self._make_publisher(topic, typename) for topic, typename, _ in first.messages
        }
        if self._publish_clock:
            self._clock_publisher = self._make_publisher("/clock", "rosgraph_msgs/msg/Clock")
        self.create_subscription(
            message_class(self._task.action.type),
            self._task.action.topic,
            self._on_command,
            QoSProfile(depth=1),
            raw=True,
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._obeying = False
        self._seconds = 0
        self._factors: deque[float] = deque(maxlen=_LOG_EVERY)
        self.every(1.0, self._report)
        self._loop.start(self._publish, self._on_failure)
        self.get_logger().info(
            f"{self._task.robot} runs task {self._task.name} at speed "
            f"{speed or 'as fast as possible'}; commands on {self._task.action.topic}"
        )

    def close(self) -> None:
        """End the robot's thread."""
        if hasattr(self, "_loop"):
            self._loop.close()

    def _wall_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _make_publisher(self, topic: str, typename: str) -> Publisher[Any]:
        qos = qos_profile_sensor_data if topic.startswith(_SENSORS) else QoSProfile(depth=10)
        return self.create_publisher(message_class(typename), topic, qos)

    def _publish(self, frame: Frame) -> None:
        """Runs in the robot's thread."""
        # The time first, so that nobody reads a message from the future; except where a reset has
        # made it jump: a policy whose timer it sets off should find sensors that are not stale.
        if not frame.first:
            self._publish_time(frame)
        for topic, _, data in frame.messages:
            self._topics[topic].publish(data)
        if frame.first:
            self._publish_time(frame)
        if self._loop.obeying != self._obeying:
            self._obeying = self._loop.obeying
            self._tell_command()

    def _publish_time(self, frame: Frame) -> None:
        if self._publish_clock:
            clock = messages.make("rosgraph_msgs/msg/Clock", clock=messages.stamp(frame.stamp_ns))
            self._clock_publisher.publish(messages.serialise(clock))

    def _tell_command(self) -> None:
        """Say at once when the robot begins or ceases to be commanded."""
        limit_s = self._loop.command_timeout_s
        topic = self._task.action.topic
        text = "obeying" if self._obeying else f"standing: no command for {limit_s:g} s on {topic}"
        self.diagnose("command", OK if self._obeying else WARN, text, {"timeout_s": limit_s})

    def _on_failure(self, error: Exception) -> None:
        """Runs in the robot's thread."""
        if self.context.ok():  # else publishing failed because the node is being shut down
            self.fail(error)

    def _on_command(self, data: bytes, info: Any) -> None:
        action = self._task.action
        try:
            accepted = self._loop.command(
                messages.read_fields(messages.deserialise(data, action.type), action.fields),
                waited_s=_waited_s(info),
            )
        except FogError as error:
            self.get_logger().error(f"{action.topic}: {error}", throttle_duration_sec=5.0)
            return
        if not accepted:
            self.get_logger().warning(
                f"{action.topic}: a command that is not finite is ignored",
                throttle_duration_sec=5.0,
            )

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        episode = self._loop.reset()
        answer: dict[str, Any] = {
            "seed": episode.seed,
            "episode": episode.number,
            "stamp_ns": episode.stamp_ns,
        }
        if episode.conditions:
            answer["conditions"] = episode.conditions
        response.success = True
        response.message = json.dumps(answer)
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._loop.pause(request.data)
        response.success = True
        response.message = "paused" if request.data else "running"
        return response

    def _on_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "seed":
                self._loop.next_seed = parameter.value
            elif parameter.name == "command_timeout_s":
                self._loop.command_timeout_s = parameter.value
        return SetParametersResult(successful=True)

    def _report(self) -> None:
        """Say every second how well the pace is held."""
        loop, pace = self._loop, self._loop.pace
        factor = pace.factor(loop.now_ns)
        slow = pace.speed > 0 and not loop.paused and factor < 0.9 * pace.speed
        episode = loop.episode
        self._seconds += 1
        self._factors.append(factor)
        self.diagnose(
            "pace",
            WARN if slow else OK,
            "paused" if loop.paused else "too slow for the speed asked for" if slow else "on time",
            {
                "real_time_factor": f"{factor:.2f}",
                "speed": pace.speed,
                "skipped_s": f"{pace.skipped_s:.2f}",
                "held_s": f"{loop.held_s:.2f}",
                "held_in_vain": loop.given_up,
                "robot_time_s": f"{loop.now_ns * 1e-9:.2f}",
                "episode": episode.number if episode else "",
                "seed": episode.seed if episode else "",
                "commands": loop.commands,
                "commands_refused": loop.refused,
                **self._losses(),
            },
        )
        if self._seconds % _LOG_EVERY == 0 and not loop.paused:
            mean = sum(self._factors) / len(self._factors)
            self.get_logger().info(
                f"real-time factor {mean:.2f} of {pace.speed or 'unlimited'}, "
                f"{pace.skipped_s:.1f} s skipped, {loop.held_s:.1f} s waited for commands "
                f"({loop.given_up} times in vain), "
                f"{loop.commands} commands"
            )

    def _losses(self) -> dict[str, object]:
        """Images lost on purpose, where they are."""
        faults = self._faults
        return {} if faults is None else {"images": faults.images, "images_lost": faults.lost}


def _waited_s(info: Any) -> float:
    """For how long a message has waited in the middleware for its callback, s.

    A command of a driver that has died meanwhile must not count as a new one.
    """
    waited_s = (time.time_ns() - info["received_timestamp"]) * 1e-9
    # Not every middleware tells, and somebody may have set the clock.
    return waited_s if 0.0 <= waited_s <= _BELIEVABLE_S else 0.0


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(RobotNode, args)


if __name__ == "__main__":
    sys.exit(main())
