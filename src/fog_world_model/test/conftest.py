"""A small task, episodes whose content says where it comes from, and tiny untrained models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.data.windows import WindowSampler
from fog_world_model.global_model.global_model import GlobalModel, preset
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.local_model import local_model
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig, task_from_dict

torch.set_num_threads(1)  # tiny networks: more threads only get into each other's way
SIZES = {"height": 16, "width": 16, "action_size": 2, "proprioception_size": 2}
LENGTHS = (9, 12, 7, 15, 9, 10, 11, 8)
CONTENT: dict[str, Any] = {
    "name": "tiny",
    "control_hz": 5.0,
    "image": {
        "topic": "/camera/image_raw",
        "camera_info_topic": "/camera/camera_info",
        "height": 16,
        "width": 16,
    },
    "proprioception": [
        {
            "topic": "/odom",
            "type": "nav_msgs/msg/Odometry",
            "fields": ["twist.twist.linear.x", "pose.pose.position.y"],
            "max_age_s": 0.1,
        }
    ],
    "action": {
        "topic": "/cmd_vel",
        "type": "geometry_msgs/msg/Twist",
        "fields": ["linear.x", "angular.z"],
        "low": [-1.0, 0.0],
        "high": [1.0, 4.0],
    },
    "reward": {
        "topic": "/task/reward",
        "type": "std_msgs/msg/Float32",
        "fields": ["data"],
        "slack_s": 0.03,
    },
    "end": {
        "topic": "/task/end",
        "type": "std_msgs/msg/Bool",
        "fields": ["data"],
        "slack_s": 0.03,
    },
    "marker": {
        "topic": "/task/episode",
        "type": "std_msgs/msg/Int32",
        "fields": ["data"],
        "slack_s": 0.03,
    },
    "episode": {"max_steps": 30},
    "safety": {"slew_per_s": [8.0, 12.0]},
}


@pytest.fixture
def content() -> dict[str, Any]:
    """A task as plain data, to be changed at will."""
    return copy.deepcopy(CONTENT)


@pytest.fixture(scope="session")
def tiny_task() -> TaskConfig:
    """16x16 images, two proprioceptive fields, two action fields, all optional streams."""
    return task_from_dict(CONTENT)


def coded_episode(number: int, length: int) -> Episode:
    """An episode whose every row says which episode and step it is.

    Pixels are (number, step, 0), proprioception is (number, step), the action is (number, step) /
    100, the reward is the step, and the last transition is an end.
    """
    steps = np.arange(length)
    image = np.zeros((length, 16, 16, 3), np.uint8)
    image[..., 0], image[..., 1] = number, steps[:, None, None]
    place = np.stack([np.full(length, number), steps], 1).astype(np.float32)
    return Episode(
        image=image,
        proprioception=place,
        action=(place / 100).astype(np.float32),
        reward=steps.astype(np.float32),
        end=steps == length - 2,
        stamp_ns=(steps * 200_000_000 + number * 10**12).astype(np.int64),
    )


@pytest.fixture(scope="session")
def make_coded_episode() -> Callable[[int, int], Episode]:
    """:func:`coded_episode`, for tests that write stores of their own."""
    return coded_episode


@pytest.fixture(scope="session")
def coded_store(tmp_path_factory: pytest.TempPathFactory, tiny_task: TaskConfig) -> EpisodeStore:
    """Eight coded episodes of different lengths, two of them held out."""
    path: Path = tmp_path_factory.mktemp("store") / "coded.episodes"
    writer = EpisodeWriter(path, tiny_task)
    for number, length in enumerate(LENGTHS):
        writer.append(coded_episode(number, length), source=f"coded#{number}")
    # A seed that holds out two episodes, among them the longest.
    return writer.finish(validation_fraction=0.25, report={"note": "coded"}, seed=67)


@pytest.fixture
def tiny_global() -> GlobalModel:
    """An untrained global model."""
    torch.manual_seed(0)
    return GlobalModel(preset("tiny", **SIZES))


@pytest.fixture
def tiny_local() -> LocalModel:
    """An untrained local model."""
    torch.manual_seed(0)
    return LocalModel(LocalModelConfig(**SIZES, **local_model.PRESETS["tiny"]))


@pytest.fixture
def tiny_env(coded_store: EpisodeStore, tiny_global: GlobalModel) -> ImaginedEnv:
    """Four environments in an untrained global model."""
    contexts = WindowSampler(coded_store, length=3, seed=0)
    return ImaginedEnv(
        tiny_global.requires_grad_(False), contexts, environments=4, max_steps=8, seed=0
    )
