"""Cut streams of stamped messages into control steps, without inventing anything.

Each step is anchored to a camera stamp on the control grid. Every other stream contributes its
newest message not later than the anchor and not older than its bound; a step that cannot be built
breaks the episode there. Nothing is interpolated, and every message is accounted for.

Topics without a header stamp (Twist, Float32, ...) are placed by their arrival, and compared with
the arrival of the anchor's image, so that both times come from one clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """The times of one topic's messages, in the order of their arrival."""

    stamp_ns: IntArray
    """``[message]``: header stamps, or arrivals when the type has no header."""
    max_age_ns: int
    """A message older than this at the anchor is stale."""
    by_arrival: bool = False
    """Whether ``stamp_ns`` are arrival times, to be compared with the image's arrival."""
    slack_ns: int = 0
    """How much later than the anchor a message may come and still belong to it: for topics without
    a header that are published together with the image."""
    needed_at_start: bool = True
    """Whether the first step of an episode needs a message too. False for actions, rewards and
    ends, which belong to the transition that *leads to* an anchor."""


@dataclass
class TopicAccount:
    """What became of the messages of one topic."""

    received: int = 0
    used: int = 0
    """Messages that are part of some step."""
    superseded: int = 0
    """Messages that were valid, but a newer one came before the next step, or no step was near."""
    reordered: int = 0
    """Messages whose stamp is older than that of one that arrived before them (they still count
    as used or superseded)."""
    dropped: int = 0
    """Camera only: frames that must have been lost, estimated from gaps in the stamps."""
    staleness_ns: list[int] = field(default_factory=list)
    """Age at the anchor of every message used (negative within the slack), ns."""


@dataclass(frozen=True)
class Segment:
    """Consecutive steps without a break: one episode."""

    images: IntArray
    """``[step]``: index of the anchor's image, in the order of arrival."""
    messages: dict[str, IntArray]
    """Per topic ``[step]``: index of the message in force at the anchor; -1 at the first step of
    a stream that is not needed there."""
    ages_ns: dict[str, IntArray]
    """Per topic ``[step]``: age of that message at the anchor (negative within the slack)."""

    def part(self, first: int, last: int, streams: dict[str, Stream]) -> Segment:
        """The steps from ``first`` up to, and without, ``last``, as a segment of their own.

        Args:
            first: First step.
            last: End, exclusive.
            streams: As given to :func:`synchronise`.
        """
        messages = {topic: index[first:last].copy() for topic, index in self.messages.items()}
        for topic, index in messages.items():
            if not streams[topic].needed_at_start:
                index[0] = -1
        ages = {topic: age[first:last] for topic, age in self.ages_ns.items()}
        return Segment(self.images[first:last], messages, ages)


@dataclass(frozen=True)
class Synchronised:
    """The result: episodes, and an account of every message and every break."""

    segments: list[Segment]
    account: dict[str, TopicAccount]
    breaks: Counter[str]
    """Reason -> how often it ended an episode, or (``no start, ...``) kept one from beginning."""


def synchronise(
    image_stamp_ns: IntArray,
    image_arrival_ns: IntArray,
    streams: dict[str, Stream],
    *,
    period_ns: int,
    image_topic: str = "image",
    markers: tuple[str, IntArray] | None = None,
    ends: tuple[str, IntArray] | None = None,
    image_kinds: IntArray | None = None,
    max_steps: int | None = None,
    tolerance: float = 0.25,
) -> Synchronised:
    """Build control steps from the times of messages.

    Args:
        image_stamp_ns: ``[image]`` header stamps in the order of arrival.
        image_arrival_ns: ``[image]`` arrival times.
        streams: The other topics.
        period_ns: Control period.
        image_topic: Name of the image topic in the account.
        markers: A topic of ``streams`` and its values ``[message]``: a change between two steps
            is a border between two episodes.
        ends: A topic of ``streams`` and its values ``[message]``, not zero from the end of an
            episode on: the episode's last step is the first with an end, and no other begins
            before it is zero again.
        image_kinds: ``[image]``: a number per kind of image (its size and encoding); a change
            between two steps is a border.
        max_steps: Transitions after which an episode is cut; the next one starts at its last
            frame, so nothing is lost.
        tolerance: How far a camera stamp may lie from the grid, as a fraction of the period.

    Returns:
        Segments of at least two steps (one transition), the account and the reasons of breaks.
    """
    order = np.argsort(image_stamp_ns, kind="stable")
    stamps = image_stamp_ns[order]
    arrivals = image_arrival_ns[order]
    kinds = np.zeros(len(order), np.int64) if image_kinds is None else image_kinds[order]
    account = {image_topic: _camera_account(image_stamp_ns, stamps)}
    newest: dict[str, IntArray] = {}
    ages: dict[str, IntArray] = {}
    for topic, stream in streams.items():
        anchor_times = (arrivals if stream.by_arrival else stamps) + stream.slack_ns
        newest[topic], ages[topic] = _newest(stream.stamp_ns, anchor_times)
        ages[topic] = ages[topic] - stream.slack_ns
        account[topic] = TopicAccount(
            received=len(stream.stamp_ns), reordered=_count_reordered(stream.stamp_ns)
        )
    if markers is not None and len(stamps):
        place = newest[markers[0]]
        episode = np.where(place >= 0, np.append(markers[1], 0)[place], 0)
        account[image_topic].dropped = _dropped(stamps, episode)

    breaks: Counter[str] = Counter()
    runs: list[list[int]] = []
    run: list[int] = []

    def usable(frame: int, *, start: bool) -> str | None:
        """Reason why a frame cannot be a step; None when it can."""
        for topic, stream in streams.items():
            if start and not stream.needed_at_start:
                continue
            if newest[topic][frame] < 0:
                return f"{topic}: no message yet"
            if ages[topic][frame] > stream.max_age_ns:
                return f"{topic}: stale"
        if start and ended(frame):
            return "after the end"
        return None

    def ended(frame: int) -> bool:
        """Whether an end is in force at a frame."""
        if ends is None:
            return False
        topic, values = ends
        index, age = newest[topic][frame], ages[topic][frame]
        return bool(index >= 0 and age <= streams[topic].max_age_ns and values[index])

    def close(reason: str | None) -> None:
        nonlocal run
        # The step that a cut at the maximal length hands on is no episode that failed to start.
        handed_on = bool(runs and run and runs[-1][-1] == run[0])
        if reason is not None and len(run) > 1:
            breaks[reason] += 1
        elif reason is not None and run and not handed_on:
            breaks[f"no start, {reason}"] += 1
        if len(run) > 1:
            runs.append(run)
        run = []

    frame = 0
    while 0 <= frame < len(stamps):
        reason = usable(frame, start=not run)
        if reason is None and run and markers is not None:
            topic, values = markers
            before, now = newest[topic][run[-1]], newest[topic][frame]
            if before >= 0 and values[before] != values[now]:
                reason = "episode marker"
        if reason is None and run and kinds[run[-1]] != kinds[frame]:
            reason = f"{image_topic}: another size or encoding"
        if reason is not None:
            had_run = bool(run)
            close(reason)
            if had_run:
                continue  # the same frame may start the next episode
            breaks[f"no start, {reason}"] += 1
            frame += 1
            continue
        run.append(frame)
        if ended(frame):
            close("end")
            frame += 1
            continue
        if max_steps is not None and len(run) == max_steps + 1:
            close("maximal length")
            run.append(frame)
        following = _next_on_grid(stamps, frame, period_ns, tolerance)
        if following < 0:
            following = frame + 1
            # Images that come before the next step is due are no sign of a gap: the camera stopped.
            due = stamps[frame] + (1.0 - tolerance) * period_ns
            close("camera gap" if stamps[-1] >= due else None)
        frame = following
    close(None)

    segments = [_segment(np.asarray(r), order, newest, ages, streams) for r in runs]
    settle(account, segments, image_topic)
    return Synchronised(segments, account, breaks)


