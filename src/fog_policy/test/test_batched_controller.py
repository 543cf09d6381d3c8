"""Robots side by side are watched and limited as the deployed one is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.batched_controller import BatchedController
from fog_world_model.data.episodes import Normalisation
from fog_world_model.data.messages import header, make, serialise
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import PRESETS, LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig, task_from_dict

MS = 1_000_000
ODOM, IMAGE = "/odom", "/camera/image_raw"


def controller(task: TaskConfig, robots: int = 2, **safety: Any) -> BatchedController:
    """A policy that wants half of every bound, whatever it sees."""
    content = task.to_dict()
    content["safety"].update(safety)
    torch.manual_seed(0)
    local = LocalModel(LocalModelConfig(**task.sizes, **PRESETS["tiny"]))
    actor = Actor(ActorCriticConfig(features=local.features_size, action_size=3, hidden=16))
    last = actor.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias[:3] = math.atanh(0.5)
    scale = Normalisation.from_dict({"mean": [0.0, 0.0], "std": [1.0, 1.0]})
    return BatchedController(task_from_dict(content), local, actor, scale, robots=robots)


def show(batch: BatchedController, robot: int, now_ms: int, **odometry: float) -> None:
    """Odometry and a picture; ``x``: where the robot is, ``speed``: what it reports."""
    odom = make("nav_msgs/msg/Odometry", header=header(now_ms * MS, "odom"))
    odom.pose.pose.position.x = odometry.get("x", 0.0)
    odom.twist.twist.linear.x = odometry.get("speed", 0.0)
    picture = make(
        "sensor_msgs/msg/Image",
        header=header(now_ms * MS, "camera"),
        height=16,
        width=16,
        encoding="rgb8",
        step=48,
        data=np.zeros(16 * 48, np.uint8),
    )
    batch.receive(
        robot,
        [
            (ODOM, odom.__msgtype__, serialise(odom)),
            ("/elsewhere", "std_msgs/msg/Int32", b""),
            (IMAGE, picture.__msgtype__, serialise(picture)),
        ],
        now_ms * MS,
    )


def test_slew_rate_by_hand(tiny_task: TaskConfig) -> None:
    """Half of the bounds is 0.5, 0.25 and 1; a step of 0.2 s at 1, 2 and 3 per s is 0.2, 0.4, 0.6.

    The same picture all the time stops nobody: a simulated camera cannot freeze.
    """
    batch = controller(tiny_task, slew_per_s=[1.0, 2.0, 3.0])
    wanted = ([0.2, 0.25, 0.6], [0.4, 0.25, 1.0], *[[0.5, 0.25, 1.0]] * 20)
    for step, expected in enumerate(wanted):
        for robot in range(2):
            show(batch, robot, 1000 + 200 * step, speed=0.1 * step)
        for command in batch.tick():
            np.testing.assert_allclose(command, expected, atol=1e-6)


def test_the_fence_is_watched_here_too(tiny_task: TaskConfig) -> None:
    fence = {"topic": ODOM, "x_m": [-1.0, 1.0], "y_m": [-1.0, 1.0]}
    batch = controller(tiny_task, robots=1, geofence=fence)
    show(batch, 0, 1000, x=0.9)
    assert batch.tick()[0].any()
    show(batch, 0, 1200, x=1.1)
    with pytest.raises(FogError, match=r"stopped: geofence: /odom x is 1\.10 m"):
        batch.tick()


def test_what_is_not_finite_never_reaches_the_networks(tiny_task: TaskConfig) -> None:
    batch = controller(tiny_task, robots=1)
    show(batch, 0, 1000, speed=math.nan)
    with pytest.raises(FogError, match=r"not finite: /odom twist\.twist\.linear\.x"):
        batch.tick()


def test_nobody_holds_a_dead_mans_switch(tiny_task: TaskConfig) -> None:
    with pytest.raises(FogError, match=r"switch of safety\.deadman_topic /joy"):
        controller(tiny_task, deadman_topic="/joy")
