"""From bags to episodes: what was recorded comes out where it belongs, or an error says why not."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.import_bags import find_bags, import_bags
from fog_world_model.data.messages import TYPESTORE, header, make, serialise
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

MS = 1_000_000
BOOL = "std_msgs/msg/Bool"
SIZE = 32  # the images are recorded at twice the task's size

Logged = tuple[int, str, str, Any]
"""Arrival in ns, topic, interface name, message."""


def image(stamp_ns: int, number: int, step: int, encoding: str = "rgb8") -> Any:
    """A plain image whose colour says which episode and half-step it shows."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = number, step
    return make(
        "sensor_msgs/msg/Image",
        header=header(stamp_ns, "camera"),
        height=SIZE,
        width=SIZE,
        encoding=encoding,
        step=3 * SIZE,
        data=pixels.reshape(-1),
    )


def odometry(stamp_ns: int, speed: float, y: float) -> Any:
    message = make("nav_msgs/msg/Odometry", header=header(stamp_ns, "odom"))
    message.twist.twist.linear.x = speed
    message.pose.pose.position.y = y
    return message


def twist(x: float, turn: float) -> Any:
    message = make("geometry_msgs/msg/Twist")
    message.linear.x, message.angular.z = x, turn
    return message


@dataclass(frozen=True)
class Truth:
    """What was recorded of episode ``number``: 10 Hz images, 20 Hz odometry, commands at 5 Hz."""

    number: int
    steps: int
    ends: bool = False
    start_ms: int = 1000
    gap_ms: int = 0
    """How much later than their stamps messages arrive."""

    def messages(self) -> list[Logged]:
        """Everything in the order of arrival."""
        found: list[Logged] = []
        for tick in range(4 * self.steps + 1):  # 50 ms each
            now = (self.start_ms + 50 * tick) * MS
            arrival = now + self.gap_ms * MS
            speed, y = tick / 100, float(self.number)
            found.append((arrival, "/odom", "nav_msgs/msg/Odometry", odometry(now, speed, y)))
            if tick % 2:
                continue
            end = self.ends and tick == 4 * self.steps
            found += [
                (arrival + 1, "/task/reward", "std_msgs/msg/Float32", self.reward(tick)),
                (arrival + 2, "/task/end", BOOL, make(BOOL, data=end)),
                (
                    arrival + 3,
                    "/task/episode",
                    "std_msgs/msg/Int32",
                    make("std_msgs/msg/Int32", data=self.number),
                ),
                (arrival, "/camera/image_raw", "sensor_msgs/msg/Image",
                 image(now, self.number, tick // 2)),
            ]  # fmt: skip
            if tick % 4 == 0 and tick < 4 * self.steps:
                command = twist(*self.command(tick // 4))
                found.append((arrival + MS, "/cmd_vel", "geometry_msgs/msg/Twist", command))
        return sorted(found, key=lambda m: m[0])

    def reward(self, tick: int) -> Any:
        """At an anchor that of the transition that led there, in between something else."""
        return make("std_msgs/msg/Float32", data=tick / 4 if tick % 4 == 0 else 99.0)

    def command(self, step: int) -> tuple[float, float]:
        """The command that answers o_step."""
        return 0.1 * step - 0.5, 0.1 * self.number + 0.25 * step


def write_bag(path: Path, messages: list[Logged]) -> Path:
    with BagWriter(path) as bag:
        for arrival, topic, typename, message in messages:
            bag.write(topic, typename, serialise(message), arrival)
    return path


def episodes(count: int = 2, steps: int = 4) -> list[Truth]:
    return [Truth(i, steps + i, ends=i % 2 == 1, start_ms=1000 + 10_000 * i) for i in range(count)]


def recorded(truths: list[Truth]) -> list[Logged]:
    return [m for truth in truths for m in truth.messages()]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of 4 and 5 steps; the second ends."""
    return write_bag(tmp_path_factory.mktemp("bags") / "bag", recorded(episodes()))


def check_episode(store: EpisodeStore, index: int, truth: Truth) -> None:
    """Every row of an episode against what was recorded."""
    episode, steps = store.episode(index), np.arange(truth.steps + 1)
    assert len(episode) == truth.steps + 1
    np.testing.assert_array_equal(episode.stamp_ns, (truth.start_ms + 200 * steps) * MS)
    assert episode.image.shape == (truth.steps + 1, 16, 16, 3)
    assert (episode.image[..., 0] == truth.number).all()
    np.testing.assert_array_equal(episode.image[:, 3, 5, 1], 2 * steps)
    np.testing.assert_allclose(episode.proprioception[:, 0], 4 * steps / 100, rtol=1e-6)
    assert (episode.proprioception[:, 1] == truth.number).all()
    # a_t is the command that followed o_t, in [-1, 1] of the bounds [-1, 1] and [0, 4];
    # r_t and d_t are those that came with o_{t+1}.
    for t in range(truth.steps):
        x, turn = truth.command(t)
        np.testing.assert_allclose(episode.action[t], [x, turn / 2 - 1], atol=1e-6)
        assert episode.reward[t] == t + 1
        assert episode.end[t] == (truth.ends and t == truth.steps - 1)
    assert not episode.action[-1].any()
    assert episode.reward[-1] == 0
    assert not episode.end[-1]


def test_what_was_recorded_comes_out(bag: Path, tmp_path: Path, tiny_task: TaskConfig) -> None:
    told: list[tuple[str, int, int]] = []
    store = import_bags(
        [bag], tiny_task, tmp_path / "new" / "store", progress=lambda *a: told.append(a)
    )
    for index, truth in enumerate(episodes()):
        check_episode(store, index, truth)
    assert len(store.lengths) == 2
    assert store.transitions == 9
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["store"]
    assert told[-1] == ("importing bag", 11, 11)
    report = store.attributes["report"]
    assert report["transitions"] == 9
    assert report["breaks"]["end"] == 1
    topics = report["bags"][0]["topics"]
    assert topics["/camera/image_raw"]["received"] == 9 + 11
    assert topics["/camera/image_raw"]["used"] == 5 + 6
    assert topics["/odom"]["received"] == 17 + 21
    # Arrival 1 ns after the image lies within the slack.
    assert topics["/task/reward"]["staleness_ms"]["max"] <= 0
    for account in topics.values():
        assert account["received"] == account["used"] + account["superseded"]


def test_arrivals_on_another_clock(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """Commands and rewards have no stamp: they are placed by arrival, here 90 ms later."""
    truths = [replace(t, gap_ms=90) for t in episodes()]
    store = import_bags(
        [write_bag(tmp_path / "bag", recorded(truths))], tiny_task, tmp_path / "store"
    )
    for index, truth in enumerate(truths):
        check_episode(store, index, truth)


def test_several_bags(bag: Path, tmp_path: Path, tiny_task: TaskConfig) -> None:
    more = [Truth(7, 3, start_ms=500), Truth(9, 6, start_ms=20_000)]
    second = write_bag(tmp_path / "bag_2", recorded(more))
    store = import_bags([second, bag], tiny_task, tmp_path / "store", validation_fraction=0.5)
    for index, truth in enumerate([*more, *episodes()]):
        check_episode(store, index, truth)
    assert [e["source"] for e in store.attributes["episodes"]] == [
        "bag_2#0", "bag_2#1", "bag#0", "bag#1",
    ]  # fmt: skip
    assert 0 < len(store.split("validation")) < 4
    assert [b["bag"] for b in store.attributes["report"]["bags"]] == [str(second), str(bag)]


def test_importing_again_gives_the_same_content(
    bag: Path, tmp_path: Path, tiny_task: TaskConfig
) -> None:
    first = import_bags([bag], tiny_task, tmp_path / "first")
    second = import_bags([bag], tiny_task, tmp_path / "second")
    assert first.data_hash == second.data_hash
    other = write_bag(tmp_path / "other", recorded([*episodes(1), Truth(5, 5, start_ms=20_000)]))
    assert import_bags([other], tiny_task, tmp_path / "third").data_hash != first.data_hash


def test_a_bag_with_sqlite_storage(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """Any rosbag2 bag is a valid input, whoever recorded it."""
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3)
    connections: dict[str, Any] = {}
    with writer:
        for arrival, topic, typename, message in recorded(episodes()):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, typename, typestore=TYPESTORE)
            writer.write(connections[topic], arrival, serialise(message))
    store = import_bags([tmp_path / "bag"], tiny_task, tmp_path / "store")
    for index, truth in enumerate(episodes()):
        check_episode(store, index, truth)


def test_an_end_without_a_marker_cuts_the_episode(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """A recording that goes on after the end: nothing of it is the same episode."""
    task = replace(tiny_task, marker=None)
    first = Truth(0, 4, ends=True)
    after = [
        (arrival, topic, typename, message)
        for arrival, topic, typename, message in Truth(1, 3, start_ms=2000).messages()
        if topic != "/task/end"
    ]
    still = [
        (m[0] + 5, "/task/end", BOOL, make(BOOL, data=True))
        for m in after
        if m[1] == "/task/reward"
    ]
    later = Truth(2, 3, start_ms=2800)
    messages = sorted([*first.messages(), *after, *still, *later.messages()], key=lambda m: m[0])
    store = import_bags([write_bag(tmp_path / "bag", messages)], task, tmp_path / "store")
    assert len(store.lengths) == 2
    check_episode(store, 0, first)
    check_episode(store, 1, later)
    assert store.attributes["report"]["breaks"]["end"] == 1


def without(topic: str) -> list[Logged]:
    return [m for m in recorded(episodes()) if m[1] != topic]


def refused(messages: list[Logged] | Path, task: TaskConfig, folder: Path, expected: str) -> None:
    """Import must fail with a message that names the bag, and leave nothing behind."""
    bag = messages if isinstance(messages, Path) else write_bag(folder / "bag", messages)
    with pytest.raises(FogError, match=f"^bag {re.escape(str(bag))}: {expected}"):
        import_bags([bag], task, folder / "out" / "store")
    assert not (folder / "out").exists() or not list((folder / "out").iterdir())


@pytest.mark.parametrize("topic", ["/camera/image_raw", "/odom", "/cmd_vel", "/task/episode"])
def test_missing_topic(topic: str, tmp_path: Path, tiny_task: TaskConfig) -> None:
    refused(without(topic), tiny_task, tmp_path, rf"topic {topic} \(.*\) is missing; it holds /")


def test_missing_topic_in_the_second_bag_stops_before_the_work(
    bag: Path, tmp_path: Path, tiny_task: TaskConfig
) -> None:
    second = write_bag(tmp_path / "second", without("/odom"))
    with pytest.raises(FogError, match=r"second: topic /odom .* is missing"):
        import_bags([bag, second], tiny_task, tmp_path / "store")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["second"]


def test_topic_of_another_type(tmp_path: Path, tiny_task: TaskConfig) -> None:
    wrong = [
        (t, "/odom", "geometry_msgs/msg/Twist", twist(0, 0))
        for t in range(1000 * MS, 1300 * MS, MS)
    ]
    expected = "topic /odom is geometry_msgs/msg/Twist, but the task expects nav_msgs/msg/Odometry"
    refused([*without("/odom"), *wrong], tiny_task, tmp_path, expected)


def test_field_that_the_messages_lack(tmp_path: Path, tiny_task: TaskConfig) -> None:
    stream = replace(tiny_task.proprioception[0], fields=("twist.twist.linear.w",))
    task = replace(tiny_task, proprioception=(stream,))
    refused(recorded(episodes(1)), task, tmp_path, "topic /odom: .*twist.twist.linear.w")


def test_image_of_an_unknown_encoding(tmp_path: Path, tiny_task: TaskConfig) -> None:
    messages = [
        (t, topic, kind, image(t, 0, 0, "yuv422") if "image_raw" in topic else message)
        for t, topic, kind, message in recorded(episodes(1))
    ]
    refused(messages, tiny_task, tmp_path, "topic /camera/image_raw: image encoding 'yuv422'")


def test_message_that_does_not_decode(tmp_path: Path, tiny_task: TaskConfig) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for arrival, topic, typename, message in recorded(episodes(1)):
            data = serialise(message)
            bag.write(topic, typename, data[:30] if topic == "/odom" else data, arrival)
    refused(
        tmp_path / "bag", tiny_task, tmp_path, "topic /odom: 30 bytes do not decode as nav_msgs"
    )


def test_empty_bag(tmp_path: Path, tiny_task: TaskConfig) -> None:
    refused([], tiny_task, tmp_path, "topic .* is missing; it holds no topics")


def test_a_topic_without_messages(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """As a recorder leaves it that subscribed to a topic on which nothing came."""
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP)
    connections: dict[str, Any] = {}
    with writer:
        writer.add_connection("/odom", "nav_msgs/msg/Odometry", typestore=TYPESTORE)
        for arrival, topic, typename, message in without("/odom"):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, typename, typestore=TYPESTORE)
            writer.write(connections[topic], arrival, serialise(message))
    refused(tmp_path / "bag", tiny_task, tmp_path, "topic /odom holds no message")


def test_nothing_can_be_built_says_why(tmp_path: Path, tiny_task: TaskConfig) -> None:
    messages = [m if m[1] != "/odom" else (m[0], *m[1:3], odometry(1, 0, 0)) for m in
                recorded(episodes(1))]  # fmt: skip
    expected = r"no episode could be built at 5 Hz: no start, /odom: stale \(9 times\)"
    refused(messages, tiny_task, tmp_path, expected)


@pytest.mark.parametrize("keep", [0, 5, 30, 1000, 0.5, 0.9, -4000, -100, -8, -1])
def test_cut_file(keep: float, bag: Path, tmp_path: Path, tiny_task: TaskConfig) -> None:
    """The recorder's machine lost power: the file stops somewhere."""
    cut = tmp_path / "cut"
    shutil.copytree(bag, cut)
    file = cut / "bag.mcap"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else int(keep)])
    refused(cut, tiny_task, tmp_path, "cannot be read, it may be cut")


def test_damaged_chunk(bag: Path, tmp_path: Path, tiny_task: TaskConfig) -> None:
    """The index at the end is whole, what it points to is not."""
    damaged = tmp_path / "damaged"
    shutil.copytree(bag, damaged)
    file = damaged / "bag.mcap"
    data = bytearray(file.read_bytes())
    with BagReader(damaged) as reader:
        size = sum(len(m.data) for m in reader.messages())
    assert size < len(data)
    data[100:size] = bytes(size - 100)
    file.write_bytes(data)
    refused(damaged, tiny_task, tmp_path, "damaged")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda bag: (bag / "metadata.yaml").unlink(), "has no metadata.yaml"),
        (lambda bag: (bag / "metadata.yaml").write_text("a: ["), "cannot be read"),
        (lambda bag: (bag / "metadata.yaml").write_text("a: b"), "cannot be read"),
        (lambda bag: (bag / "bag.mcap").unlink(), "cannot be read"),
        (lambda bag: (bag / "bag.mcap").write_bytes(b"not mcap " * 100), "cannot be read"),
        (shutil.rmtree, "no such file or folder"),
    ],
)
def test_damaged_folder(
    spoil: Any, expected: str, bag: Path, tmp_path: Path, tiny_task: TaskConfig
) -> None:
    shutil.copytree(bag, tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    refused(tmp_path / "spoilt", tiny_task, tmp_path, expected)


def test_no_bag(tmp_path: Path, tiny_task: TaskConfig) -> None:
    with pytest.raises(FogError, match="name at least one bag"):
        import_bags([], tiny_task, tmp_path / "store")


def test_existing_output_is_kept(bag: Path, tmp_path: Path, tiny_task: TaskConfig) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "precious").write_text("data")
    with pytest.raises(FogError, match=rf"episode store {tmp_path / 'store'}: exists already"):
        import_bags([bag], tiny_task, tmp_path / "store")
    assert (tmp_path / "store" / "precious").read_text() == "data"
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_folder_that_cannot_be_made(bag: Path, tmp_path: Path, tiny_task: TaskConfig) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FogError, match=r"file/store: cannot be written"):
        import_bags([bag], tiny_task, tmp_path / "file" / "store")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes beyond a file size fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk(bag: Path, tmp_path: Path, tiny_task: TaskConfig) -> None:
    with (
        pytest.raises(FogError, match=rf"episode store {tmp_path / 'store'}: cannot be written"),
        file_size_limit(100),
    ):
        import_bags([bag], tiny_task, tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_find_bags(bag: Path, tmp_path: Path) -> None:
    assert find_bags(bag) == [bag]
    assert find_bags(bag.parent) == [bag]
    with pytest.raises(FogError, match=rf"bag {tmp_path}: neither it nor a folder in it"):
        find_bags(tmp_path)