def _next_on_grid(stamps: IntArray, frame: int, period_ns: int, tolerance: float) -> int:
    """Index of the frame nearest to one period after ``frame``; -1 when none is near enough."""
    target = stamps[frame] + period_ns
    after = int(np.searchsorted(stamps, target))
    candidates = [i for i in (after - 1, after) if frame < i < len(stamps)]
    if not candidates:
        return -1
    best = min(candidates, key=lambda i: abs(int(stamps[i] - target)))
    return best if abs(int(stamps[best] - target)) <= tolerance * period_ns else -1


def _newest(stamps: IntArray, anchors: IntArray) -> tuple[IntArray, IntArray]:
    """For each anchor the index of the newest message not later than it (-1: none), and its age."""
    if not len(stamps):
        return np.full(len(anchors), -1), np.zeros(len(anchors), np.int64)
    order = np.argsort(stamps, kind="stable")
    place = np.searchsorted(stamps[order], anchors, side="right") - 1
    index = np.where(place >= 0, order[np.maximum(place, 0)], -1)
    age = np.where(place >= 0, anchors - stamps[order[np.maximum(place, 0)]], 0)
    return index, age


def _count_reordered(stamps: IntArray) -> int:
    if len(stamps) < 2:
        return 0
    return int((stamps[1:] < np.maximum.accumulate(stamps)[:-1]).sum())


def _camera_account(as_arrived: IntArray, stamps: IntArray) -> TopicAccount:
    return TopicAccount(
        received=len(stamps),
        reordered=_count_reordered(as_arrived),
        dropped=_dropped(stamps, np.zeros(len(stamps), np.int64)),
    )


def _dropped(stamps: IntArray, episode: IntArray) -> int:
    """Frames that must have been lost, by the gaps in their stamps.

    A pause of more than ten frames is a pause, not loss; so is one between two episodes (a reset).
    """
    gaps = np.diff(stamps)
    usual = float(np.median(gaps)) if len(gaps) > 1 else 0.0
    if usual <= 0:
        return 0
    missing = np.round(gaps / usual) - 1
    lost = (missing > 0) & (missing <= 10) & (np.diff(episode) == 0)
    return int(missing[lost].sum())


def _segment(
    run: IntArray,
    order: IntArray,
    newest: dict[str, IntArray],
    ages: dict[str, IntArray],
    streams: dict[str, Stream],
) -> Segment:
    whole = Segment(
        order[run],
        {topic: newest[topic][run] for topic in streams},
        {topic: ages[topic][run] for topic in streams},
    )
    return whole.part(0, len(run), streams)


def settle(account: dict[str, TopicAccount], segments: list[Segment], image_topic: str) -> None:
    """Count which messages are part of a step; what was counted before is replaced.

    Args:
        account: Changed in place.
        segments: The episodes that are kept.
        image_topic: Name of the image topic in the account.
    """
    for topic, entry in account.items():
        if topic == image_topic:
            used = [s.images for s in segments]
            entry.staleness_ns = []
        else:
            there = [s.messages[topic] >= 0 for s in segments]
            used = [s.messages[topic][t] for s, t in zip(segments, there, strict=True)]
            ages = [s.ages_ns[topic][t] for s, t in zip(segments, there, strict=True)]
            entry.staleness_ns = np.concatenate(ages).tolist() if ages else []
        entry.used = len(np.unique(np.concatenate(used))) if used else 0
        entry.superseded = entry.received - entry.used
