"""Fit the global and the local world model to an episode store."""

from __future__ import annotations

import dataclasses
import math
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
    preset: str | None = None,
    changes: GlobalChanges | None = None,
    window: int = 0,
    moving: float = 0.0,
    start_from: Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Train the global model on windows of ``window`` observations; see :func:`.loop.fit`.

    Args:
        store: The recordings.
        output: Folder of the checkpoint.
        loop: How long and how fast.
        preset: Size of the model; None: that of the checkpoint to start from, or ``small``.
        changes: What is trained differently from that.
        window: Observations; 0 has room for the model's context, the frame after it, and one more
            for every autoregressive step.
        moving: Share of the windows that are drawn by how much moves in them, see
            :class:`.windows.WindowSampler`.
        start_from: Checkpoint whose averaged weights training starts from, for example of other
            recordings of the same robot. The scale of the proprioception is its, too.
        resume: Go on from the checkpoint in ``output``.

    Raises:
        FogError: The preset is unknown, a change of it cannot be, the checkpoint to start from
            does not fit, or what :func:`.loop.fit` raises.
    """
    parent, store = _start_from("global", start_from, store)
    before = None if parent is None else _config(GlobalModelConfig, parent)
    if parent and before and preset is None:
        preset, config = str(parent.manifest["preset"]), before
    else:
        preset = preset or "small"
        if preset not in presets.PRESETS:
            raise FogError(f"--preset {preset}: known are {', '.join(presets.PRESETS)}")
        config = global_model.preset(preset, **store.task.sizes)
    config = (changes or GlobalChanges()).apply(config)
    if parent and before:
        _require_outputs(parent, before, config)
    torch.manual_seed(loop.seed)
    model = GlobalModel(config)
    length = window or model.context_frames + 1 + config.autoregressive_steps
    sampler = WindowSampler(store, length=length, seed=loop.seed, moving=moving)
    if parent is None:
        model.denoiser.measure_residual(sampler.sample(256).image)
    else:
        parent.load_into(model)
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
        {
            **_manifest("global", store, config, preset, loop, parent),
            "moving_windows": moving,
        },
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
    reward_std: float | None = None,
    window: int = 16,
    light_jitter: float | None = None,
    start_from: Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Train the local model on windows of ``window`` observations; see :func:`.loop.fit`.

    Args:
        store: The recordings.
        output: Folder of the checkpoint.
        loop: How long and how fast.
        preset: Size of the model; that of the checkpoint to start from comes first.
        reward_std: Standard deviation at which rewards are modelled, more than 0: half of it weighs
            an error of the reward four times as much. None: that of the checkpoint to start from,
            or the preset's.
        window: Observations, at least 2. What lies further back than a window is not learned to be
            remembered.
        light_jitter: How much the light changes in what the encoder sees, at most 0.8: with more
            some pictures would be black. None: as in the checkpoint to start from, or not at all.
        start_from: Checkpoint whose averaged weights training starts from. The scale of the
            proprioception is its, too.
        resume: Go on from the checkpoint in ``output``.

    Raises:
        FogError: The preset is unknown, ``reward_std``, ``window`` or ``light_jitter`` cannot be,
            the checkpoint to start from does not fit, or what :func:`.loop.fit` raises.
    """
    if preset not in local_model.PRESETS:
        raise FogError(f"--preset {preset}: known are {', '.join(local_model.PRESETS)}")
    if window < 2:
        raise FogError(f"--window {window}: expected at least 2 observations")
    parent, store = _start_from("local", start_from, store)
    if parent is None:
        config = LocalModelConfig(**store.task.sizes, **local_model.PRESETS[preset])
    else:
        preset, config = parent.manifest["preset"], _config(LocalModelConfig, parent)
    if reward_std is not None:
        if not 0 < reward_std < math.inf:
            raise FogError(f"--reward-std {reward_std}: expected more than 0")
        config = dataclasses.replace(config, reward_std=reward_std)
    if light_jitter is not None:
        if not 0 <= light_jitter <= 0.8:
            raise FogError(f"--light-jitter {light_jitter}: expected 0 to 0.8")
        config = dataclasses.replace(config, light_jitter=light_jitter)
    torch.manual_seed(loop.seed)
    model = LocalModel(config)
    if parent is not None:
        parent.load_into(model)
    sampler = WindowSampler(store, length=window, seed=loop.seed)
    return fit(
        model,
        model.loss,
        sampler,
        loop,
        output,
        {**_manifest("local", store, config, preset, loop, parent), "window": window},
        description="local model",
        resume=resume,
    )


def on_scale_of(path: Path, store: EpisodeStore) -> EpisodeStore:
    """The store, its proprioception on the scale of a world model of either kind.

    For a model that is to be used with that one, and trained on other episodes.

    Raises:
        FogError: The checkpoint is missing, damaged or of another task.
    """
    return store.normalised_as(open_checkpoint(path, ("global", "local"), store.task).normalisation)


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


