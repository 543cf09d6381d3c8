"""Correct the end probabilities of a trained global model on its held-out episodes."""

from __future__ import annotations

import os

import torch

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.evaluation.calibration import (
    CalibrationReport,
    calibration_report,
    predict_outcomes,
)
from fog_world_model.training.checkpoint import save_checkpoint
from fog_world_model.training.train_world_models import load_global

_NAME = "outcome.end_correction"


def correct_ends(
    checkpoint: str | os.PathLike[str],
    store: EpisodeStore,
    *,
    horizon: int = 8,
    windows: int = 512,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> CalibrationReport:
    """Fit scale and bias of the end's logit; write them into the checkpoint where they help.

    They help when, fitted on half of the held-out episodes, they lower the log loss of the other
    half; what is written is fitted on all. Training goes on from such a checkpoint as from any.

    Args:
        checkpoint: Folder of a global model's checkpoint; replaced as a whole.
        store: Its held-out episodes are used.
        horizon: Imagined steps of a window.
        windows: Most windows.
        seed: Seed of the imagination.
        device: Where the model runs.

    Returns:
        The tables as they were before, and the correction, if any was made.

    Raises:
        FogError: The checkpoint cannot be read or written, belongs to another task or was exported
            already, or no held-out episode is long enough.
    """
    model, found = load_global(checkpoint, store.task)
    if "parts" in found.manifest:
        raise FogError(
            f"checkpoint {found.path}: was exported; correct the one that it was exported from, "
            "and export that again"
        )
    store = store.normalised_as(found.normalisation)  # as the model was trained on
    predictions = predict_outcomes(
        model.to(device), store, horizon=horizon, windows=windows, seed=seed, device=device
    )
    report = calibration_report(predictions)
    if report.correction is None:
        return report
    model.outcome.correct_end(report.correction.scale, report.correction.bias)
    corrected = model.outcome.end_correction.cpu()
    tensors = {file.stem: found.tensors(file.stem) for file in found.path.glob("*.safetensors")}
    for name in ("ema", "model"):
        if name in tensors:
            tensors[name][_NAME] = corrected
    scale, bias = corrected.tolist()
    made = {
        "scale": scale,
        "bias": bias,
        "log_loss_before": report.log_loss_before,
        "log_loss_after": report.log_loss_after,
        "transitions": len(predictions.end),
        "data_hash": store.data_hash,
    }
    save_checkpoint(found.path, tensors, {**found.manifest, "end_correction": made})
    return report
