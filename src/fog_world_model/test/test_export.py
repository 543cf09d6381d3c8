"""Exported weights: small, whole, and the model they came from but for rounding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.training.checkpoint import open_checkpoint, save_checkpoint
from fog_world_model.training.export import export_weights
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import (
    load_global,
    load_local,
    train_global,
    train_local,
)

LOOP = LoopConfig(max_steps=30, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def trained(coded_store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints ``global`` and ``local`` of a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    train_global(coded_store, folder / "global", LOOP, preset="tiny")
    train_local(coded_store, folder / "local", LOOP, preset="tiny", window=5)
    return folder


def imagined(model: GlobalModel, store: EpisodeStore) -> list[Tensor]:
    windows = WindowSampler(store, length=3).sample(16)
    generator = torch.Generator().manual_seed(0)
    state, frames = model.start(windows), []
    for t in range(6):
        action = torch.full((16, 2), 0.2 * t - 0.5)
        state, outcome = model.step(state, action, generator)
        frames.append(torch.cat([state.frames[:, -1].flatten(1), outcome.proprioception], 1))
    return frames


@pytest.mark.parametrize(("precision", "bits"), [("float16", 10), ("bfloat16", 7)])
def test_it_imagines_nearly_the_same_frames(
    precision: str, bits: int, trained: Path, coded_store: EpisodeStore, tmp_path: Path
) -> None:
    (file,) = export_weights(trained / "global", tmp_path / "small", precision=precision)
    whole, _ = load_global(trained / "global")
    small, checkpoint = load_global(tmp_path / "small", coded_store.task)
    assert file.stat().st_size < 0.6 * (trained / "global" / "ema.safetensors").stat().st_size
    assert all(p.dtype == torch.float32 for p in small.parameters())
    for (name, expected), found in zip(whole.named_parameters(), small.parameters(), strict=True):
        if expected.dim() < 2:
            assert torch.equal(expected, found), name
        else:  # half a unit in the last place; below 2^-14 float16 has fewer bits
            bound = expected.abs() * 2.0 ** -(bits + 1) + 2.0**-24
            assert bool(((expected - found).abs() <= bound).all()), name
    errors = [
        float((mine - theirs).abs().mean())
        for mine, theirs in zip(
            imagined(whole, coded_store), imagined(small, coded_store), strict=True
        )
    ]
    assert 0 < max(errors) < 8 * 2.0**-bits  # of a range of 2
    manifest = checkpoint.manifest
    assert manifest["exported"]["precision"] == precision
    assert manifest["exported"]["parameters"] == sum(v.numel() for v in whole.state_dict().values())
    assert manifest["step"] == LOOP.max_steps
    assert manifest["data_hash"] == coded_store.data_hash


def test_a_local_model_too(trained: Path, coded_store: EpisodeStore, tmp_path: Path) -> None:
    export_weights(trained / "local", tmp_path / "small")
    whole, _ = load_local(trained / "local")
    small, _ = load_local(tmp_path / "small")
    windows = WindowSampler(coded_store, length=5).sample(8)
    with torch.no_grad():
        expected, _, _ = whole.filter(windows, sample=False)
        found, _, _ = small.filter(windows, sample=False)
    torch.testing.assert_close(found.features, expected.features, rtol=0, atol=2e-3)


def test_no_file_is_larger_than_asked(
    trained: Path, coded_store: EpisodeStore, tmp_path: Path
) -> None:
    files = export_weights(trained / "global", tmp_path / "parts", largest_file=60_000)
    export_weights(trained / "global", tmp_path / "one")
    assert len(files) > 2
    assert files[0].name == f"ema-00001-of-{len(files):05d}.safetensors"
    assert all(20_000 < f.stat().st_size <= 60_000 for f in files[:-1])
    parts, one = (open_checkpoint(tmp_path / n, "global").tensors("ema") for n in ("parts", "one"))
    assert parts.keys() == one.keys()
    assert all(torch.equal(parts[k], one[k]) for k in one)
    with pytest.raises(FogError, match=r"^weight .* bytes do not fit a file of 1000"):
        export_weights(trained / "global", tmp_path / "none", largest_file=1000)
    assert not (tmp_path / "none").exists()


def test_damaged_and_missing_files(trained: Path, tmp_path: Path) -> None:
    files = export_weights(trained / "global", tmp_path / "x", largest_file=60_000)
    content = bytearray(files[1].read_bytes())
    content[-5] ^= 1
    files[1].write_bytes(content)
    with pytest.raises(FogError, match=rf"^checkpoint file {files[1]}: .*SHA-256"):
        load_global(tmp_path / "x")
    files[1].unlink()
    with pytest.raises(FogError, match=rf"^checkpoint file {files[1]}: cannot be read"):
        load_global(tmp_path / "x")


def test_what_cannot_be_exported(trained: Path, coded_store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(FogError, match="--precision int4: known are float16, bfloat16"):
        export_weights(trained / "global", tmp_path / "x", precision="int4")
    with pytest.raises(FogError, match="is the checkpoint itself"):
        export_weights(trained / "global", trained / "global")
    manifest = json.loads((trained / "global" / "manifest.json").read_text())
    save_checkpoint(tmp_path / "policy", {}, {**manifest, "kind": "policy"})
    with pytest.raises(FogError, match="kind is 'policy', expected 'global' or 'local'"):
        export_weights(tmp_path / "policy", tmp_path / "x")
    large = {"w": torch.full((2, 2), 1e6)}
    save_checkpoint(tmp_path / "large", {"ema": large}, manifest)
    with pytest.raises(FogError, match=r"weight w: does not fit .*--precision bfloat16"):
        export_weights(tmp_path / "large", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    export_weights(trained / "global", tmp_path / "small")
    with pytest.raises(FogError, match=r"exported weights \(float16\) have no state"):
        train_global(coded_store, tmp_path / "small", LOOP, preset="tiny", resume=True)
