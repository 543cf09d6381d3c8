"""Subscriptions that a thread of its own empties, past the executor."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from rclpy.callback_groups import CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from fog_bringup.base_node import message_class, sender_of
from fog_bringup.recording_intake import Taken

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

_PERIOD_S: Final = 0.01
_IMAGE_DEPTH, _DEPTH = 60, 2000
"""Messages that the middleware holds while the thread does not come to take them."""
_LARGE: Final = ("sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2")
_BELIEVABLE_NS: Final = 10_000_000_000
"""A time of reception that is further away from now than this is not one."""


class _OwnThread(CallbackGroup):
    """Keeps subscriptions out of the executor.

    rclpy's executors build a new wait set for every wake-up, which costs more than all that is done
    with a small message. Here a thread looks at each subscription 100 times a second (an empty one
    costs a microsecond), and takes what is there. The middleware tells when each message came in,
    so that its time is exact all the same.
    """

    def can_execute(self, entity: Any) -> bool:
        """Never let the executor wait for it."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never let the executor call it."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""


@dataclass
class Endpoint:
    """What a topic is published with."""

    type: str
    reliable: bool
    """Every publisher is; best effort hears all, but loses what a reliable one would repeat."""
    latched: bool
    """Every publisher is transient local."""


def endpoint_of(infos: list[TopicEndpointInfo], typename: str) -> Endpoint:
    """The quality of service that gets the most from all publishers of a type."""
    profiles = [i.qos_profile for i in infos if i.topic_type == typename]
    return Endpoint(
        typename,
        all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles),
        all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles),
    )


class TopicSubscriptions:
    """Takes serialised messages from topics and hands them on in the order of their reception.

    Args:
        node: Owns the subscriptions.
        take: Called from the thread with what came, about 100 times a second.
        on_lost: Told by :meth:`handle_events` of a topic and how many messages were lost on it.
    """

    def __init__(
        self,
        node: Node,
        take: Callable[[list[Taken]], None],
        on_lost: Callable[[str, int], None],
    ) -> None:
        self.failure: Exception | None = None
        """What ended the thread before its time."""
        self._node, self._hand_on, self._on_lost = node, take, on_lost
        self._group = _OwnThread()
        self._subscriptions: dict[str, Subscription[Any]] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._late: list[Taken] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="take", daemon=True)
        self._thread.start()

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Topic -> what it is subscribed with."""
        return self._endpoints

    def subscribe(self, topic: str, wanted: Endpoint) -> bool:
        """Subscribe to a topic, again where its publishers have changed.

        Returns:
            Whether anything changed.
        """
        if self._endpoints.get(topic) == wanted:
            return False
        kind = message_class(wanted.type)
        with self._lock:
            old = self._subscriptions.pop(topic, None)
            if old is not None:
                self._take_one(topic, old, self._late)  # what it still holds
            self._subscriptions[topic] = self._create(topic, kind, wanted)
            self._endpoints[topic] = wanted
        if old is not None:
            self._node.destroy_subscription(old)
        return True

    def drain(self) -> None:
        """Take now what has come; for the moments between which a recording lies."""
        with self._lock:
            self._drain(hold_back=False)

    def handle_events(self) -> None:
        """Have the middleware tell what it lost, and which publishers do not fit.

        An executor that waited for these events would wake up at every message: Fast DDS has one
        condition for all that happens to a subscription.
        """
        handlers = [h for s in self._subscriptions.values() for h in s.event_handlers]
        context = self._node.context.handle
        if not handlers or context is None:
            return
        with context:
            events = _rclpy.WaitSet(0, 0, 0, 0, 0, len(handlers), context)
        with contextlib.ExitStack() as stack:
            stack.enter_context(events)
            for handler in handlers:
                stack.enter_context(handler)
            events.clear_entities()
            for handler in handlers:
                handler.add_to_wait_set(events)
            events.wait(0)
            ready = [h for h in handlers if h.is_ready(events)]
            found = [(h, h.take_data()) for h in ready]
        for handler, event in found:
            if event is not None:
                handler.callback(event)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _create(self, topic: str, kind: Any, wanted: Endpoint) -> Subscription[Any]:
        reliable, latched = ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL
        qos = QoSProfile(
            depth=_IMAGE_DEPTH if wanted.type in _LARGE else _DEPTH,
            reliability=reliable if wanted.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=latched if wanted.latched else DurabilityPolicy.VOLATILE,
        )

        def create(message_lost: Callable[[Any], None] | None) -> Subscription[Any]:
            return self._node.create_subscription(
                kind,
                topic,
                _never_called,
                qos,
                raw=True,
                callback_group=self._group,
                event_callbacks=SubscriptionEventCallbacks(message_lost=message_lost),
            )

        try:
            return create(lambda event: self._on_lost(topic, event.total_count_change))
        except UnsupportedEventTypeError:  # not every middleware tells
            return create(None)

    def _run(self) -> None:
        try:
            while not self._closing.wait(_PERIOD_S):
                with self._lock:
                    self._drain(hold_back=True)
        except Exception as error:
            self.failure = error

    def _drain(self, *, hold_back: bool) -> None:
        begin_ns = time.time_ns()
        batch, self._late = self._late, []
        for topic, subscription in self._subscriptions.items():
            self._take_one(topic, subscription, batch)
        if not batch:
            return
        batch.sort(key=itemgetter(0))  # stable: without times the order of subscription stays
        if hold_back and batch[-1].received_ns >= begin_ns:
            # It came in while topics before it had been looked at already: so may others have.
            waiting = [t for t in batch if t.received_ns >= begin_ns]
            batch = batch[: len(batch) - len(waiting)]
            # Once is enough: a clock that was set back would have it wait for long.
            end_ns = time.time_ns()
            self._late = [t._replace(received_ns=min(t.received_ns, end_ns)) for t in waiting]
        if batch:
            self._hand_on(batch)

    @staticmethod
    def _take_one(topic: str, subscription: Subscription[Any], batch: list[Taken]) -> None:
        kind, now_ns = subscription.msg_type, time.time_ns()
        newest_ns = max((t.received_ns for t in batch if t.topic == topic), default=0)
        handle = subscription.handle
        with handle:
            while (found := handle.take_message(kind, True)) is not None:
                data, info = found
                received_ns = info["received_timestamp"]
                if abs(now_ns - received_ns) > _BELIEVABLE_NS:  # the middleware does not tell
                    received_ns = now_ns
                # One that had to be sent again comes before those that overtook it.
                received_ns = newest_ns = max(received_ns, newest_ns)
                sent_ns = info["source_timestamp"]
                batch.append(Taken(received_ns, sent_ns, topic, data, *sender_of(info)))


def _never_called(message: bytes) -> None:
    raise AssertionError("the executor does not know this subscription")
