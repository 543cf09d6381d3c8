"""The account of a recording: what arrived on each topic, what of it is lost, and since when."""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from fog_world_model.task import TaskConfig

LISTED: Final = 100
"""Gaps and losses that are listed with their time; further ones are only counted."""

_PERIODS: Final = 101
"""Periods that the median is taken over."""
_LEARNED: Final = 10
"""Periods after which the median is trusted."""
_RELEARN_EVERY: Final = 8
_SCATTER: Final = 0.5
_JUMP_NS: Final = 1_000_000_000
"""Stamps that leave the recorder's clock by more than this have jumped: nothing is missing."""
_PATIENCE: Final = 4
"""Messages after a gap that may still show that the one after it was only late."""
_SOONER: Final = 0.85
"""Share of the period below which a difference makes up for a late message."""
_MADE_UP: Final = 0.7
"""Share of a period that has to be made up for, so that nothing is missing."""
_SLOW: Final = 0.9
"""Share of the rate that the task needs, below which a topic counts as slow."""


@dataclass
class _Source:
    """One publisher, as far as its messages show it."""

    sequence: int | None = None
    stamp_ns: int | None = None
    log_ns: int = 0


@dataclass
class TopicAccount:
    """What happened on one topic.

    Three counts say that something is not there. ``lost`` are messages that were published and did
    not get into the bag: those that the middleware dropped (by the publisher's sequence numbers,
    or by its own lost-message events where it has no numbers), and those that this recorder could
    not take in or write. ``missing`` are messages that the header stamps show to be absent,
    wherever they went: a camera that skips frames before they are published shows only here.
    ``repeated`` and ``reordered`` stamps are the publisher's mistakes.

    The period of a topic is the median of its newest 101 stamp differences. A difference of 1.5
    periods and more is a gap. A message that is only late, so that the next follow sooner, closes
    the gap again; a topic whose differences scatter by more than half the median (upper minus
    lower quartile) has no period, and no gaps. Nor is there a gap between two publishers, none
    where the stamps jump away from the recorder's clock, and none where a simulation skips time.
    """

    topic: str
    type: str
    received: int = 0
    """Messages that arrived."""
    written: int = 0
    """Messages that were handed to the bag's file."""
    size: int = 0
    """Bytes of what arrived, serialised."""
    lost: int = 0
    losses: list[dict[str, Any]] = field(default_factory=list)
    """``{at_ns, count, reason}``, the first 100; ``at_ns`` is a log time."""
    gaps: list[dict[str, int]] = field(default_factory=list)
    """``{at_ns, missing}``, the first 100; ``at_ns`` is the log time of the message after it."""
    gaps_total: int = 0
    missing: int = 0
    repeated: int = 0
    reordered: int = 0
    jumps: list[dict[str, int]] = field(default_factory=list)
    """``{at_ns, by_ns}``: header stamps jumped against the recorder's clock."""
    skips: list[dict[str, int]] = field(default_factory=list)
    """``{at_ns, by_ns}``: a simulated clock skipped time, as on a reset; nobody published then."""
    publishers: list[dict[str, int]] = field(default_factory=list)
    """``{at_ns, silent_ns}``: another publisher took over, after so long without a message."""
    sizes: list[dict[str, int]] = field(default_factory=list)
    """``{at_ns, width, height}``: first image, and every change of its size."""
    first_ns: int = 0
    last_ns: int = 0
    last_stamp_ns: int | None = None
    """Newest header stamp."""
    numbered: bool = False
    """Whether the middleware numbers the messages, so that its lost-message events say nothing
    new."""

    def __post_init__(self) -> None:
        """Begin with no publisher."""
        self._lock = threading.Lock()
        self._sources: dict[bytes, _Source] = {}
        self._current: bytes | None = None
        self._heard_ns = 0
        self._periods: deque[int] = deque(maxlen=_PERIODS)
        self._untested: list[tuple[int, int]] = []
        self._fresh = 0
        self._period_ns: float | None = None
        self._open: list[dict[str, int]] = []
        """Gaps that late messages may still close."""
        self._skipped = (0, 0)
        self._newest: tuple[dict[str, int], int, int] | None = None
        """The newest gap, and the stamps before and after it."""
        self._late_ns = 0.0
        """How late the messages after them were, less what the next have made up for."""
        self._patience = 0

    def successor(self) -> TopicAccount:
        """An empty account that has learned the period already and knows the publishers.

        What lies between the two accounts is nobody's gap.
        """
        following = TopicAccount(self.topic, self.type, numbered=self.numbered)
        following._periods.extend(self._periods)
        following._period_ns = self._period_ns
        following._sources = {publisher: _Source() for publisher in self._sources}
        following._current = self._current
        following._heard_ns = self._heard_ns
        if self.sizes:
            following.sizes = self.sizes[-1:]
        return following

    @property
    def rate_hz(self) -> float:
        """Messages per second of log time, over all that arrived."""
        duration_ns = self.last_ns - self.first_ns
        return (self.received - 1) * 1e9 / duration_ns if duration_ns > 0 else 0.0

    @property
    def period_ns(self) -> float | None:
        """Median difference of the stamps; None while unknown, or where they scatter."""
        return self._period_ns

    def arrive(
        self,
        log_ns: int,
        size: int,
        stamp_ns: int | None = None,
        publisher: bytes = b"",
        sequence: int | None = None,
    ) -> None:
        """Count a message.

        Args:
            log_ns: Log time of its arrival, ns.
            size: Serialised bytes.
            stamp_ns: Its header stamp; None or 0 where it has none.
            publisher: Identifies who sent it.
            sequence: Number that the publisher's middleware gave it; they rise by one.
        """
        self.received += 1
        self.size += size
        source = self._sources.get(publisher)
        if publisher != self._current or source is None:
            if self._current is not None and source is None:
                silent_ns = max(0, log_ns - self._heard_ns)
                self._list(self.publishers, {"at_ns": log_ns, "silent_ns": silent_ns})
            source = self._sources.setdefault(publisher, _Source())
            self._current = publisher
        if sequence is not None:
            self.numbered = True
            if source.sequence is not None and sequence > source.sequence + 1:
                self.lose(log_ns, sequence - source.sequence - 1, "dropped by the middleware")
            source.sequence = sequence
        if stamp_ns:
            begin_ns, end_ns = self._skipped
            skips = source.stamp_ns is not None and source.stamp_ns < end_ns and begin_ns < stamp_ns
            if source.stamp_ns is not None and not skips:
                by_ns = stamp_ns - source.stamp_ns
                gaps = self.gaps_total
                self._compare(log_ns, by_ns, log_ns - source.log_ns)
                if self.gaps_total > gaps and self._open:
                    self._newest = self._open[-1], source.stamp_ns, stamp_ns
                if -_JUMP_NS < by_ns < 0:  # the next is compared with the newest
                    stamp_ns = source.stamp_ns
            source.stamp_ns = self.last_stamp_ns = stamp_ns
        source.log_ns = self.last_ns = self._heard_ns = log_ns
        self.first_ns = self.first_ns or log_ns

    def repeat(self, log_ns: int, size: int) -> None:
        """Count a message of a latched topic that came before and is recorded now."""
        self.received += 1
        self.size += size
        self.first_ns, self.last_ns = self.first_ns or log_ns, log_ns

    def lose(self, at_ns: int, count: int, reason: str) -> None:
        """Count messages that were published and are not in the bag; from any thread."""
        with self._lock:
            self.lost += count
            last = self.losses[-1] if self.losses else None
            # What overflows does so in bursts: one entry per second and reason.
            if last and last["reason"] == reason and 0 <= at_ns - last["at_ns"] < 1_000_000_000:
                last["count"] += count
                return
            self._list(self.losses, {"at_ns": at_ns, "count": count, "reason": reason})

    def another_publisher(self) -> None:
        """What comes next may come from another, where the middleware does not say from whom."""
        self._sources.pop(b"", None)

    def skip(self, begin_ns: int, end_ns: int) -> None:
        """Time was skipped; a gap that a message has shown already, ahead of the clock, is none.

        Args:
            begin_ns: Last time before.
            end_ns: First time after.
        """
        self._skipped = (begin_ns, end_ns)
        self._list(self.skips, {"at_ns": end_ns, "by_ns": end_ns - begin_ns})
        gap, before_ns, after_ns = self._newest or ({}, end_ns, begin_ns)
        if gap.get("missing") and before_ns < end_ns and begin_ns < after_ns:
            self._newest = None
            self.gaps_total -= 1
            self.missing -= gap["missing"]
            if self.gaps and self.gaps[-1] is gap:
                self.gaps.pop()
            self._close_gaps()

    def forget_publishers(self) -> None:
        """What comes next comes from others, or from a clock that began anew."""
        self._sources.clear()
        self._current = None
        self._untested.clear()
        self._close_gaps()

    def resize(self, log_ns: int, width: int, height: int) -> bool:
        """Note the size of an image; say whether it differs from the one before."""
        last = self.sizes[-1] if self.sizes else None
        if last and (last["width"], last["height"]) == (width, height):
            return False
        self._list(self.sizes, {"at_ns": log_ns, "width": width, "height": height})
        return last is not None

    def to_dict(self) -> dict[str, Any]:
        """What the bag's ``fog_account`` says about this topic."""
        lists = ("losses", "jumps", "skips", "publishers", "sizes")
        counts = ("missing", "repeated", "reordered")
        return {
            "type": self.type,
            "received": self.received,
            "written": self.written,
            "bytes": self.size,
            "lost": self.lost,
            "rate_hz": round(self.rate_hz, 3),
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "gaps": self.gaps,
            "gaps_total": self.gaps_total,
            **{k: getattr(self, k) for k in (*counts, *lists) if getattr(self, k)},
        }

    def _compare(self, log_ns: int, by_ns: int, elapsed_ns: int) -> None:
        """Judge the difference of two stamps that came ``elapsed_ns`` after each other."""
        if by_ns == 0:
            self.repeated += 1
            return
        if abs(by_ns - elapsed_ns) > _JUMP_NS and not (0 < by_ns < elapsed_ns):
            self._list(self.jumps, {"at_ns": log_ns, "by_ns": by_ns - elapsed_ns})
            self._close_gaps()
            return
        if by_ns < 0:
            self.reordered += 1
            self._narrow(1)
            return
        self._periods.append(by_ns)
        self._fresh += 1
        if len(self._periods) >= _LEARNED and self._fresh >= _RELEARN_EVERY:
            self._fresh = 0
            self._learn()
        if self._period_ns is None:
            self._untested = [*self._untested, (log_ns, by_ns)][-2 * _PERIODS :]
            return
        for at_ns, earlier_ns in self._untested:
            self._test(at_ns, earlier_ns, self._period_ns)
        self._untested.clear()
        self._test(log_ns, by_ns, self._period_ns)

    def _learn(self) -> None:
        ordered = sorted(self._periods)
        median = statistics.median(ordered)
        quarter = len(ordered) // 4
        regular = ordered[-1 - quarter] - ordered[quarter] <= _SCATTER * median
        self._period_ns = median if regular else None

    def _test(self, log_ns: int, by_ns: int, period_ns: float) -> None:
        missing = round(by_ns / period_ns) - 1
        if missing > 0:
            gap = {"at_ns": log_ns, "missing": missing}
            self._open.append(gap)
            self._late_ns += by_ns - period_ns
            self._patience = _PATIENCE
            self.gaps_total += 1
            self.missing += missing
            self._list(self.gaps, gap)
        elif self._open and by_ns < _SOONER * period_ns:
            self._late_ns -= period_ns - by_ns
            left = max(0, math.floor(self._late_ns / period_ns + _MADE_UP))
            self._narrow(sum(g["missing"] for g in self._open) - left)
        elif self._open:
            self._patience -= 1
            if not self._patience:
                self._close_gaps()

    def _narrow(self, count: int) -> None:
        """Messages that were only late, so that the next come sooner, are not missing."""
        while count > 0 and self._open:
            gap = self._open[-1]
            found = min(count, gap["missing"])
            gap["missing"] -= found
            self.missing -= found
            count -= found
            if not gap["missing"]:
                self._open.pop()
                self.gaps_total -= 1
                if self.gaps and self.gaps[-1] is gap:
                    self.gaps.pop()
        if not self._open:
            self._close_gaps()

    def _close_gaps(self) -> None:
        self._open.clear()
        self._late_ns = 0.0

    @staticmethod
    def _list(entries: list[Any], entry: Any) -> None:
        if len(entries) < LISTED:
            entries.append(entry)


