"""Windows from memory and from disk: the same, in the same order, in bounded memory."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_world_model.data import image_sources
from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.data.image_sources import (
    ImagesInMemory,
    ImagesOnDisk,
    available_bytes,
    image_bytes,
    image_source,
)
from fog_world_model.data.shard import IMAGE_CHUNK_ROWS
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

ROW_BYTES = 16 * 16 * 3
LENGTHS = (40, 300, 7, 120, 260, 33, 500, 64)


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory, tiny_task: TaskConfig) -> EpisodeStore:
    """Random images over several chunks, whose borders are not those of the episodes."""
    generator = np.random.default_rng(0)
    with EpisodeWriter(tmp_path_factory.mktemp("store") / "long", tiny_task) as writer:
        for number, length in enumerate(LENGTHS):
            episode = Episode(
                image=generator.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8),
                proprioception=generator.normal(size=(length, 2)).astype(np.float32),
                action=generator.uniform(-1, 1, (length, 2)).astype(np.float32),
                reward=generator.uniform(size=length).astype(np.float32),
                end=np.zeros(length, np.bool_),
                stamp_ns=np.arange(length) * 200_000_000,
            )
            writer.append(episode, source=f"long#{number}")
        return writer.finish(validation_fraction=0.3, report={})


@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_disk_equals_memory(long_store: EpisodeStore, split: str, cache_bytes: int) -> None:
    """Batch after batch, with batches of other sizes and direct reads between them."""
    options: dict[str, Any] = {"length": 20, "split": split, "seed": 5}
    memory = WindowSampler(long_store, images="ram", **options)
    source = ImagesOnDisk(long_store, cache_bytes=cache_bytes)
    disk = WindowSampler(long_store, images=source, **options)
    for batch in (4, 4, 4, 9, 9, 1, 4, 4):
        a, b = memory.sample(batch), disk.sample(batch)
        for field in dataclasses.fields(a):
            assert torch.equal(getattr(a, field.name), getattr(b, field.name)), field.name
        assert memory.generator_state == disk.generator_state
    some = memory.every(37)
    assert torch.equal(memory.at(some).image, disk.at(some).image)
    state = memory.generator_state
    expected = memory.sample(6).image
    disk.sample(6)
    disk.generator_state = state
    assert torch.equal(disk.sample(6).image, expected)


@pytest.mark.parametrize("reordered", [False, True])
def test_images_are_those_of_the_store(
    long_store: EpisodeStore, tmp_path: Path, reordered: bool
) -> None:
    """Also when the store names some of a shard's episodes, in another order."""
    store = long_store
    if reordered:
        shutil.copytree(store.path, tmp_path / "store")
        index = dataclasses.replace(store.index, episodes=store.episodes[::-1][1:])
        index.write(tmp_path / "store")
        store = EpisodeStore(tmp_path / "store")
    everything = np.concatenate([store.episode(i).image for i in range(len(store.lengths))])
    for split in ("training", "validation"):
        rows = WindowSampler(store, length=7, split=split).every(11)
        for source in (ImagesInMemory(store, split), ImagesOnDisk(store)):
            for row, window in zip(rows, source.windows(rows, 7), strict=True):
                expected = everything[row : row + 7].transpose(0, 3, 1, 2)
                np.testing.assert_array_equal(window, expected)


def test_only_the_split_is_held(long_store: EpisodeStore) -> None:
    held = ImagesInMemory(long_store, "validation")
    rows = int(long_store.lengths[long_store.split("validation")].sum())
    assert held._images.nbytes == rows * ROW_BYTES == image_bytes(long_store, "validation")


def test_samplers_share_what_is_in_memory(long_store: EpisodeStore) -> None:
    store = EpisodeStore(long_store.path)
    first = image_source(store, "training", "ram")
    assert image_source(store, "training", "ram") is first
    assert image_source(store, "validation", "ram") is not first
    assert image_source(EpisodeStore(store.path), "training", "ram") is not first


