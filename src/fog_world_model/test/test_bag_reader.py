"""Bags of any recorder, compression and number of files; what is cut or damaged is refused."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from mcap.reader import make_reader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.messages import TYPESTORE, make, serialise
from fog_world_model.errors import FogError

FLOAT = "std_msgs/msg/Float32"
TWIST = "geometry_msgs/msg/Twist"

Sent = list[tuple[str, str, bytes, int]]


def number(value: float) -> bytes:
    return serialise(make(FLOAT, data=value))


@pytest.fixture
def sent() -> Sent:
    twist = serialise(make(TWIST))
    return [("/a", FLOAT, number(i), 10 * i) for i in range(1, 20)] + [("/b", TWIST, twist, 995)]


def content(path: Path, topics: list[str] | None = None) -> Sent:
    with BagReader(path) as bag:
        return [(m.topic, m.type, m.data, m.log_ns) for m in bag.messages(topics)]


def write_with_rosbags(path: Path, sent: Sent, mode: CompressionMode, storage: Any) -> None:
    writer = Writer(path, version=8, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    writer.set_custom_data("key", "text")
    with writer:
        connections = {}
        for topic, typename, data, log_ns in sent:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, typename, typestore=TYPESTORE)
            writer.write(connections[topic], log_ns, data)


@pytest.mark.parametrize(
    ("mode", "storage", "compression"),
    [
        (CompressionMode.NONE, StoragePlugin.MCAP, ""),
        (CompressionMode.NONE, StoragePlugin.SQLITE3, ""),
        (CompressionMode.FILE, StoragePlugin.MCAP, "zstd (file)"),
        (CompressionMode.FILE, StoragePlugin.SQLITE3, "zstd (file)"),
        (CompressionMode.MESSAGE, StoragePlugin.MCAP, "zstd (message)"),
        (CompressionMode.MESSAGE, StoragePlugin.SQLITE3, "zstd (message)"),
        (CompressionMode.STORAGE, StoragePlugin.MCAP, "zstd (chunk)"),
    ],
)
def test_bags_of_another_recorder(
    mode: Any, storage: Any, compression: str, tmp_path: Path, sent: Sent
) -> None:
    write_with_rosbags(tmp_path / "bag", sent, mode, storage)
    assert content(tmp_path / "bag") == sent
    assert content(tmp_path / "bag", ["/b"]) == sent[-1:]
    with BagReader(tmp_path / "bag") as bag:
        assert bag.counts == {"/a": 19, "/b": 1}
        assert bag.topics == {"/a": FLOAT, "/b": TWIST}
        assert bag.custom == {"key": "text"}
        assert bag.compression == compression
        assert bag.size_bytes == sum(f.stat().st_size for f in bag.files) > 0
        assert (bag.start_ns, bag.duration_s) == (10, pytest.approx(985e-9, abs=1.1e-9))
        assert bag.account == {} and bag.warnings == [] and bag.episode == {}


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_whole_file_alone(storage: StoragePlugin, tmp_path: Path, sent: Sent) -> None:
    write_with_rosbags(tmp_path / "bag", sent, CompressionMode.NONE, storage)
    (file,) = [p for p in (tmp_path / "bag").iterdir() if p.name != "metadata.yaml"]
    with BagReader(file) as bag:  # the metadata beside it is used
        assert bag.path == tmp_path / "bag"
    (tmp_path / "bag/metadata.yaml").unlink()
    assert content(file) == sent
    with BagReader(file) as bag:
        assert bag.custom == {"key": "text"}
        assert bag.counts == {"/a": 19, "/b": 1}
    with pytest.raises(FogError, match=r"has no metadata\.yaml.*`fog bag recover"):
        BagReader(tmp_path / "bag")


def test_one_file_of_a_split_bag(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", {"key": "text"}, max_s=1e-8) as writer:
        for i in range(5):
            writer.write("/a", FLOAT, number(i), i * 6)
    assert [m[3] for m in content(tmp_path / "bag")] == [0, 6, 12, 18, 24]
    assert [m[3] for m in content(tmp_path / "bag" / "bag_1.mcap")] == [12, 18]
    with BagReader(tmp_path / "bag" / "bag_1.mcap") as bag:
        assert bag.custom == {"key": "text"}


def sqlite_bag(folder: Path, schema: str, topic: str, sent: Sent, names: list[str]) -> None:
    """A bag as recorders before and after Foxy and Iron wrote it, by hand."""
    folder.mkdir()
    share = -(-len(sent) // len(names))
    for index, name in enumerate(names):
        database = sqlite3.connect(folder / name)
        database.executescript(schema)
        database.execute(topic)
        database.executemany(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)",
            [(m[3], m[2]) for m in sent[index * share : (index + 1) * share]],
        )
        database.commit()
        database.close()
    information = {
        "version": 4,
        "storage_identifier": "sqlite3",
        "relative_file_paths": names,
        "duration": {"nanoseconds": sent[-1][3] - sent[0][3]},
        "starting_time": {"nanoseconds_since_epoch": sent[0][3]},
        "message_count": len(sent),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": "/a",
                    "type": FLOAT,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": "",
                },
                "message_count": len(sent),
            }
        ],
        "compression_format": "",
        "compression_mode": "",
    }
    (folder / "metadata.yaml").write_text(yaml.dump({"rosbag2_bagfile_information": information}))


MESSAGES = (
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, "
    "timestamp INTEGER NOT NULL, data BLOB NOT NULL);"
)
DASHING = (
    "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
    f"serialization_format TEXT NOT NULL); {MESSAGES}"
)
FOXY = (
    "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
    f"serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL); {MESSAGES}"
)


@pytest.mark.parametrize(
    ("schema", "topic"),
    [
        (DASHING, f"INSERT INTO topics VALUES (1, '/a', '{FLOAT}', 'cdr')"),
        (FOXY, f"INSERT INTO topics VALUES (1, '/a', '{FLOAT}', 'cdr', '')"),
    ],
)
def test_sqlite_bags_made_by_hand(schema: str, topic: str, tmp_path: Path, sent: Sent) -> None:
    sqlite_bag(tmp_path / "bag", schema, topic, sent[:-1], ["bag_0.db3"])
    assert content(tmp_path / "bag") == sent[:-1]
    sqlite_bag(tmp_path / "split", schema, topic, sent[:-1], ["x_0.db3", "x_1.db3", "x_2.db3"])
    assert content(tmp_path / "split") == sent[:-1]
    # a file of it got lost, or messages in one
    database = sqlite3.connect(tmp_path / "split" / "x_1.db3")
    database.execute("DELETE FROM messages WHERE id = 2")
    database.commit()
    database.close()
    with pytest.raises(FogError, match=r"/a has 18 messages, but metadata\.yaml says 19"):
        BagReader(tmp_path / "split")
    (tmp_path / "split" / "x_1.db3").unlink()
    with pytest.raises(FogError, match=r"missing.*fog bag recover"):
        BagReader(tmp_path / "split")


@pytest.fixture
def ours(tmp_path: Path, sent: Sent) -> Path:
    with BagWriter(tmp_path / "bag", {"key": "text"}) as writer:
        for message in sent:
            writer.write(*message)
    return tmp_path / "bag"


def test_every_flipped_byte_of_the_messages_and_the_index_is_noticed(
    ours: Path, sent: Sent
) -> None:
    file = ours / "bag.mcap"
    whole = file.read_bytes()
    with file.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    (chunk,) = summary.chunk_indexes
    index = struct.unpack_from("<Q", whole, len(whole) - 8 - 20)[0]
    end = chunk.chunk_start_offset + chunk.chunk_length
    places = [*range(end - chunk.compressed_size, end, 11), *range(index, len(whole), 11)]
    assert len(places) > 200
    for at in places:
        data = bytearray(whole)
        data[at] ^= 0x10
        file.write_bytes(data)
        with pytest.raises(FogError, match="fog bag recover"):
            content(ours)


def test_metadata_of_another_bag(ours: Path, tmp_path: Path, sent: Sent) -> None:
    with BagWriter(tmp_path / "other") as writer:
        for message in sent[:5]:
            writer.write(*message)
    shutil.copy(tmp_path / "other/other.mcap", ours / "bag.mcap")
    with pytest.raises(FogError, match=r"has 5 messages, but metadata\.yaml says 19"):
        BagReader(ours)


def test_what_the_recorder_stored_with_it(tmp_path: Path) -> None:
    account = {"/a": {"received": 3, "written": 2, "lost": 1, "gaps": [], "gaps_total": 0}}
    with BagWriter(tmp_path / "bag") as writer:
        writer.set_custom("fog_account", json.dumps(account))
        writer.set_custom("fog_warnings", json.dumps(["slow"]))
        writer.set_custom("fog_episode", json.dumps({"outcome": "success"}))
    with BagReader(tmp_path / "bag") as bag:
        assert bag.account == account
        assert bag.warnings == ["slow"]
        assert bag.episode == {"outcome": "success"}
        assert (bag.start_ns, bag.duration_s, bag.counts) == (0, 0.0, {})
    with BagWriter(tmp_path / "odd") as writer:
        writer.set_custom("fog_account", "[1]")
        writer.set_custom("fog_warnings", "{")
    with BagReader(tmp_path / "odd") as bag:
        assert bag.account == {} and bag.warnings == []


def test_what_is_no_bag(tmp_path: Path) -> None:
    with pytest.raises(FogError, match="no such file or folder"):
        BagReader(tmp_path / "bag")
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(FogError, match=r"neither an \.mcap nor a \.db3 file"):
        BagReader(tmp_path / "file.txt")
    (tmp_path / "packed.mcap").write_bytes(zstandard.compress(bytes(1000)))
    with pytest.raises(FogError, match="cannot be read"):
        BagReader(tmp_path / "packed.mcap")


def test_memory_holds_a_chunk_and_not_the_bag(tmp_path: Path) -> None:
    chunk = 1 << 20
    with BagWriter(tmp_path / "bag", chunk_bytes=chunk) as writer:
        for i in range(300):
            writer.write("/a", FLOAT, bytes(100_000), i)
    with BagReader(tmp_path / "bag") as bag:
        tracemalloc.start()
        count = sum(1 for _ in bag.messages())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 300
    assert peak < 5 * chunk < 30_000_000  # packed, unpacked, cut into messages
