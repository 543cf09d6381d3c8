"""The episode store: what goes in comes out, the split holds, damage is seen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from fog_world_model.data.episodes import (
    ARRAYS,
    Episode,
    EpisodeEntry,
    EpisodeStore,
    EpisodeWriter,
    Normalisation,
)
from fog_world_model.data.store_index import Split
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
    np.testing.assert_array_equal(validation, second.split("validation"))
    # By chance, not the first or the last ones.
    count = len(validation)
    assert validation.tolist() not in (list(range(count)), list(range(20 - count, 20)))


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.1, 160, 240), (0.5, 920, 1080)])
def test_split_holds_out_about_the_fraction(fraction: float, low: int, high: int) -> None:
    """2000 draws: four standard deviations are 54 and 89."""
    held_out = [e.held_out for e in Split(fraction, 3).apply(entries(2000))]
    assert low < sum(held_out) < high
    other = [e.held_out for e in Split(fraction, 4).apply(entries(2000))]
    assert held_out != other


def entries(count: int, bag: str = "bag") -> list[EpisodeEntry]:
    return [EpisodeEntry("shard", 3 * i, 3, f"{bag}#{i}", "", "") for i in range(count)]


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_more_episodes_move_none_from_one_side_to_the_other(
    count: int, more: int, fraction: float, seed: int
) -> None:
    split = Split(fraction, seed)
    before = split.apply(entries(count))
    decided = {e.source: e.held_out for e in before}
    after = split.apply([*before, *entries(more, "more")], decided)
    if len({e.held_out for e in before}) == 2:  # else the only episode may have to change sides
        assert after[:count] == before
    if count + more > 1:
        assert {e.held_out for e in after} == {True, False}
    # But for the one that keeps a side from being empty, the source alone decides.
    alone = [split.place(e.source) < fraction for e in after]
    assert sum(a != e.held_out for a, e in zip(alone, after, strict=True)) <= 2


@pytest.mark.parametrize(
    ("episodes", "fraction", "held_out"),
    [(2, 0.1, 1), (2, 0.9, 1), (1, 0.1, 0), (5, 0.0, 0), (4, 1.0, 3)],
)
def test_both_sides_get_an_episode(
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
    other = store.normalised_as(Normalisation.from_dict({"mean": [1.0, 2.0], "std": [3.0, 4.0]}))
    assert other.normalisation.to_dict() == {"mean": [1.0, 2.0], "std": [3.0, 4.0]}
    assert store.normalisation is found
    assert other.column("reward") is store.column("reward"), "nothing is read twice"
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
    """Change the index."""
    content = json.loads((path / "index.json").read_text())
    change(content)
    (path / "index.json").write_text(json.dumps(content))


SHARD = Path("shards", "episodes")


def cut_short(path: Path) -> None:
    """Cut an array to three rows."""
    zarr.open_array(str(path / SHARD / "reward"), mode="r+").resize((3,))


def metadata(array: Path) -> Path:
    """What zarr 3 or zarr 2 says of an array."""
    return next(p for p in (array / "zarr.json", array / ".zarray") if p.exists())


def chunks(array: Path) -> list[Path]:
    return [p for p in array.rglob("*") if p.is_file() and not p.name.startswith((".", "zarr"))]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda p: (p / "index.json").unlink(), "import was not finished"),
        (lambda p: (p / "index.json").write_text('{"for'), "index.json cannot be read"),
        (lambda p: shutil.rmtree(p / SHARD / "image"), "array 'image' is missing"),
        (lambda p: shutil.rmtree(p / SHARD), "array 'image' is missing"),
        (lambda p: metadata(p / SHARD / "end").unlink(), "'end' cannot be read"),
        (lambda p: metadata(p / SHARD / "end").write_text("{}"), "'end' cannot be read"),
        (lambda p: chunks(p / SHARD / "image")[0].unlink(), "2 of its 3 chunks are there"),
        (lambda p: edit(p, lambda a: a.update(format=0)), "format 0"),
        (lambda p: edit(p, lambda a: a.clear()), "format None"),
        (lambda p: edit(p, lambda a: a.pop("task")), "index.json cannot be read: .*task"),
        (lambda p: edit(p, lambda a: a.update(task={})), "name is missing"),
        (lambda p: edit(p, lambda a: a["episodes"].pop()), "its hash does not fit"),
        (lambda p: edit(p, lambda a: a["episodes"][7].update(length=9)), "lies in no shard"),
        (lambda p: edit(p, lambda a: a.update(shards={})), "coded#0 lies in no shard"),
        (cut_short, "'reward' is not whole"),
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
    chunk = min(chunks(path / SHARD / "image"))
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(
        FogError, match=rf"^episode store {path}: shard episodes: array 'image' cannot be read"
    ):
        EpisodeStore(path).episode(0)


def test_a_store_of_the_old_format(tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path / "old"), mode="w")
    with pytest.raises(FogError, match="made by an older version; make it again"):
        EpisodeStore(tmp_path / "old")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"reward": np.float32(np.nan)}, "'reward' holds values that are not finite"),
        ({"proprioception": np.float32(np.inf)}, "'proprioception' holds values that are not"),
        ({"action": np.float32(1.5)}, r"'action' leaves \[-1, 1\]"),
        ({"end": np.int64(1)}, "'end' is int64"),
    ],
)
def test_values_that_never_enter_a_store(
    change: dict[str, Any], expected: str, tmp_path: Path, tiny_task: TaskConfig
) -> None:
    episode = noise(0, 5)
    for name, value in change.items():
        array = getattr(episode, name).astype(value.dtype)
        array[2] = value
        episode = replace(episode, **{name: array})
    with (
        pytest.raises(FogError, match=f"^episode bag#7: {expected}"),
        EpisodeWriter(tmp_path / "store", tiny_task) as writer,
    ):
        writer.append(episode, source="bag#7")
    assert list(tmp_path.iterdir()) == []


def test_rows_over_shards_and_gaps(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """A store that lists some episodes of its shard, in another order: rows follow the list."""
    path = write(tmp_path / "store", tiny_task, [4, 3, 5, 6], 0.0).path
    order = [2, 3, 0]

    def choose(content: dict[str, Any]) -> None:
        content["episodes"] = [content["episodes"][i] for i in order]
        digest = hashlib.sha256(tiny_task.hash.encode())
        for entry in content["episodes"]:
            digest.update(entry["hash"].encode())
        content["data_hash"] = digest.hexdigest()

    edit(path, choose)
    store = EpisodeStore(path)
    assert store.starts.tolist() == [0, 5, 11]
    for name in ARRAYS:
        rows = np.concatenate([getattr(noise(i, n), name) for i, n in ((2, 5), (3, 6), (0, 4))])
        assert store.array(name).shape == rows.shape
        for start in range(16):
            for stop in range(start, 16):
                np.testing.assert_array_equal(store.load(name, start, stop), rows[start:stop])
                np.testing.assert_array_equal(store.array(name)[start:stop], rows[start:stop])
        np.testing.assert_array_equal(store.column(name), rows)


def test_chunk_borders(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """Chunks of 32 images; episodes 20, 30 and 40 rows long, of which the second is left out."""
    path = write(tmp_path / "store", tiny_task, [20, 30, 40], 0.0).path
    assert EpisodeStore(path).array("image").chunk_borders.tolist() == [0, 32, 64, 90]

    def leave_out(content: dict[str, Any]) -> None:
        content["episodes"].pop(1)
        digest = hashlib.sha256(tiny_task.hash.encode())
        for entry in content["episodes"]:
            digest.update(entry["hash"].encode())
        content["data_hash"] = digest.hexdigest()

    edit(path, leave_out)
    # Rows 20 to 59 of the store are rows 50 to 89 of the shard: the chunk changes at its row 64.
    assert EpisodeStore(path).array("image").chunk_borders.tolist() == [0, 20, 34, 60]