class Counted(ImagesOnDisk):
    """Counts the chunks that are decoded."""

    def __init__(self, store: EpisodeStore, **options: Any) -> None:
        super().__init__(store, **options)
        self.read: list[int] = []
        self.threads: set[str] = set()

    def _read(self, chunk: int) -> Any:
        self.read.append(chunk)
        self.threads.add(threading.current_thread().name)
        return super()._read(chunk)


def test_chunks_are_read_once_for_a_batch(long_store: EpisodeStore) -> None:
    source = Counted(long_store, cache_bytes=0)
    rows = WindowSampler(long_store, length=20).every(3)
    source.windows(rows, 20)
    assert len(rows) > 2 * len(source.read)
    assert len(set(source.read)) == len(source.read)


def test_chunks_used_last_stay(long_store: EpisodeStore) -> None:
    step = IMAGE_CHUNK_ROWS
    source = Counted(long_store, cache_bytes=2 * step * ROW_BYTES)

    def look(*chunks: int) -> list[int]:
        source.read.clear()
        for chunk in chunks:
            source.windows(np.asarray([chunk * step]), 1)
        return source.read

    assert look(0, 1, 0) == [0, 1]
    assert look(2) == [2]  # in place of 1, which was used before 0
    assert look(0, 2, 1) == [1]
    assert sum(c.nbytes for c in source._cache.values()) == 2 * step * ROW_BYTES


def test_reads_ahead_in_threads_of_its_own(long_store: EpisodeStore) -> None:
    source = Counted(long_store, cache_bytes=0, workers=1)
    sampler = WindowSampler(long_store, length=5, images=source)
    sampler.sample(3)
    source.threads.clear()
    for _ in range(4):
        sampler.sample(3)
        assert len(source._expected) == source.ahead == 2
    assert source.threads == {"images_0"}


def test_memory_decides(long_store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is available is the limit, unless one says where from."""
    store = EpisodeStore(long_store.path)
    size = image_bytes(store, "training")
    monkeypatch.setattr(image_sources, "available_bytes", lambda: 2 * size)
    assert isinstance(image_source(store, "training"), ImagesOnDisk)
    monkeypatch.setattr(image_sources, "available_bytes", lambda: 2 * size + 1)
    assert isinstance(image_source(store, "training", "disk"), ImagesOnDisk)
    assert isinstance(image_source(store, "training"), ImagesInMemory)
    monkeypatch.setattr(image_sources, "available_bytes", lambda: 0)
    assert isinstance(image_source(store, "training"), ImagesInMemory)  # it is there already
    assert isinstance(image_source(store, "validation"), ImagesOnDisk)
    assert isinstance(image_source(store, "validation", "ram"), ImagesInMemory)
    with pytest.raises(FogError, match="images from 'tape': expected auto, ram or disk"):
        image_source(store, "training", "tape")  # type: ignore[arg-type]


def test_the_store_says_where_from(long_store: EpisodeStore) -> None:
    """One option for all samplers of a run; a sampler that is told otherwise does otherwise."""
    store = EpisodeStore(long_store.path, images="disk")
    assert isinstance(image_source(store, "training"), ImagesOnDisk)
    assert isinstance(image_source(store, "training", "ram"), ImagesInMemory)
    assert isinstance(WindowSampler(store, length=4)._images, ImagesOnDisk)


def test_limit_of_a_container(tmp_path: Path) -> None:
    machine = available_bytes(tmp_path)
    assert machine > 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 0.5 * machine
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 250000\nactive_file 9\n")
    assert available_bytes(tmp_path) == 550_000


@pytest.mark.parametrize("images", ["ram", "disk"])
def test_damaged_chunk(long_store: EpisodeStore, tmp_path: Path, images: Any) -> None:
    """Also when it was read ahead, in another thread."""
    path = tmp_path / "store"
    shutil.copytree(long_store.path, path)
    for file in path.rglob("image/**/*"):
        if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs"):
            file.write_bytes(b"not a chunk")
    with pytest.raises(FogError, match=r"array 'image' cannot be read.*fog import"):
        WindowSampler(EpisodeStore(path), length=5, images=images).sample(2)
