"""Fit the global and the local world model to an episode store."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model import global_model
from fog_world_model.global_model.denoiser import DenoiserConfig
from fog_world_model.global_model.global_model import GlobalModel, GlobalModelConfig
from fog_world_model.global_model.outcome import OutcomeConfig
from fog_world_model.global_model.sampler import SamplerConfig
from fog_world_model.local_model import local_model
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig
from fog_world_model.training.checkpoint import Checkpoint, open_checkpoint
from fog_world_model.training.loop import FitResult, LoopConfig, fit

Path = str | os.PathLike[str]


def train_global(
    store: EpisodeStore,
    output: Path,
    loop: LoopConfig,
    *,
    preset: str = "small",
    window: int = 0,
    resume: bool = False,
) -> FitResult:
    """Train the global model on windows of ``window`` observations; see :func:`.loop.fit`.

    A window of 0 takes two observations more than the model's context.

    Raises:
        FogError: The preset is unknown, or what :func:`.loop.fit` raises.
    """
    if preset not in global_model.PRESETS:
        raise FogError(f"--preset {preset}: known are {', '.join(global_model.PRESETS)}")
    config = global_model.preset(preset, **_sizes(store.task))
    torch.manual_seed(loop.seed)
    model = GlobalModel(config)
    sampler = WindowSampler(store, length=window or model.context_frames + 2, seed=loop.seed)
    model.denoiser.measure_residual(sampler.sample(256).image)
    return fit(
        model,
        model.loss,
        sampler,
        loop,
        output,
        _manifest("global", store, config, preset, loop),
        description="global model",
        resume=resume,
    )


def train_local(
    store: EpisodeStore,
    output: Path,
    loop: LoopConfig,
    *,
    preset: str = "small",
    window: int = 16,
    resume: bool = False,
) -> FitResult:
    """Train the local model on windows of ``window`` observations; see :func:`.loop.fit`.

    Raises:
        FogError: The preset is unknown, or what :func:`.loop.fit` raises.
    """
    if preset not in local_model.PRESETS:
        raise FogError(f"--preset {preset}: known are {', '.join(local_model.PRESETS)}")
    config = LocalModelConfig(**_sizes(store.task), **local_model.PRESETS[preset])
    torch.manual_seed(loop.seed)
    model = LocalModel(config)
    sampler = WindowSampler(store, length=window, seed=loop.seed)
    return fit(
        model,
        model.loss,
        sampler,
        loop,
        output,
        _manifest("local", store, config, preset, loop),
        description="local model",
        resume=resume,
    )


def load_global(path: Path, task: TaskConfig | None = None) -> tuple[GlobalModel, Checkpoint]:
    """Load a global model for use (averaged weights, evaluation mode).

    Raises:
        FogError: The checkpoint is missing, damaged or of another task.
    """
    checkpoint = open_checkpoint(path, "global", task)
    content = checkpoint.manifest["config"]
    denoiser = {**content["denoiser"], "channels": tuple(content["denoiser"]["channels"])}
    config = GlobalModelConfig(
        **{k: v for k, v in content.items() if isinstance(v, int)},
        denoiser=DenoiserConfig(**denoiser),
        sampler=SamplerConfig(**content["sampler"]),
        outcome=OutcomeConfig(**content["outcome"]),
    )
    model = GlobalModel(config)
    checkpoint.load_into(model)
    return model.eval().requires_grad_(False), checkpoint


def load_local(path: Path, task: TaskConfig | None = None) -> tuple[LocalModel, Checkpoint]:
    """Load a local model (averaged weights).

    Raises:
        FogError: The checkpoint is missing, damaged or of another task.
    """
    checkpoint = open_checkpoint(path, "local", task)
    model = LocalModel(LocalModelConfig(**checkpoint.manifest["config"]))
    checkpoint.load_into(model)
    return model.eval(), checkpoint


def _sizes(task: TaskConfig) -> dict[str, int]:
    return {
        "height": task.image.height,
        "width": task.image.width,
        "action_size": task.action_size,
        "proprioception_size": task.proprioception_size,
    }


def _manifest(
    kind: str, store: EpisodeStore, config: Any, preset: str, loop: LoopConfig
) -> dict[str, Any]:
    return {
        "kind": kind,
        "task": store.task.to_dict(),
        "task_hash": store.task.hash,
        "data_hash": store.data_hash,
        "normalisation": store.normalisation.to_dict(),
        "preset": preset,
        "config": dataclasses.asdict(config),
        "loop": dataclasses.asdict(loop),
    }
