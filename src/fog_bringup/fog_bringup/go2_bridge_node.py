"""The real Go2 as the topics that tasks name, through Unitree's own ROS 2 interface.

    fog_go2_bridge_node --ros-args --params-file quadruped.yaml

From the robot: ``/lowstate`` becomes /joint_states and /imu/data, ``/sportmodestate`` /odom,
``/frontvideostream`` /camera/image_raw and /camera/camera_info. To the robot: /cmd_vel becomes
requests on ``/api/sport/request``; zero, nonsense and silence become a stop. Stamps are times of
arrival, because the robot's clock is not this computer's. docs/go2.md has the wiring and what to
check first.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import Twist
from rclpy.qos import QoSProfile, qos_profile_sensor_data

from fog_bringup import go2_conversions as go2
from fog_bringup.base_node import OK, WARN, FogNode, message_class, run
from fog_bringup.robots.streams import pinhole_camera_info
from fog_world_model.data import messages
from fog_world_model.errors import FogError

_TICK_S = 0.02
_SENSORS = {
    "/joint_states": "sensor_msgs/msg/JointState",
    "/imu/data": "sensor_msgs/msg/Imu",
    "/odom": "nav_msgs/msg/Odometry",
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
}
_MISSING = (
    "is not installed. Build Unitree's interfaces and source them before this node starts:\n"
    "    git clone https://github.com/unitreerobotics/unitree_ros2\n"
    "    cd unitree_ros2/cyclonedds_ws && colcon build --packages-select unitree_go unitree_api\n"
    "    . install/setup.bash\n"
    "docs/go2.md has the rest, and the way through go2_ros2_sdk that does without"
)


class Go2BridgeNode(FogNode):
    """Translates in both directions; its parameters are described where they are declared."""

    def __init__(self) -> None:
        super().__init__("go2_bridge_node")
        timeout_s = self.declare(
            "command_timeout_s",
            0.3,
            "Silence on /cmd_vel after which the robot is stopped, s.",
            low=0.05,
            high=1.0,
        )
        limit = self.declare(
            "velocity_limit", [0.8, 0.4, 1.2], "Largest vx, vy, wz sent, m/s and rad/s."
        )
        state_hz = self.declare(
            "state_hz", 50.0, "Rate of joint states, IMU and odometry, Hz.", low=1.0, high=500.0
        )
        rows = self.declare("video_rows", 360, "Rows of the video used: 720, 360 or 180.")
        self._fovy = self.declare(
            "camera_fovy_deg",
            70.0,
            "Vertical field of view where there is no calibration, degrees.",
            low=1.0,
            high=179.0,
        )
        calibration = self.declare(
            "calibration_file", "", "File of ROS's camera_calibration; empty: a pinhole camera."
        )
        self._velocity_frame = self.declare(
            "velocity_frame",
            "odom",
            "Frame of sportmodestate.velocity.",
            choices=("odom", "base"),
        )
        self.check_parameters()
        if len(limit) != 3 or not all(v > 0 for v in limit):
            raise FogError(f"go2_bridge_node: velocity_limit {list(limit)}: expected 3 above zero")
        if rows not in (720, 360, 180):
            raise FogError(f"go2_bridge_node: video_rows {rows}: expected 720, 360 or 180")
        self._video_field = f"video{rows}p"
        self._info = go2.camera_info_from_file(calibration) if calibration else None
        self._gate = go2.MotionGate(limit, timeout_s)
        self._decode = go2.VideoDecoder()
        self._period_s = 1.0 / state_hz
        self._due: dict[str, float] = {}
        self._counts: dict[str, int] = dict.fromkeys(_SENSORS, 0)
        self._battery: dict[str, object] = {}
        unitree_go, unitree_api = unitree("unitree_go"), unitree("unitree_api")
        self._request_class = unitree_api.Request
        self._topics = {
            topic: self.create_publisher(message_class(kind), topic, qos_profile_sensor_data)
            for topic, kind in _SENSORS.items()
        }
        self._requests = self.create_publisher(self._request_class, "/api/sport/request", 10)
        for topic, kind, callback in (
            ("/lowstate", unitree_go.LowState, self._on_low_state),
            ("/sportmodestate", unitree_go.SportModeState, self._on_sport_state),
            ("/frontvideostream", unitree_go.Go2FrontVideoData, self._on_video),
        ):
            self.create_subscription(kind, topic, callback, qos_profile_sensor_data)
        self.create_subscription(Twist, "/cmd_vel", self._on_command, QoSProfile(depth=1))
        self.every(_TICK_S, self._tick)
        self.every(1.0, self._report)
        self.get_logger().info("waiting for the robot on /lowstate")

    def close(self) -> None:
        """Stop the robot where this node made it walk."""
        if hasattr(self, "_requests") and self._gate.moving:
            self._send(go2.STOP)
            time.sleep(0.1)  # a process that ends at once would take the request with it

    # From the robot

    def _on_low_state(self, state: Any) -> None:
        if not self._is_due("low"):
            return
        now_ns = self._now_ns()
        temperatures = [int(m.temperature) for m in state.motor_state[: len(go2.MOTORS)]]
        self._battery = {
            "battery_v": f"{float(state.power_v):.1f}",
            "battery_percent": int(state.bms_state.soc),
            "hottest_motor_c": max(temperatures, default=0),
        }
        try:
            self._publish("/joint_states", go2.joint_state(state, now_ns))
            self._publish("/imu/data", go2.imu(state.imu_state, now_ns))
        except FogError as error:
            self.get_logger().error(f"/lowstate: {error}", throttle_duration_sec=5.0)

    def _on_sport_state(self, state: Any) -> None:
        if not self._is_due("sport"):
            return
        try:
            message = go2.odometry(state, self._now_ns(), velocity_frame=self._velocity_frame)
            self._publish("/odom", message)
        except FogError as error:
            self.get_logger().error(f"/sportmodestate: {error}", throttle_duration_sec=5.0)

    def _on_video(self, video: Any) -> None:
        stamp_ns = self._now_ns()
        try:
            pictures = self._decode(bytes(getattr(video, self._video_field)))
        except FogError as error:
            self.get_logger().error(f"/frontvideostream: {error}", throttle_duration_sec=5.0)
            return
        for pixels in pictures[-1:]:  # older ones have been overtaken
            height, width = pixels.shape[:2]
            info = self._info or pinhole_camera_info(height, width, self._fovy)
            picture = go2.image(pixels, stamp_ns)
            info.header = picture.header
            self._publish("/camera/camera_info", info)
            self._publish("/camera/image_raw", picture)

    def _is_due(self, stream: str) -> bool:
        """Whether the next message of a stream that comes faster than it is passed on is due."""
        now = time.monotonic()
        due = self._due.get(stream, now)
        if now < due:
            return False
        self._due[stream] = max(due + self._period_s, now)
        return True

    def _publish(self, topic: str, message: Any) -> None:
        self._topics[topic].publish(messages.serialise(message))
        self._counts[topic] += 1

    # To the robot

    def _on_command(self, twist: Twist) -> None:
        velocity = (twist.linear.x, twist.linear.y, twist.angular.z)
        try:
            self._send(self._gate.command(velocity, time.monotonic()))
        except FogError as error:
            self.get_logger().error(f"/cmd_vel: {error}; stopping", throttle_duration_sec=1.0)
            self._tick()

    def _tick(self) -> None:
        before = self._gate.silences
        self._send(self._gate.tick(time.monotonic()))
        if self._gate.silences > before:
            self.get_logger().warning("/cmd_vel is silent: the robot is stopped")

    def _send(self, request: go2.SportRequest | None) -> None:
        if request is None:
            return
        message = self._request_class()
        message.header.identity.api_id = request.api_id
        message.header.identity.id = time.monotonic_ns()
        message.parameter = request.parameter
        self._requests.publish(message)

    def _report(self) -> None:
        """Say every second what came from the robot."""
        silent = [topic for topic, count in self._counts.items() if not count]
        self.diagnose(
            "robot",
            WARN if silent else OK,
            f"nothing comes for {', '.join(silent)}" if silent else "all streams come",
            {
                **{f"{topic}_hz": count for topic, count in self._counts.items()},
                **self._battery,
                "moving": self._gate.moving,
                "stops_for_silence": self._gate.silences,
            },
        )
        self._counts = dict.fromkeys(_SENSORS, 0)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def unitree(package: str) -> Any:
    """Module of Unitree's messages.

    Raises:
        FogError: The package is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError as error:
        raise FogError(f"go2_bridge_node: the ROS package {package} {_MISSING}") from error


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(Go2BridgeNode, args)


if __name__ == "__main__":
    sys.exit(main())
