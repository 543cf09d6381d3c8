"""What is wrong with a recording breaks the episode there, is counted, and is said."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_drive import MS, SIZE, Drive, check_drive, drive_of, drive_task

from fog_world_model.data import import_bag, import_bags, message_decoder
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.episode_pieces import labelled_pieces, usable_pieces
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.import_report import nominal
from fog_world_model.data.labellers import CameraModel, Labels
from fog_world_model.data.messages import deserialise, header, make, serialise
from fog_world_model.errors import FogError


def write(path: Path, messages: list[Any], custom: dict[str, str] | None = None) -> Path:
    with BagWriter(path, custom) as bag:
        for log_ns, topic, typename, data in messages:
            bag.write(topic, typename, data, log_ns)
    return path


def imported(
    folder: Path, messages: list[Any], custom: dict[str, str] | None = None, **changes: Any
) -> EpisodeStore:
    bag = write(folder / "bag", messages, custom)
    return import_bags.import_bags([bag], drive_task(**changes), folder / "store")


def report_of(store: EpisodeStore) -> dict[str, Any]:
    (report,) = store.attributes["report"]["bags"]
    return dict(report)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("topic", ["/odom", "/joint_states"])
def test_an_observation_that_is_not_finite_is_left_out(
    topic: str, value: float, tmp_path: Path
) -> None:
    drive = Drive(9, odd={(topic, 4): value})
    store = imported(tmp_path, drive.messages())
    assert len(store.lengths) == 2
    check_drive(store, 0, drive, 0, 3)
    check_drive(store, 1, drive, 5, 9)
    report = report_of(store)
    assert report["breaks"] == {f"{topic}: not finite": 1}
    assert report["steps"] == {"kept": 9, "broken": {f"{topic}: not finite": 1}}
    assert f"{topic}: not finite: 1 step left out" in report["warnings"]
    assert report["topics"][topic]["used"] == 9
    account = report["topics"]["/camera/image_raw"]
    assert (account["received"], account["used"], account["superseded"]) == (19, 9, 10)


@pytest.mark.parametrize(("topic", "between"), [("/reward", (3, 4)), ("/cmd_vel", (4, 5))])
def test_a_transition_that_is_not_finite_parts_its_steps(
    topic: str, between: tuple[int, int], tmp_path: Path
) -> None:
    """The reward that came with step 4 belongs to 3 -> 4; the command given there, to 4 -> 5."""
    drive = Drive(9, odd={(topic, 4): np.nan})
    store = imported(tmp_path, drive.messages())
    assert len(store.lengths) == 2
    check_drive(store, 0, drive, 0, between[0])
    check_drive(store, 1, drive, between[1], 9)
    assert report_of(store)["breaks"] == {f"{topic}: not finite": 1}


def test_a_damaged_picture_is_left_out(tmp_path: Path) -> None:
    drive = Drive(9, compressed="jpeg")
    messages = []
    for log_ns, topic, typename, data in drive.messages():
        if topic == "/camera/image_raw" and log_ns == (1000 + 5 * 200) * MS:
            message = deserialise(data, typename)
            message.data = message.data[: len(message.data) // 2]
            data = serialise(message)
        messages.append((log_ns, topic, typename, data))
    store = imported(tmp_path, messages)
    check_drive(store, 0, drive, 0, 4)
    check_drive(store, 1, drive, 6, 9)
    assert report_of(store)["breaks"] == {"/camera/image_raw: damaged picture": 1}


@pytest.mark.parametrize("change", [{"size": 2 * SIZE}, {"encoding": "bgr8"}])
def test_a_camera_that_changes_is_a_border(change: dict[str, Any], tmp_path: Path) -> None:
    first = Drive(4)
    second = replace(Drive(4, start_ms=2000, first=5), **change)
    store = imported(tmp_path, drive_of(first, second))
    check_drive(store, 0, first, 0, 4)
    check_drive(store, 1, second, 5, 9)
    report = report_of(store)
    assert report["breaks"] == {"/camera/image_raw: another size or encoding": 1}
    assert any("size or encoding changes within the bag: 32x32 rgb8; " in w
               for w in report["warnings"])  # fmt: skip


@pytest.mark.parametrize("back_ms", [600, 1500, 2000, 60_000])
def test_a_clock_that_jumps_back_joins_nothing(back_ms: int, tmp_path: Path) -> None:
    """The same stamps twice: sorted by stamp, frames of both would lie among each other."""
    first = Drive(9, start_ms=100_000)
    second = Drive(9, start_ms=100_000 + 2000 - back_ms, first=20, log_shift_ms=back_ms)
    store = imported(tmp_path, drive_of(first, second))
    check_drive(store, 0, first, 0, 9)
    # Its stamps are those of the first once more, so it is not checked as a whole.
    episode = store.episode(1)
    assert episode.proprioception[:, 0].tolist() == list(range(20, 30))
    assert (episode.image[:, 0, 0, 0] == np.arange(160, 240, 8)).all()
    report = report_of(store)
    assert report["breaks"] == {"clock jumped back": 1}
    assert any("the clock jumped back (1 time); nothing" in w for w in report["warnings"])
    for account in report["topics"].values():
        assert account["received"] == account["used"] + account["superseded"]


def test_gaps_and_fixed_lengths_are_borders(tmp_path: Path) -> None:
    first, second = Drive(7), Drive(5, start_ms=10_000, first=10)
    store = imported(tmp_path, drive_of(first, second), episode={"max_steps": 4})
    for index, (drive, low, high) in enumerate(
        [(first, 0, 4), (first, 4, 7), (second, 10, 14), (second, 14, 15)]
    ):
        check_drive(store, index, drive, low, high)
    assert report_of(store)["breaks"] == {"maximal length": 2, "camera gap": 1}
    assert [e.source for e in store.episodes] == ["bag#0", "bag#1", "bag#2", "bag#3"]


def still(drive: Drive, *topics: str) -> list[Any]:
    """The drive with the first message of some topics repeated, its stamps going on."""
    first: dict[str, Any] = {}
    messages = []
    for log_ns, topic, typename, data in drive.messages():
        message = deserialise(first.setdefault(topic, data), typename)
        if topic in topics:
            if hasattr(message, "header"):
                message.header = deserialise(data, typename).header
            data = serialise(message)
        messages.append((log_ns, topic, typename, data))
    return messages


@pytest.mark.parametrize(
    ("topic", "sentence"),
    [
        ("/camera/image_raw", "/camera/image_raw: the image never changes within an episode"),
        ("/cmd_vel", "/cmd_vel: the command never changes (linear.x = 0, angular.z = 0)"),
        ("/reward", "/reward: the reward is 0 in every step"),
    ],
)
def test_what_never_changes_is_said(topic: str, sentence: str, tmp_path: Path) -> None:
    assert sentence in report_of(imported(tmp_path, still(Drive(12), topic)))["warnings"]


def test_nothing_is_wrong_with_a_good_drive(tmp_path: Path) -> None:
    report = report_of(imported(tmp_path, Drive(12, joints=("knee", "hip")).messages()))
    assert report["warnings"] == []
    assert report["camera"]["rate_hz"] == pytest.approx(10.0)
    assert report["camera"]["sizes"] == ["32x32 rgb8"]
    assert report["camera"]["jitter_ms"] == pytest.approx(0.0)
    assert report["reward"]["mean"] == pytest.approx(6.5)  # 1 to 12
    assert (report["reward"]["min"], report["reward"]["max"]) == (1.0, 12.0)
    assert report["topics"]["/cmd_vel"]["staleness_ms"]["max"] == pytest.approx(199.0)
    assert report["breaks"] == {}


def test_frozen_for_a_while(tmp_path: Path) -> None:
    """Steps 10 to 49 of 100 show the same image: 39 pairs at 5 Hz, 7.8 s."""
    frozen: list[Any] = []
    for log_ns, topic, typename, data in Drive(100).messages():
        if topic == "/camera/image_raw" and 3000 * MS <= log_ns < 11_000 * MS:
            message = deserialise(data, typename)
            message.data = np.full_like(message.data, 50)
            data = serialise(message)
        frozen.append((log_ns, topic, typename, data))
    report = report_of(imported(tmp_path, frozen))
    assert report["images"]["longest_frozen_s"] == pytest.approx(7.8)
    assert any("stood still for 7.8 s" in w for w in report["warnings"])


def test_commands_beyond_the_bounds_are_said(tmp_path: Path) -> None:
    """2 of 10 commands are 50 m/s, the bound is 20."""
    drive = Drive(10, odd={("/cmd_vel", 3): 500.0, ("/cmd_vel", 4): 500.0})
    store = imported(tmp_path, drive.messages())
    assert store.episode(0).action[3:5, 0].tolist() == [1.0, 1.0]
    assert any("20.0% of the commands lie beyond" in w for w in report_of(store)["warnings"])


def test_stamps_that_run_backwards_are_said(tmp_path: Path) -> None:
    messages = Drive(10).messages()
    places = [i for i, m in enumerate(messages) if m[1] == "/odom"]
    for a, b in ((places[3], places[4]), (places[10], places[11])):
        swapped = (messages[a][0], *messages[b][1:]), (messages[b][0], *messages[a][1:])
        messages[a], messages[b] = swapped
    report = report_of(imported(tmp_path, messages))
    assert report["topics"]["/odom"]["reordered"] == 2
    assert "/odom: the stamps of 2 of 41 messages run backwards" in report["warnings"]


def test_lost_images_are_said(tmp_path: Path) -> None:
    messages = [
        m
        for m in Drive(12).messages()
        if m[1] != "/camera/image_raw" or not 1900 * MS <= m[0] < 2200 * MS
    ]
    report = report_of(imported(tmp_path, messages))
    assert report["topics"]["/camera/image_raw"]["dropped"] == 3
    sentence = "/camera/image_raw: 1 episode cut off where images are missing; about 3 are, "
    assert any(w.startswith(sentence) for w in report["warnings"])


def test_nominal_stamps_by_hand() -> None:
    rng = np.random.default_rng(0)
    exact = np.arange(100, dtype=np.int64) * 33_333_333
    arrived = exact + rng.normal(0, 2e6, 100).astype(np.int64)
    assert nominal(exact, arrived)
    assert not nominal(arrived, arrived)  # measured
    assert not nominal(exact, exact)  # a simulator: nothing jitters
    assert not nominal(exact[:5], arrived[:5])


def test_the_recorder_s_account_and_outcome_go_along(tmp_path: Path) -> None:
    custom = {
        "fog_episode": json.dumps({"outcome": "success"}),
        "fog_warnings": json.dumps(["/imu: nobody publishes it"]),
        "fog_account": json.dumps(
            {
                "/odom": {
                    "received": 41,
                    "written": 38,
                    "lost": 3,
                    "gaps": [{"at_ns": 1}],
                    "rate_hz": float("nan"),
                },
                "/elsewhere": {"received": 1, "lost": 1},
            }
        ),
        "fog_task_hash": "another",
    }
    store = imported(tmp_path, Drive(10).messages(), custom)
    assert [e.outcome for e in store.episodes] == ["success"]
    report = report_of(store)
    assert report["outcome"] == "success"
    assert report["recorder"]["/odom"]["lost"] == 3
    assert "/elsewhere" not in report["recorder"]
    for sentence in (
        "/odom: 3 lost messages in the recorder's account",
        "/odom: 1 gap in the recorder's account",
        "/imu: nobody publishes it",
    ):
        assert sentence in report["warnings"]
    assert any("recorded for another task" in n for n in report["notes"])
    assert json.loads((store.path / "report.json").read_text()) == store.attributes["report"]


class Toy:
    """Reads the red channel; cannot tell where it lies from 80 to 104; ends at 160."""

    unknown = "too red"

    def __init__(self, cameras: list[CameraModel | None], bases: list[Any]) -> None:
        self.cameras, self.bases = cameras, bases

    def look(self, image: Any, camera: CameraModel | None) -> Any:
        assert image.shape == (SIZE, SIZE, 3)
        self.cameras.append(camera)
        return np.asarray([image[3, 4, 0], image[3, 4, 2]], np.float32)

    def label(self, sights: Any, base: Any) -> Labels:
        self.bases.append(base)
        red = sights[:, 0]
        reward = red[1:] / 8
        return Labels(np.where((red[1:] >= 80) & (red[1:] <= 104), np.nan, reward), red[1:] >= 160)


@pytest.mark.parametrize("odometry", ["", "/odom", "/other_odom"])
def test_labels_from_images(odometry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red is 8 k at step k: steps 10 to 13 are unknown, the end comes with step 20."""
    cameras: list[CameraModel | None] = []
    bases: list[Any] = []
    for module in (import_bag, import_bags, message_decoder):
        monkeypatch.setattr(module, "make_labeller", lambda task: Toy(cameras, bases))
    drive = Drive(24)
    messages = drive.messages()
    info = make(
        "sensor_msgs/msg/CameraInfo",
        header=header(MS, "camera"),
        height=SIZE,
        width=SIZE,
        k=np.asarray([30.0, 0, 16, 0, 31.0, 15, 0, 0, 1]),
        d=np.asarray([0.1, 0.0, 0.0, 0.0, 0.0]),
    )
    messages.append((999 * MS, "/camera/camera_info", info.__msgtype__, serialise(info)))
    messages += [(m[0], "/other_odom", *m[2:]) for m in messages if m[1] == "/odom"]
    store = imported(
        tmp_path,
        sorted(messages),
        reward=None,
        labeller={"name": "toy", "odometry_topic": odometry},
    )
    # The transition into step 10 is unknown, as are those up to 13; that into 20 is an end, and
    # it is not taken back before the drive ends.
    assert [(e.proprioception[0, 0], e.proprioception[-1, 0]) for e in
            map(store.episode, range(len(store.lengths)))] == [(0, 9), (13, 20)]  # fmt: skip
    first, second = store.episode(0), store.episode(1)
    assert first.reward.tolist() == [*range(1, 10), 0]
    assert not first.end.any()
    assert second.reward.tolist() == [*range(14, 21), 0]
    assert second.end.tolist() == [False] * 6 + [True, False]
    report = report_of(store)
    assert report["breaks"] == {"label: too red": 1, "no start, label: too red": 3, "end": 1}
    assert report["steps"]["broken"]["label: too red"] == 4
    assert len(cameras) == 25
    assert cameras[0] is not None
    np.testing.assert_array_equal(cameras[0].matrix, [[30, 0, 16], [0, 31, 15], [0, 0, 1]])
    if not odometry:
        assert bases[0] is None
    else:
        np.testing.assert_array_equal(bases[0][:, 0], np.arange(25))
        np.testing.assert_array_equal(bases[0][:, -1], np.ones(25))
        assert bases[0].shape == (25, 7)
    # The odometry of the observation is not that of the labeller.
    assert first.proprioception.shape[1] == 3


def test_a_labeller_that_is_unknown_stops_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FogError, match="no labeller 'nothing'"):
        imported(tmp_path, Drive(3).messages(), reward=None, labeller={"name": "nothing"})
    assert not (tmp_path / "store").exists()


def test_pieces_by_hand() -> None:
    breaks: Counter[str] = Counter()
    steps = ["", "", "x", "", "x", "", "", "", ""]
    transitions = ["", "", "", "", "", "", "y", ""]
    assert usable_pieces(steps, transitions, breaks) == [(0, 2), (5, 7), (7, 9)]
    assert breaks == {"x": 1, "no start, x": 1, "y": 1}


def test_labelled_pieces_by_hand() -> None:
    """Ends at 1 -> 2, held until 3; a label is missing at 6 -> 7."""
    reward = np.asarray([0, 0, 0, 0, 0, 0, np.nan, 0], np.float32)
    end = np.asarray([0, 1, 1, 0, 0, 0, 0, 0], bool)
    breaks: Counter[str] = Counter()
    assert labelled_pieces(Labels(reward, end), "why", breaks) == [(0, 3), (4, 7), (7, 9)]
    assert breaks == {"end": 1, "label: why": 1}
