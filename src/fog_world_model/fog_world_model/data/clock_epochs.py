"""Recordings whose clock jumped back: each stretch between two jumps is synchronised alone.

A camera that restarts, a simulator that is reset or a machine whose time is set leaves stamps that
occur twice. Sorted by stamp, frames of two different moments would follow one another as if the
robot had moved between them; so stamps are only compared within one stretch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from fog_world_model.data.synchronise import (
    IntArray,
    Segment,
    Stream,
    Synchronised,
    TopicAccount,
    settle,
    synchronise,
)

JUMP_INTERVALS = 3.5
"""Images whose stamps go back by no more than so many usual intervals are out of order; the stamps
of a clock that was set stay back. To take the one for the other costs an episode's border."""
REASON = "clock jumped back"


def synchronise_epochs(
    image_stamp_ns: IntArray,
    image_arrival_ns: IntArray,
    streams: dict[str, Stream],
    arrivals_ns: dict[str, IntArray],
    *,
    image_topic: str,
    image_kinds: IntArray,
    markers: tuple[str, IntArray] | None,
    ends: tuple[str, IntArray] | None,
    **options: Any,
) -> Synchronised:
    """As :func:`fog_world_model.data.synchronise.synchronise`, over clocks that jump back.

    Args:
        image_stamp_ns: ``[image]``.
        image_arrival_ns: ``[image]``.
        streams: The other topics.
        arrivals_ns: Per topic of ``streams`` ``[message]``: arrivals.
        image_topic: Name of the image topic.
        image_kinds: ``[image]``.
        markers: As there.
        ends: As there.
        **options: As there.
    """
    intervals = np.abs(np.diff(image_stamp_ns))
    jump_ns = JUMP_INTERVALS * float(np.median(intervals)) if len(intervals) else 0.0
    image_epochs = epochs(image_stamp_ns, jump_ns)
    count = int(image_epochs[-1]) + 1 if len(image_epochs) else 1
    if count == 1:
        return synchronise(
            image_stamp_ns,
            image_arrival_ns,
            streams,
            image_topic=image_topic,
            image_kinds=image_kinds,
            markers=markers,
            ends=ends,
            **options,
        )
    first_arrivals = image_arrival_ns[np.searchsorted(image_epochs, np.arange(1, count))]
    member: dict[str, IntArray] = {}
    for topic, stream in streams.items():
        own = epochs(stream.stamp_ns, jump_ns)
        if not stream.by_arrival and len(own) and int(own[-1]) + 1 == count:
            member[topic] = own  # the same jumps: each topic shows for itself when they were
        else:
            member[topic] = np.searchsorted(first_arrivals, arrivals_ns[topic], side="right")
    segments: list[Segment] = []
    breaks: Counter[str] = Counter({REASON: count - 1})
    account: dict[str, TopicAccount] = {}
    for epoch in range(count):
        images = np.flatnonzero(image_epochs == epoch)
        chosen = {topic: np.flatnonzero(member[topic] == epoch) for topic in streams}

        def values(
            given: tuple[str, IntArray] | None, chosen: dict[str, IntArray] = chosen
        ) -> tuple[str, IntArray] | None:
            return None if given is None else (given[0], given[1][chosen[given[0]]])

        result = synchronise(
            image_stamp_ns[images],
            image_arrival_ns[images],
            {t: replace(s, stamp_ns=s.stamp_ns[chosen[t]]) for t, s in streams.items()},
            image_topic=image_topic,
            image_kinds=image_kinds[images],
            markers=values(markers),
            ends=values(ends),
            **options,
        )
        breaks += result.breaks
        for topic, entry in result.account.items():
            total = account.setdefault(topic, TopicAccount(0))
            total.received += entry.received
            total.reordered += entry.reordered
            total.dropped += entry.dropped
        segments += [
            Segment(
                images[s.images],
                {t: _over(chosen[t], index) for t, index in s.messages.items()},
                s.ages_ns,
            )
            for s in result.segments
        ]
    settle(account, segments, image_topic)
    return Synchronised(segments, account, breaks)


def epochs(stamps: IntArray, jump_ns: float) -> IntArray:
    """How often the clock has jumped back before each message.

    Args:
        stamps: ``[message]`` in the order of arrival, ns.
        jump_ns: Going back by more is a jump.

    Returns:
        ``[message]``, ascending from 0.
    """
    jumps = np.zeros(len(stamps), np.int64)
    if len(stamps):
        jumps[1:] = np.diff(stamps) < -jump_ns
    return np.cumsum(jumps)


def _over(chosen: IntArray, index: IntArray) -> IntArray:
    """Indices into some of the messages as indices into all; -1 stays."""
    if not len(chosen):
        return index
    return np.where(index >= 0, chosen[np.maximum(index, 0)], -1)
