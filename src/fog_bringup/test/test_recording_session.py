"""From the intake into the bag without ROS: every message is there, or counted as lost."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fog_bringup import recording_session
from fog_bringup.disk_space import DiskWatch, free_bytes
from fog_bringup.episode_outcome import mark_outcome
from fog_bringup.joystick_buttons import JoystickButtons
from fog_bringup.recording_account import TopicAccount
from fog_bringup.recording_intake import Intake, LogClock, Taken
from fog_bringup.recording_session import RecordingSession
from fog_bringup.recording_stream import Stream
from fog_world_model.data import messages
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_recover import recover_bag
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.errors import FogError

START_NS = 1_700_000_000 * 10**9
TOPIC = "/imu/data"


def imu(stamp_ns: int) -> bytes:
    message = messages.make("sensor_msgs/msg/Imu", header=messages.header(stamp_ns, "base"))
    return messages.serialise(message)


class Writer(BagWriter):
    """A bag on a disk that can be slow, or fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ready = threading.Event()
        self.ready.set()
        self.fails_at: int | None = None

    def write(self, topic: str, *arguments: Any, **more: Any) -> None:
        self.ready.wait(20.0)
        if self.fails_at is not None and self.counts.get(topic, 0) >= self.fails_at:
            self.abort()  # as it does itself (its own tests have disks that fail)
            raise FogError(f"bag {self.path}: cannot be written (Input/output error)")
        super().write(topic, *arguments, **more)


def make_intake(**more: Any) -> Intake:
    intake = Intake(simulated=False, on_jump=more.pop("on_jump", lambda session: None))
    intake.add(Stream(TOPIC, "sensor_msgs/msg/Imu", **more))
    return intake


def taken(number: int, start_ns: int = START_NS) -> Taken:
    now_ns = start_ns + number * 5_000_000
    return Taken(now_ns + 1_000_000, now_ns, TOPIC, imu(now_ns), b"gid", number)


def test_what_arrives_is_in_the_bag_with_its_times(tmp_path: Path) -> None:
    intake = make_intake()
    intake.take([taken(k) for k in range(20)])
    writer = Writer(tmp_path / "bag")
    intake.begin(lambda accounts: RecordingSession(writer, accounts))
    intake.take([taken(k) for k in range(20, 50)])
    session = intake.end()
    assert session is not None
    intake.take([taken(k) for k in range(50, 60)])
    assert intake.streams[TOPIC].heard == 60
    session.close(outcome="success", reason="stopped")
    with BagReader(tmp_path / "bag") as bag:
        recorded = list(bag.messages())
        custom = bag.custom
    assert [m.data for m in recorded] == [imu(START_NS + k * 5_000_000) for k in range(20, 50)]
    assert [m.log_ns for m in recorded] == [
        START_NS + k * 5_000_000 + 1_000_000 for k in range(20, 50)
    ]
    account = json.loads(custom["fog_account"])[TOPIC]
    assert (account["received"], account["written"], account["lost"]) == (30, 30, 0)
    assert account["first_ns"] == recorded[0].log_ns
    mark_outcome(tmp_path / "bag", "failure")
    with BagReader(tmp_path / "bag") as bag:
        assert bag.episode["outcome"] == "failure"
        assert bag.episode["reason"] == "stopped"
    with pytest.raises(FogError, match="expected success, failure or nothing"):
        mark_outcome(tmp_path / "bag", "splendid")


