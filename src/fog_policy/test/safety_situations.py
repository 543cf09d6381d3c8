"""A task with limits for reckoning, and situations to which the safety filter has no objection."""

from __future__ import annotations

import dataclasses
from typing import Any

from fog_policy.safety import (
    Situation,
    stop_reasons,
)
from fog_world_model.task import TaskConfig, task_from_dict

UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def make_task(**safety: Any) -> TaskConfig:
    """5 Hz; bounds +-0.8, +-0.4, +-1.2; slew 1, 2 and 3 per second: 0.2, 0.4, 0.6 per step."""
    return task_from_dict(
        {
            "name": "test",
            "control_hz": 5.0,
            "image": {
                "topic": "/camera/image_raw",
                "camera_info_topic": "/camera/camera_info",
                "height": 32,
                "width": 32,
            },
            "proprioception": [
                {
                    "topic": "/joint_states",
                    "type": "sensor_msgs/msg/JointState",
                    "fields": ["position.knee"],
                }
            ],
            "action": {
                "topic": "/cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "linear.y", "angular.z"],
                "low": [-0.8, -0.4, -1.2],
                "high": [0.8, 0.4, 1.2],
            },
            "episode": {"max_steps": 60},
            "safety": {
                "slew_per_s": [1.0, 2.0, 3.0],
                "image_timeout_s": 0.5,
                "proprioception_timeout_s": 0.3,
                "tilt_topic": "/imu/data",
                "max_tilt_rad": 0.6,
                **safety,
            },
        }
    )


TASK = make_task()


FINE = Situation(
    image_age_s=0.05,
    proprioception_age_s={"/joint_states": 0.01},
    orientation=UPRIGHT,
    orientation_age_s=0.01,
)


def causes(situation: Situation, task: TaskConfig = TASK) -> list[str]:
    return [reason.cause for reason in stop_reasons(task, situation)]


HOT = {"topic": "/motor_temperatures", "type": "x/msg/Y", "fields": ["knee", "hip"], "max_c": 70.0}


WATCHED = make_task(
    temperature=HOT,
    battery={"topic": "/battery", "min_v": 25.0},
    geofence={"topic": "/odom", "x_m": [-1.0, 3.0], "y_m": [-2.0, 2.0]},
)


WATCHED_FINE = dataclasses.replace(
    FINE,
    temperature_c=(50.0, 70.0),
    temperature_age_s=5.0,
    battery_v=25.0,
    battery_age_s=5.0,
    position_m=(3.0, -2.0),
    position_age_s=0.5,
)
