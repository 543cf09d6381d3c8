"""Damaged bags: an import says so, or the damage was where nothing depends on it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from recorded_drive import Drive, drive_task, write_sqlite_by_hand

from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.import_bags import import_bags
from fog_world_model.errors import FogError

FILES = 90


@pytest.fixture(scope="module", params=["mcap", "zstd", "sqlite"])
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, in several chunks."""
    path = tmp_path_factory.mktemp("bags") / str(request.param)
    messages = Drive(10, size=16).messages()
    if request.param == "sqlite":
        return write_sqlite_by_hand(path, messages)
    compression = "zstd" if request.param == "zstd" else ""
    with BagWriter(path, chunk_bytes=4000, compression=compression) as writer:  # type: ignore[arg-type]
        for log_ns, topic, typename, data in messages:
            writer.write(topic, typename, data, log_ns)
    return path


def test_an_error_or_the_same_episodes(bag: Path, tmp_path: Path) -> None:
    """Random cuts, flipped bits and zeroed pages. SQLite has no checksums: there the content may
    differ, but nothing crashes and nothing half-written is left."""
    whole = import_bags([bag], drive_task(), tmp_path / "whole")
    outcomes: Counter[str] = Counter()
    for seed in range(FILES):
        rng = np.random.default_rng(seed)
        copy = shutil.copytree(bag, tmp_path / "copy")
        file = next(p for p in copy.iterdir() if p.suffix in (".mcap", ".db3"))
        data = bytearray(file.read_bytes())
        kind = seed % 3
        if kind == 0:
            data = data[: int(rng.integers(len(data)))]
        elif kind == 1:
            for place in rng.integers(0, len(data), int(rng.integers(1, 4))):
                data[place] ^= 1 << int(rng.integers(8))
        else:
            start = int(rng.integers(len(data)))
            length = int(rng.integers(1, 600))
            data[start : start + length] = bytes(len(data[start : start + length]))
        file.write_bytes(data)
        said = ""
        try:
            store = import_bags([copy], drive_task(), tmp_path / "store")
        except FogError as error:
            said = str(error)
        if said:
            outcomes["refused"] += 1
            assert str(copy) in said
            assert not (tmp_path / "store").exists()
        else:
            same = store.data_hash == whole.data_hash
            outcomes["same" if same else "other"] += 1
            assert same or bag.name == "sqlite", seed
            shutil.rmtree(store.path)
        shutil.rmtree(copy)
    assert outcomes["refused"] > FILES / 4
