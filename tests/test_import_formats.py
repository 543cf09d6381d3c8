"""Whatever recorded a bag, and however its images are packed, the same episodes come out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mcap.writer
import numpy as np
import pytest
from recorded_drive import (
    JOINTS,
    MS,
    Drive,
    check_drive,
    drive_of,
    drive_task,
    write_sqlite_by_hand,
    write_with_rosbags,
)

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_scan import WHOLE, BagScan, Look
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.import_bags import import_bags
from fog_world_model.data.messages import TYPESTORE, header, make, serialise
from fog_world_model.errors import FogError

FORMATS = [
    ("mcap", "none"),
    ("mcap", "storage"),
    ("mcap", "message"),
    ("mcap", "file"),
    ("sqlite3", "none"),
    ("sqlite3", "message"),
    ("sqlite3", "file"),
]


def imported(folder: Path, bag: Path, **changes: Any) -> EpisodeStore:
    return import_bags([bag], drive_task(**changes), folder / "store")


def write(path: Path, messages: list[Any], **options: Any) -> Path:
    with BagWriter(path, **options) as bag:
        for log_ns, topic, typename, data in messages:
            bag.write(topic, typename, data, log_ns)
    return path


@pytest.mark.parametrize(("storage", "compression"), FORMATS)
def test_bags_of_the_rosbags_library(storage: str, compression: str, tmp_path: Path) -> None:
    drive = Drive(12)
    bag = write_with_rosbags(
        tmp_path / "bag", drive.messages(), storage=storage, compression=compression
    )
    store = imported(tmp_path, bag)
    assert len(store.lengths) == 1
    check_drive(store, 0, drive, 0, 12)


@pytest.mark.parametrize("files", [1, 3])
def test_sqlite_by_hand(files: int, tmp_path: Path) -> None:
    drive = Drive(12)
    bag = write_sqlite_by_hand(tmp_path / "bag", drive.messages(), files=files)
    check_drive(imported(tmp_path, bag), 0, drive, 0, 12)


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
@pytest.mark.parametrize("chunked", [True, False])
def test_mcap_of_the_mcap_library(compression: str, chunked: bool, tmp_path: Path) -> None:
    """A file alone, as `ros2 bag convert` or another recorder may leave it."""
    drive = Drive(12)
    path = tmp_path / "alone.mcap"
    with path.open("wb") as stream:
        writer = mcap.writer.Writer(
            stream,
            chunk_size=5000,
            compression=mcap.writer.CompressionType[compression],
            use_chunking=chunked,
        )
        writer.start("ros2")
        channels: dict[str, int] = {}
        for log_ns, topic, typename, data in drive.messages():
            if topic not in channels:
                definition, _ = TYPESTORE.generate_msgdef(typename, ros_version=2)
                schema = writer.register_schema(typename, "ros2msg", definition.encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channels[topic], log_ns, data, log_ns)
        writer.finish()
    check_drive(imported(tmp_path, path), 0, drive, 0, 12)


RAW = [(e, "") for e in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "16UC1")]
PACKED = [("rgb8", "jpeg"), ("bgr8", "jpeg"), ("mono8", "jpeg"), ("rgb8", "png"),
          ("bgr8", "png"), ("mono8", "png"), ("16UC1", "png")]  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "compressed", "topic"),
    [
        *((e, c, "/camera/image_raw") for e, c in [*RAW, *PACKED]),
        *((e, c, "/camera/image_raw/compressed") for e, c in PACKED),
    ],
)
def test_images(encoding: str, compressed: str, topic: str, tmp_path: Path) -> None:
    drive = Drive(6, encoding=encoding, image_topic=topic, compressed=compressed)
    check_drive(imported(tmp_path, write(tmp_path / "bag", drive.messages())), 0, drive, 0, 6)


def test_raw_images_are_preferred(tmp_path: Path) -> None:
    drive, other = Drive(6), Drive(6, image_topic="/camera/image_raw/compressed", first=3)
    extra = replace(other, compressed="jpeg").messages()
    messages = [*drive.messages(), *(m for m in extra if m[1].endswith("compressed"))]
    check_drive(imported(tmp_path, write(tmp_path / "bag", sorted(messages))), 0, drive, 0, 6)


def test_compressed_depth_is_refused(tmp_path: Path) -> None:
    message = make(
        "sensor_msgs/msg/CompressedImage",
        header=header(MS, "camera"),
        format="16UC1; compressedDepth png",
        data=np.zeros(50, np.uint8),
    )
    topic = "/camera/image_raw/compressed"
    messages = [m for m in Drive(3).messages() if m[1] != "/camera/image_raw"]
    messages += [(MS, topic, message.__msgtype__, serialise(message))]
    with pytest.raises(FogError, match=f"bag: topic {topic}: .*compressedDepth is not supported"):
        imported(tmp_path, write(tmp_path / "bag", sorted(messages)))


@pytest.mark.parametrize("joints", [JOINTS, JOINTS[::-1], ("ankle", "hip", "knee")])
def test_joints_in_any_order(joints: tuple[str, ...], tmp_path: Path) -> None:
    """The task lists the knee before the hip."""
    drive = Drive(6, joints=joints)
    store = imported(tmp_path, write(tmp_path / "bag", drive.messages()))
    check_drive(store, 0, drive, 0, 6)
    warned = any("joints come in another order" in w for w in warnings_of(store))
    assert warned == (joints.index("hip") < joints.index("knee"))


def test_joints_in_an_order_that_changes(tmp_path: Path) -> None:
    first, second = Drive(4), Drive(6, start_ms=2000, first=5, joints=JOINTS[::-1])
    store = imported(tmp_path, write(tmp_path / "bag", drive_of(first, second)))
    whole = [store.episode(i).proprioception[:, 0].tolist() for i in range(len(store.lengths))]
    assert [x for rows in whole for x in rows] == list(range(12))
    assert any("/joint_states: the joints come in 2 different orders" in w
               for w in warnings_of(store))  # fmt: skip


def warnings_of(store: EpisodeStore) -> list[str]:
    return [w for bag in store.attributes["report"]["bags"] for w in bag["warnings"]]


@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("asked", ["Twist", "TwistStamped"])
def test_commands_with_and_without_stamp(stamped: bool, asked: str, tmp_path: Path) -> None:
    """Stamped commands arrive 30 ms late; their stamps say when they were given."""
    action = drive_task().to_dict()["action"] | {"type": f"geometry_msgs/msg/{asked}"}
    if asked == "TwistStamped":
        action["fields"] = [f"twist.{f}" for f in action["fields"]]
    drive = Drive(6, stamped=stamped)
    store = imported(tmp_path, write(tmp_path / "bag", drive.messages()), action=action)
    check_drive(store, 0, drive, 0, 6)


def test_chunks_and_split_files(tmp_path: Path) -> None:
    """Small chunks: messages of one step lie in several; the bag has more than one file."""
    drive = Drive(18)
    bag = write(tmp_path / "bag", drive.messages(), chunk_bytes=3000, max_bytes=25_000)
    assert len(list(bag.glob("*.mcap"))) > 2
    check_drive(imported(tmp_path, bag), 0, drive, 0, 18)


def remember(seen: list[tuple[int, bytes]]) -> Look:
    return Look(WHOLE, lambda log_ns, data: seen.append((log_ns, bytes(data))))


def test_both_ways_of_reading_find_the_same(tmp_path: Path) -> None:
    """Chunk by chunk, and message by message through the bag reader."""
    messages = Drive(10).messages()
    shuffled = [messages[i] for i in np.random.default_rng(0).permutation(len(messages))]
    bags = [
        write(tmp_path / "plain", messages, chunk_bytes=2000),
        write(tmp_path / "shuffled", shuffled, chunk_bytes=2000),
        write_with_rosbags(tmp_path / "zstd", messages, compression="storage"),
        write_with_rosbags(tmp_path / "other", messages, compression="message"),
    ]
    topics = sorted({m[1] for m in messages})
    found = []
    for path in bags:
        with BagReader(path) as bag, BagScan(bag) as scan:
            seen: dict[str, list[tuple[int, bytes]]] = {t: [] for t in topics}

            places = scan.look({topic: remember(seen[topic]) for topic in topics})
            assert {t: p.log_ns.tolist() for t, p in places.items()} == {
                t: [n for n, _ in s] for t, s in seen.items()
            }
            wanted = {t: np.arange(0, len(seen[t]), 3) for t in topics}
            for threads in (1, 3):
                fetched = list(scan.fetch(places, wanted, lambda _, d: bytes(d), threads))
                for topic in topics:
                    got = [(k, data) for t, k, data in fetched if t == topic]
                    assert got == [(k, seen[topic][k][1]) for k in wanted[topic]]
            found.append({t: sorted(s) for t, s in seen.items()})
    expected = {t: sorted((m[0], m[3]) for m in messages if m[1] == t) for t in topics}
    assert all(f == expected for f in found)


def test_messages_in_no_order(tmp_path: Path) -> None:
    """The file's order says nothing; arrivals and stamps do."""
    drive = Drive(12)
    messages = drive.messages()
    order = np.random.default_rng(1).permutation(len(messages))
    bag = write(tmp_path / "bag", [messages[i] for i in order], chunk_bytes=4000)
    store = imported(tmp_path, bag)
    check_drive(store, 0, drive, 0, 12)
    topics = store.attributes["report"]["bags"][0]["topics"]
    assert all(t["reordered"] == 0 for t in topics.values())
