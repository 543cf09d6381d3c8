"""Runs a node that another process orders about: lines of JSON on its standard input."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

_WAKE_S = 0.02


def follow_orders(
    node: Node,
    obey: Callable[[str], object],
    *,
    ready: Callable[[], object],
    each: Callable[[], object] = lambda: None,
) -> int:
    """Spin until standard input ends, or Ctrl-C.

    Args:
        node: Destroyed at the end, and ROS shut down.
        obey: Called with every line, between two callbacks of the node.
        ready: Called once before the first of them.
        each: Called after every callback, and at least every 20 ms.

    Returns:
        Exit status, 0.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ready()
    try:
        while rclpy.ok():
            executor.spin_once(timeout_sec=_WAKE_S)
            each()
            if not lines.empty():
                line = lines.get()
                if line is None:
                    break
                obey(line)
    except KeyboardInterrupt:
        pass
    node.destroy_node()
    rclpy.try_shutdown()
    return 0
