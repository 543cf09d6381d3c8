"""A recorder written the obvious way: subscribe, serialise, hand to the ``mcap`` library.

    python -m fog_bringup.benchmarks.plain_recorder_node FILE.mcap TOPIC=TYPE...

It is what the recorder of this package is measured against.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from mcap.writer import Writer
from rclpy.executors import ExternalShutdownException
from rclpy.serialization import serialize_message

from fog_bringup.base_node import message_class
from fog_world_model.data.messages import TYPESTORE
from fog_world_model.ros_environment import prepare


def main(args: Sequence[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM."""
    output, *described = sys.argv[1:] if args is None else args
    prepare()
    rclpy.init(args=[])
    node = rclpy.create_node("plain_recorder")
    with Path(output).open("wb") as stream:
        writer = Writer(stream)
        writer.start(profile="ros2")

        def record(channel: int, message: Any) -> None:
            now_ns = time.time_ns()
            writer.add_message(channel, now_ns, serialize_message(message), now_ns)

        for text in described:
            topic, _, typename = text.partition("=")
            definition, _ = TYPESTORE.generate_msgdef(typename, ros_version=2)
            schema = writer.register_schema(typename, "ros2msg", definition.encode())
            channel = writer.register_channel(topic, "cdr", schema)
            callback = functools.partial(record, channel)
            node.create_subscription(message_class(typename), topic, callback, 10)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
            rclpy.spin(node)
        writer.finish()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