def load_worlds(
    global_path: Path, local_path: Path, store: EpisodeStore
) -> tuple[tuple[GlobalModel, Checkpoint], tuple[LocalModel, Checkpoint], EpisodeStore]:
    """Load the two models that a policy is trained with, and the store as they read it.

    Contexts from the store go into both models, and what the one imagines goes into the other, so
    that proprioception must be on one scale: that of the recordings the models were trained on,
    whatever episodes the store holds.

    Raises:
        FogError: A checkpoint is missing, damaged or of another task than the store, or the two
            models see proprioception on different scales.
    """
    worlds = load_global(global_path, store.task)
    local = load_local(local_path, store.task)
    scales = [checkpoint.normalisation for _, checkpoint in (worlds, local)]
    if scales[0].to_dict() != scales[1].to_dict():
        raise FogError(
            f"checkpoints {global_path} and {local_path}: trained on proprioception of different "
            "scales, so that the one cannot read what the other imagines; train both on one store, "
            "or one of them with --scale-from the other"
        )
    return worlds, local, store.normalised_as(scales[0])


def load_local(path: Path, task: TaskConfig | None = None) -> tuple[LocalModel, Checkpoint]:
    """Load a local model (averaged weights), or the one in a policy's checkpoint, as refreshed.

    Raises:
        FogError: The checkpoint is missing, damaged or of another task.
    """
    checkpoint = open_local(path, task)
    of_policy = checkpoint.manifest["kind"] == "policy"
    key, name = ("local_config", "local") if of_policy else ("config", "ema")
    model = LocalModel(_config(LocalModelConfig, checkpoint, key))
    checkpoint.load_into(model, name)
    return model.eval(), checkpoint


def open_local(path: Path, task: TaskConfig | None = None) -> Checkpoint:
    """Open what :func:`load_local` loads from: kind ``local`` or ``policy``.

    Raises:
        FogError: The checkpoint is missing, damaged or of another task.
    """
    return open_checkpoint(path, ("local", "policy"), task)


def _config(kind: type[_Config], checkpoint: Checkpoint, key: str = "config") -> _Config:
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
        found: _Config = read(kind, checkpoint.manifest[key])
    except (AttributeError, KeyError, TypeError) as error:
        raise FogError(
            f"checkpoint {checkpoint.path}: its configuration is not of this version: {error}; use "
            f"the version that made it (commit {checkpoint.manifest.get('commit', 'unknown')}), or "
            "train it anew"
        ) from error
    return found


def _start_from(
    kind: str, path: Path | None, store: EpisodeStore
) -> tuple[Checkpoint | None, EpisodeStore]:
    """Open the checkpoint that training starts from, if any, and the store on its scale.

    Raises:
        FogError: It is missing, damaged, of another kind, or of other sizes than the store's task.
    """
    if path is None:
        return None, store
    checkpoint, task = open_checkpoint(path, kind), store.task
    config = checkpoint.manifest.get("config", {})
    for name, size in task.sizes.items():
        if (found := config.get(name)) != size:
            raise FogError(
                f"checkpoint {checkpoint.path}: its {name} is {found}, task '{task.name}' has "
                f"{size}; start from a model of the same sizes, or train anew"
            )
    return checkpoint, store.normalised_as(checkpoint.normalisation)


def _require_outputs(
    checkpoint: Checkpoint, found: GlobalModelConfig, wanted: GlobalModelConfig
) -> None:
    """Check that a denoiser's output means the same as in the one whose weights it gets.

    Raises:
        FogError: It does not. (Weights of another shape are found when they are loaded.)
    """
    for name in ("residual", "predict_sample"):
        old, new = getattr(found.denoiser, name), getattr(wanted.denoiser, name)
        if old != new:
            raise FogError(
                f"checkpoint {checkpoint.path}: was trained with {name} {old}, and is to go on "
                f"with {new}, for which its weights are of no use; start from the same --preset "
                "and --target"
            )


_ORIGIN = ("preset", "step", "seconds", "data_hash", "task_hash", "commit", "started_from")
"""What a manifest keeps of the checkpoint that training started from."""


def _manifest(
    kind: str,
    store: EpisodeStore,
    config: Any,
    preset: str,
    loop: LoopConfig,
    parent: Checkpoint | None,
) -> dict[str, Any]:
    before = None
    if parent is not None:
        found = parent.manifest
        before = {key: found[key] for key in _ORIGIN if key in found}
        before["samples"] = found["step"] * found["loop"]["batch_size"]
    return {
        "kind": kind,
        "task": store.task.to_dict(),
        "task_hash": store.task.hash,
        "data_hash": store.data_hash,
        "normalisation": store.normalisation.to_dict(),
        "preset": preset,
        "config": dataclasses.asdict(config),
        "loop": dataclasses.asdict(loop),
        "started_from": before,
    }
