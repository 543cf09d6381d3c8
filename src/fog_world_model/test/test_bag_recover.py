"""Recovery: everything that is whole is saved, the source is never touched."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import zstandard
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from fog_world_model.data.bag_metadata import amend_custom
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_recover import recover_bag
from fog_world_model.data.bag_writer import BagWriter, task_custom_data
from fog_world_model.data.messages import TYPESTORE, make, serialise
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

FLOAT = "std_msgs/msg/Float32"
IMAGE = "sensor_msgs/msg/Image"

Sent = list[tuple[str, str, bytes, int]]


def number(value: float) -> bytes:
    return serialise(make(FLOAT, data=value))


@pytest.fixture
def sent() -> Sent:
    """Images of 5 kB and numbers, 100 of each, in turn."""
    found: Sent = []
    for i in range(100):
        found.append(("/number", FLOAT, number(i), 2 * i + 1))
        found.append(("/image", IMAGE, i.to_bytes(1, "big") * 5000, 2 * i + 2))
    return found


@pytest.fixture
def bag(tmp_path: Path, sent: Sent) -> Path:
    with BagWriter(tmp_path / "bag", {"key": "text"}, chunk_bytes=20_000) as writer:
        for message in sent:
            writer.write(*message)
        writer.set_custom("fog_warnings", json.dumps(["an earlier warning"]))
    return tmp_path / "bag"


def content(bag: Path) -> Sent:
    with BagReader(bag) as reader:
        return [(m.topic, m.type, m.data, m.log_ns) for m in reader.messages()]


def digest(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in path.rglob("*")
        if p.is_file()
    }


def chunks(file: Path) -> list[tuple[int, int]]:
    """Start and size of the chunk records, by an independent reader."""
    found = []
    with file.open("rb") as stream:
        stream.seek(8)
        reader = StreamReader(stream, skip_magic=True, emit_chunks=True)
        start = 8
        for record in reader.records:
            if type(record).__name__ == "Chunk":
                found.append((start, stream.tell() - start))
            start = stream.tell()
    return found


def test_a_part_that_was_never_closed(tmp_path: Path, sent: Sent, tiny_task: TaskConfig) -> None:
    writer = BagWriter(tmp_path / "bag", task_custom_data(tiny_task), chunk_bytes=20_000)
    for message in sent[:151]:
        writer.write(*message)
    writer.set_custom("fog_account", json.dumps({"/number": {"received": 76}}))
    writer.flush()
    before = digest(writer.part)
    recovery = recover_bag(writer.part)
    assert recovery.path == tmp_path / "bag_recovered"
    assert recovery.saved == {"/number": 76, "/image": 75}
    assert recovery.missing == {} and recovery.losses == ()
    assert digest(writer.part) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag.part", "bag_recovered"]
    assert content(recovery.path) == sent[:151]
    with BagReader(recovery.path) as reader:
        assert reader.custom["fog_task_hash"] == tiny_task.hash
        assert reader.account == {"/number": {"received": 76}}
        (warning,) = reader.warnings
        assert warning.startswith("recovered from bag.part, which was cut, damaged or not closed")
        recovered = json.loads(reader.custom["fog_recovery"])
    assert recovered["saved"] == recovery.saved
    # the name the bag was to have is free, although its part is the source
    assert recover_bag(writer.part, tmp_path / "bag").path == tmp_path / "bag"
    assert content(tmp_path / "bag") == sent[:151]
    assert digest(writer.part) == before


def test_the_name_of_the_bag_stands_for_its_part(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag")
    writer.write("/a", FLOAT, number(0), 1)
    writer.abort()
    with pytest.raises(FogError, match=r"was not closed.*fog bag recover .*bag\.part"):
        BagReader(tmp_path / "bag")
    assert recover_bag(tmp_path / "bag").saved == {"/a": 1}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_cut_file_loses_what_was_cut(share: float, bag: Path, sent: Sent) -> None:
    file = bag / "bag.mcap"
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    recovery = recover_bag(bag)
    saved = content(recovery.path)
    assert saved == sent[: len(saved)]
    # whole messages of the chunk within which the file ends are saved, too
    assert len(saved) * 2600 > 0.85 * share * len(data)
    with BagReader(recovery.path) as reader:
        assert reader.custom["key"] == "text"
        assert reader.warnings[0] == "an earlier warning" and len(reader.warnings) == 2


def test_a_damaged_chunk_is_left_out_and_counted(bag: Path, sent: Sent) -> None:
    file = bag / "bag.mcap"
    found = chunks(file)
    start, size = found[3]
    data = bytearray(file.read_bytes())
    data[start + size // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(FogError, match="fog bag recover"):
        content(bag)
    recovery = recover_bag(bag)
    assert recovery.losses == ("bag.mcap: 1 damaged chunks were left out",)
    saved = content(recovery.path)
    lost = [m for m in sent if m not in saved]
    assert 0 < len(lost) <= 20 and [m for m in sent if m not in lost] == saved
    # the messages are numbered, so the recovery knows what is missing on which topic
    missing = {t: sum(m[0] == t for m in lost) for t in ("/image", "/number")}
    assert recovery.missing == missing


def test_a_broken_sequence_of_records_is_taken_up_again(bag: Path, sent: Sent) -> None:
    """The length of a chunk is damaged, so the place of the next is unknown; no index either."""
    file = bag / "bag.mcap"
    found = chunks(file)
    start, _ = found[2]
    data = bytearray(file.read_bytes()[: found[-1][0]])
    data[start + 1 : start + 9] = b"\xff" * 8
    file.write_bytes(data)
    recovery = recover_bag(bag)
    saved = content(recovery.path)
    lost = [m for m in sent[: len(sent) - 20] if m not in saved]
    assert 0 < len(lost) <= 20
    assert any("passed over" in loss for loss in recovery.losses)


def test_channels_survive_the_loss_of_the_first_chunk(bag: Path, sent: Sent) -> None:
    """It alone describes them; the index at the end is cut, too."""
    file = bag / "bag.mcap"
    found = chunks(file)
    start, size = found[0]
    data = bytearray(file.read_bytes()[: sum(found[-1])])
    data[start + size - 1] ^= 1
    file.write_bytes(data)
    saved = content(recover_bag(bag).path)
    assert saved == sent[len(sent) - len(saved) :] and len(saved) > 170


def test_metadata_that_is_missing_or_damaged(bag: Path, sent: Sent, tmp_path: Path) -> None:
    amend_custom(bag, {"key": "amended"})
    recovery = recover_bag(bag)
    with BagReader(recovery.path) as reader:
        assert reader.custom["key"] == "amended"
    (bag / "metadata.yaml").write_text("a: [")
    assert content(recover_bag(bag, tmp_path / "second").path) == sent
    (bag / "metadata.yaml").unlink()
    recovery = recover_bag(bag, tmp_path / "third")
    assert content(recovery.path) == sent
    with BagReader(recovery.path) as reader:
        assert reader.custom["key"] == "text"  # from inside the file
    assert content(recover_bag(bag / "bag.mcap", tmp_path / "fourth").path) == sent


def test_split_bag_with_a_file_lost_from_the_list(tmp_path: Path, sent: Sent) -> None:
    writer = BagWriter(tmp_path / "bag", max_bytes=40_000)
    for message in sent:
        writer.write(*message)
    writer.abort()
    files = list((writer.part / "bag").iterdir())
    assert len(files) > 10  # in the order of their numbers, not of their letters
    assert content(recover_bag(writer.part).path) == sent


def write_with_rosbags(path: Path, sent: Sent, mode: Any, storage: StoragePlugin) -> None:
    writer = Writer(path, version=8, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, typename, data, log_ns in sent:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, typename, typestore=TYPESTORE)
            writer.write(connections[topic], log_ns, data)


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("mode", list(CompressionMode))
def test_bags_of_another_recorder_without_metadata(
    mode: CompressionMode, storage: StoragePlugin, tmp_path: Path, sent: Sent
) -> None:
    if (mode, storage) == (CompressionMode.STORAGE, StoragePlugin.SQLITE3):
        pytest.skip("SQLite has none")
    write_with_rosbags(tmp_path / "bag", sent, mode, storage)
    (tmp_path / "bag/metadata.yaml").unlink()
    before = digest(tmp_path / "bag")
    recovery = recover_bag(tmp_path / "bag")
    assert recovery.losses == ()
    assert content(recovery.path) == sent
    assert digest(tmp_path / "bag") == before


def test_interfaces_of_somebody_else(tmp_path: Path) -> None:
    definition = "uint8 level\n"
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP)
    with writer:
        connection = writer.add_connection(
            "/mine", "my_msgs/msg/Mine", msgdef=definition, rihs01="RIHS01_0"
        )
        writer.write(connection, 7, b"\0\1\0\0\5")
    recovery = recover_bag(tmp_path / "bag")
    with Reader(recovery.path) as reader:
        ((connection, log_ns, data),) = list(reader.messages())
        assert (log_ns, bytes(data)) == (7, b"\0\1\0\0\5")
        assert connection.msgdef.data == definition


def test_a_database_with_unfinished_business_beside_it(tmp_path: Path, sent: Sent) -> None:
    """As a recorder leaves it that is killed with SQLite's write-ahead log still open."""
    write_with_rosbags(tmp_path / "bag", sent[:50], CompressionMode.NONE, StoragePlugin.SQLITE3)
    file = tmp_path / "bag" / "bag.db3"
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    for topic, _, data, log_ns in sent[50:]:
        topic_id = {"/number": 1, "/image": 2}[topic]
        database.execute(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)",
            (topic_id, log_ns, data),
        )
    database.commit()
    shutil.copytree(tmp_path / "bag", tmp_path / "killed")
    database.close()
    killed = tmp_path / "killed"
    (killed / "metadata.yaml").unlink()
    assert (killed / "bag.db3-wal").stat().st_size > 0
    (killed / "bag.db3-shm").unlink()
    before = digest(killed)
    recovery = recover_bag(killed)
    assert content(recovery.path) == sent
    assert digest(killed) == before


