"""The episode store: what goes in comes out, the split holds, damage is seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from fog_world_model.data.episodes import (
    ARRAYS,
    Episode,
    EpisodeStore,
    EpisodeWriter,
    Normalisation,
)
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict


def noise(seed: int, length: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        image=rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8),
        proprioception=rng.normal(size=(length, 2)).astype(np.float32),
        action=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        reward=rng.normal(size=length).astype(np.float32),
        end=rng.random(length) < 0.5,
        stamp_ns=rng.integers(0, 2**62, length),
    )


def write(path: Path, task: TaskConfig, lengths: list[int], fraction: float = 0.3) -> EpisodeStore:
    writer = EpisodeWriter(path, task)
    for i, length in enumerate(lengths):
        writer.append(noise(i, length), source=f"bag#{i}")
    return writer.finish(validation_fraction=fraction, report={"made": "for a test"})


def test_round_trip_over_several_flushes(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """Rows are written in blocks of about 1024."""
    lengths = [3, 700, 500, 2, 1100, 40]
    write(tmp_path / "store", tiny_task, lengths)
    store = EpisodeStore(tmp_path / "store", tiny_task)
    assert store.task == tiny_task
    assert store.attributes["report"] == {"made": "for a test"}
    assert store.lengths.tolist() == lengths
    assert store.starts.tolist() == [0, 3, 703, 1203, 1205, 2305]
    assert store.transitions == sum(lengths) - len(lengths)
    for i, length in enumerate(lengths):
        found, expected = store.episode(i), noise(i, length)
        assert len(found) == length
        for name in ARRAYS:
            left, right = getattr(found, name), getattr(expected, name)
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, err_msg=name)


def test_nothing_lies_under_the_name_before_the_end(tmp_path: Path, tiny_task: TaskConfig) -> None:
    with EpisodeWriter(tmp_path / "store", tiny_task) as writer:
        writer.append(noise(0, 1500), source="a")
        assert not (tmp_path / "store").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_episodes(tmp_path: Path, tiny_task: TaskConfig) -> None:
    with pytest.raises(FogError, match="store: there is no episode"):
        EpisodeWriter(tmp_path / "store", tiny_task).finish(validation_fraction=0.1, report={})
    assert not (tmp_path / "store").exists()


def test_split_is_reproducible_disjoint_and_whole(tmp_path: Path, tiny_task: TaskConfig) -> None:
    lengths = [5] * 20
    first = write(tmp_path / "first", tiny_task, lengths)
    second = write(tmp_path / "second", tiny_task, lengths)
    training, validation = first.split("training"), first.split("validation")
    assert sorted([*training, *validation]) == list(range(20))
    assert len(validation) == 6
    np.testing.assert_array_equal(validation, second.split("validation"))
    # By chance, not the first or the last ones, and not one after the other.
    assert validation.tolist() not in (list(range(6)), list(range(14, 20)))


@pytest.mark.parametrize(
    ("episodes", "fraction", "held_out"),
    [(10, 0.1, 1), (3, 0.1, 1), (2, 0.9, 1), (1, 0.1, 0), (5, 0.0, 0), (4, 1.0, 3)],
)
def test_size_of_the_split(
    tmp_path: Path, tiny_task: TaskConfig, episodes: int, fraction: float, held_out: int
) -> None:
    """At least one episode on either side where there are two."""
    store = write(tmp_path / "store", tiny_task, [3] * episodes, fraction)
    assert len(store.split("validation")) == held_out


def test_content_hash(tmp_path: Path, tiny_task: TaskConfig) -> None:
    first = write(tmp_path / "a", tiny_task, [4, 5])
    assert write(tmp_path / "b", tiny_task, [4, 5]).data_hash == first.data_hash
    assert write(tmp_path / "c", tiny_task, [5, 4]).data_hash != first.data_hash
    other = replace(tiny_task, description="another")
    assert write(tmp_path / "d", other, [4, 5]).data_hash != first.data_hash


def test_normalisation_is_that_of_the_training_episodes(
    tmp_path: Path, tiny_task: TaskConfig
) -> None:
    writer = EpisodeWriter(tmp_path / "store", tiny_task)
    for i in range(4):
        vector = np.full((6, 2), 7.0, np.float32)  # the second field never changes
        vector[:, 0] = np.arange(6) + 100 * i
        writer.append(replace(noise(i, 6), proprioception=vector), source=f"x#{i}")
    store = writer.finish(validation_fraction=0.25, report={})
    rows = np.concatenate([store.episode(i).proprioception for i in store.split("training")])
    found = store.normalisation
    np.testing.assert_allclose(found.mean, [rows[:, 0].mean(), 7.0], rtol=1e-6)
    np.testing.assert_allclose(found.std, [rows[:, 0].std(), 1.0], rtol=1e-6)
    applied = found.apply([[found.mean[0] + found.std[0], 9.0]])
    np.testing.assert_allclose(applied, [[1.0, 2.0]], rtol=1e-6)
    again = Normalisation.from_dict(json.loads(json.dumps(found.to_dict())))
    np.testing.assert_array_equal(again.mean, found.mean)
    np.testing.assert_array_equal(again.std, found.std)


def test_store_of_another_task(coded_store: EpisodeStore, tiny_task: TaskConfig) -> None:
    content = tiny_task.to_dict()
    content["control_hz"] = 10.0
    with pytest.raises(
        FogError, match=rf"episode store {coded_store.path} was made for.*control_hz"
    ):
        EpisodeStore(coded_store.path, task_from_dict(content))


def test_missing_store(tmp_path: Path) -> None:
    with pytest.raises(FogError, match=r"nowhere: no such folder; make one with 'fog import'"):
        EpisodeStore(tmp_path / "nowhere")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the attributes in the group's metadata."""
    content = json.loads((path / "zarr.json").read_text())
    change(content["attributes"])
    (path / "zarr.json").write_text(json.dumps(content))


