"""Bags: written aside, named when complete, readable by others."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from mcap.reader import make_reader
from rosbags.rosbag2 import Reader

from fog_world_model.data import messages
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.errors import FogError

FLOAT = "std_msgs/msg/Float32"
TWIST = "geometry_msgs/msg/Twist"


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
    bag.close()
