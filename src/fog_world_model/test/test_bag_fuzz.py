"""Damaged files: each is read, recovered or refused with a clear error, never a crash or a hang."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_recover import recover_bag
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.messages import TYPESTORE
from fog_world_model.errors import FogError

FLOAT, IMAGE = "std_msgs/msg/Float32", "sensor_msgs/msg/Image"
SECONDS_PER_FILE = 5.0


class TooLongError(BaseException):
    """Not an Exception, so that nothing on the way takes it for damage."""


Message = tuple[str, bytes, int]


def sent() -> list[tuple[str, str, bytes, int]]:
    noise = random.Random(0)
    found = []
    for i in range(60):
        found.append(("/number", FLOAT, b"\0\1\0\0" + noise.randbytes(4), 2 * i + 1))
        found.append(("/image", IMAGE, b"\0\1\0\0" + noise.randbytes(700), 2 * i + 2))
    return found


def written(path: Path, kind: str) -> Path:
    """A bag of about 50 kB in several chunks; return its storage file."""
    if kind.startswith("fog"):
        compression = "zstd" if kind == "fog zstd" else ""
        with BagWriter(path, {"a": "b"}, chunk_bytes=5000, compression=compression) as bag:  # type: ignore[arg-type]
            for message in sent():
                bag.write(*message)
        return path / f"{path.name}.mcap"
    storage = StoragePlugin.SQLITE3 if kind == "sqlite" else StoragePlugin.MCAP
    writer = Writer(path, version=8, storage_plugin=storage)
    if kind == "message zstd":
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, typename, data, log_ns in sent():
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, typename, typestore=TYPESTORE)
            writer.write(connections[topic], log_ns, data)
    return path / f"{path.name}{'.db3' if kind == 'sqlite' else '.mcap'}"


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def flip_bytes(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 2, 5, 50])):
        data[chance.randrange(len(data))] = chance.randrange(256)


def flip_at_the_ends(data: bytearray, chance: random.Random) -> None:
    """Where the head and the index are."""
    for _ in range(chance.choice([1, 2, 5])):
        at = chance.randrange(min(len(data), 1500))
        data[at if chance.random() < 0.4 else len(data) - 1 - at] = chance.randrange(256)


def blank(data: bytearray, chance: random.Random) -> None:
    """As a file system may leave a block after a power cut."""
    at = chance.randrange(len(data)) // 512 * 512
    size = min(chance.choice([512, 4096]), len(data) - at)
    data[at : at + size] = bytes(size)


def insert(data: bytearray, chance: random.Random) -> None:
    at, source = chance.randrange(len(data)), chance.randrange(len(data))
    data[at:at] = data[source : source + chance.randrange(1, 3000)]


def several(data: bytearray, chance: random.Random) -> None:
    for damage in chance.sample([flip_bytes, blank, insert, cut], 3):
        if data:
            damage(data, chance)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read(path: Path) -> list[Message] | None:
    """Messages, or None when the bag is refused."""
    try:
        with BagReader(path) as bag:
            json.dumps([bag.custom, bag.account, bag.episode, bag.warnings, bag.duration_s])
            return [(m.topic, m.data, m.log_ns) for m in bag.messages()]
    except FogError:
        return None


@pytest.mark.parametrize("kind", ["fog", "fog zstd", "rosbags", "message zstd", "sqlite"])
def test_100_damaged_files(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # half of the time otherwise
    file = written(tmp_path / "bag", kind)
    whole = file.read_bytes()
    original = {(topic, data, log_ns) for topic, _, data, log_ns in sent()}
    damages = [cut, flip_bytes, flip_at_the_ends, blank, insert, several]
    started = time.monotonic()
    refused = recovered = 0
    for seed in range(100):
        chance = random.Random(f"{kind} {seed}")
        damage = damages[seed % len(damages)]
        data = bytearray(whole)
        damage(data, chance)
        file.write_bytes(data)
        new = tmp_path / f"new_{seed}"
        with time_limit(SECONDS_PER_FILE):
            if seed % 3 == 0:  # the file alone, without metadata.yaml beside it
                alone = tmp_path / f"alone_{seed}" / file.name
                alone.parent.mkdir()
                file.rename(alone)
                source = alone
            else:
                source = file.parent
            found = read(source)
            refused += found is None
            try:
                saved = recover_bag(source, new).saved
            except FogError:
                saved = {}
            assert not new.exists() or sum(saved.values())
            if saved:
                recovered += 1
                again = read(new)
                assert again is not None and len(again) == sum(saved.values())
        if kind.startswith("fog"):  # every chunk has a checksum: nothing wrong ever gets through
            if found is not None:
                assert set(found) == original
            if saved and damage is not several:
                assert again is not None and set(again) <= original
    assert recovered > 50 and refused > 30
    assert time.monotonic() - started < 100 * SECONDS_PER_FILE
