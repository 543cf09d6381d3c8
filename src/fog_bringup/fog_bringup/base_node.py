"""What the nodes of this package share: checked parameters, a clean end, an exit status."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from fog_policy import exit_signals
from fog_policy.parameters_node import ParametersNode
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare

_WAKE_S = 0.1

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class FogNode(ParametersNode):
    """A node whose parameters are checked and that can end itself with an error.

    Args:
        name: Node name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.done: Future[None] = Future()
        """Complete it, or :meth:`fail`, to end the node."""

    def every(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back in wall-clock time, also while simulated time stands still."""
        self.create_timer(seconds, callback, clock=self._steady_clock)

    def diagnose(self, part: str, level: bytes, message: str, values: dict[str, object]) -> None:
        """Publish one status on /diagnostics."""
        status = DiagnosticStatus(
            level=level,
            name=f"{self.get_name()}: {part}",
            message=message,
            hardware_id=self.get_name(),
            values=[KeyValue(key=k, value=str(v)) for k, v in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def fail(self, error: Exception) -> None:
        """End the node with an error; may be called from any thread."""
        if not self.done.done():
            self.done.set_exception(error)

    def close(self) -> None:
        """Release what the node holds; called once, whatever ended it."""


def sender_of(info: Mapping[str, Any]) -> tuple[bytes, int | None]:
    """Who published a message, and which of its messages it is.

    Args:
        info: What the middleware tells of the message.

    Returns:
        Identity of the publisher (empty: not told), and the message's number, counted from 1
        (None: not told).
    """
    gid = info.get("publisher_gid")
    return gid["data"] if gid else b"", info.get("publication_sequence_number")


def message_class(typename: str) -> Any:
    """Python class of an interface such as ``sensor_msgs/msg/Image``.

    Raises:
        FogError: The package that defines it is not installed.
    """
    package, kind, name = typename.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as error:
        raise FogError(
            f"{typename}: its Python package is missing (sudo apt install "
            f"ros-$ROS_DISTRO-{package.replace('_', '-')}, or pip install "
            f"ros-kilted-{package.replace('_', '-')})"
        ) from error


def run(make_node: Callable[[], FogNode], args: Sequence[str] | None = None) -> int:
    """Run a node until a signal, or itself, ends it.

    Args:
        make_node: Called once ROS is initialised.
        args: Command line; ``sys.argv`` unless given.

    Returns:
        Exit status: 0 after SIGINT, SIGTERM or a regular end, 2 after a :class:`FogError`, which
        is printed.
    """
    prepare()
    node: FogNode | None = None
    status = 0
    with _Signals() as signals:
        try:
            _initialise(args)
            node = make_node()
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            signals.interrupt = False
            while not (signals.received or node.done.done()):
                executor.spin_once(timeout_sec=_WAKE_S)
            if node.done.done():
                node.done.result()
        except (KeyboardInterrupt, ExternalShutdownException):
            signals.interrupt = False
        except FogError as error:
            status = _report(node, error)
        finally:
            status = _close(node) or status
    return status


class _Signals:
    """Takes SIGINT and SIGTERM as wishes to end.

    rclpy's own handlers shut ROS down at once, and an exception may strike in the middle of a
    write. Here callbacks finish, and a node closes while it can still publish (a last zero
    command, say). A second Ctrl-C, which a launcher may pass on, does not cut that short.
    """

    def __init__(self) -> None:
        self.received = False
        self.interrupt = True
        """Whether a signal raises KeyboardInterrupt: while a node starts, which may take long."""

    def __enter__(self) -> _Signals:
        """Install the handlers (signals reach the main thread only)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        """Ignore signals until the process ends, which is soon: a second Ctrl-C is no death."""
        exit_signals.ignore()

    def _receive(self, number: int, frame: object) -> None:
        self.received = True
        if self.interrupt:
            raise KeyboardInterrupt


def _close(node: FogNode | None) -> int:
    status = 0
    try:
        if node is not None:
            node.close()
    except FogError as error:
        status = _report(node, error)
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return status


def _initialise(args: Sequence[str] | None) -> None:
    try:
        rclpy.init(
            args=None if args is None else list(args),
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except Exception as error:
        # rclpy tells of a malformed command line with an exception class of its C++ part.
        raise FogError(f"ROS does not start: {error}") from error


def _report(node: FogNode | None, error: FogError) -> int:
    # /rosout and the log file get it where the context still lives; standard error always does.
    if node is not None and rclpy.ok():
        node.get_logger().error(str(error))
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2
