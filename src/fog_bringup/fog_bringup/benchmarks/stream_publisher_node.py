"""Publishes made-up sensors at exact rates, and notes the stamp of every message that it sent.

    python -m fog_bringup.benchmarks.stream_publisher_node SENT.npz DEPTH TOPIC=TYPE@HZ...

It prints ``matched`` when every topic has a subscriber, begins at a line on standard input, and
ends at the next line or at its end. A topic of type Image may say its size: ``Image:640x480``.
"""

from __future__ import annotations

import heapq
import struct
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.publisher import Publisher

from fog_bringup.base_node import message_class
from fog_world_model.data import messages
from fog_world_model.ros_environment import prepare

_JOINTS = 12
_PICTURES = 8
_MATCH_S = 60.0


@dataclass
class Stream:
    """One topic: what is sent, and how often."""

    topic: str
    typename: str
    hz: float
    bodies: list[bytearray]
    """Serialised messages, sent in turn; only their stamps change."""


def parse(text: str) -> Stream:
    """Read ``TOPIC=TYPE@HZ``."""
    topic, _, rest = text.partition("=")
    described, _, hz = rest.rpartition("@")
    typename, _, size = described.partition(":")
    package = "nav_msgs" if typename == "Odometry" else "sensor_msgs"
    full = f"{package}/msg/{typename}"
    if typename == "Image":
        width, height = (int(x) for x in (size or "640x480").split("x"))
        bodies = [_picture(width, height, k) for k in range(_PICTURES)]
    elif typename == "JointState":
        names = [f"joint_{k}" for k in range(_JOINTS)]
        values = {q: np.linspace(0.0, 1.0, _JOINTS) for q in ("position", "velocity", "effort")}
        bodies = [_body(full, name=names, **values)]
    else:
        bodies = [_body(full)]
    return Stream(topic, full, float(hz), bodies)


def _body(typename: str, **fields: object) -> bytearray:
    message = messages.make(typename, header=messages.header(0, "base"), **fields)
    return bytearray(messages.serialise(message))


def _picture(width: int, height: int, k: int) -> bytearray:
    """A gradient that wanders, with a camera's noise: it compresses about as pictures do."""
    noise = np.random.default_rng(k).normal(0.0, 3.0, (height, width, 3))
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    base = np.stack([(x + 20 * k) % 256, y % 256, (x + y) // 4 % 256], axis=2)
    return _body(
        "sensor_msgs/msg/Image",
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=np.clip(base + noise, 0, 255).astype(np.uint8).reshape(-1),
    )


class _Lines:
    """Lines that come on standard input, counted by a thread."""

    def __init__(self) -> None:
        self.count = 0
        self.ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for _ in sys.stdin:
            self.count += 1
        self.ended = True


def _publish(
    streams: Sequence[Stream], publishers: Sequence[Publisher], lines: _Lines
) -> dict[str, list[int]]:
    """Send in the order of due times until told to end; stamps sent, by topic."""
    sent: dict[str, list[int]] = {s.topic: [] for s in streams}
    begin = time.monotonic()
    due = [(begin, k) for k in range(len(streams))]
    heapq.heapify(due)
    while lines.count < 2 and not lines.ended:
        at, k = due[0]
        now = time.monotonic()
        if at > now:
            time.sleep(min(at - now, 0.05))
            continue
        stream, stamps = streams[k], sent[streams[k].topic]
        body = stream.bodies[len(stamps) % len(stream.bodies)]
        now_ns = time.time_ns()
        struct.pack_into("<iI", body, 4, now_ns // 10**9, now_ns % 10**9)
        publishers[k].publish(bytes(body))
        stamps.append(now_ns)
        heapq.heapreplace(due, (begin + len(stamps) / stream.hz, k))
    return sent


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    output, depth, *described = sys.argv[1:] if args is None else args
    prepare()
    rclpy.init(args=[])
    node = rclpy.create_node("stream_publisher")
    streams = [parse(text) for text in described]
    publishers = [
        node.create_publisher(message_class(s.typename), s.topic, int(depth)) for s in streams
    ]
    lines = _Lines()
    deadline = time.monotonic() + _MATCH_S
    while any(not p.get_subscription_count() for p in publishers):
        if time.monotonic() > deadline or lines.ended:
            print("error: nobody subscribes", file=sys.stderr)
            return 2
        time.sleep(0.02)
    print("matched", flush=True)
    while not lines.count and not lines.ended:
        time.sleep(0.005)
    sent = _publish(streams, publishers, lines)
    time.sleep(1.0)  # what is on its way arrives before the publishers go
    arrays: dict[str, Any] = {
        topic.replace("/", "|"): np.asarray(stamps, np.int64) for topic, stamps in sent.items()
    }
    aside = Path(f"{output}.part.npz")
    np.savez(aside, **arrays)
    aside.rename(output)  # whoever waits for it finds it whole
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