def test_a_database_with_a_damaged_page(tmp_path: Path, sent: Sent) -> None:
    write_with_rosbags(tmp_path / "bag", sent, CompressionMode.NONE, StoragePlugin.SQLITE3)
    file = tmp_path / "bag" / "bag.db3"
    data = bytearray(file.read_bytes())
    middle = data.index(bytes([50]) * 3000) // 4096 * 4096
    data[middle - 4096 * 3 : middle] = b"\xff" * 4096 * 3
    file.write_bytes(data)
    recovery = recover_bag(file)
    assert 150 < sum(recovery.saved.values()) < 200
    assert any("damaged places" in loss for loss in recovery.losses)
    assert all(m in sent for m in content(recovery.path) if m[0] == "/number")


def test_a_compressed_file_that_is_cut(tmp_path: Path, sent: Sent) -> None:
    file = tmp_path / "bag.mcap.zstd"
    writer = BagWriter(tmp_path / "bag", chunk_bytes=20_000)
    noise = random.Random(0)
    noisy = [(t, k, noise.randbytes(5000), n) for t, k, _, n in sent]
    for message in noisy:
        writer.write(*message)
    writer.close()
    packed = zstandard.compress((tmp_path / "bag/bag.mcap").read_bytes())
    file.write_bytes(packed[: len(packed) // 2])
    recovery = recover_bag(file)
    saved = content(recovery.path)
    assert saved == noisy[: len(saved)] and 60 < len(saved) <= 100


def test_what_cannot_be_recovered_is_refused(tmp_path: Path, bag: Path) -> None:
    with pytest.raises(FogError, match="no such file"):
        recover_bag(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FogError, match=r"has no \.mcap or \.db3 file"):
        recover_bag(tmp_path / "empty")
    (tmp_path / "text.mcap").write_text("not a bag " * 100)
    with pytest.raises(FogError, match="nothing can be saved"):
        recover_bag(tmp_path / "text.mcap")
    (tmp_path / "text.db3").write_text("not a bag " * 100)
    with pytest.raises(FogError, match=r"nothing can be saved.*topics cannot be read"):
        recover_bag(tmp_path / "text.db3")
    with pytest.raises(FogError, match=r"bag: exists already.*--output"):
        recover_bag(bag, bag)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "empty", "text.db3", "text.mcap"]


def test_progress_and_interruption(bag: Path, tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    recover_bag(bag, tmp_path / "new", progress=lambda *r: reported.append(r))
    assert reported[-1] == ("recover bag, MB", 1, 1)

    def interrupt(*report: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover_bag(bag, tmp_path / "newer", progress=interrupt)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag", "new"]


CHILD = """
import sys, time
from fog_world_model.data.bag_writer import BagWriter

bag = BagWriter(sys.argv[1], {"fog_task": "the task"})
image, small = bytes(300_000), bytes(300)
kinds = {"/image": "sensor_msgs/msg/Image", "/small": "std_msgs/msg/Float32",
         "/rare": "std_msgs/msg/Float32"}
period = {"/image": 1 / 30, "/small": 1 / 200, "/rare": 0.7}
due = dict.fromkeys(period, 0.0)
if sys.argv[2] == "idle":  # the small ones come alone, so no chunk ever gets full
    del due["/image"]
if sys.argv[2] == "rare":
    del due["/image"], due["/small"]
count = dict.fromkeys(period, 0)
last_tick = 0.0
while True:
    now = time.monotonic()
    for topic in due:
        if now >= due[topic]:
            due[topic] = now + period[topic]
            count[topic] += 1
            data = image if topic == "/image" else small
            bag.write(topic, kinds[topic], data, count[topic])
            print(topic, count[topic], time.monotonic(), flush=True)
    if now - last_tick > 0.1:
        last_tick = now
        bag.tick()
        print("tick", 0, time.monotonic(), flush=True)
    time.sleep(0.002)
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(4))
def test_a_killed_writer_loses_at_most_the_last_second(batch: int, tmp_path: Path) -> None:
    """20 writers in all, killed at random times; some get small messages only, some few."""
    random_times = random.Random(batch)
    kinds = ["all", "all", "all", "idle", "rare"]
    children = []
    for index, kind in enumerate(kinds):
        log = (tmp_path / f"log_{index}").open("w")
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / f"bag_{index}"), kind], stdout=log
        )
        children.append((child, log, random_times.uniform(1.3, 2.5)))
    deadline = time.monotonic() + 60
    while any(not (tmp_path / f"log_{i}").stat().st_size for i in range(len(kinds))):
        assert time.monotonic() < deadline, "the writers do not start"
        time.sleep(0.02)
    start = time.monotonic()
    for child, log, after in sorted(children, key=lambda c: c[2]):
        time.sleep(max(0.0, start + after - time.monotonic()))
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
        log.close()
    for index in range(len(kinds)):
        written: dict[str, list[tuple[int, float]]] = defaultdict(list)
        last = 0.0  # of the child's life; a machine that is busy elsewhere may have stopped it
        for line in (tmp_path / f"log_{index}").read_text().splitlines():
            topic, count, at = line.split()
            last = float(at)
            if topic != "tick":
                written[topic].append((int(count), float(at)))
        recovery = recover_bag(tmp_path / f"bag_{index}.part")
        with BagReader(recovery.path) as reader:
            assert reader.custom["fog_task"] == "the task"
        saved = {(m[0], m[3]) for m in content(recovery.path)}
        due = {(t, n) for t, entries in written.items() for n, at in entries if at <= last - 1.0}
        assert due and due <= saved
        assert recovery.missing == {}
