"""What is said of topics that do not fit, on a graph that becomes known bit by bit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rclpy.qos import QoSProfile, ReliabilityPolicy

from fog_policy.topic_fit_node import discover, graph_misfit

IMU = "sensor_msgs/msg/Imu"
QOS = QoSProfile(depth=10)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass
class Endpoint:
    node_name: str = "go2"
    node_namespace: str = "/"
    topic_type: str = IMU
    qos_profile: QoSProfile = field(default_factory=lambda: QOS)


@dataclass
class Graph:
    """Shows a further list of publishers at each look, the last one for good."""

    looks: list[list[Endpoint]]
    subscriptions: list[Endpoint] = field(default_factory=list)

    def get_publishers_info_by_topic(self, topic: str) -> list[Endpoint]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def get_subscriptions_info_by_topic(self, topic: str) -> list[Endpoint]:
        return self.subscriptions


def problems(endpoint: Endpoint, kind: str) -> list[str]:
    graph: Any = Graph([[endpoint]])
    return graph_misfit(graph, {"/imu": (kind, QOS)}, {})[0]


@pytest.mark.parametrize("unnamed", ["_NODE_NAME_UNKNOWN_", "_CREATED_BY_BARE_DDS_APP_"])
def test_waits_until_publishers_have_names(unnamed: str) -> None:
    graph: Any = Graph([[], [Endpoint(unnamed, unnamed)], [Endpoint()]])
    discover(graph, ["/imu"], 60.0)
    assert graph.looks == [[Endpoint()]], "two looks at what is not known yet, and the last one"


def test_gives_up_on_a_publisher_that_never_has_a_name() -> None:
    graph: Any = Graph([[Endpoint("_CREATED_BY_BARE_DDS_APP_")]])
    began = time.monotonic()
    discover(graph, ["/imu"], 0.2)
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(
    ("endpoint", "who"),
    [
        (Endpoint(), "/go2"),
        (Endpoint(node_namespace="/dog1"), "/dog1/go2"),
        (Endpoint("_NODE_NAME_UNKNOWN_"), "a program that has not told the name of its node"),
    ],
)
def test_says_whose_type_does_not_fit(endpoint: Endpoint, who: str) -> None:
    (said,) = problems(endpoint, "sensor_msgs/msg/MagneticField")
    assert said.startswith(f"/imu is published by {who} as {IMU}, but")
    assert said.endswith("sensor_msgs/msg/MagneticField")


def test_says_whose_qos_does_not_fit() -> None:
    (said,) = problems(Endpoint(node_namespace="/dog1", qos_profile=BEST_EFFORT), IMU)
    assert said.startswith("/imu published by /dog1/go2: its QoS does not fit (")
    assert problems(Endpoint(), IMU) == []


def test_listeners_are_asked_too_and_each_problem_is_said_once() -> None:
    listener = Endpoint("base", topic_type="geometry_msgs/msg/TwistStamped")
    graph: Any = Graph([[]], [listener, listener])
    said, silent = graph_misfit(
        graph, {"/imu": (IMU, QOS)}, {"/cmd_vel": ("geometry_msgs/msg/Twist", QOS)}
    )
    assert len(said) == 1
    assert said[0].startswith("/cmd_vel is expected by /base as geometry_msgs/msg/TwistStamped")
    assert silent == ["/imu"]
