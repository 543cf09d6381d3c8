"""Plays a bag to a policy and compares what it commands with what was recorded.

    fog_replay_node --ros-args -p bag:=bags/reach_cube_000 -p bundle:=models/policy.bundle

It publishes the topics that the bundle's task names, with /clock, and ends at the bag's end. The
recorded commands go to ``/recorded`` + the action topic, so that they reach no robot; the policy's
are expected at ``/policy`` + the action topic, where replay.launch.py sends them. It needs no
rosbag2: bags are read as everywhere in this stack.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_profile_sensor_data

from fog_bringup.base_node import FogNode, message_class, run
from fog_bringup.launch_arguments import bundle_task
from fog_bringup.replay_comparison import ReplayComparison, compare_commands
from fog_bringup.tasks import find_task
from fog_policy.control_report import write_json
from fog_world_model.data import messages
from fog_world_model.data.bag_reader import BagReader, RecordedMessage
from fog_world_model.data.bag_topics import IMAGE, find_topics
from fog_world_model.data.compressed_images import decode_compressed
from fog_world_model.errors import FogError
from fog_world_model.task import ActionConfig, StreamConfig

_SENSORS = ("sensor_msgs/", "nav_msgs/")
_CLOCK_NS = 10_000_000
"""Between two messages that lie further apart, /clock goes on in steps of this size."""
_GAP_NS = 1_000_000_000
"""Longer gaps between messages are not filled with time: the recorded robot was reset."""
_OVERDUE = 1.25
"""A command is overdue when so many control periods have passed since the last."""
_LATE_S = 0.02
_LINGER_S = 0.5
"""What the policy answers to the last picture still arrives in this time."""


class ReplayNode(FogNode):
    """Plays one bag; its parameters are described where they are declared."""

    def __init__(self) -> None:
        super().__init__("replay_node")
        bag = self.declare("bag", "", "Folder of the bag to play.")
        bundle = self.declare(
            "bundle", "", "Folder or shipped name of the policy; its task names the topics."
        )
        task_name = self.declare("task", "", "Name or file of the task, where there is no bundle.")
        self._speed = self.declare(
            "speed", 1.0, "Recorded seconds per wall second.", low=0.01, high=100.0
        )
        self._output = self.declare("output", "", "JSON file for the comparison; empty: the log.")
        self._wait_s = self.declare(
            "wait_s", 20.0, "How long to wait for the policy to listen, s.", low=0.0, high=600.0
        )
        self._patience_s = self.declare(
            "patience_s",
            2.0,
            "Wall time for which the replay waits for a command that is overdue, s; 0: never.",
            low=0.0,
            high=60.0,
        )
        self.check_parameters()
        if not bag:
            raise FogError("replay_node: parameter bag is empty; give -p bag:=FOLDER")
        if not bundle and not task_name:
            raise FogError("replay_node: give -p bundle:=FOLDER, or -p task:=NAME")
        self._task = bundle_task(bundle) if bundle else find_task(task_name)
        self._bag = str(bag)
        action, image = self._task.action, self._task.image.topic
        with BagReader(bag) as reader:
            found = find_topics(reader, self._task)
            wanted = {*self._task.topics(), *self._safety_topics()} - {image}
            types = {t: k for t, k in reader.topics.items() if t in wanted}
        self._action, self._recorded_action = action, found.streams[action.topic]
        self._compressed = found.image if found.compressed else ""
        self._topics: dict[str, Publisher[Any]] = {
            topic: self._publisher(
                f"/recorded{topic}" if topic == action.topic else topic, typename
            )
            for topic, typename in types.items()
        }
        self._images = self._topics[found.image] = self._publisher(image, IMAGE)
        self._clock = self.create_publisher(message_class("rosgraph_msgs/msg/Clock"), "/clock", 10)
        self.create_subscription(
            message_class(action.type),
            f"/policy{action.topic}",
            self._on_policy,
            QoSProfile(depth=100),
            raw=True,
        )
        self._now_ns = 0
        self._recorded: list[tuple[int, Any]] = []
        self._policy: list[tuple[int, Any]] = []
        self._came = threading.Condition()
        self._expected_ns: int | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the player's thread."""
        if hasattr(self, "_thread"):
            self._closing.set()
            self._thread.join(5.0)

    def _safety_topics(self) -> set[str]:
        safety = self._task.safety
        return {safety.tilt_topic, safety.deadman_topic} - {""}

    def _publisher(self, topic: str, typename: str) -> Publisher[Any]:
        sensor = typename.startswith(_SENSORS)
        qos = qos_profile_sensor_data if sensor else QoSProfile(depth=10)
        return self.create_publisher(message_class(typename), topic, qos)

    def _run(self) -> None:
        """Runs in the player's thread."""
        try:
            self._wait_for_policy()
            self._play()
            self._closing.wait(_LINGER_S)
            if not self._closing.is_set():
                self._tell(self._compare())
                self.done.set_result(None)
        except Exception as error:  # whatever it is, the node must not stand there silently
            if self.context.ok() and not self._closing.is_set():
                self.fail(error)

    def _wait_for_policy(self) -> None:
        deadline = time.monotonic() + self._wait_s
        while not self._images.get_subscription_count() and not self._closing.wait(0.02):
            if time.monotonic() > deadline:
                raise FogError(
                    f"replay_node: nobody has subscribed to {self._task.image.topic} within "
                    f"{self._wait_s:g} s; is the policy configured, with the same topics?"
                )

    def _play(self) -> None:
        self.get_logger().info(f"bag {self._bag}: playing {', '.join(sorted(self._topics))}")
        with BagReader(self._bag) as reader:
            begin = time.monotonic()
            start_ns: int | None = None
            for log_ns, message in _with_clock(reader.messages(list(self._topics))):
                start_ns = log_ns if start_ns is None else start_ns
                begin += self._wait_for_command(log_ns)
                due = begin + (log_ns - start_ns) / 1e9 / self._speed
                # Time that was lost is not made up for: messages in a burst would look stale.
                late_s = time.monotonic() - due
                if late_s > _LATE_S:
                    begin, due = begin + late_s, due + late_s
                if self._closing.wait(max(due - time.monotonic(), 0.0)):
                    return
                self._now_ns = log_ns
                # The time first, so that nobody reads a message from the future.
                clock = messages.make("rosgraph_msgs/msg/Clock", clock=messages.stamp(log_ns))
                self._clock.publish(messages.serialise(clock))
                if message is not None:
                    self._topics[message.topic].publish(self._to_publish(message))
                    if message.topic == self._action.topic:
                        values = _values(message.data, self._recorded_action)
                        self._recorded.append((log_ns, values))

    def _wait_for_command(self, log_ns: int) -> float:
        """Hold the recording's time while a command is overdue.

        A busy computer then makes the replay slower instead of showing the policy a recording that
        is older than its safety limits.

        Returns:
            Wall time spent, s.
        """
        if log_ns - self._now_ns > _GAP_NS:
            # The recorded robot was reset: the policy finds its feet first.
            self._expected_ns = None
        begin = time.monotonic()
        with self._came:

            def in_time() -> bool:
                return self._expected_ns is None or log_ns <= self._expected_ns

            if not self._came.wait_for(in_time, self._patience_s):
                self._expected_ns = None
        return time.monotonic() - begin

    def _to_publish(self, message: RecordedMessage) -> bytes:
        """A message as the policy expects it: pictures uncompressed."""
        if message.topic != self._compressed:
            return message.data
        picture = message.decode()
        pixels = decode_compressed(picture)
        height, width = pixels.shape[:2]
        image = messages.make(
            IMAGE,
            header=picture.header,
            height=height,
            width=width,
            encoding="rgb8",
            step=3 * width,
            data=np.ascontiguousarray(pixels).reshape(-1),
        )
        return messages.serialise(image)

    def _on_policy(self, data: bytes) -> None:
        if not self._now_ns:
            return
        self._policy.append((self._now_ns, _values(data, self._action)))
        with self._came:
            self._expected_ns = self._now_ns + round(_OVERDUE * self._task.period_ns)
            self._came.notify_all()

    def _compare(self) -> ReplayComparison:
        count = len(self._action.fields)

        def split(commands: list[tuple[int, Any]]) -> tuple[Any, Any]:
            values = np.asarray([v for _, v in commands], np.float64).reshape(-1, count)
            return np.asarray([t for t, _ in commands], np.int64), values

        return compare_commands(
            self._action.fields,
            *split(self._recorded),
            *split(list(self._policy)),
            tolerance_ns=self._task.period_ns // 2,
        )

    def _tell(self, comparison: ReplayComparison) -> None:
        self.get_logger().info(f"bag {self._bag}:\n{comparison.table()}")
        if self._output:
            content = {"bag": self._bag, "task": self._task.name, "task_hash": self._task.hash}
            try:
                write_json(Path(self._output), {**content, **comparison.to_dict()})
            except OSError as error:
                raise FogError(f"{self._output}: not written ({error.strerror})") from error
        if not comparison.policy_commands:
            raise FogError(
                f"replay_node: no command came on /policy{self._action.topic}; is the policy "
                "active, and does it publish there?"
            )


def _values(data: bytes, stream: StreamConfig | ActionConfig) -> npt.NDArray[np.float32]:
    return messages.read_fields(messages.deserialise(data, stream.type), stream.fields)


def _with_clock(
    recorded: Iterator[RecordedMessage],
) -> Iterator[tuple[int, RecordedMessage | None]]:
    """Messages with their times, and times between those that lie far apart."""
    now_ns: int | None = None
    for message in recorded:
        if now_ns is not None and message.log_ns - now_ns <= _GAP_NS:
            for between in range(now_ns + _CLOCK_NS, message.log_ns, _CLOCK_NS):
                yield between, None
        now_ns = message.log_ns
        yield now_ns, message


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(ReplayNode, args)


if __name__ == "__main__":
    sys.exit(main())
