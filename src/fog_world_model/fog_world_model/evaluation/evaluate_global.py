"""Evaluate checkpoints of global models: everything that ``evaluation.json`` holds."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.evaluation.calibration import calibration_report, predict_outcomes
from fog_world_model.evaluation.examples import Example, examples
from fog_world_model.evaluation.horizon_errors import (
    ACTION_STEPS,
    LOCAL,
    MARKS,
    Contenders,
    EvaluationConfig,
    Measured,
    Progress,
    measure,
)
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.training.checkpoint import Checkpoint, versions
from fog_world_model.training.train_world_models import load_global, load_local
from fog_world_model.training.training_cost import training_cost

FORMAT = 1
LEVEL = 0.95
CALIBRATION_STEPS = 8
"""Steps ahead at which predicted rewards and ends are compared with recorded ones."""


@dataclass(frozen=True)
class GlobalEvaluation:
    """Figures for JSON, and pictures."""

    figures: dict[str, Any]
    """Plain values, see :func:`evaluate_global`."""
    examples: list[Example]


def evaluate_global(
    checkpoints: Sequence[str | os.PathLike[str]],
    store: EpisodeStore,
    config: EvaluationConfig,
    *,
    local: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> GlobalEvaluation:
    """Measure checkpoints on the held-out episodes of a store.

    Args:
        checkpoints: Of global models of the store's task; they see the same windows.
        store: Whose ``validation`` episodes are used.
        config: How much is measured.
        local: Checkpoint of a local model, as a baseline.
        device: Where the models run.
        progress: Told about every frame.

    Returns:
        The figures: ``task``, ``data`` (hash, episodes, windows, both by horizon), ``horizon``,
        ``models`` and ``baselines`` (name -> ``figures``: name -> ``value``, ``low`` and ``high``
        by horizon; models also have ``training``, ``parameters`` and ``calibration``), ``object``,
        ``settings``, ``seconds``, ``versions``; and examples.

    Raises:
        FogError: A checkpoint does not fit, a setting is impossible, or no held-out episode is long
            enough.
    """
    for name in ("horizon", "windows", "batch_size"):
        if getattr(config, name) < 1:
            raise FogError(
                f"--{name.replace('_', '-')} {getattr(config, name)}: expected 1 or more"
            )
    begun = time.monotonic()
    loaded = {n: load_global(p, store.task) for n, p in _names(checkpoints).items()}
    contenders = Contenders(
        {n: (model.to(device), found.normalisation) for n, (model, found) in loaded.items()},
        seed=config.seed,
    )
    rival: Checkpoint | None = None
    if local is not None:
        local_model, rival = load_local(local, store.task)
        contenders = dataclasses.replace(
            contenders, local=(local_model.to(device), rival.normalisation)
        )
    measured = measure(contenders, store, config, device=device, progress=progress)
    calibrations = {}
    for done, (name, (model, found)) in enumerate(loaded.items(), start=1):
        seen = store.normalised_as(found.normalisation)
        calibrations[name] = _calibration(model, seen, config, device)
        if progress is not None:
            progress("calibration of reward and end", done, len(loaded))
    shown = examples(contenders, measured, config, device=device, progress=progress)
    figures = {
        "format": FORMAT,
        "task": {
            "name": store.task.name,
            "hash": store.task.hash,
            "control_hz": store.task.control_hz,
        },
        "data": _data(store, measured),
        "horizon": list(range(1, measured.windows.horizon + 1)),
        "context": measured.windows.context,
        "reference_horizon": measured.reference,
        "confidence": LEVEL,
        "models": {
            name: {
                "training": training(found, store),
                "parameters": sum(p.numel() for p in model.parameters()),
                "figures": _figures(measured, name),
                "calibration": calibrations[name],
            }
            for name, (model, found) in loaded.items()
        },
        "baselines": {
            name: {
                **({"training": training(rival, store)} if name == LOCAL and rival else {}),
                "figures": _figures(measured, name),
            }
            for name in contenders.names
            if name not in loaded
        },
        "object": _object(measured),
        "settings": {
            **dataclasses.asdict(config),
            "action_steps": ACTION_STEPS,
            "calibration_steps": CALIBRATION_STEPS,
            "device": str(device),
        },
        "seconds": round(time.monotonic() - begun, 1),
        "versions": versions(),
    }
    return GlobalEvaluation(figures, shown)


def training(checkpoint: Checkpoint, store: EpisodeStore) -> dict[str, Any]:
    """What a model's figures cost, as its manifest tells; None for what it does not."""
    manifest = checkpoint.manifest
    loop, cost = manifest.get("loop") or {}, training_cost(manifest)
    return {
        "checkpoint": str(checkpoint.path),
        "preset": manifest.get("preset"),
        "seconds": cost.seconds,
        "steps": cost.steps,
        "samples": cost.samples,
        "runs": cost.runs,
        "device": manifest.get("device", loop.get("device")),
        "commit": manifest.get("commit"),
        "data_hash": manifest.get("data_hash"),
        # Trained on another split or store, it may have seen what is held out here.
        "same_data": manifest.get("data_hash") == store.data_hash,
    }


def _names(checkpoints: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """The shortest ends of the paths that differ.

    Raises:
        FogError: A checkpoint is given twice.
    """
    paths = [Path(p) for p in checkpoints]
    parts = [p.resolve().parts for p in paths]
    if len(set(parts)) < len(parts):
        raise FogError("the same checkpoint is given twice")
    count = 1
    while len({p[-count:] for p in parts}) < len(parts):
        count += 1
    return {"/".join(p[-count:]): path for p, path in zip(parts, paths, strict=True)}


def _calibration(
    model: GlobalModel, store: EpisodeStore, config: EvaluationConfig, device: torch.device | str
) -> dict[str, object] | None:
    """Reliability tables of the outcome head; None where no episode is long enough."""
    longest = int(store.lengths[store.split("validation")].max())
    horizon = min(CALIBRATION_STEPS, config.horizon, longest - model.context_frames)
    if horizon < 1:
        return None
    found = predict_outcomes(
        model,
        store,
        horizon=horizon,
        windows=4 * config.windows,
        batch=config.batch_size,
        seed=config.seed,
        device=device,
    )
    return calibration_report(found).figures()


def _figures(measured: Measured, name: str) -> dict[str, Any]:
    return {
        figure: estimate.rounded()
        for figure, estimate in measured.figures[name].items()
        if np.isfinite(estimate.value).any()
    }


def _data(store: EpisodeStore, measured: Measured) -> dict[str, Any]:
    windows = measured.windows
    return {
        "hash": store.data_hash,
        "episodes": windows.episodes,
        "episodes_without_window": windows.skipped,
        "windows": len(windows),
        "windows_by_horizon": windows.by_horizon,
        "episodes_by_horizon": [
            len(np.unique(windows.episode[windows.length >= h]))
            for h in range(1, windows.horizon + 1)
        ],
    }


def _object(measured: Measured) -> dict[str, Any] | None:
    """What was looked for, and in which share of the recorded frames it was seen."""
    if measured.finder is None or not np.isfinite(measured.object_seen).any():
        return None
    return {
        "name": measured.finder.name,
        "horizons": [m for m in MARKS if m <= measured.windows.horizon],
        "seen": [
            float(f"{measured.object_seen[m - 1]:.4g}")
            for m in MARKS
            if m <= measured.windows.horizon
        ],
    }