def needed_rates(task: TaskConfig) -> dict[str, float]:
    """Topic -> lowest rate, Hz, at which steps of the task can be built; 0: a message is enough.

    A camera that is slower than the control rate cannot begin every step, and a stream whose
    messages are further apart than its ``max_age_s`` is stale in between.
    """
    return {
        task.image.topic: task.control_hz,
        task.image.camera_info_topic: 0.0,
        **{stream.topic: 1.0 / stream.max_age_s for stream in task.streams()},
    }


class Shortcoming(NamedTuple):
    """What a topic does not deliver."""

    kind: Literal["silent", "slow", "type"]
    text: str
    """A sentence."""


def shortcomings(
    rates: Mapping[str, float],
    heard: Mapping[str, int],
    wrong_types: Mapping[str, str],
    task: TaskConfig,
) -> dict[str, Shortcoming]:
    """What a recording of the task would lack.

    Args:
        rates: Topic -> present rate, Hz; none yet for a topic that has just begun.
        heard: Topic -> messages that have arrived.
        wrong_types: Topic -> interface under which it is published instead of the task's.
        task: Names topics and what they have to deliver.

    Returns:
        What is wrong, by topic, for those that are silent, slow or of another type.
    """
    found: dict[str, Shortcoming] = {}
    types = task.topics()
    for topic, needed_hz in needed_rates(task).items():
        rate_hz = rates.get(topic)
        if topic in wrong_types:
            found[topic] = Shortcoming(
                "type",
                f"{topic} is published as {wrong_types[topic]}, but the task expects "
                f"{types[topic]}; it is not recorded",
            )
        elif not heard.get(topic) or (needed_hz and rate_hz == 0.0):
            found[topic] = Shortcoming("silent", f"{topic} is silent: nothing comes from it")
        elif rate_hz is not None and rate_hz < _SLOW * needed_hz:
            found[topic] = Shortcoming(
                "slow",
                f"{topic} is slow: it comes at {rate_hz:.1f} Hz, and the task needs "
                f"{needed_hz:.1f} Hz",
            )
    return found


def irregularities(account: Mapping[str, TopicAccount]) -> list[str]:
    """Sentences about what went wrong in a recording, as its accounts show it."""
    found = []
    for topic, a in account.items():
        if a.lost:
            found.append(f"{topic}: {a.lost} messages were lost")
        if a.missing:
            found.append(f"{topic}: {a.gaps_total} gaps, {a.missing} messages missing by stamps")
        if a.jumps:
            by_s = a.jumps[0]["by_ns"] / 1e9
            found.append(f"{topic}: header stamps jumped {len(a.jumps)} times, first by {by_s:g} s")
        if a.repeated or a.reordered:
            found.append(
                f"{topic}: {a.repeated} stamps repeated, {a.reordered} stamps ran backwards"
            )
        if a.publishers:
            silent_s = max(p["silent_ns"] for p in a.publishers) / 1e9
            found.append(
                f"{topic}: its publisher restarted, or another joined, {len(a.publishers)} times; "
                f"longest silence before it {silent_s:.2f} s"
            )
        if len(a.sizes) > 1:
            sizes = " -> ".join(f"{s['width']}x{s['height']}" for s in a.sizes[:5])
            found.append(f"{topic}: the image changed its size, {sizes}")
    return found
