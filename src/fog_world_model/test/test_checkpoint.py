"""Checkpoints: whole at any moment, saying where they come from, refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fog_world_model.data.episodes import EpisodeStore, EpisodeWriter
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig
from fog_world_model.training import checkpoint as checkpoint_module
from fog_world_model.training.checkpoint import (
    open_checkpoint,
    save_checkpoint,
    source_commit,
    source_dirty,
)
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import load_global, load_local, train_local


def content(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def manifest(task: TaskConfig, kind: str = "local") -> dict[str, Any]:
    return {
        "kind": kind,
        "task": task.to_dict(),
        "normalisation": {"mean": [0.0], "std": [1.0]},
    }


def saved(path: Path, task: TaskConfig, value: float = 1.0) -> None:
    save_checkpoint(path, {"model": {"w": torch.full((2,), value)}}, manifest(task))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"format": 1, "ki', r"manifest\.json: not valid JSON"),
        (b"\xff\xfe\x00", r"manifest\.json: not valid JSON"),
        (b"[1, 2]", r"manifest\.json: not a manifest but list"),
        (b"{}", "format is None, expected 1"),
        (b'{"format": 7, "kind": "local"}', "format is 7, expected 1"),
        (b'{"format": 1, "kind": "local"}', r"manifest\.json: normalisation, task is missing"),
        (b'{"format": 1, "kind": "local", "task": {}, "normalisation": {}}', "name is missing"),
    ],
)
def test_damaged_manifest(
    text: bytes, expected: str, tmp_path: Path, tiny_task: TaskConfig
) -> None:
    saved(tmp_path / "c", tiny_task)
    (tmp_path / "c" / "manifest.json").write_bytes(text)
    with pytest.raises(FogError, match=rf"{tmp_path / 'c'}.*{expected}"):
        open_checkpoint(tmp_path / "c", "local", tiny_task)


def test_damaged_or_missing_tensors(tmp_path: Path, tiny_task: TaskConfig) -> None:
    saved(tmp_path / "c", tiny_task)
    checkpoint = open_checkpoint(tmp_path / "c", "local", tiny_task)
    file = tmp_path / "c" / "model.safetensors"
    assert checkpoint.tensors("model")["w"].tolist() == [1.0, 1.0]
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(FogError, match=rf"checkpoint file {file}: cannot be read"):
        checkpoint.tensors("model")
    file.unlink()
    with pytest.raises(FogError, match=rf"checkpoint file {file}: cannot be read"):
        checkpoint.tensors("model")
    saved(tmp_path / "c", tiny_task)
    with pytest.raises(FogError, match=rf"checkpoint {tmp_path / 'c'}: does not fit the model"):
        checkpoint.load_into(nn.Linear(2, 2), "model")


def test_a_full_disk_keeps_the_older_checkpoint(
    tmp_path: Path, tiny_task: TaskConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "c", tiny_task, 1.0)
    before = content(tmp_path / "c")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(
        FogError, match=rf"checkpoint {tmp_path / 'c'}: cannot be written.*No space"
    ):
        saved(tmp_path / "c", tiny_task, 2.0)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert content(tmp_path / "c") == before


@pytest.mark.parametrize("links", [True, False])
def test_files_that_are_unchanged_are_taken_over(
    tmp_path: Path, tiny_task: TaskConfig, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """As the same file, or as a copy of it; what is not there is written all the same."""

    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    path = tmp_path / "c"
    first = {"model": {"w": torch.ones(2)}, "piece_0": {"w": torch.ones(3)}}
    save_checkpoint(path, first, manifest(tiny_task))
    inode = (path / "piece_0.safetensors").stat().st_ino
    second = {
        "model": {"w": torch.zeros(2)},
        "piece_0": {"w": torch.full((3,), 7.0)},  # never looked at
        "piece_1": {"w": torch.full((3,), 2.0)},
    }
    save_checkpoint(path, second, manifest(tiny_task), unchanged={"piece_0", "piece_1"})
    found = open_checkpoint(path, "local")
    assert found.tensors("model")["w"].tolist() == [0.0, 0.0]
    assert found.tensors("piece_0")["w"].tolist() == [1.0] * 3
    assert found.tensors("piece_1")["w"].tolist() == [2.0] * 3
    assert ((path / "piece_0.safetensors").stat().st_ino == inode) == links
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_killed_between_the_two_renames(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """The older checkpoint was moved away, the new one not yet in place."""
    saved(tmp_path / "c", tiny_task, 1.0)
    (tmp_path / "c").rename(tmp_path / "c.old")
    assert open_checkpoint(tmp_path / "c", "local").tensors("model")["w"].tolist() == [1.0, 1.0]
    saved(tmp_path / "c", tiny_task, 2.0)
    assert open_checkpoint(tmp_path / "c", "local").tensors("model")["w"].tolist() == [2.0, 2.0]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_manifest_says_where_it_comes_from(tmp_path: Path, tiny_task: TaskConfig) -> None:
    saved(tmp_path / "c", tiny_task)
    found = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert found["versions"]["torch"] == metadata.version("torch")
    assert {"python", "diffusers", "numpy"} <= set(found["versions"])
    assert len(found["commit"]) in (len("unknown"), 40)


def test_a_reader_does_not_disturb_a_writer(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """Between the writer's two renames a reader takes the older one and leaves it where it is."""
    saved(tmp_path / "c", tiny_task, 1.0)
    (tmp_path / "c").rename(tmp_path / "c.old")
    open_checkpoint(tmp_path / "c", "local")
    assert [p.name for p in tmp_path.iterdir()] == ["c.old"]


