"""Checking, merging, filtering and splitting stores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fog_world_model.data.episodes import ARRAYS, Episode, EpisodeStore, EpisodeWriter
from fog_world_model.data.store_operations import (
    check_store,
    filter_store,
    merge_stores,
    split_store,
)
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

SHARD = Path("shards", "episodes")


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


OUTCOMES = ("success", "failure", "", "success", "", "failure")


def write(path: Path, task: TaskConfig, seeds: range, fraction: float = 0.4) -> EpisodeStore:
    """Episode i has 20 + 5 i rows, and an outcome that repeats every six."""
    writer = EpisodeWriter(path, task)
    for i in seeds:
        writer.append(noise(i, 20 + 5 * i), source=f"bag#{i}", outcome=OUTCOMES[i % 6])
    return writer.finish(validation_fraction=fraction, report={})


def same(found: Episode, expected: Episode) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def chunks(path: Path, array: str) -> list[Path]:
    files = (path / SHARD / array).iterdir()
    return sorted(p for p in files if not p.name.startswith((".", "zarr")))


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def swap_chunks(path: Path) -> None:
    """Two whole chunks in each other's place: nothing but the content tells."""
    first, second = chunks(path, "image")[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def test_a_whole_store_passes(tmp_path: Path, tiny_task: TaskConfig) -> None:
    told: list[tuple[str, int, int]] = []
    write(tmp_path / "store", tiny_task, range(6))
    index = check_store(tmp_path / "store", lambda *a: told.append(a))
    assert len(index.episodes) == 6
    assert told[-1] == ("checking store", 195, 195)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda p: chunks(p, "image")[2].unlink(), r"'image' is not whole: 6 of its 7 chunks"),
        (lambda p: chunks(p, "stamp_ns")[0].unlink(), r"'stamp_ns' is not whole: 0 of its 1"),
        (lambda p: chunks(p, "image")[6].write_bytes(b""), r"episode bag#5 \(shard episodes\)"),
        (lambda p: flip(chunks(p, "reward")[0], 40), "episode bag#0"),
        (swap_chunks, r"episode bag#0 \(shard episodes\): its hash differs"),
        (lambda p: (p / SHARD / "shard.json").unlink(), "shard.json cannot be read"),
        (lambda p: (p / "report.json").unlink(), "report.json is missing"),
        (lambda p: shutil.rmtree(p / SHARD / "end"), "array 'end' is missing"),
        (lambda p: (p / "index.json").write_text("{"), "index.json cannot be read"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_damage_is_found_and_named(
    spoil: Callable[[Path], object], expected: str, tmp_path: Path, tiny_task: TaskConfig
) -> None:
    path = write(tmp_path / "store", tiny_task, range(6)).path
    spoil(path)
    with pytest.raises(FogError, match=rf"(?s)^episode store {path}: .*{expected}"):
        check_store(path)


def test_values_that_another_program_put_there(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """Even when the hashes fit, NaN is no content of a store."""
    path = write(tmp_path / "store", tiny_task, range(2)).path
    store = EpisodeStore(path)
    episode = store.episode(1)
    episode.reward[3] = np.nan
    import zarr

    zarr.open_array(str(path / SHARD / "reward"), mode="r+")[20:45] = episode.reward
    for name in ("index.json", f"{SHARD}/shard.json"):
        text = (path / name).read_text()
        (path / name).write_text(text.replace(store.episodes[1].hash, episode.hash))
    content = json.loads((path / "index.json").read_text())
    changed = replace(
        store.index,
        episodes=[store.episodes[0], replace(store.episodes[1], hash=episode.hash)],
    )
    content["data_hash"] = changed.data_hash
    (path / "index.json").write_text(json.dumps(content))
    with pytest.raises(FogError, match=r"episode bag#1 .*'reward' holds values that are not fin"):
        check_store(path)


def test_filter(tmp_path: Path, tiny_task: TaskConfig) -> None:
    store = write(tmp_path / "store", tiny_task, range(12))
    for only, chosen in (
        ("success", [0, 3, 6, 9]),
        ("failure", [1, 5, 7, 11]),
        ("unmarked", [2, 4, 8, 10]),
    ):
        filter_store(store.path, tmp_path / only, only=only)  # type: ignore[arg-type]
        found = EpisodeStore(tmp_path / only)
        check_store(found.path)
        assert [e.source for e in found.episodes] == [f"bag#{i}" for i in chosen]
        for place, i in enumerate(chosen):
            same(found.episode(place), noise(i, 20 + 5 * i))
            assert found.episodes[place].held_out == store.episodes[i].held_out
    filter_store(store.path, tmp_path / "long", only="success", min_steps=49)
    assert EpisodeStore(tmp_path / "long").lengths.tolist() == [50, 65]
    with pytest.raises(FogError, match=r"no episode is left; .*the longest has 74 steps"):
        filter_store(store.path, tmp_path / "none", min_steps=75)
    with pytest.raises(FogError, match="exists already"):
        filter_store(store.path, tmp_path / "long")
    assert not list(tmp_path.glob("*.part"))


def test_merge(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """The shards of the two have one name; episodes 3 to 5 of the second are in both."""
    first = write(tmp_path / "first", tiny_task, range(6))
    second = write(tmp_path / "second", tiny_task, range(6, 9))
    filter_store(first.path, tmp_path / "part", only="success")
    index = merge_stores([first.path, second.path, tmp_path / "part"], tmp_path / "merged")
    found = EpisodeStore(tmp_path / "merged")
    check_store(found.path)
    assert len(index.shards) == 2
    assert [e.source for e in found.episodes] == [f"bag#{i}" for i in range(9)]
    for i in range(9):
        same(found.episode(i), noise(i, 20 + 5 * i))
    sides = [e.held_out for s in (first, second) for e in s.episodes]
    assert [e.held_out for e in found.episodes] == sides


def test_merge_refuses_what_does_not_fit(tmp_path: Path, tiny_task: TaskConfig) -> None:
    first = write(tmp_path / "first", tiny_task, range(6))
    with pytest.raises(FogError, match="name at least two stores"):
        merge_stores([first.path], tmp_path / "merged")
    other = write(tmp_path / "other", replace(tiny_task, control_hz=7.0), range(2))
    with pytest.raises(FogError, match="was made for task"):
        merge_stores([first.path, other.path], tmp_path / "merged")
    shutil.copytree(first.path, tmp_path / "copy")
    split_store(tmp_path / "copy", validation_fraction=0.5, seed=8)
    with pytest.raises(FogError, match=r"holds out episode bag#.* differently"):
        merge_stores([first.path, tmp_path / "copy"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob("*.part"))


def test_split(tmp_path: Path, tiny_task: TaskConfig) -> None:
    store = write(tmp_path / "store", tiny_task, range(30), 0.1)
    files = {p: p.stat().st_mtime_ns for p in (store.path / "shards").rglob("*") if p.is_file()}
    split_store(store.path, validation_fraction=0.5, seed=3)
    changed = EpisodeStore(store.path)
    check_store(changed.path)
    assert changed.data_hash == store.data_hash
    assert 6 <= len(changed.split("validation")) <= 24
    before = changed.split("validation").tolist()
    split_store(store.path, validation_fraction=0.5, seed=4)
    assert EpisodeStore(store.path).split("validation").tolist() != before
    split_store(store.path, validation_fraction=0.5, seed=3)
    assert EpisodeStore(store.path).split("validation").tolist() == before
    assert files == {p: p.stat().st_mtime_ns for p in files}
    # A larger fraction only adds to those that are held out.
    split_store(store.path, validation_fraction=0.7, seed=3)
    assert set(before) < set(EpisodeStore(store.path).split("validation").tolist())
    with pytest.raises(FogError, match=r"--validation-fraction 1.5: expected a number in \[0, 1\]"):
        split_store(store.path, validation_fraction=1.5, seed=3)


def test_links_of_a_store_that_is_deleted(tmp_path: Path, tiny_task: TaskConfig) -> None:
    store = write(tmp_path / "store", tiny_task, range(3))
    filter_store(store.path, tmp_path / "part", min_steps=20)
    shutil.rmtree(store.path)
    assert check_store(tmp_path / "part")
    same(EpisodeStore(tmp_path / "part").episode(0), noise(1, 25))


def test_report_of_a_filtered_store_counts_what_is_left(
    tmp_path: Path, tiny_task: TaskConfig
) -> None:
    store = write(tmp_path / "store", tiny_task, range(6))
    filter_store(store.path, tmp_path / "part", only="failure")
    found: dict[str, Any] = EpisodeStore(tmp_path / "part").attributes["report"]
    assert (found["episodes"], found["transitions"]) == (2, 24 + 44)
    assert found["filtered"] == {"only": "failure", "min_steps": 0}


def test_rows_that_no_episode_lists_are_checked_too(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """They may be listed by another store that shares the files."""
    store = write(tmp_path / "store", tiny_task, range(6))
    filter_store(store.path, tmp_path / "part", only="failure")
    flip(chunks(tmp_path / "part", "image")[0], 5000)  # rows 0 to 31: episodes 0 and 1
    with pytest.raises(FogError, match=r"episode bag#0 \(shard episodes\)"):
        check_store(tmp_path / "part")
