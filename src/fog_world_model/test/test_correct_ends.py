"""Correcting the ends of a checkpoint: written where it helps, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.evaluation.calibration import Predictions
from fog_world_model.training import correct_ends as module
from fog_world_model.training.checkpoint import open_checkpoint
from fog_world_model.training.correct_ends import correct_ends
from fog_world_model.training.export import export_weights
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import load_global, train_global


@pytest.fixture
def checkpoint(coded_store: EpisodeStore, tmp_path: Path) -> Path:
    loop = LoopConfig(max_steps=2, batch_size=2, device="cpu", pictures_every_s=0)
    train_global(coded_store, tmp_path / "model", loop, preset="tiny")
    return tmp_path / "model"


def predictions(distortion: float) -> Predictions:
    """Of a head whose logits are all too large by a number."""
    generator = np.random.default_rng(1)
    true = generator.normal(-1.0, 1.0, 4000)
    ended = (generator.uniform(size=4000) < 1 / (1 + np.exp(-true))).astype(float)
    if not distortion:
        ended[:] = 0  # nothing can be said without an end
    said = 1 / (1 + np.exp(-(true + distortion)))
    nothing = np.zeros(4000)
    return Predictions(nothing, said, nothing, ended, nothing, np.arange(4000) // 100)


@pytest.mark.parametrize("distortion", [0.0, 3.0])
def test_correction_is_written(
    checkpoint: Path,
    coded_store: EpisodeStore,
    monkeypatch: pytest.MonkeyPatch,
    distortion: float,
) -> None:
    monkeypatch.setattr(module, "predict_outcomes", lambda *_, **__: predictions(distortion))
    before = open_checkpoint(checkpoint, "global")
    tensors = {name: before.tensors(name) for name in ("ema", "model", "training")}
    report = correct_ends(checkpoint, coded_store)
    model, after = load_global(checkpoint, coded_store.task)
    assert (report.correction is not None) == bool(distortion)
    scale, bias = model.outcome.end_correction.tolist()
    assert bias == pytest.approx(-distortion, abs=0.25)
    assert scale == pytest.approx(1.0, abs=0.1)
    for name, values in tensors.items():
        found = after.tensors(name)
        assert found.keys() == values.keys()
        changed = {k for k in values if not torch.equal(found[k], values[k])}
        assert changed == (
            {"outcome.end_correction"} if distortion and name != "training" else set()
        )
    kept: dict[str, Any] = {k: v for k, v in after.manifest.items() if k != "end_correction"}
    assert kept == before.manifest
    if distortion:
        made = after.manifest["end_correction"]
        assert made["bias"] == pytest.approx(bias)
        assert made["log_loss_after"] < made["log_loss_before"]
        # Once more: what is found then comes on top.
        correct_ends(checkpoint, coded_store)
        again, _ = load_global(checkpoint)
        assert float(again.outcome.end_correction[1]) == pytest.approx(-2 * distortion, abs=0.7)


def test_training_goes_on_from_a_corrected_checkpoint(
    checkpoint: Path, coded_store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "predict_outcomes", lambda *_, **__: predictions(3.0))
    correct_ends(checkpoint, coded_store)
    loop = LoopConfig(max_steps=4, batch_size=2, device="cpu", pictures_every_s=0)
    result = train_global(coded_store, checkpoint, loop, preset="tiny", resume=True)
    assert result.step == 4


def test_exported_weights_are_not_corrected(
    checkpoint: Path, coded_store: EpisodeStore, tmp_path: Path
) -> None:
    export_weights(checkpoint, tmp_path / "exported")
    with pytest.raises(FogError, match="was exported; correct the one"):
        correct_ends(tmp_path / "exported", coded_store)
    # The real thing, on untrained heads: it must at least run through.
    assert correct_ends(checkpoint, coded_store, horizon=3).end.ends > 0