def test_what_the_disk_cannot_keep_up_with_is_counted(tmp_path: Path) -> None:
    intake, writer = make_intake(), Writer(tmp_path / "bag")
    writer.ready.clear()
    size = len(imu(START_NS))
    intake.begin(lambda accounts: RecordingSession(writer, accounts, queue_bytes=10 * size))
    for k in range(50):
        intake.take([taken(k)])
    session = intake.session
    assert session is not None
    assert sum(session.waiting.values()) in (9, 10), "one may be in the writer's hands"
    writer.ready.set()
    deadline = time.monotonic() + 20.0
    while sum(session.waiting.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    intake.take([taken(50)])
    intake.end()
    session.close()
    account = session.accounts[TOPIC]
    assert account.received == 51
    assert account.written + account.lost == 51
    assert account.lost in (39, 40)
    assert account.losses[0]["reason"] == "the disk was too slow"
    with BagReader(tmp_path / "bag") as bag:
        assert bag.counts[TOPIC] == account.written


def test_a_disk_that_fails_leaves_a_part_and_loses_nothing_uncounted(tmp_path: Path) -> None:
    intake, writer = make_intake(), Writer(tmp_path / "bag")
    writer.fails_at = 30
    intake.begin(lambda accounts: RecordingSession(writer, accounts))
    for k in range(50):
        intake.take([taken(k)])
        if k == 20:
            time.sleep(1.2)  # flushed by then
    session = intake.end()
    assert session is not None
    with pytest.raises(FogError, match="Input/output error"):
        session.close()
    account = session.accounts[TOPIC]
    assert (account.received, account.written, account.lost) == (50, 30, 20)
    assert account.losses[0]["reason"] == "the bag could not be written"
    assert not (tmp_path / "bag").exists()
    recovered = recover_bag(tmp_path / "bag.part", tmp_path / "recovered")
    assert recovered.saved[TOPIC] >= 21, "what had been flushed before the failure"


def test_images_that_no_encoder_takes_are_lost_and_those_of_odd_kinds_raw(
    tmp_path: Path,
) -> None:
    class Encoder:
        def submit(self, data: bytes) -> Any:
            from concurrent.futures import Future

            if data[4] % 2:
                return None
            future: Future[bytes] = Future()
            future.set_exception(FogError("bayer images cannot be compressed"))
            return future

        def close(self) -> None:
            pass

    topic, typename = "/camera/image_raw", "sensor_msgs/msg/Image"
    intake = Intake(simulated=False, on_jump=lambda session: None)
    intake.add(Stream(topic, typename, compress=True))
    writer, encoder = Writer(tmp_path / "bag"), Encoder()
    intake.begin(lambda accounts: RecordingSession(writer, accounts, encoder=encoder))  # type: ignore[arg-type]
    for k in range(10):
        message = messages.make(typename, header=messages.header(k * 10**9, "c"))
        data = messages.serialise(message)
        intake.take([Taken(START_NS + k * 10**9, 0, topic, data, b"gid", k)])
    session = intake.end()
    assert session is not None
    session.close()
    account = session.accounts[f"{topic}/compressed"]
    assert (account.received, account.written, account.lost) == (10, 5, 5)
    assert account.losses[0]["reason"] == "the encoders were too slow"
    with BagReader(tmp_path / "bag") as bag:
        assert bag.counts == {topic: 5}
        assert any("recorded raw: bayer images" in w for w in bag.warnings)


def test_log_times_never_run_backwards() -> None:
    clock = LogClock(simulated=False)
    assert clock.log_ns(START_NS) == START_NS
    assert clock.log_ns(START_NS - 10) == START_NS + 1, "smoothed over"
    assert clock.log_ns(START_NS - 999_999_999) == START_NS + 2
    assert not clock.jumped
    assert clock.log_ns(START_NS + 50) == START_NS + 50
    assert clock.log_ns(START_NS - 2 * 10**9) == START_NS - 2 * 10**9
    assert clock.jumped
    assert clock.log_ns(START_NS - 2 * 10**9) == START_NS - 2 * 10**9 + 1
    assert not clock.jumped
    simulated = LogClock(simulated=True)
    assert simulated.log_ns(START_NS) is None, "/clock has not been heard"
    now = messages.make("rosgraph_msgs/msg/Clock", clock=messages.stamp(7 * 10**9))
    simulated.set(messages.serialise(now))
    assert simulated.log_ns(START_NS) == 7 * 10**9
    assert simulated.log_ns(START_NS) == 7 * 10**9 + 1, "in the order of their arrival"


def test_a_clock_set_back_ends_one_bag_and_begins_another(tmp_path: Path) -> None:
    sessions: list[RecordingSession] = []

    def make(accounts: dict[str, TopicAccount]) -> RecordingSession:
        sessions.append(RecordingSession(Writer(tmp_path / f"bag_{len(sessions)}"), accounts))
        return sessions[-1]

    intake = make_intake(on_jump=lambda session: make(intake.renew_accounts()))
    intake.begin(make)
    intake.take([taken(k) for k in range(10)] + [taken(k, START_NS - 10**12) for k in range(5)])
    assert intake.session is sessions[1]
    assert intake.end(sessions[0]) is None, "that one has ended already"
    assert intake.end(sessions[1]) is sessions[1]
    for session, count in zip(sessions, (10, 5), strict=True):
        session.close(reason="the clock jumped back")
        assert session.accounts[TOPIC].written == count
        assert not session.accounts[TOPIC].jumps


def test_the_disk_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "bag.part"
    part.mkdir()
    assert free_bytes(tmp_path / "not" / "there" / "yet") > 0
    watch = DiskWatch(part, 10**6)
    assert watch.look() == ""
    watch.reserve = 10**18
    assert "the disk is nearly full" in watch.look()
    part.rename(tmp_path / "elsewhere")
    with pytest.raises(FogError, match="has disappeared"):
        watch.look()


def test_a_full_disk_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fog_bringup import disk_space

    now, free = [0.0], [1_000_000_000]
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: free[0])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = DiskWatch(tmp_path, 100_000_000)
    now[0], free[0] = 10.0, 900_000_000  # 10 MB/s: 800 MB last 80 s
    assert watch.look() == ""
    assert watch.warning == "the disk is full in 80 s: 900 MB free"
    now[0], free[0] = 20.0, 899_000_000
    watch.look()
    assert watch.warning == "", "slower now"


def test_the_account_outlives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_session, "_FIRST_NOTE_S", 0.0)
    intake, writer = make_intake(), Writer(tmp_path / "bag")
    intake.begin(lambda accounts: RecordingSession(writer, accounts))
    intake.take([taken(k) for k in range(10)])
    time.sleep(0.8)
    recovered = recover_bag(tmp_path / "bag.part", tmp_path / "recovered")
    assert recovered.saved[TOPIC] == 10, "flushed by time while it is still open"
    with BagReader(tmp_path / "recovered") as bag:
        assert TOPIC in bag.account
    session = intake.end()
    assert session is not None
    session.close()


def test_buttons_act_when_they_go_down() -> None:
    buttons = JoystickButtons({"start": 3, "stop": -1, "success": 0})
    assert buttons
    assert not JoystickButtons({"start": -1})
    presses = [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1], [1], [0], [1]]
    assert [buttons.pressed(p) for p in presses] == [
        [],  # held since before
        [],
        [],
        ["start", "success"],
        [],
        [],
        [],
        ["success"],
    ]
