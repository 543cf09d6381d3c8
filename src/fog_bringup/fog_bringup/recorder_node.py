"""Records the topics of a task to rosbag2 bags, without deserialising a single message.

What comes is taken by a thread of its own (topic_subscriptions_node), counted (recording_intake,
recording_account) and written by another (recording_session); the executor has only services,
timers and diagnostics to do. Outcomes of what can go wrong, all reported on /diagnostics, in the
log and in the bag's ``fog_warnings``:

- A topic of the task that is silent, slow or of another type: a warning, also while nothing is
  recorded yet; a topic of another type is not recorded.
- A publisher that restarts, or another that joins: the recording goes on; quality of service is
  adapted; the silence between is noted, it is not a gap.
- Header stamps that jump or run backwards: the recording goes on; noted.
- The clock of this recorder jumps back by more than a second (a simulation began anew, the
  system's clock was set): the bag is closed, and the recording goes on in a new one, because the
  log times of one bag do not run backwards.
- A camera that changes its resolution: the recording goes on, every size is noted with its time;
  an episode that is imported across the change breaks there.
- Less than ``min_free_mb`` free: nothing is started; at half of it the running bag is closed.
- The disk is full nevertheless, or gone: the bag's part stays for ``fog bag recover``; the node
  says so and waits for the next start, whose ``output`` may be another folder. A node that was
  started with ``start:=true`` ends with status 2: nobody is there to start it again.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from fog_bringup.base_node import ERROR, OK, WARN, FogNode, run
from fog_bringup.disk_space import MEGABYTE, DiskWatch, free_bytes
from fog_bringup.episode_outcome import mark_outcome
from fog_bringup.image_recording import COMPRESSED_IMAGE, ImageEncoder, compressed_topic
from fog_bringup.joystick_buttons import JoystickButtons
from fog_bringup.recording_account import TopicAccount, shortcomings
from fog_bringup.recording_intake import CLOCK, Intake
from fog_bringup.recording_session import RecordingSession
from fog_bringup.recording_stream import Stream
from fog_bringup.tasks import find_task
from fog_bringup.topic_subscriptions_node import TopicSubscriptions, endpoint_of
from fog_world_model.data.bag_metadata import qos_of
from fog_world_model.data.bag_writer import BagWriter, task_custom_data
from fog_world_model.data.messages import TYPESTORE
from fog_world_model.errors import FogError

_MATCH_PERIOD_S: Final = 0.25
_WATCH_PERIOD_S: Final = 0.1
_REPORT_PERIOD_S: Final = 1.0
_WINDOW: Final = 4
"""Reports that present rates are taken over."""
_SETTLED_S: Final = 3.0
"""How long topics may take to appear after the node, or a recording, has begun."""


class RecorderNode(FogNode):
    """Writes every message of the task's topics, as it came, with the time at which it came.

    Services (all std_srvs/srv/Trigger; their message names the bag, or says what is wrong):
        ``~/start``: begin a new bag, ``<output>/<task>_<number>``.
        ``~/stop``: close it.
        ``~/success``, ``~/failure``: close it and mark how it went; without a recording, mark the
        last bag.
        ``~/status``: say what is recorded, in lines.
    """

    def __init__(self) -> None:
        super().__init__("recorder_node")
        task_name = self.declare("task", "reach_cube", "name of a task, or path of a task file")
        self.declare("output", "bags", "folder in which each recording gets a bag", fixed=False)
        self._unattended = self.declare("start", False, "begin recording at once")
        extra = self.declare("extra_topics", [""], "topics to record beside those of the task")
        self._format = self.declare(
            "image_format", "raw", "how images are stored", choices=("raw", "jpeg", "png")
        )
        self._quality = self.declare("jpeg_quality", 95, "of JPEG images", low=1, high=100)
        self._workers = self.declare("encoders", 2, "threads that compress images", low=1, high=64)
        self.declare(
            "min_free_mb",
            1000,
            "free disk space, MB, below which no recording is started; at half of it, one ends",
            low=0,
            fixed=False,
        )
        self._queue_mb = self.declare("queue_mb", 256, "what may wait for the disk, MB", low=1)
        self._max_file_mb = self.declare(
            "max_file_mb", 16_000, "size at which a bag's next file begins, MB", low=1
        )
        joy_topic = self.declare("joy_topic", "/joy", "sensor_msgs/msg/Joy topic with the buttons")
        self._buttons = JoystickButtons(
            {
                name: self.declare(f"{name}_button", -1, f"joystick button for {name}; -1: none")
                for name in ("start", "stop", "success", "failure")
            }
        )
        self.check_parameters()
        self._task = find_task(task_name)
        self._types: dict[str, str | None] = {
            **dict.fromkeys((t for t in extra if t), None),
            **self._task.topics(),
        }
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._intake = Intake(simulated=simulated, on_jump=self._roll)
        self._subscribed = TopicSubscriptions(self, self._intake.take, self._on_lost)
        self._disk: DiskWatch | None = None
        self._wrong_types: dict[str, str] = {}
        self._shortcomings: dict[str, str] = {}
        self._history: deque[tuple[float, dict[str, int]]] = deque(maxlen=_WINDOW)
        self._begun_at = time.monotonic()
        self._last_bag: Path | None = None
        self._error = ""
        self._closing: list[threading.Thread] = []
        for name, handle in (
            ("start", self._start),
            ("stop", self._stop),
            ("success", functools.partial(self._mark, "success")),
            ("failure", functools.partial(self._mark, "failure")),
            ("status", self._status),
        ):
            self._offer(name, handle)
        if self._buttons:
            self.create_subscription(Joy, joy_topic, self._on_joy, 10)
        self.every(_MATCH_PERIOD_S, self._match_publishers)
        self.every(_WATCH_PERIOD_S, self._watch)
        self.every(_REPORT_PERIOD_S, self._report)
        if self._unattended:
            self._start()

    def close(self) -> None:
        """Close the bag."""
        try:
            if self._intake.session is not None:
                self._stop(reason="the recorder was ended")
        finally:
            self._subscribed.close()
            for thread in self._closing:
                thread.join()

    # Commands

    def _offer(self, name: str, handle: Callable[[], str]) -> None:
        def on_call(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            response.success, response.message = self._try(handle)
            return response

        self.create_service(Trigger, f"~/{name}", on_call)

    def _try(self, handle: Callable[[], str]) -> tuple[bool, str]:
        """Do what was asked for; after an error the next attempt may succeed, so the node stays."""
        try:
            return True, handle()
        except FogError as error:
            self.get_logger().error(str(error))
            return False, str(error)

    def _on_joy(self, message: Joy) -> None:
        recording = self._intake.session is not None
        for name in self._buttons.pressed(message.buttons):
            if name == "start" and not recording:
                self._try(self._start)
            elif name == "stop" and recording:
                self._try(self._stop)
            elif name in ("success", "failure"):
                self._try(functools.partial(self._mark, name))

    def _start(self) -> str:
        if self._intake.session is not None:
            raise FogError(f"already recording {self._intake.session.path}")
        writer = self._open_writer()
        self._subscribed.drain()  # what came before does not belong to it
        self._intake.begin(lambda accounts: self._session(writer, accounts))
        self._error = ""
        self._begun_at = time.monotonic()
        for sentence in self._shortcomings.values():
            self.get_logger().warning(sentence)
        return str(writer.path)

    def _stop(self, outcome: str = "", reason: str = "stopped") -> str:
        self._subscribed.drain()
        session = self._intake.end()
        self._disk = None
        if session is None:
            raise FogError("not recording")
        try:
            self._finish(session, outcome, reason)
        except FogError as error:
            self._failed(session, error)
            raise
        return str(session.path)

    def _finish(self, session: RecordingSession, outcome: str, reason: str) -> None:
        path = session.close(outcome=outcome, reason=reason)
        self._last_bag = path
        counts = ", ".join(f"{topic} {a.written}" for topic, a in session.accounts.items())
        self.get_logger().info(f"closed {path} ({reason}): {counts}")
        for sentence in session.sentences():
            self.get_logger().warning(f"{path}: {sentence}")

    def _mark(self, outcome: str) -> str:
        if self._intake.session is not None:
            return self._stop(outcome)
        if self._last_bag is None:
            raise FogError("nothing has been recorded yet that could be marked")
        mark_outcome(self._last_bag, outcome)
        self.get_logger().info(f"{self._last_bag} is marked as a {outcome}")
        return str(self._last_bag)

    def _status(self) -> str:
        session = self._intake.session
        lines = [self._headline()]
        for stream in self._intake.streams.values():
            a = stream.account
            lines.append(
                f"  {a.topic}: {a.written if session else a.received} messages, "
                f"{self._rates().get(stream.topic, 0.0):.1f} Hz, {a.lost} lost, {a.missing} missing"
            )
        lines += [f"  warning: {s}" for s in self._shortcomings.values()]
        return "\n".join(lines)

    def _headline(self) -> str:
        if (session := self._intake.session) is not None:
            return f"recording {session.path}"
        return f"not recording: {self._error}" if self._error else "not recording"

    # Bags

    def _open_writer(self) -> BagWriter:
        output = Path(str(self.get_parameter("output").value))
        min_free = int(self.get_parameter("min_free_mb").value) * MEGABYTE
        if (free := free_bytes(output)) < min_free:
            raise FogError(
                f"{output}: {free // MEGABYTE} MB are free, but min_free_mb is "
                f"{min_free // MEGABYTE}; make room, or record to another folder"
            )
        writer = BagWriter(
            self._free_name(output),
            task_custom_data(self._task),
            max_bytes=self._max_file_mb * MEGABYTE,
        )
        self._disk = DiskWatch(writer.part, min_free // 2)
        self.get_logger().info(f"recording {writer.path}")
        return writer

    def _session(self, writer: BagWriter, accounts: dict[str, TopicAccount]) -> RecordingSession:
        encoder = None
        if self._format != "raw":
            encoder = ImageEncoder(self._format, jpeg_quality=self._quality, workers=self._workers)
        return RecordingSession(
            writer,
            accounts,
            queue_bytes=self._queue_mb * MEGABYTE,
            encoder=encoder,
            warnings=self._shortcomings,
        )

    def _free_name(self, output: Path) -> Path:
        """Nothing is overwritten, nor what a killed recorder left."""
        for number in itertools.count():
            bag = output / f"{self._task.name}_{number:03d}"
            if not bag.exists() and not bag.with_name(f"{bag.name}.part").exists():
                return bag
        raise AssertionError("numbers do not run out")

    def _roll(self, old: RecordingSession) -> RecordingSession | None:
        """The clock has jumped back: go on in a new bag (called while the intake is locked)."""

        def finish() -> None:
            try:
                self._finish(old, "", "the clock jumped back")
            except FogError as error:
                self._failed(old, error)

        self._closing.append(threading.Thread(target=finish, name="close"))
        self._closing[-1].start()
        self.get_logger().warning(f"the clock jumped back: {old.path} ends here")
        try:
            writer = self._open_writer()
        except FogError as error:
            self._error = str(error)
            self.get_logger().error(f"the recording does not go on: {error}")
            return None
        return self._session(writer, self._intake.renew_accounts())

    def _failed(self, session: RecordingSession, error: FogError) -> None:
        """A bag could not be finished."""
        self._error = str(error)
        lost = sum(a.received - a.written for a in session.accounts.values())
        self.get_logger().error(f"{error} {lost} messages that arrived are not in it.")
        if self._unattended:
            self.fail(error)

    # Topics

    def _match_publishers(self) -> None:
        """Subscribe to what is published, in the quality of service that it is published in."""
        for topic, typename in self._types.items():
            self._match(topic, typename)
        image = self._task.image.topic
        if image not in self._intake.streams:  # it may be there in compressed form only
            self._match(compressed_topic(image), COMPRESSED_IMAGE)
        if not self._intake.clock.simulated or CLOCK in self._intake.streams:
            return
        if infos := self.get_publishers_info_by_topic(CLOCK):
            self._subscribed.subscribe(CLOCK, endpoint_of(infos, infos[0].topic_type))

    def _match(self, topic: str, typename: str | None) -> None:
        infos = self.get_publishers_info_by_topic(topic)
        if not infos:
            return
        offered = {i.topic_type for i in infos}
        stream = self._intake.streams.get(topic)
        if stream is not None:
            typename = stream.type
        elif typename is None:
            typename = infos[0].topic_type
        elif topic == self._task.image.topic and offered == {COMPRESSED_IMAGE}:
            typename = COMPRESSED_IMAGE
        if wrong := offered - {typename}:
            self._wrong_types[topic] = ", ".join(sorted(wrong))
        else:
            self._wrong_types.pop(topic, None)
        if typename not in offered:
            return
        if typename not in TYPESTORE.types:
            self.get_logger().error(
                f"{topic}: {typename} is not one of the standard interfaces; it is not recorded",
                once=True,
            )
            return
        if stream is None:
            stream = Stream(topic, typename, compress=self._format != "raw")
            self._intake.add(stream)
        wanted = endpoint_of(infos, typename)
        stream.qos = [qos_of(i.qos_profile) for i in infos if i.topic_type == typename]
        stream.latch(wanted.latched)
        if self._subscribed.subscribe(topic, wanted):
            self.get_logger().debug(f"subscribed to {topic}: {wanted}")

    def _on_lost(self, topic: str, count: int) -> None:
        """The middleware tells of messages that it lost; its numbers tell the same, and when."""
        stream = self._intake.streams.get(topic)
        if stream is not None and not stream.account.numbered:
            with self._intake.lock:
                stream.account.lose(self._intake.clock.last_ns, count, "dropped by the middleware")

    # State

    def _watch(self) -> None:
        """End what cannot go on."""
        if self._subscribed.failure is not None:
            self.fail(self._subscribed.failure)
        session, disk = self._intake.session, self._disk
        if session is None:
            return
        if session.failure is not None:
            self._intake.end()
            self._try(lambda: self._end_failed(session))
        elif disk is not None:
            self._watch_disk(session, disk)

    def _watch_disk(self, session: RecordingSession, disk: DiskWatch) -> None:
        disk.reserve = int(self.get_parameter("min_free_mb").value) * MEGABYTE // 2
        try:
            reason = disk.look()
        except FogError as error:
            session.fail(error)
            return
        if reason:
            self.get_logger().error(f"{reason}; {session.path} is closed")
            self._error = reason
            self._try(lambda: self._stop(reason=reason))
            if self._unattended:
                self.fail(FogError(f"bag {session.path}: closed, because {reason}"))

    def _end_failed(self, session: RecordingSession) -> str:
        self._disk = None
        try:
            session.close()
        except FogError as error:
            self._failed(session, error)
        return ""

    def _rates(self) -> dict[str, float]:
        """Topic -> Hz over the last seconds, in the time of the recorder's clock."""
        if len(self._history) < 2:
            return {}
        (begin, before), (end, after) = self._history[0], self._history[-1]
        if end <= begin:
            return dict.fromkeys(after, 0.0)
        return {t: (n - before.get(t, 0)) / (end - begin) for t, n in after.items()}

    def _assess(self) -> None:
        """Compare with what the task needs; tell what is new."""
        streams, image = self._intake.streams, self._task.image.topic
        now = self._intake.clock.last_ns / 1e9 if self._intake.clock.simulated else time.monotonic()
        if self._history and now < self._history[-1][0]:
            self._history.clear()
        self._history.append((now, {t: s.heard for t, s in streams.items()}))
        if time.monotonic() - self._begun_at < _SETTLED_S:
            return
        rates, heard = self._rates(), {t: s.heard for t, s in streams.items()}
        if (compressed := compressed_topic(image)) in streams and image not in streams:
            rates[image], heard[image] = rates.get(compressed, 0.0), heard[compressed]
        found = shortcomings(rates, heard, self._wrong_types, self._task)
        session = self._intake.session
        for topic, sentence in found.items():
            if topic not in self._shortcomings:
                self.get_logger().warning(sentence)
            if session is not None:
                after_s = time.monotonic() - session.started_at
                session.warnings.setdefault(topic, f"{sentence} (at {after_s:.0f} s)")
        self._shortcomings = found

    def _report(self) -> None:
        """Publish counts, rates and what is wrong."""
        self._subscribed.handle_events()
        self._assess()
        session, rates = self._intake.session, self._rates()
        streams = self._intake.streams
        counts: dict[str, Any] = dict.fromkeys(self._types, "0 messages, 0.0 Hz")
        for topic, stream in streams.items():
            written = stream.account.written if session else 0
            counts[topic] = f"{written} messages, {rates.get(topic, 0.0):.1f} Hz"
        disk = self._disk.warning if self._disk else ""
        level = OK
        if self._shortcomings or disk or any(s.account.lost for s in streams.values()):
            level = WARN
        if self._error:
            level = ERROR
        try:
            free = free_bytes(Path(str(self.get_parameter("output").value)))
        except FogError as error:
            free, level, disk = 0, ERROR, str(error)
        message = "; ".join(x for x in (self._headline(), disk, *self._shortcomings.values()) if x)
        values = {
            **counts,
            "free_disk_mb": free // MEGABYTE,
            "queue_depth": sum(session.waiting.values()) if session else 0,
            "without_clock": self._intake.without_clock,
        }
        if self._intake.without_clock and not self._intake.clock.last_ns > 0:
            message += "; /clock does not run, which use_sim_time needs"
        self.diagnose("bag", level, message, values)
        for topic in self._types | streams:
            self._report_topic(topic, rates.get(topic, 0.0))

    def _report_topic(self, topic: str, rate_hz: float) -> None:
        stream, sentence = self._intake.streams.get(topic), self._shortcomings.get(topic, "")
        account = stream.account if stream else TopicAccount(topic, self._types.get(topic) or "")
        session = self._intake.session
        level = WARN if sentence or account.lost or account.missing else OK
        if topic in self._wrong_types:
            level = ERROR
        self.diagnose(
            topic,
            level,
            sentence or f"{rate_hz:.1f} Hz",
            {
                "received": account.received,
                "written": account.written,
                "rate_hz": f"{rate_hz:.2f}",
                "bytes": account.size,
                "gaps": account.gaps_total,
                "missing": account.missing,
                "lost": account.lost,
                "last_stamp_ns": account.last_stamp_ns or "",
                "last_log_ns": account.last_ns or "",
                "queue_depth": session.waiting.get(account.topic, 0) if session else 0,
                "publishers": self.count_publishers(topic),
            },
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
