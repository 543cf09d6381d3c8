"""Looks at the topics of a running robot before a policy is let onto them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

_SAMPLES = 8
_POLL_S = 0.005
_GRAPH_POLL_S = 0.05
_NO_NAMES = ("_NODE_NAME_UNKNOWN_", "_CREATED_BY_BARE_DDS_APP_")
"""What the middleware calls the node of an endpoint until it knows better (rmw_dds_common)."""


def graph_misfit(
    node: Node,
    inputs: Mapping[str, tuple[str, QoSProfile]],
    outputs: Mapping[str, tuple[str, QoSProfile]],
) -> tuple[list[str], list[str]]:
    """Compare types and QoS with those of the others on the graph.

    Args:
        node: Sees the graph.
        inputs: Topic -> interface name and QoS of what the node will subscribe to.
        outputs: Topic -> the same of what it will publish.

    Returns:
        What does not fit; and the inputs that nobody publishes.
    """
    problems, silent = [], []
    for topic, (kind, qos) in inputs.items():
        others = node.get_publishers_info_by_topic(topic)
        if not others:
            silent.append(topic)
        for other in others:
            problems += _endpoint_misfit(topic, kind, other, "published", other.qos_profile, qos)
    for topic, (kind, qos) in outputs.items():
        for other in node.get_subscriptions_info_by_topic(topic):
            problems += _endpoint_misfit(topic, kind, other, "expected", qos, other.qos_profile)
    return list(dict.fromkeys(problems)), silent


def discover(node: Node, topics: Collection[str], seconds: float) -> None:
    """Wait until every topic has a publisher on the graph, of whatever type, with its name.

    Others are known a while after a node has begun only: those whose first announcement was lost
    come with a later one. A robot that has not been discovered would seem to fit any bundle. The
    names of nodes come after their publishers, by a message of their own; a publisher outside ROS
    never gets one, and is waited for to the end.

    Args:
        node: Sees the graph.
        topics: Their names.
        seconds: Wall time after which it ends in any case.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(_are_known(node.get_publishers_info_by_topic(topic)) for topic in topics):
            return
        time.sleep(_GRAPH_POLL_S)


def listen(
    node: Node, inputs: Mapping[str, tuple[Any, QoSProfile]], seconds: float
) -> dict[str, list[bytes]]:
    """Take the next few messages of some topics, without an executor.

    Args:
        node: Subscribes for the time being.
        inputs: Topic -> message class and QoS.
        seconds: Wall time after which it ends in any case.

    Returns:
        Topic -> serialised messages, at most 8 of each.
    """
    subscriptions = {
        topic: node.create_subscription(kind, topic, lambda data: None, qos, raw=True)
        for topic, (kind, qos) in inputs.items()
    }
    found: dict[str, list[bytes]] = {topic: [] for topic in inputs}
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and any(len(m) < _SAMPLES for m in found.values()):
            for topic, subscription in subscriptions.items():
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, True)
                if taken is not None and len(found[topic]) < _SAMPLES:
                    found[topic].append(bytes(taken[0]))
            time.sleep(_POLL_S)
    finally:
        for subscription in subscriptions.values():
            node.destroy_subscription(subscription)
    return found


def _endpoint_misfit(
    topic: str, kind: str, other: Any, verb: str, sends: QoSProfile, hears: QoSProfile
) -> list[str]:
    who = f"by {_full_name(other)}"
    if other.topic_type != kind:
        return [f"{topic} is {verb} {who} as {other.topic_type}, but the bundle has it as {kind}"]
    compatible, reason = qos_check_compatible(_kinds(sends), _kinds(hears))
    if compatible == QoSCompatibility.ERROR:
        return [f"{topic} {verb} {who}: its QoS does not fit ({reason})"]
    return []


def _are_known(others: Collection[Any]) -> bool:
    return bool(others) and all(_has_name(other) for other in others)


def _has_name(other: Any) -> bool:
    return other.node_name not in _NO_NAMES


def _full_name(other: Any) -> str:
    if not _has_name(other):
        return "a program that has not told the name of its node"
    return f"{other.node_namespace.rstrip('/')}/{other.node_name}"


def _kinds(qos: QoSProfile) -> QoSProfile:
    """Reliability and durability alone: the graph shows "no deadline" as a very long one."""
    return QoSProfile(depth=1, reliability=qos.reliability, durability=qos.durability)
