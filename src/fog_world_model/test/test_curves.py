"""Curves and pictures for TensorBoard, read with TensorBoard; and a disk that is full."""

from __future__ import annotations

import dataclasses
import errno
import math
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.training import curves as curves_module
from fog_world_model.training.curves import Curves
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.picture_strip import PictureStrip, strip
from fog_world_model.training.train_world_models import train_global, train_local


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_tensorboard_reads_them(tmp_path: Path) -> None:
    first = Curves(tmp_path)
    for step in (50, 100, 150):
        first.add({"total": step / 2, "reward": 1.0}, step)
    # Killed here: nothing is closed. The run goes on from a checkpoint of step 100.
    second = Curves(tmp_path, 101)
    second.add({"total": 7.0}, 150)
    second.add_picture("strip", np.full((8, 12, 3), 200, np.uint8), 150)
    second.close()
    assert points(tmp_path, "total") == [(50, 25.0), (100, 50.0), (150, 7.0)]
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    (image,) = accumulator.Images("strip")
    assert (image.width, image.height, image.step) == (12, 8, 150)


def test_a_full_disk_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        curves = Curves(tmp_path / "curves")
        for step in range(200):
            curves.add({"total": 1.0}, step)
        curves.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capsys.readouterr().err == (
        f"fog: {tmp_path / 'curves'}: File too large; no more curves for TensorBoard, "
        "training goes on\n"
    )
    found = points(tmp_path / "curves", "total")
    assert 10 < len(found) < 200
    assert [step for step, _ in found] == list(range(len(found)))


def test_training_goes_on_without_them(
    tmp_path: Path,
    coded_store: EpisodeStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Full(curves_module.RecordWriter):  # type: ignore[misc, name-defined]
        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(curves_module, "RecordWriter", Full)
    (tmp_path / "global.pictures").write_text("in the way of the folder")
    loop = LoopConfig(max_steps=51, batch_size=2, device="cpu", pictures_every_s=1e9)
    assert train_global(coded_store, tmp_path / "global", loop, preset="tiny").step == 51
    said = capsys.readouterr().err
    assert said.count("No space left on device; no more curves") == 1
    assert "global.pictures: File exists; picture not kept" in said


def test_pictures_change_nothing(tmp_path: Path, coded_store: EpisodeStore) -> None:
    """Made with the averaged weights after every step: losses and weights stay what they were."""
    loop = LoopConfig(max_steps=6, batch_size=2, device="cpu")
    often = LoopConfig(max_steps=6, batch_size=2, device="cpu", pictures_every_s=1e-6)
    plain = train_global(coded_store, tmp_path / "plain", loop, preset="tiny")
    drawn = train_global(coded_store, tmp_path / "drawn", often, preset="tiny")
    assert plain.losses == drawn.losses
    names = [f"step_{step:08d}.png" for step in range(1, 7)]
    assert sorted(p.name for p in (tmp_path / "drawn.pictures").iterdir()) == names
    for name in ("model", "ema", "training"):
        file = f"{name}.safetensors"
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "drawn" / file).read_bytes()


def test_curves_of_a_run(tmp_path: Path, coded_store: EpisodeStore) -> None:
    """Losses as in the result; the rate of step 50 of 60 by hand."""
    loop = LoopConfig(max_steps=60, batch_size=2, learning_rate=1e-3, device="cpu")
    result = train_local(coded_store, tmp_path / "a", loop, preset="tiny", window=5)
    ((step, total),) = points(tmp_path / "a.tensorboard", "total")
    assert step == 50
    assert total == pytest.approx(result.curve[0]["total"])
    ((_, rate),) = points(tmp_path / "a.tensorboard", "training/learning_rate")
    assert rate == pytest.approx(1e-3 * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * 49 / 60))))
    ((_, norm),) = points(tmp_path / "a.tensorboard", "training/gradient_norm")
    assert norm > 0
    more = dataclasses.replace(loop, max_steps=100)
    train_local(coded_store, tmp_path / "a", more, preset="tiny", window=5, resume=True)
    assert [step for step, _ in points(tmp_path / "a.tensorboard", "total")] == [50, 100]


def test_strip_by_hand() -> None:
    """Two windows of two frames of 1x1 pixel: 2 pixels between frames, 4 between the windows."""
    real = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).view(2, 2, 1, 1, 1).expand(2, 2, 3, 1, 1)
    picture = strip(real, torch.zeros_like(real))
    assert picture.shape == (12, 4, 3)
    assert picture[:, 0, 0].tolist() == [0, 255, 255, 128, *[255] * 4, 255, 255, 255, 128]
    assert picture[0].tolist() == [[0] * 3, [255] * 3, [255] * 3, [255] * 3]
    assert picture[8, :, 0].tolist() == [255, 255, 255, 0]


def test_the_strip_shows_held_out_frames(
    coded_store: EpisodeStore, tiny_global: GlobalModel
) -> None:
    """Pixels say which episode and step they are of; an untrained model repeats the last frame."""
    picture = PictureStrip(tiny_global.eval(), coded_store, torch.device("cpu"), horizon=5)()
    held_out = coded_store.split("validation")
    steps = picture[0, 8::18, 1]
    assert picture[0, 8, 0] in held_out
    assert steps.tolist() == list(range(int(steps[0]), int(steps[0]) + 6))
    imagined = picture[18, 8::18]
    assert imagined[0].tolist() == picture[0, 8].tolist()
    assert np.abs(imagined.astype(int) - imagined[0].astype(int)).max() <= 12
