"""The clock of the policy's node: real or simulated, running or standing still."""

from __future__ import annotations

import time

from rclpy.clock import ROSClock
from rclpy.node import Node

CHECK_S = 0.5
"""Wall time between two checks whether the clock goes on."""
_CHECKS = 3
"""The clock stands still when this many checks in a row find it so."""


class ClockWatch:
    """Reads a node's clock.

    Args:
        node: Whose.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last_ns, self._still = 0, 0

    def now_ns(self) -> int:
        """Time of the node, ns."""
        return int(self._node.get_clock().now().nanoseconds)

    @property
    def simulated(self) -> bool:
        """Whether it follows /clock."""
        clock = self._node.get_clock()
        return isinstance(clock, ROSClock) and bool(clock.ros_time_is_active)

    def steady_ns(self) -> int:
        """A clock that does not jump, unless time is simulated."""
        return self.now_ns() if self.simulated else time.monotonic_ns()

    def rate(self, since: tuple[int, float] | None) -> float:
        """Seconds of the node's clock per second of wall time.

        Args:
            since: The node's clock, ns, and the monotonic one, s, at some moment before.
        """
        if since is None or not self.simulated:
            return 1.0
        passed_s = time.monotonic() - since[1]
        return (self.now_ns() - since[0]) / 1e9 / passed_s if passed_s > 1.0 else 1.0

    def forgive(self) -> None:
        """Count anew for how long it has stood still."""
        self._still = 0

    def check(self) -> float | None:
        """Look whether it goes on, every :data:`CHECK_S`.

        Returns:
            For how long it has stood still, s, when that is too long.
        """
        now_ns = self.now_ns()
        # Checks are counted, not wall time: while this process gets no processor, a simulation
        # may well be waiting for it.
        self._still = self._still + 1 if now_ns == self._last_ns else 0
        self._last_ns = now_ns
        return self._still * CHECK_S if self._still >= _CHECKS else None