def test_sources_in_a_checkout_and_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean checkout, a changed one, and sources that only lie within one of something else."""
    file = tmp_path / "src" / "checkpoint.py"
    file.parent.mkdir()
    file.write_text("1")
    monkeypatch.setattr(checkpoint_module, "__file__", str(file))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]

    def found() -> tuple[str, bool | None]:
        checkpoint_module._source.cache_clear()
        return source_commit(), source_dirty()

    assert found() == ("unknown", None)
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "other"], check=True)
    assert found() == ("unknown", None)
    subprocess.run([*git, "add", "src"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert found() == (head.stdout.strip(), False)
    file.write_text("2")
    assert found() == (head.stdout.strip(), True)
    checkpoint_module._source.cache_clear()


LOOP = LoopConfig(max_steps=3, batch_size=2, device="cpu")


@pytest.fixture(scope="module")
def trained(coded_store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "local"
    train_local(coded_store, path, LOOP, preset="tiny", window=5)
    return path


def resume(path: Path, store: EpisodeStore, preset: str = "tiny", **changes: Any) -> int:
    loop = dataclasses.replace(LOOP, **{"max_steps": 4, **changes})
    return train_local(store, path, loop, preset=preset, window=5, resume=True).step


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch_size": 4}, "batch_size was 2, is 4"),
        ({"learning_rate": 1e-4}, "learning_rate was 0.0005, is 0.0001"),
        ({"seed": 1, "ema_decay": 0.9}, "ema_decay was 0.995, is 0.9; seed was 0, is 1"),
        ({"preset": "small"}, "preset was tiny, is small; config.depth was 8, is 16; "),
    ],
)
def test_another_run_is_refused(
    changes: dict[str, Any], expected: str, trained: Path, coded_store: EpisodeStore
) -> None:
    before = content(trained)
    with pytest.raises(FogError) as error:
        resume(trained, coded_store, **changes)
    assert f"checkpoint {trained}: does not belong to this run: " in str(error.value)
    assert expected in str(error.value)
    assert "Give the options it was made with, or train anew in another folder" in str(error.value)
    assert content(trained) == before


def test_what_may_change(trained: Path, coded_store: EpisodeStore, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "copy"))
    changes = {"time_budget_s": 500.0, "accumulate": 2, "checkpoint_every_s": 1.0, "threads": 1}
    assert resume(path, coded_store, **changes) == 4


def test_a_checkpoint_from_before_a_setting_goes_on(
    trained: Path, coded_store: EpisodeStore, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "copy"))
    found = json.loads((path / "manifest.json").read_text())
    del found["config"]["light_jitter"], found["window"]  # what it was then: none, and 16
    (path / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(FogError, match=r"this run: window was 16, is 5\. Give"):
        resume(path, coded_store)
    found["window"] = 5
    (path / "manifest.json").write_text(json.dumps(found))
    assert resume(path, coded_store) == 4


def test_other_data_are_refused(trained: Path, coded_store: EpisodeStore, tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "other", coded_store.task)
    for index in range(3):
        writer.append(coded_store.episode(index), source=f"other#{index}")
    other = writer.finish(validation_fraction=0.0, report={})
    with pytest.raises(FogError) as error:
        resume(trained, other)
    assert str(error.value) == (
        f"checkpoint {trained}: was made from other data (hash {coded_store.data_hash[:12]}, the "
        f"episode store has {other.data_hash[:12]}); give the store it was made from, or train "
        "anew in another folder"
    )


@pytest.mark.parametrize("key", ["averages", "sampler", "curve", "step", "seconds"])
def test_a_manifest_that_lacks_something(
    key: str, trained: Path, coded_store: EpisodeStore, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "copy"))
    found = json.loads((path / "manifest.json").read_text())
    del found[key]
    (path / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(FogError, match=rf"the manifest has no {key}, so .*; train anew in another"):
        resume(path, coded_store)
    load_local(path)  # to be used it is good enough


@pytest.mark.parametrize("name", ["random.torch", "random.python_rest"])
def test_a_state_that_lacks_something(
    name: str, trained: Path, coded_store: EpisodeStore, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "copy"))
    file = path / "training.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != name}, file)
    with pytest.raises(FogError, match=rf"has no '{name}', .*; train anew in another folder"):
        resume(path, coded_store)


def test_a_configuration_of_another_version(
    trained: Path, coded_store: EpisodeStore, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "copy"))
    found = json.loads((path / "manifest.json").read_text())
    found["config"]["levitation"] = 3
    (path / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(
        FogError, match=r"not of this version: .*'levitation'; use the version that"
    ):
        load_local(path)
    with pytest.raises(FogError, match=r"config\.levitation was 3, is not there"):
        resume(path, coded_store)
    found["kind"] = "global"
    (path / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(FogError, match="not of this version"):
        load_global(path)


def test_others_may_read_weights_as_they_may_any_file(tmp_path: Path) -> None:
    (tmp_path / "any").write_text("")
    save_checkpoint(tmp_path / "model", {"ema": {"a": torch.zeros(1)}}, {})
    modes = {p.stat().st_mode for p in (tmp_path / "model").iterdir()}
    assert modes == {(tmp_path / "any").stat().st_mode}
