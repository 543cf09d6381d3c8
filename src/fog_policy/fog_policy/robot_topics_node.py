"""The robot's topics: what the policy's node listens to, and the commands that it publishes."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from fog_policy.bundle_fit import messages_misfit
from fog_policy.callback_guard import CallbackGuard
from fog_policy.clock_watch_node import ClockWatch
from fog_policy.command_limits import Command
from fog_policy.command_outlet import CommandOutlet
from fog_policy.control_loop import ControlLoop
from fog_policy.encoding import encode_command
from fog_policy.topic_fit_node import discover, graph_misfit, listen
from fog_world_model.errors import FogError

_ACKNOWLEDGED_S = 1.0
"""How long zero commands are repeated at most until they are acknowledged."""
_ZEROS = 3
"""And how often at least: one who listens with best effort acknowledges nothing."""
_DISCOVERED_S = 2.0
"""How long a new publisher waits at most for somebody to listen."""
DISCOVER_S = 4.0
"""How long a new node waits at most for those who publish: longer than the 3 s after which Fast DDS
announces itself again."""
_POLL_S = 0.02
PROPOSED = "~/proposed_command"
"""Topic of what the policy wanted, of the action's type, once per decision."""


class RobotTopics:
    """Subscriptions to what a control loop wants, and the publisher of its commands.

    Args:
        node: Whose they are.
        loop: Names the topics; counts what is published.
        clock: Stamps commands.
        receive: Called with topic and bytes of every message.
        guard: Around these calls.
        bundle: The loop's, for messages.
        shadow: Publish no command.
        discover_s: How long to wait beforehand at most for those who publish, wall time, s.
        check_s: How long to listen beforehand whether the messages fit, wall time, s.
        pause_s: Between two zero commands that wait to be acknowledged, s.

    Raises:
        FogError: The topics do not fit; the message says everything that does not.
    """

    def __init__(
        self,
        node: LifecycleNode,
        loop: ControlLoop,
        clock: ClockWatch,
        receive: Callable[[str, bytes], None],
        guard: CallbackGuard,
        *,
        bundle: str,
        shadow: bool,
        discover_s: float,
        check_s: float,
        pause_s: float,
    ) -> None:
        self._node, self._loop, self._clock = node, loop, clock
        self._bundle, self._shadow, self._pause_s = bundle, shadow, pause_s
        self._outlet = CommandOutlet(
            np.asarray(loop.task.safety.slew_per_s), 1.0 / loop.task.control_hz
        )
        self._inputs: list[Any] = []
        self._inputs_fit = {t: (kind, _input_qos(loop, t)) for t, kind in loop.topics().items()}
        classes = {t: (_message_class(kind), qos) for t, (kind, qos) in self._inputs_fit.items()}
        action = loop.task.action
        command_class, command_qos = _message_class(action.type), QoSProfile(depth=10)
        self._outputs_fit = {} if shadow else {action.topic: (action.type, command_qos)}
        discover(node, classes, discover_s)
        silent = self.require_fit()
        if check_s > 0:
            heard = {t: c for t, c in classes.items() if t not in silent}
            self._refuse(messages_misfit(loop.task, listen(node, heard, check_s)))
        if silent:
            node.get_logger().warning(f"nobody publishes {', '.join(silent)} yet")
        self._commands = node.create_lifecycle_publisher(command_class, action.topic, command_qos)
        # For operators and recordings; no robot listens to it, so in shadow too.
        self._proposals = node.create_lifecycle_publisher(command_class, PROPOSED, command_qos)
        for topic, (message_class, qos) in classes.items():
            callback = guard(f"a message on {topic}", functools.partial(receive, topic))
            self._inputs.append(
                node.create_subscription(message_class, topic, callback, qos, raw=True)
            )

    def require_fit(self) -> list[str]:
        """Compare with the graph as it is now.

        Returns:
            Topics that nobody publishes yet.

        Raises:
            FogError: Something there does not fit; the message says everything that does not.
        """
        problems, silent = graph_misfit(self._node, self._inputs_fit, self._outputs_fit)
        self._refuse(problems)
        return silent

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            raise FogError(f"bundle {self._bundle} does not fit this robot: {'; '.join(problems)}")

    def close(self) -> None:
        """Let go of them."""
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._inputs = []
        self._node.destroy_lifecycle_publisher(self._commands)
        self._node.destroy_lifecycle_publisher(self._proposals)

    def publish_proposed(self, command: Command) -> None:
        """Publish what the policy wanted, before the safety filter.

        Args:
            command: ``[action]``, physical units.
        """
        self._proposals.publish(encode_command(self._loop.task, command, self._clock.now_ns()))

    def publish(self, command: Command) -> Command:
        """Publish a command.

        Args:
            command: ``[action]``, physical units.

        Returns:
            What was published: the command, or what may follow the last one.
        """
        if self._shadow:
            return command
        clock, outlet = self._clock, self._outlet
        command = outlet.bounded(command, clock.steady_ns())
        self._commands.publish(encode_command(self._loop.task, command, clock.now_ns()))
        outlet.went_out(command, clock.steady_ns())
        self._loop.report.published += 1
        return command

    def publish_zeros(self) -> None:
        """Zero commands until the transport has acknowledged them.

        The last message of a process that ends at once would go with it.
        """
        if self._shadow:
            return
        zero: Command = np.zeros(self._loop.task.action_size)
        self._until_acknowledged(lambda: self.publish(zero))

    def publish_first_zeros(self) -> None:
        """The same from an inactive node that takes the place of one that died driving.

        A robot may go on for a while with the last command that it got. Somebody has to listen
        first: what a publisher says before it is discovered is lost.
        """
        if self._shadow:
            return
        deadline = time.monotonic() + _DISCOVERED_S
        while self._commands.get_subscription_count() == 0 and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        task, now_ns = self._loop.task, self._clock.now_ns()
        data = encode_command(task, np.zeros(task.action_size), now_ns)
        # A lifecycle publisher says nothing while its node is inactive.
        self._until_acknowledged(lambda: Publisher.publish(self._commands, data))
        self._outlet.went_out(np.zeros(task.action_size), self._clock.steady_ns())

    def _until_acknowledged(self, publish: Callable[[], object]) -> None:
        deadline = time.monotonic() + _ACKNOWLEDGED_S
        sent, arrived = 0, False
        while not (arrived and sent >= _ZEROS) and time.monotonic() < deadline:
            publish()
            arrived = self._commands.wait_for_all_acked(Duration(seconds=self._pause_s))
            sent += 1
        if not arrived:
            self._node.get_logger().error(
                f"{self._loop.task.action.topic}: nobody acknowledged {sent} zero commands within "
                f"{_ACKNOWLEDGED_S:g} s"
            )


def _input_qos(loop: ControlLoop, topic: str) -> QoSProfile:
    """Best effort matches publishers of either kind, and never delivers what is too old."""
    return QoSProfile(
        depth=2 if topic == loop.task.image.topic else 20,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.BEST_EFFORT,
    )


def _message_class(typename: str) -> Any:
    package, _, name = typename.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise FogError(f"{typename}: ROS package {package} is not installed") from error