def cut_short(path: Path) -> None:
    """Cut an array to three rows."""
    zarr.open_array(str(path / "reward"), mode="r+").resize((3,))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda p: (p / "zarr.json").unlink(), "cannot be read"),
        (lambda p: (p / "zarr.json").write_text('{"zarr_fo'), "cannot be read"),
        (lambda p: shutil.rmtree(p / "image"), "missing image"),
        (lambda p: (p / "end" / "zarr.json").unlink(), "cannot be read"),
        (lambda p: (p / "end" / "zarr.json").write_text("{}"), "cannot be read"),
        (lambda p: edit(p, lambda a: a.update(format=0)), "format 0"),
        (lambda p: edit(p, lambda a: a.clear()), "format None"),
        (lambda p: edit(p, lambda a: a.pop("task")), "the task is not whole"),
        (lambda p: edit(p, lambda a: a.update(task={})), "name is missing"),
        (lambda p: edit(p, lambda a: a["episodes"].pop()), "image.* is not whole"),
        (cut_short, "reward is not whole"),
    ],
)
def test_damaged_store(
    spoil: Callable[[Path], object], expected: str, coded_store: EpisodeStore, tmp_path: Path
) -> None:
    path = tmp_path / "spoilt"
    shutil.copytree(coded_store.path, path)
    spoil(path)
    with pytest.raises(FogError, match=rf"^episode store {path}: .*{expected}"):
        EpisodeStore(path)


def test_damaged_chunk(coded_store: EpisodeStore, tmp_path: Path) -> None:
    path = tmp_path / "spoilt"
    shutil.copytree(coded_store.path, path)
    (chunk,) = [p for p in (path / "image").rglob("*") if p.is_file() and p.name != "zarr.json"]
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(FogError, match=rf"^episode store {path}: array 'image' cannot be read"):
        EpisodeStore(path).episode(0)
