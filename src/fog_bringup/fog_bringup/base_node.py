"""What the nodes of this package share: checked parameters, a clean end, an exit status."""

from __future__ import annotations

import array
import importlib
import math
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare

_WAKE_S = 0.1

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class FogNode(Node):
    """A node whose parameters are checked and that can end itself with an error.

    Args:
        name: Node name.
    """

    def __init__(self, name: str) -> None:
        # Overrides become parameters at once, so that what nobody declares afterwards can be
        # named as unknown: a mistyped option must not be ignored.
        super().__init__(name, automatically_declare_parameters_from_overrides=True)
        self._unclaimed = {
            key
            for key in self.get_parameters_by_prefix("")
            if key not in ("use_sim_time", "start_type_description_service")
            and not key.startswith("qos_overrides.")
        }
        self._declared: list[str] = []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.done: Future[None] = Future()
        """Complete it, or :meth:`fail`, to end the node."""

    def declare(
        self,
        name: str,
        default: Any,
        description: str,
        *,
        low: float | None = None,
        high: float | None = None,
        choices: Sequence[str] = (),
        fixed: bool = True,
    ) -> Any:
        """Declare a parameter and return its value.

        Args:
            name: Parameter name.
            default: Its type is the parameter's type; a whole number is accepted for a float.
            description: One sentence, with the unit.
            low: Smallest value allowed.
            high: Largest value allowed.
            choices: The strings allowed; empty: any.
            fixed: Whether it cannot be changed while the node runs.

        Raises:
            FogError: The value given has another type or lies outside the range.
        """
        descriptor = ParameterDescriptor(description=description, read_only=fixed)
        if low is not None or high is not None:
            limits = (-math.inf if low is None else low, math.inf if high is None else high)
            if isinstance(default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(limits[0]), to_value=float(limits[1]))
                ]
            else:
                whole = [int(max(min(x, 2**62), -(2**62))) for x in limits]
                descriptor.integer_range = [IntegerRange(from_value=whole[0], to_value=whole[1])]
        if choices:
            descriptor.additional_constraints = f"one of {', '.join(choices)}"
        value = default
        if name in self._unclaimed:
            value = self.get_parameter(name).value
            self.undeclare_parameter(name)
            self._unclaimed.remove(name)
            value = _as_type_of(default, value, f"{self.get_name()}: parameter {name}")
        if choices and value not in choices:
            raise FogError(
                f"{self.get_name()}: parameter {name} must be one of {', '.join(choices)}, "
                f"not {value!r}"
            )
        self._declared.append(name)
        try:
            self.declare_parameter(name, value, descriptor, ignore_override=True)
        except ParameterException as error:
            raise FogError(f"{self.get_name()}: parameter {name}: {error}") from error
        return value

    def check_parameters(self) -> None:
        """Call once all parameters are declared.

        Raises:
            FogError: A parameter was given that this node does not have.
        """
        if self._unclaimed:
            raise FogError(
                f"{self.get_name()}: unknown parameter {', '.join(sorted(self._unclaimed))}; "
                f"known are {', '.join(sorted(self._declared))}"
            )

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
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

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


def _as_type_of(default: Any, value: Any, where: str) -> Any:
    """Take whole numbers for floats, and arrays for lists."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, list) and isinstance(value, (list, tuple, array.array)):
        return [_as_type_of(default[0], item, where) for item in value]
    if type(value) is type(default):
        return value
    raise FogError(f"{where} must be of type {type(default).__name__}, not {value!r}")
