"""Tiny untrained worlds on synthetic episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.ppo_baseline import PpoLearner
from fog_policy.ppo_config import PpoConfig
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.data.windows import WindowSampler
from fog_world_model.global_model.global_model import GlobalModel, preset
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.local_model import local_model
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig, task_from_dict

torch.set_num_threads(1)  # tiny networks: more threads only get into each other's way
SIZES = {"height": 16, "width": 16, "action_size": 3, "proprioception_size": 2}


@pytest.fixture(scope="session")
def tiny_task() -> TaskConfig:
    """A task with 16x16 images, two proprioceptive fields and three action fields."""
    return task_from_dict(
        {
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
                    "fields": ["twist.twist.linear.x", "twist.twist.linear.y"],
                }
            ],
            "action": {
                "topic": "/cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "linear.y", "angular.z"],
                "low": [-1.0, -0.5, -2.0],
                "high": [1.0, 0.5, 2.0],
            },
            "episode": {"max_steps": 30},
            "safety": {"slew_per_s": [8.0, 4.0, 12.0]},
        }
    )


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory, tiny_task: TaskConfig) -> EpisodeStore:
    """Eight episodes of 31 observations of noise."""
    rng = np.random.default_rng(0)
    path: Path = tmp_path_factory.mktemp("store") / "tiny.episodes"
    writer = EpisodeWriter(path, tiny_task)
    for i in range(8):
        n = 31
        writer.append(
            Episode(
                image=rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8),
                proprioception=rng.normal(size=(n, 2)).astype(np.float32),
                action=rng.uniform(-1, 1, (n, 3)).astype(np.float32),
                reward=rng.uniform(0, 1, n).astype(np.float32),
                end=np.zeros(n, np.bool_),
                stamp_ns=np.arange(n, dtype=np.int64) * 200_000_000,
            ),
            source=f"noise#{i}",
        )
    # A seed that holds out two of the eight.
    return writer.finish(validation_fraction=0.25, report={}, seed=43)


@pytest.fixture
def tiny_local() -> LocalModel:
    """An untrained local model."""
    torch.manual_seed(0)
    return LocalModel(LocalModelConfig(**SIZES, **local_model.PRESETS["tiny"]))


@pytest.fixture
def tiny_env(tiny_store: EpisodeStore) -> ImaginedEnv:
    """Four environments in an untrained global model; ends come about half of the time."""
    torch.manual_seed(0)
    model = GlobalModel(preset("tiny", **SIZES)).requires_grad_(False)
    contexts = WindowSampler(tiny_store, length=3, seed=0)
    return ImaginedEnv(model, contexts, environments=4, max_steps=12, seed=0)


@pytest.fixture
def tiny_config() -> FogConfig:
    """Settings of a trainer in tiny worlds, without checks of health."""
    return FogConfig(
        environments=4,
        horizon=3,
        imagined_episode=6,
        context=3,
        refresh_batch=2,
        check_every=0,
        device="cpu",
    )


@pytest.fixture
def tiny_ppo() -> PpoConfig:
    """Settings of PPO in the same worlds."""
    return PpoConfig(
        environments=4,
        horizon=6,
        segment=3,
        imagined_episode=6,
        context=3,
        refresh_batch=2,
        minibatches=2,
        device="cpu",
    )


@pytest.fixture
def make_trainer(
    tiny_store: EpisodeStore, tiny_local: LocalModel
) -> Callable[[FogConfig, type[GlobalModel]], FogTrainer]:
    """Makes a trainer in an untrained global model, or in a made-up kind of one."""

    def make(config: FogConfig, kind: type[GlobalModel] = GlobalModel) -> FogTrainer:
        torch.manual_seed(0)
        return FogTrainer(
            kind(preset("tiny", **SIZES)).requires_grad_(False),
            tiny_local,
            ContextBank.load(tiny_store, length=config.context, count=50, seed=0),
            WindowSampler(tiny_store, length=config.refresh_window + 1, seed=1),
            config,
        )

    return make


@pytest.fixture
def manifest(tiny_store: EpisodeStore) -> dict[str, Any]:
    """What a checkpoint of such a trainer says about itself."""
    return {
        "kind": "policy",
        "task": tiny_store.task.to_dict(),
        "normalisation": tiny_store.normalisation.to_dict(),
    }


@pytest.fixture
def make_ppo(tiny_store: EpisodeStore, tiny_local: LocalModel) -> Callable[..., PpoLearner]:
    """Makes PPO in the worlds of :func:`make_trainer`."""

    def make(config: PpoConfig, kind: type[GlobalModel] = GlobalModel) -> PpoLearner:
        torch.manual_seed(0)
        return PpoLearner(
            kind(preset("tiny", **SIZES)).requires_grad_(False),
            tiny_local,
            ContextBank.load(tiny_store, length=config.context, count=50, seed=0),
            WindowSampler(tiny_store, length=config.segment + 1, seed=1),
            config,
        )

    return make
