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
- A camera that changes its resolution: the recording goes on, every size is noted with its time; an
  episode that is imported across the change breaks there.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from fog_bringup.base_node import ERROR, OK, WARN, FogNode, run
from fog_bringup.disk_space import MEGABYTE, DiskWatch, free_bytes
from fog_bringup.episode_outcome import mark_outcome
from fog_bringup.image_recording import COMPRESSED_IMAGE, ImageEncoder, compressed_topic
from fog_bringup.interface_definitions import learn_interface
from fog_bringup.joystick_buttons import JoystickButtons
from fog_bringup.recorder_report import RecorderReport
from fog_bringup.recording_account import TopicAccount, irregularities
from fog_bringup.recording_intake import CLOCK, Intake
from fog_bringup.recording_session import RecordingSession
from fog_bringup.recording_stream import Stream
from fog_bringup.tasks import find_task
from fog_bringup.topic_subscriptions_node import TopicSubscriptions, endpoint_of
from fog_world_model.data.bag_metadata import qos_of
from fog_world_model.data.bag_writer import BagWriter, task_custom_data
from fog_world_model.errors import FogError

_MATCH_PERIOD_S: Final = 0.25
_PATIENCE_S: Final = 2.0
"""How long raw images may stay away before compressed ones are taken in their place."""
_WATCH_PERIOD_S: Final = 0.1
_REPORT_PERIOD_S: Final = 1.0
_LEVELS: Final = {"ok": OK, "warn": WARN, "error": ERROR}


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
        self._compressed_since = time.monotonic()
        self._state = RecorderReport(self._task, self._types, self._intake)
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
        self._last_bag = None  # a mark never goes to a bag before the newest
        self._subscribed.drain()  # what came before does not belong to it
        self._intake.begin(lambda accounts: self._session(writer, accounts))
        self._error = ""
        self._state.settle()
        for shortcoming in self._state.shortcomings.values():
            self.get_logger().warning(shortcoming.text)
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
        self._last_bag = session.path
        return str(session.path)

    def _finish(self, session: RecordingSession, outcome: str, reason: str) -> None:
        for topic in self._types:
            if not self._intake.heard(topic, session.accounts):
                session.warn(topic, "silent", f"{topic} is silent: nothing came from it")
        path = session.close(outcome=outcome, reason=reason)
        counts = ", ".join(f"{topic} {a.written}" for topic, a in session.accounts.items())
        self.get_logger().info(f"closed {path} ({reason}): {counts}")
        for sentence in irregularities(session.accounts):
            self.get_logger().warning(f"{path}: {sentence}")

    def _mark(self, outcome: str) -> str:
        if self._intake.session is not None:
            return self._stop(outcome)
        if self._last_bag is None:
            raise FogError("no bag has been closed that could be marked")
        mark_outcome(self._last_bag, outcome)
        self.get_logger().info(f"{self._last_bag} is marked as a {outcome}")
        return str(self._last_bag)

    def _status(self) -> str:
        return self._state.lines(self._headline())

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
        session = RecordingSession(
            writer,
            accounts,
            queue_bytes=self._queue_mb * MEGABYTE,
            encoder=encoder,
        )
        for topic, (kind, text) in self._state.shortcomings.items():
            session.warn(topic, kind, text)
        return session

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
            self._error = f"the recording does not go on: {error}"
            self.get_logger().error(self._error)
            if self._unattended:
                self.fail(error)
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
        self._match_compressed()
        if not self._intake.clock.simulated or CLOCK in self._intake.streams:
            return
        if infos := self.get_publishers_info_by_topic(CLOCK):
            self._subscribed.subscribe(CLOCK, endpoint_of(infos, infos[0].topic_type))

    def _match_compressed(self) -> None:
        """Take the camera's compressed images, where it offers no others."""
        image = self._task.image.topic
        compressed = compressed_topic(image)
        if image in self._intake.streams or not self.get_publishers_info_by_topic(compressed):
            self._compressed_since = time.monotonic()
        elif time.monotonic() - self._compressed_since > _PATIENCE_S:
            self._match(compressed, COMPRESSED_IMAGE)

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
            self._state.wrong_types[topic] = ", ".join(sorted(wrong))
        else:
            self._state.wrong_types.pop(topic, None)
        if typename not in offered:
            return
        if stream is None:
            try:
                learn_interface(typename)
            except FogError as error:
                self.get_logger().error(
                    f"{topic} is not recorded: {error}", throttle_duration_sec=60.0
                )
                return
            stream = Stream(topic, typename, compress=self._format != "raw")
            self._intake.add(stream)
        publishers = {bytes(i.endpoint_gid) for i in infos}
        if stream.publishers and publishers - stream.publishers:
            with self._intake.lock:
                stream.account.another_publisher()
        stream.publishers = publishers
        wanted = endpoint_of(infos, typename)
        stream.qos = [qos_of(i.qos_profile) for i in infos if i.topic_type == typename]
        stream.latch(wanted.latched)
        if self._subscribed.subscribe(topic, wanted):
            self.get_logger().debug(f"subscribed to {topic}: {wanted}")

    def _on_lost(self, topic: str, count: int) -> None:
        """The middleware tells of messages that it lost; its numbers tell the same, and when."""
        stream = self._intake.streams.get(topic)
        if stream is None:
            return
        stream.lost_events += count
        if not stream.account.numbered:
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
            if self._intake.end(session) is session:
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

    def _report(self) -> None:
        """Publish counts, rates and what is wrong."""
        self._subscribed.handle_events()
        for sentence in self._state.assess():
            self.get_logger().warning(sentence)
        disk, error = self._disk.warning if self._disk else "", self._error
        try:
            free = free_bytes(Path(str(self.get_parameter("output").value)))
        except FogError as problem:
            free, disk, error = 0, str(problem), error or str(problem)
        bag = self._state.bag(self._headline(), error=error, disk=disk, free=free)
        for part, level, message, values in (bag, *self._state.topics()):
            self.diagnose(part, _LEVELS[level], message, values)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
