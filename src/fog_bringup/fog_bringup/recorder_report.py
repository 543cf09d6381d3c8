"""What the recorder says about its topics: rates, shortcomings, diagnostics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from fog_bringup.disk_space import MEGABYTE
from fog_bringup.image_recording import compressed_topic
from fog_bringup.recording_account import Shortcoming, TopicAccount, shortcomings
from fog_bringup.recording_intake import Intake
from fog_world_model.task import TaskConfig

Level = Literal["ok", "warn", "error"]

_WINDOW: Final = 4
"""Assessments, about a second apart, that present rates are taken over."""
_SETTLED_S: Final = 3.0
"""How long topics may take to appear after the recorder, or a recording, has begun."""


class Status(NamedTuple):
    """One entry of /diagnostics."""

    part: str
    level: Level
    message: str
    values: dict[str, object]


class RecorderReport:
    """Compares what arrives with what the task needs, and words it.

    Args:
        task: Names topics and what they have to deliver.
        types: Topic -> interface (None: not known yet) of all that is to be recorded.
        intake: Counts what arrives.
    """

    def __init__(self, task: TaskConfig, types: Mapping[str, str | None], intake: Intake) -> None:
        self.wrong_types: dict[str, str] = {}
        """Topic -> interface that it is published with in place of the task's."""
        self.shortcomings: dict[str, Shortcoming] = {}
        """Topic -> what is wrong, as of the newest assessment."""
        self._task, self._types, self._intake = task, types, intake
        self._history: deque[tuple[float, dict[str, int]]] = deque(maxlen=_WINDOW)
        self.settle()

    def settle(self) -> None:
        """Leave topics time to appear before anything is said of them."""
        self._begun_at = time.monotonic()

    def rates(self) -> dict[str, float]:
        """Topic -> Hz over the last seconds, in the time of the recorder's clock.

        A topic that has begun within them is measured from where it was heard first; one that has
        just begun has no rate yet.
        """
        rates = {}
        for topic, count in (self._history[-1][1] if self._history else {}).items():
            heard = [(at, n[topic]) for at, n in self._history if n.get(topic)]
            if len(heard) == 1:
                continue
            passed = heard[-1][0] - heard[0][0] if heard else 0.0
            rates[topic] = (count - heard[0][1]) / passed if passed > 0.0 else 0.0
        return rates

    def assess(self) -> list[str]:
        """Look at the topics again, about once a second; sentences that were not true before."""
        clock, streams = self._intake.clock, self._intake.streams
        if clock.simulated and not clock.begun:  # no time, no rates
            return []
        now = clock.last_ns / 1e9 if clock.simulated else time.monotonic()
        if self._history and now < self._history[-1][0]:  # simulated time began anew
            self._history.clear()
        self._history.append((now, {t: s.heard for t, s in streams.items()}))
        if time.monotonic() - self._begun_at < _SETTLED_S:
            return []
        rates, heard = self.rates(), {t: s.heard for t, s in streams.items()}
        image = self._task.image.topic
        if (compressed := compressed_topic(image)) in streams and image not in streams:
            heard[image] = heard[compressed]
            if compressed in rates:
                rates[image] = rates[compressed]
        before = self.shortcomings
        self.shortcomings = shortcomings(rates, heard, self.wrong_types, self._task)
        session = self._intake.session
        if session is not None:
            after_s = time.monotonic() - session.started_at
            for topic, (kind, text) in self.shortcomings.items():
                session.warn(topic, kind, f"{text} (at {after_s:.0f} s)")
        return [
            found.text
            for topic, found in self.shortcomings.items()
            if topic not in before or before[topic].kind != found.kind
        ]

    def bag(self, headline: str, *, error: str, disk: str, free: int) -> Status:
        """State of the recording as a whole.

        Args:
            headline: What is recorded.
            error: Why the last recording ended before its time; empty: it did not.
            disk: What is to be said of the disk; mostly nothing.
            free: Bytes free on it.
        """
        streams, session, rates = self._intake.streams, self._intake.session, self.rates()
        counts = dict.fromkeys(self._types, "0 messages, 0.0 Hz")
        for topic, stream in streams.items():
            written = stream.account.written if session else 0
            counts[topic] = f"{written} messages, {rates.get(topic, 0.0):.1f} Hz"
        lost = sum(s.account.lost for s in streams.values())
        level: Level = "warn" if self.shortcomings or disk or (session and lost) else "ok"
        clock = ""
        if self._intake.without_clock and self._intake.clock.last_ns < 0:
            level, clock = "warn", "/clock does not run, which use_sim_time needs"
        parts = (headline, disk, clock, *(s.text for s in self.shortcomings.values()))
        return Status(
            "bag",
            "error" if error else level,
            "; ".join(p for p in parts if p),
            {
                **counts,
                "lost": lost,
                "free_disk_mb": free // MEGABYTE,
                "queue_depth": sum(session.waiting.values()) if session else 0,
                "without_clock": self._intake.without_clock,
            },
        )

    def topics(self) -> Iterator[Status]:
        """State of each topic: of the running recording, else since the last one."""
        streams, session, rates = self._intake.streams, self._intake.session, self.rates()
        for topic in {**self._types, **streams}:
            stream = streams.get(topic)
            sentence = self.shortcomings[topic].text if topic in self.shortcomings else ""
            account = stream.account if stream else TopicAccount(topic, self._types[topic] or "")
            level: Level = "warn" if sentence or account.lost or account.missing else "ok"
            yield Status(
                topic,
                "error" if topic in self.wrong_types else level,
                sentence or f"{rates.get(topic, 0.0):.1f} Hz",
                {
                    "received": account.received,
                    "written": account.written,
                    "rate_hz": f"{rates.get(topic, 0.0):.2f}",
                    "bytes": account.size,
                    "gaps": account.gaps_total,
                    "missing": account.missing,
                    "lost": account.lost,
                    "lost_events": stream.lost_events if stream else 0,
                    "last_stamp_ns": account.last_stamp_ns or "",
                    "last_log_ns": account.last_ns or "",
                    "queue_depth": session.waiting.get(account.topic, 0) if session else 0,
                },
            )

    def lines(self, headline: str) -> str:
        """All of it, for people."""
        recording = self._intake.session is not None
        lines = [headline]
        for status in self.topics():
            v = status.values
            lines.append(
                f"  {status.part}: {v['written' if recording else 'received']} messages, "
                f"{v['rate_hz']} Hz, {v['lost']} lost, {v['missing']} missing in {v['gaps']} gaps"
            )
        return "\n".join([*lines, *(f"  warning: {s.text}" for s in self.shortcomings.values())])
