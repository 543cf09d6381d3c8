"""Bags: written aside, named when complete, readable by others."""

from __future__ import annotations

import errno
import io
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from fog_world_model.data import mcap_file, messages
from fog_world_model.data.bag_metadata import DEFAULT_QOS, read_metadata
from fog_world_model.data.bag_recover import recover_bag
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.errors import FogError

FLOAT = "std_msgs/msg/Float32"
TWIST = "geometry_msgs/msg/Twist"
FULL = Path("/dev/full")


def number(value: float) -> bytes:
    return messages.serialise(messages.make(FLOAT, data=value))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes beyond a file size fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_written_and_read_back_with_equal_bytes(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "bag"
    twist = messages.serialise(messages.make(TWIST))
    sent = [("/a", FLOAT, number(i), 10**9 + i) for i in range(5)] + [
        ("/b", TWIST, twist, 2 * 10**9)
    ]
    with BagWriter(path, {"key": "value: with\nlines"}) as bag:
        for message in sent:
            bag.write(*message)
        assert not path.exists()
        assert bag.counts == {"/a": 5, "/b": 1}
    assert [p.name for p in path.parent.iterdir()] == ["bag"]
    with Reader(path) as reader:
        found = [(c.topic, c.msgtype, bytes(d), t) for c, t, d in reader.messages()]
    assert found == sent
    information = yaml.safe_load((path / "metadata.yaml").read_text())
    custom = information["rosbag2_bagfile_information"]["custom_data"]
    assert custom == {"key": "value: with\nlines"}


def test_an_independent_mcap_reader_reads_it(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/a", FLOAT, number(1.5), 7)
    with (tmp_path / "bag" / "bag.mcap").open("rb") as stream:
        reader = make_reader(stream)
        assert reader.get_header().profile == "ros2"
        ((schema, channel, message),) = list(reader.iter_messages())
    assert schema is not None
    assert (schema.name, schema.encoding, channel.topic) == (FLOAT, "ros2msg", "/a")
    assert (message.data, message.log_time) == (number(1.5), 7)


def test_metadata_and_channels_are_as_rosbags_writes_them(tmp_path: Path) -> None:
    """An independent writer of the same format, given the same messages."""
    sent = [("/a", FLOAT, number(i), 10**9 + i) for i in range(3)]
    sent.append(("/b", TWIST, messages.serialise(messages.make(TWIST)), 2 * 10**9))
    with BagWriter(tmp_path / "bag", {"key": "text"}) as bag:
        for message in sent:
            bag.write(*message)
    (tmp_path / "other").mkdir()
    other = Writer(tmp_path / "other" / "bag", version=8, storage_plugin=StoragePlugin.MCAP)
    with other:
        other.set_custom_data("key", "text")
        connections = {}
        for topic, typename, data, log_ns in sent:
            if topic not in connections:
                connections[topic] = other.add_connection(
                    topic,
                    typename,
                    typestore=messages.TYPESTORE,
                    offered_qos_profiles=[DEFAULT_QOS],
                )
            other.write(connections[topic], log_ns, data)
    ours, theirs = (read_metadata(tmp_path / p) for p in ("bag", "other/bag"))
    assert ours.keys() == theirs.keys()
    for information in (ours, theirs):
        del information["ros_distro"]
        for topic in information["topics_with_message_count"]:
            profiles = topic["topic_metadata"]["offered_qos_profiles"]
            topic["topic_metadata"]["offered_qos_profiles"] = yaml.safe_load(profiles)
    assert ours == theirs

    def described(path: Path) -> tuple[Any, Any, dict[int, int]]:
        with path.open("rb") as stream:
            summary = make_reader(stream).get_summary()
        assert summary is not None and summary.statistics is not None
        return (
            summary.schemas,
            {i: (c.topic, c.schema_id, c.message_encoding) for i, c in summary.channels.items()},
            summary.statistics.channel_message_counts,
        )

    assert described(tmp_path / "bag/bag.mcap") == described(tmp_path / "other/bag/bag.mcap")


def test_every_chunk_and_the_index_have_checksums(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", chunk_bytes=1000) as bag:
        for i in range(100):
            bag.write("/a", FLOAT, number(i), i)
    with (tmp_path / "bag/bag.mcap").open("rb") as stream:
        records = list(StreamReader(stream, emit_chunks=True, validate_crcs=True).records)
    chunks = [r for r in records if type(r).__name__ == "Chunk"]
    assert len(chunks) > 2
    assert all(c.uncompressed_crc for c in chunks)  # type: ignore[attr-defined]
    assert records[-1].summary_crc  # type: ignore[attr-defined]


def test_compressed_chunks(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", compression="zstd") as bag:
        for i in range(20):
            bag.write("/a", FLOAT, bytes(100_000), i)
    assert (tmp_path / "bag/bag.mcap").stat().st_size < 100_000
    with Reader(tmp_path / "bag") as reader:
        assert [bytes(data) for _, _, data in reader.messages()] == [bytes(100_000)] * 20


def test_quality_of_service_and_time_of_sending(tmp_path: Path) -> None:
    best_effort = DEFAULT_QOS._replace(
        reliability=type(DEFAULT_QOS.reliability).BEST_EFFORT, depth=3
    )
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/a", FLOAT, number(0), 7, publish_ns=5, offered_qos=[best_effort])
        bag.add_topic("/silent", TWIST)
        bag.add_topic("/silent", TWIST)
    with Reader(tmp_path / "bag") as reader:
        found = {c.topic: (c.msgcount, c.ext.offered_qos_profiles) for c in reader.connections}  # type: ignore[union-attr]
        assert [m[1] for m in reader.messages()] == [7]
    assert found == {"/a": (1, [best_effort]), "/silent": (0, [DEFAULT_QOS])}
    with (tmp_path / "bag/bag.mcap").open("rb") as stream:
        ((_, _, message),) = list(make_reader(stream).iter_messages())
    assert (message.publish_time, message.sequence) == (5, 1)


@pytest.mark.parametrize("limits", [{"max_bytes": 400_000}, {"max_s": 4.5}])
def test_split_files(limits: Any, tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", **limits) as bag:
        bag.add_topic("/silent", TWIST)
        for i in range(12):
            bag.write("/a", FLOAT, i.to_bytes(1, "big") * 100_000, i * 10**9)
    information = read_metadata(tmp_path / "bag")
    assert information["relative_file_paths"] == ["bag_0.mcap", "bag_1.mcap", "bag_2.mcap"]
    assert sum(f["message_count"] for f in information["files"]) == 12
    assert information["duration"] == {"nanoseconds": 11 * 10**9}
    with Reader(tmp_path / "bag") as reader:
        assert [(t, d[0]) for _, t, d in reader.messages()] == [(i * 10**9, i) for i in range(12)]
    for part in information["files"]:  # each can be read alone
        with Reader(tmp_path / "bag" / part["path"]) as reader:
            assert reader.message_count == part["message_count"]


def in_file(path: Path) -> int:
    """Messages that a recovery finds now, while the writer still has the file open."""
    recovered = path.with_name(f"copy_{time.monotonic_ns()}")
    try:
        return sum(recover_bag(path, recovered).saved.values())
    except FogError:
        return 0


def test_nothing_stays_in_the_process_for_longer_than_was_said(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag", flush_s=0.2)
    bag.write("/a", FLOAT, number(0), 0)
    bag.tick()
    assert in_file(bag.part) == 0  # too early: chunks would become tiny
    time.sleep(0.11)
    bag.tick()
    assert in_file(bag.part) == 1
    bag.write("/a", FLOAT, number(0), 0)
    time.sleep(0.11)
    bag.write("/a", FLOAT, number(0), 0)  # the next message looks at the clock, too
    assert in_file(bag.part) == 3
    bag.write("/a", FLOAT, number(0), 0)
    bag.sync()
    assert in_file(bag.part) == 4
    bag.abort()


def test_what_waits_is_written_when_the_recorder_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "bag") as bag:
        bag.write("/a", FLOAT, number(0), 1)
        raise RuntimeError
    assert in_file(tmp_path / "bag.part") == 1
    with pytest.raises(FogError, match="is closed"):
        bag.write("/a", FLOAT, number(0), 1)


def test_metadata_is_of_a_version_that_humble_reads(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/a", FLOAT, number(0), 1)
    content = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    information = content["rosbag2_bagfile_information"]
    assert information["version"] <= 8
    assert information["relative_file_paths"] == ["bag.mcap"]
    (topic,) = information["topics_with_message_count"]
    # up to version 8 the profiles are YAML inside a string, with numbers for the policies
    profiles = topic["topic_metadata"]["offered_qos_profiles"]
    assert isinstance(profiles, str)
    assert yaml.safe_load(profiles)[0]["reliability"] == 1


def test_an_error_leaves_a_part_and_no_bag(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "bag") as bag:
        bag.write("/a", FLOAT, number(0), 1)
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["bag.part"]


def test_an_interruption_closes_the_bag(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), BagWriter(tmp_path / "bag") as bag:
        bag.write("/a", FLOAT, number(0), 1)
        raise KeyboardInterrupt
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 1


def test_a_part_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "bag.part").mkdir()
    (tmp_path / "bag.part" / "precious").write_text("data")
    with pytest.raises(FogError, match=r"bag\.part was left by a recorder"):
        BagWriter(tmp_path / "bag")
    assert (tmp_path / "bag.part" / "precious").exists()
    BagWriter(tmp_path / "bag", replace_part=True).close()
    assert not (tmp_path / "bag.part").exists()


def test_an_existing_bag_is_not_overwritten(tmp_path: Path) -> None:
    BagWriter(tmp_path / "bag").close()
    with pytest.raises(FogError, match=r"bag: exists already"):
        BagWriter(tmp_path / "bag")


def test_an_empty_bag_can_be_read(tmp_path: Path) -> None:
    BagWriter(tmp_path / "bag").close()
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 0


def test_a_full_disk_names_the_bag_and_keeps_the_part(tmp_path: Path) -> None:
    with (
        pytest.raises(FogError, match=rf"bag {tmp_path / 'bag'}: cannot be written .*bag\.part"),
        file_size_limit(2_000_000),
        BagWriter(tmp_path / "bag") as bag,
    ):
        for i in range(100):
            bag.write("/a", FLOAT, bytes(100_000), i)
    assert [p.name for p in tmp_path.iterdir()] == ["bag.part"]


def test_a_disk_that_fills_up_at_the_end(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag")
    for i in range(5):
        bag.write("/a", FLOAT, bytes(100_000), i)  # still in memory
    with pytest.raises(FogError, match="cannot be written"), file_size_limit(100_000):
        bag.close()
    assert [p.name for p in tmp_path.iterdir()] == ["bag.part"]


def readable_messages(part: Path) -> list[int]:
    """Times of the messages that a recovery saves."""
    with Reader(recover_bag(part).path) as reader:
        return [t for _, t, _ in reader.messages()]


def test_a_full_disk_keeps_what_was_recorded_before(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag", chunk_bytes=200_000)
    with file_size_limit(1_000_000), pytest.raises(FogError) as caught:
        for i in range(100):
            bag.write("/a", FLOAT, bytes(100_000), i)
    assert not bag.is_open
    written = bag.counts["/a"]
    with pytest.raises(FogError, match="cannot be written"):
        bag.write("/a", FLOAT, number(0), 0)
    bag.close()  # nothing left to do
    assert f"fog bag recover {bag.part}" in str(caught.value)
    saved = readable_messages(bag.part)
    # what is lost is the chunk that did not fit: three messages at most
    assert saved == list(range(len(saved))) and written - 3 <= len(saved) <= 10


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_small_file_system_that_fills_up(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount here")
    try:
        with (
            pytest.raises(FogError, match=r"bag: cannot be written \(No space left on device\)"),
            BagWriter(disk / "bag", chunk_bytes=200_000) as bag,
        ):
            for i in range(100):
                bag.write("/a", FLOAT, bytes(100_000), i)
        with pytest.raises(FogError, match=r"No space left.*--output"):
            recover_bag(disk / "bag.part")
        assert sorted(p.name for p in disk.iterdir()) == ["bag.part"]
        saved = recover_bag(disk / "bag.part", tmp_path / "saved").saved["/a"]
        assert 6 <= saved <= 10
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class FailingDisk(io.RawIOBase):
    """A file on a disk that fails: from some size on, in syncing, or in closing."""

    def __init__(self, path: Path, number: int, fails_from: int) -> None:
        self._file = path.open("xb", buffering=0)
        self._number, self._fails_from, self._written = number, fails_from, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._written + len(data) > self._fails_from:
            raise OSError(self._number, os.strerror(self._number))
        self._written += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENODEV, errno.ENOSPC])
def test_a_disk_that_fails_or_is_unplugged(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        mcap_file,
        "open_file",
        lambda path: io.BufferedWriter(FailingDisk(path, number, 500_000), 8192),
    )
    bag = BagWriter(tmp_path / "bag", chunk_bytes=100_000)
    with pytest.raises(FogError, match=rf"cannot be written \({os.strerror(number)}\)"):
        for i in range(100):
            bag.write("/a", FLOAT, i.to_bytes(1, "big") * 60_000, i)
    monkeypatch.undo()
    saved = readable_messages(bag.part)
    assert saved == list(range(len(saved))) and 5 <= len(saved) <= 8


def test_a_disk_that_fails_in_syncing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel took all, but the disk did not: the bag must not be called closed."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    bag = BagWriter(tmp_path / "bag")
    bag.write("/a", FLOAT, number(0), 1)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FogError, match="Input/output error"):
        bag.close()
    assert [p.name for p in tmp_path.iterdir()] == ["bag.part"]


def test_a_device_that_is_always_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcap_file, "open_file", lambda path: FULL.open("wb"))
    with pytest.raises(FogError, match="No space left on device"):
        BagWriter(tmp_path / "bag")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_within_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a message is in the chunk, so the chunk must not be written."""
    bag = BagWriter(tmp_path / "bag")
    bag.write("/a", FLOAT, number(0), 1)
    bag.flush()

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bag._file, "add_message", interrupted)
    with pytest.raises(KeyboardInterrupt), bag:
        bag.write("/a", FLOAT, number(0), 2)
    assert readable_messages(bag.part) == [1]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FogError, match="cannot be written"):
        BagWriter(tmp_path / "file" / "bag")


def test_one_topic_has_one_known_interface(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag")
    bag.write("/a", FLOAT, number(0), 1)
    with pytest.raises(FogError, match="/a came as std_msgs/msg/Float32"):
        bag.write("/a", TWIST, b"", 2)
    with pytest.raises(FogError, match="unknown interface my_msgs/msg/Mine"):
        bag.write("/b", "my_msgs/msg/Mine", b"", 2)
    with pytest.raises(FogError, match="/a: -1 ns is no time"):
        bag.write("/a", FLOAT, b"", -1)
    bag.close()
