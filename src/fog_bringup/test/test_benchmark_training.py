"""The benchmark of training: both loops learn the same, and one JSON object on standard output."""

from __future__ import annotations

import json

import pytest
import torch

from fog_bringup.benchmarks import training
from fog_bringup.cli import main
from fog_bringup.tasks import find_task


def test_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The ratio is that of the two rates; the parameters are those of the presets."""
    arguments = ["--presets", "tiny", "--local-presets", "tiny", "--batch-sizes", "2", "3"]
    assert main(["benchmark", "training", "--json", "--seconds", "0.1", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["precision"] == ("bf16" if torch.cuda.is_available() else "no")
    for section, window in (("presets", 4), ("local_presets", training.LOCAL_WINDOW)):
        figures = found[section]["tiny"]
        assert figures["window"] == window
        assert list(figures["batch"]) == ["2", "3"]
        for rates in figures["batch"].values():
            ratio = rates["samples_per_second"] / rates["plain_samples_per_second"]
            assert rates["against_plain"] == pytest.approx(ratio)
    model, _ = training._local("tiny", find_task(training.TASK))
    expected = sum(p.numel() for p in model.parameters())
    assert found["local_presets"]["tiny"]["parameters"] == expected


def test_rate_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked at 0, 1, ..., 6 s: two steps of warm-up, then windows of 5 a second."""
    sampler = training._MadeUp(find_task(training.TASK), 5, 2, torch.device("cpu"))
    times = iter(range(100))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(times)))
    sampler.seconds = 4.0
    for _ in range(6):
        sampler.sample(5, "cpu")
    with pytest.raises(training._Enough):
        sampler.sample(5, "cpu")
    assert sampler.steps == 4
    assert sampler.rate(5) == 5.0
