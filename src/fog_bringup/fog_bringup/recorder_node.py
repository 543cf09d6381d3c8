"""Records the topics of a task to rosbag2 bags, without deserialising a single message."""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_srvs.srv import Trigger

from fog_bringup.base_node import OK, WARN, FogNode, message_class, run
from fog_bringup.tasks import find_task
from fog_world_model.data.bag_writer import BagWriter, task_custom_data
from fog_world_model.errors import FogError

_IMAGE_DEPTH, _DEPTH = 30, 500
"""Messages held for this node while it is busy writing; images are large."""
_MATCH_PERIOD_S = 0.25
_SILENT_AFTER_S = 3.0
_SAME_STEP_NS = 1_000_000


class RecorderNode(FogNode):
    """Writes every message of the task's topics, as it came, with the time at which it came.

    Services (both std_srvs/srv/Trigger; their message names the bag):
        ``~/start``: begin a new bag, ``<output>/<task>_<number>``.
        ``~/stop``: close it.
    """

    def __init__(self) -> None:
        super().__init__("recorder_node")
        task_name = self.declare("task", "reach_cube", "name of a task, or path of a task file")
        output = self.declare("output", "bags", "folder in which each recording gets a bag")
        start = self.declare("start", False, "begin recording at once")
        extra = self.declare("extra_topics", [""], "topics to record beside those of the task")
        self.check_parameters()
        self._task = find_task(task_name)
        self._types: dict[str, str | None] = {
            **dict.fromkeys((t for t in extra if t), None),
            **self._task.topics(),
        }
        self._output = Path(output)
        self._writer: BagWriter | None = None
        self._bag = Path()
        self._counts: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._reported_at = self._started_at = time.monotonic()
        self._without_clock = 0
        self._last_ns = 0
        self._subscriptions_of: dict[str, Subscription[Any]] = {}
        self._profiles: dict[str, tuple[ReliabilityPolicy, DurabilityPolicy]] = {}
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.every(_MATCH_PERIOD_S, self._match_publishers)
        self.every(1.0, self._report)
        if start:
            self._start()

    def close(self) -> None:
        """Close the bag."""
        self._stop()

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._writer is not None:
            response.success, response.message = False, f"already recording {self._bag}"
            return response
        try:
            self._start()
        except FogError as error:  # the next attempt may succeed, so the node stays
            self.get_logger().error(str(error))
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, str(self._bag)
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._writer is None:
            response.success, response.message = False, "not recording"
            return response
        self._stop()
        response.success, response.message = True, str(self._bag)
        return response

    def _start(self) -> None:
        self._bag = self._free_name()
        self._writer = BagWriter(self._bag, task_custom_data(self._task))
        self._counts.clear()
        self._reported.clear()
        self._reported_at = self._started_at = time.monotonic()
        self.get_logger().info(f"recording {self._bag}")

    def _free_name(self) -> Path:
        """Nothing is overwritten, nor what a killed recorder left."""
        for number in itertools.count():
            bag = self._output / f"{self._task.name}_{number:03d}"
            if not bag.exists() and not bag.with_name(f"{bag.name}.part").exists():
                return bag
        raise AssertionError("numbers do not run out")

    def _stop(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.close()
        counts = ", ".join(f"{topic} {self._counts[topic]}" for topic in self._types)
        self.get_logger().info(f"closed {self._bag}: {counts}")
        if missing := [topic for topic in self._types if not self._counts[topic]]:
            self.get_logger().warning(f"{self._bag} holds nothing of {', '.join(missing)}")

    def _match_publishers(self) -> None:
        """Subscribe to what is published, in the quality of service that it is published in.

        Best effort hears every publisher, but loses messages that a reliable one would repeat.
        """
        for topic, typename in self._types.items():
            infos = self.get_publishers_info_by_topic(topic)
            if typename is None and infos:
                typename = self._types[topic] = infos[0].topic_type
            if typename is None or not infos:
                continue
            if wrong := {i.topic_type for i in infos} - {typename}:
                self.get_logger().error(
                    f"{topic} is published as {', '.join(wrong)}, but the task expects {typename}",
                    throttle_duration_sec=10.0,
                )
            profiles = [i.qos_profile for i in infos]
            reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
            latched = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
            wanted = (
                ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
                DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
            )
            if self._profiles.get(topic) == wanted:
                continue
            self._profiles[topic] = wanted
            self._subscribe(topic, typename)
            # What waits for this node together is taken in the order of subscription: the picture
            # first, then the command that answers it.
            action = self._task.action
            if topic == self._task.image.topic and action.topic in self._subscriptions_of:
                self._subscribe(action.topic, action.type)

    def _subscribe(self, topic: str, typename: str) -> None:
        if topic in self._subscriptions_of:
            self.destroy_subscription(self._subscriptions_of[topic])
        reliability, durability = self._profiles[topic]
        self._subscriptions_of[topic] = self.create_subscription(
            message_class(typename),
            topic,
            functools.partial(self._on_message, topic, typename),
            QoSProfile(
                depth=_IMAGE_DEPTH if typename == "sensor_msgs/msg/Image" else _DEPTH,
                reliability=reliability,
                durability=durability,
            ),
            raw=True,
        )

    def _on_message(self, topic: str, typename: str, data: bytes) -> None:
        if self._writer is None:
            return
        now_ns = int(self.get_clock().now().nanoseconds)
        if now_ns == 0:  # simulated time, and no /clock yet
            self._without_clock += 1
            return
        # Simulated time comes in steps, within which the order of arrival must not be lost: a
        # command comes after the picture that it answers.
        if self._last_ns <= now_ns + _SAME_STEP_NS:
            now_ns = max(now_ns, self._last_ns + 1)
        self._last_ns = now_ns
        # An error (the disk is full) ends the node; the writer keeps what came through.
        self._writer.write(topic, typename, data, now_ns)
        self._counts[topic] += 1

    def _report(self) -> None:
        """Publish counts and rates; name the topics that nothing comes from."""
        now = time.monotonic()
        elapsed, self._reported_at = now - self._reported_at, now
        rates = {t: (self._counts[t] - self._reported[t]) / elapsed for t in self._types}
        self._reported = self._counts.copy()
        recording = self._writer is not None
        silent = [t for t in self._types if recording and not rates[t]]
        if recording and silent and now - self._started_at > _SILENT_AFTER_S:
            self.get_logger().warning(
                f"nothing comes from {', '.join(silent)}"
                + (
                    "; nor does /clock run, which use_sim_time needs"
                    if self._without_clock and not self._counts
                    else ""
                ),
                throttle_duration_sec=10.0,
            )
        self.diagnose(
            "bag",
            WARN if silent else OK,
            f"recording {self._bag}" if recording else "not recording",
            {
                **{t: f"{self._counts[t]} messages, {rates[t]:.1f} Hz" for t in self._types},
                "without_clock": self._without_clock,
            },
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
