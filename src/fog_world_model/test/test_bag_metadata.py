"""metadata.yaml: amended after closing, quality of service as rclpy gives it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rosbags.interfaces import QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.metadata import parse_qos

from fog_world_model.data import durable
from fog_world_model.data.bag_metadata import (
    DEFAULT_QOS,
    amend_custom,
    dump_qos,
    qos_of,
    read_metadata,
    standard_definition,
)
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.messages import TYPESTORE, make, serialise
from fog_world_model.errors import FogError

FLOAT = "std_msgs/msg/Float32"
TRICKY = 'two: {lines}\n"quotes" # ünïcode\t- \'\n'


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    with BagWriter(tmp_path / "bag", {"kept": TRICKY, "removed": "x"}) as writer:
        writer.write("/a", FLOAT, serialise(make(FLOAT, data=1.0)), 10**18 + 7)
    return tmp_path / "bag"


def test_amending_changes_the_texts_and_nothing_else(bag: Path) -> None:
    before = read_metadata(bag)
    data = (bag / "bag.mcap").read_bytes()
    amend_custom(bag, {"fog_episode": TRICKY, "removed": None})
    assert (bag / "bag.mcap").read_bytes() == data
    assert sorted(p.name for p in bag.iterdir()) == ["bag.mcap", "metadata.yaml"]
    after = read_metadata(bag)
    assert after.pop("custom_data") == {"kept": TRICKY, "fog_episode": TRICKY}
    del before["custom_data"]
    assert after == before
    with BagReader(bag) as reader:
        assert reader.custom == {"kept": TRICKY, "fog_episode": TRICKY}
        assert len(list(reader.messages())) == 1


@pytest.mark.parametrize("version", [8, 9])
def test_amending_a_bag_of_another_recorder(version: int, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "bag", version=version, storage_plugin=StoragePlugin.SQLITE3)  # type: ignore[arg-type]
    with writer:
        connection = writer.add_connection(
            "/a", FLOAT, typestore=TYPESTORE, offered_qos_profiles=[DEFAULT_QOS]
        )
        writer.write(connection, 5, serialise(make(FLOAT, data=1.0)))
    amend_custom(tmp_path / "bag", {"key": "text"})
    with Reader(tmp_path / "bag") as reader:
        assert [t for _, t, _ in reader.messages()] == [5]
    with BagReader(tmp_path / "bag") as mine:
        assert mine.custom == {"key": "text"}


def test_a_full_disk_leaves_the_old_metadata(bag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bag / "metadata.yaml").read_text()

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", fsync)
    with pytest.raises(FogError, match=r"No space left on device.*the bag is as it was"):
        amend_custom(bag, {"key": "text"})
    assert (bag / "metadata.yaml").read_text() == before
    assert sorted(p.name for p in bag.iterdir()) == ["bag.mcap", "metadata.yaml"]


def test_what_is_no_closed_bag_is_refused(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(FogError, match=r"metadata\.yaml: No such file"):
        amend_custom(tmp_path, {"key": "text"})
    for text in ("a: [", "a: b", "rosbag2_bagfile_information: 3", "\x00"):
        (bag / "metadata.yaml").write_text(text)
        with pytest.raises(FogError, match=r"metadata\.yaml is damaged.*fog bag recover"):
            amend_custom(bag, {"key": "text"})


@pytest.mark.parametrize("typename", ["sensor_msgs/msg/Image", "nav_msgs/msg/Odometry"])
def test_hashes_are_those_of_ros(typename: str) -> None:
    """Against the descriptions that ROS installs with its interfaces."""
    package, _, name = typename.split("/")
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    paths = [Path(p) / "share" / package / "msg" / f"{name}.json" for p in prefixes if p]
    found = [p for p in paths if p.exists()]
    if not found:
        pytest.skip("no ROS with descriptions of its interfaces here")
    hashes = json.loads(found[0].read_text())["type_hashes"]
    (expected,) = [h["hash_string"] for h in hashes if h["type_name"] == typename]
    assert standard_definition(typename)[1] == expected


def test_quality_of_service_as_rclpy_has_it() -> None:
    def duration(seconds: float) -> SimpleNamespace:
        return SimpleNamespace(nanoseconds=round(seconds * 1e9))

    profile = SimpleNamespace(
        history=2,
        depth=3,
        reliability=2,
        durability=1,
        deadline=duration(1.5),
        lifespan=duration(0),
        liveliness=99,  # of a middleware newer than this
        liveliness_lease_duration=duration(2**31),
        avoid_ros_namespace_conventions=False,
    )
    qos = qos_of(profile)
    assert qos == (
        QosHistory.KEEP_ALL,
        3,
        QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL,
        QosTime(1, 500_000_000),
        QosTime(0, 0),
        QosLiveliness.UNKNOWN,
        QosTime(2**31, 0),
        False,
    )
    assert parse_qos(dump_qos([qos, DEFAULT_QOS])) == [qos, DEFAULT_QOS]
