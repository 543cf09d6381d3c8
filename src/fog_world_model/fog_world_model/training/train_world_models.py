"""Fit the global and the local world model to an episode store."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt
import torch

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model import global_model, presets
from fog_world_model.global_model.global_model import (
    GlobalChanges,
    GlobalModel,
    GlobalModelConfig,
)
from fog_world_model.local_model import local_model
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig
from fog_world_model.training.checkpoint import Checkpoint, open_checkpoint
from fog_world_model.training.loop import FitResult, LoopConfig, fit
from fog_world_model.training.picture_strip import PictureStrip

Path = str | os.PathLike[str]
_Config = TypeVar("_Config", GlobalModelConfig, LocalModelConfig)


def train_global(
    store: EpisodeStore,
    output: Path,
    loop: LoopConfig,
    *,
    preset: str = "small",
    changes: GlobalChanges | None = None,
    window: int = 0,
    resume: bool = False,
) -> FitResult:
    """Train the global model on windows of ``window`` observations; see :func:`.loop.fit`.

    A window of 0 has room for the model's context, the frame after it, and one more for every
    autoregressive step.

    Raises:
        FogError: The preset is unknown, a change of it cannot be, or what :func:`.loop.fit`
            raises.
    """
    if preset not in presets.PRESETS:
        raise FogError(f"--preset {preset}: known are {', '.join(presets.PRESETS)}")
    config = (changes or GlobalChanges()).apply(global_model.preset(preset, **_sizes(store.task)))
    torch.manual_seed(loop.seed)
    model = GlobalModel(config)
    length = window or model.context_frames + 1 + config.autoregressive_steps
    sampler = WindowSampler(store, length=length, seed=loop.seed)
    model.denoiser.measure_residual(sampler.sample(256).image)
    strips: list[PictureStrip] = []

    def pictures() -> npt.NDArray[np.uint8]:
        if not strips:  # made when it is needed, by the process that draws, on the model's device
            strips.append(PictureStrip(model, store, model.denoiser.residual_std.device))
        return strips[0]()

    return fit(
        model,
        model.loss,
        sampler,
        loop,
        output,
        _manifest("global", store, config, preset, loop),
        description="global model",
        resume=resume,
        pictures=pictures if loop.pictures_every_s > 0 else None,
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
    config = _config(GlobalModelConfig, checkpoint)
    model = GlobalModel(config)
    checkpoint.load_into(model)
    return model.eval().requires_grad_(False), checkpoint


def load_local(path: Path, task: TaskConfig | None = None) -> tuple[LocalModel, Checkpoint]:
    """Load a local model (averaged weights).

    Raises:
        FogError: The checkpoint is missing, damaged or of another task.
    """
    checkpoint = open_checkpoint(path, "local", task)
    model = LocalModel(_config(LocalModelConfig, checkpoint))
    checkpoint.load_into(model)
    return model.eval(), checkpoint


def _config(kind: type[_Config], checkpoint: Checkpoint) -> _Config:
    """Read a configuration (a dataclass of numbers, tuples and dataclasses) from a manifest.

    Raises:
        FogError: It has a setting that this version does not know, or lacks one.
    """

    def read(kind: Any, content: Mapping[str, Any]) -> Any:
        types = get_type_hints(kind)
        values = {}
        for name, value in content.items():
            if name in types and dataclasses.is_dataclass(types[name]):
                value = read(types[name], value)
            values[name] = tuple(value) if isinstance(value, list) else value
        return kind(**values)

    try:
        found: _Config = read(kind, checkpoint.manifest["config"])
    except (AttributeError, KeyError, TypeError) as error:
        raise FogError(
            f"checkpoint {checkpoint.path}: its configuration is not of this version: {error}; use "
            f"the version that made it (commit {checkpoint.manifest.get('commit', 'unknown')}), or "
            "train it anew"
        ) from error
    return found


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
