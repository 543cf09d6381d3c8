"""Passes messages on between a robot and what drives it, and spoils them when it is told to.

    python -m fog_bringup.benchmarks.stream_relay_node NAME PREFIX TOPIC=TYPE...

takes every TOPIC from PREFIX/TOPIC. Lines on standard input are ``{"topics": {TOPIC: FAULT}}`` in
JSON, with a fault as :func:`fog_bringup.benchmarks.stream_faults.make_fault` reads it; topics that
are not named are sound again. For every line it prints one, ``{"relay": NAME, "at_ns": ...}``: when
the first message was spoilt, or held back. It ends with its standard input.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Sequence

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy

from fog_bringup.base_node import message_class
from fog_bringup.benchmarks.ordered_node import follow_orders
from fog_bringup.benchmarks.stream_faults import StreamFault, make_fault
from fog_world_model.ros_environment import prepare

_DEPTH = 50


class Relay:
    """The topics of one process.

    Args:
        name: Of the node.
        prefix: Before the name under which a topic comes in.
        types: Topic -> interface name.
    """

    def __init__(self, name: str, prefix: str, types: dict[str, str]) -> None:
        self.node = rclpy.create_node(name)
        self._name, self._types = name, types
        self._faults: dict[str, StreamFault] = {}
        self._unacknowledged = False
        self._publishers = {}
        for topic, typename in types.items():
            kind = message_class(typename)
            # Reliable, so that whoever asks for that gets it; what comes in may be best effort.
            self._publishers[topic] = self.node.create_publisher(kind, topic, 10)
            qos = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
            take = functools.partial(self._take, topic)
            self.node.create_subscription(kind, f"{prefix}{topic}", take, qos, raw=True)

    def obey(self, line: str) -> None:
        """Carry out a line of standard input."""
        wanted = json.loads(line)["topics"]
        self._faults = {
            topic: make_fault(spec, self._types[topic]) for topic, spec in wanted.items()
        }
        self._unacknowledged = bool(wanted)
        if not wanted:
            self._acknowledge()

    def _take(self, topic: str, data: bytes) -> None:
        fault = self._faults.get(topic)
        if fault is None:
            self._publishers[topic].publish(data)
            return
        going_on = fault.apply(bytes(data), time.time_ns())
        if self._unacknowledged:
            self._unacknowledged = False
            self._acknowledge()
        for message in going_on:
            self._publishers[topic].publish(message)

    def _acknowledge(self) -> None:
        print(json.dumps({"relay": self._name, "at_ns": time.time_ns()}), flush=True)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    given = sys.argv[1:] if args is None else list(args)
    if "--ros-args" in given:
        given = given[: given.index("--ros-args")]
    name, prefix, *described = given
    prepare()
    rclpy.init(args=[])
    relay = Relay(name, prefix, dict(text.split("=") for text in described))
    ready = json.dumps({"relay": name, "ready": True})
    return follow_orders(relay.node, relay.obey, ready=lambda: print(ready, flush=True))


if __name__ == "__main__":
    sys.exit(main())
