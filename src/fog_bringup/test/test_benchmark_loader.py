"""The loader's benchmark: fair, and one JSON object on standard output."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fog_bringup.benchmarks import loader
from fog_bringup.cli import main
from fog_world_model.data.windows import WindowSampler


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "EPISODES", 4)
    monkeypatch.setattr(loader, "STEPS", 40)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "loader", "--json", "--seconds", "0.05"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["frames"] == 160
    assert figures["decoded_mb"] == pytest.approx(160 * 64 * 64 * 3 / 1e6)
    rates = {k: v for k, v in figures.items() if k.endswith("_fps")}
    assert {"ram_fps", "disk_fps", "plain_ram_fps", "plain_disk_fps"} <= set(rates)
    assert all(rate > 0 for rate in rates.values())


def test_plain_loops_make_the_same_tensors(tmp_path: Path) -> None:
    """Otherwise the comparison would not be one."""
    store = loader._make_store(tmp_path / "store", lambda *_: None)
    ours = WindowSampler(store, length=loader.LENGTH).sample(loader.BATCH).image
    for plain in (loader._plain_memory(store), loader._plain_disk(store)):
        theirs = plain()
        assert isinstance(theirs, torch.Tensor)
        assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
        assert theirs.is_contiguous()
        assert -1 <= float(theirs.min()) < float(theirs.max()) <= 1


def test_rate_is_counted_over_the_time_that_was_measured() -> None:
    calls = []
    rate = loader._frames_per_second(lambda: calls.append(torch.zeros(0)), 0.05, [])
    spent = len(calls) * loader.BATCH * loader.LENGTH / rate
    assert 0.05 <= spent < 0.5


def test_pictures_hardly_compress() -> None:
    """Noise as a camera has: a store of flat colours would be read from disk for nothing."""
    data = loader._pictures(20, 64, 64, np.random.default_rng(0)).tobytes()
    assert len(zlib.compress(data)) > 0.3 * len(data)
