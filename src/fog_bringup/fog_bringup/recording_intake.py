"""Everything that arrives passes here: it gets its log time, is counted, and goes into the bag."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from fog_bringup.image_recording import compressed_topic, size_of
from fog_bringup.live_scene import stamp_of
from fog_bringup.recording_account import TopicAccount
from fog_bringup.recording_session import Arrival, RecordingSession
from fog_bringup.recording_stream import Stream

CLOCK: Final = "/clock"

_JUMP_NS: Final = 1_000_000_000
_SKIP_NS: Final = 500_000_000
"""A simulated clock that advances by more than this from one message to its next has skipped time,
as a simulation does that is reset."""
_NEVER: Final = -(2**62)


class Taken(NamedTuple):
    """A message as the middleware gave it."""

    received_ns: int
    """System time of its reception."""
    sent_ns: int
    """System time at its publisher; 0 where the middleware does not tell."""
    topic: str
    data: bytes
    publisher: bytes
    sequence: int | None


class LogClock:
    """Log times: the system's, or those of a simulated clock, never running backwards.

    A small step back (up to one second) is smoothed over: the times rise by 1 ns until the clock
    has caught up. A larger one is a jump: a simulation began anew, or somebody set the clock.

    Args:
        simulated: Whether time comes from /clock.
    """

    def __init__(self, simulated: bool) -> None:
        self.simulated = simulated
        self.last_ns = _NEVER
        self.jumped = False
        """Whether the newest log time lies before the one that came before it."""
        self._now_ns = 0
        self._sequence: int | None = None

    @property
    def begun(self) -> bool:
        """Whether there has been a log time."""
        return self.last_ns != _NEVER

    def set(self, data: bytes, sequence: int | None = None) -> tuple[int, int] | None:
        """Take a serialised rosgraph_msgs/msg/Clock.

        Args:
            data: The message.
            sequence: Its number by the middleware, where that numbers messages.

        Returns:
            Begin and end of the time that the simulation has skipped, ns; None when it has not, or
            when messages in between may have been lost.
        """
        before_ns, self._now_ns = self._now_ns, stamp_of(data)
        before, self._sequence = self._sequence, sequence
        follows = sequence is not None and before is not None and sequence == before + 1
        if not follows or not before_ns or self._now_ns - before_ns <= _SKIP_NS:
            return None
        return before_ns, self._now_ns

    def log_ns(self, received_ns: int) -> int | None:
        """Log time of the next message; None: a simulated clock that has not been heard yet."""
        now_ns = self._now_ns if self.simulated else received_ns
        if not now_ns:
            return None
        self.jumped = now_ns < self.last_ns - _JUMP_NS
        self.last_ns = now_ns if self.jumped else max(now_ns, self.last_ns + 1)
        return self.last_ns


class Intake:
    """Gives log times, keeps the accounts and hands messages to the session in progress.

    Its methods may be called from any thread.

    Args:
        simulated: Whether time comes from /clock.
        on_jump: Called when the clock has jumped back while a bag is recorded, with the session;
            gives the one that goes on in its place. Log times of one bag never run backwards.
    """

    def __init__(
        self,
        *,
        simulated: bool,
        on_jump: Callable[[RecordingSession], RecordingSession | None],
    ) -> None:
        self.clock = LogClock(simulated)
        self.streams: dict[str, Stream] = {}
        self.without_clock = 0
        """Messages that came before simulated time did; they are not recorded."""
        self.lock = threading.RLock()
        self.session: RecordingSession | None = None
        self._on_jump = on_jump

    def add(self, stream: Stream) -> None:
        """Expect messages of a topic."""
        with self.lock:
            self.streams[stream.topic] = stream
            if self.session is not None:
                self.session.add(stream.account)

    def renew_accounts(self) -> dict[str, TopicAccount]:
        """Begin new accounts, which know the periods already: topic in the bag -> account."""
        with self.lock:
            for stream in self.streams.values():
                stream.account = stream.account.successor()
            return {s.account.topic: s.account for s in self.streams.values()}

    def begin(self, make: Callable[[dict[str, TopicAccount]], RecordingSession]) -> None:
        """Hand everything to a session from now on; first what latched topics said before.

        Args:
            make: Makes the session out of new accounts.
        """
        with self.lock:
            self.session = session = make(self.renew_accounts())
            at_ns = self.clock.last_ns
            if not self.clock.simulated:
                at_ns = max(at_ns, time.time_ns())
            elif at_ns == _NEVER:
                return
            for stream in self.streams.values():
                for data in tuple(stream.latched or ()):
                    stream.account.repeat(at_ns, len(data))
                    session.put(self._arrival(stream, data, at_ns, at_ns))

    def end(self, only: RecordingSession | None = None) -> RecordingSession | None:
        """Hand nothing on any more; what arrives is measured only.

        Args:
            only: End this session and no other that has taken its place; None: whichever runs.

        Returns:
            The session that has ended, if any.
        """
        with self.lock:
            session = self.session
            if session is None or (only is not None and session is not only):
                return None
            self.session = None
            self.renew_accounts()
            return session

    def heard(self, topic: str, accounts: Mapping[str, TopicAccount]) -> int:
        """Messages of a topic, in whatever form it is recorded, that accounts have counted."""
        names = {topic, compressed_topic(topic)}
        return sum(a.received for name, a in accounts.items() if name in names)

    def take(self, batch: Iterable[Taken]) -> None:
        """Take messages in the order of their reception."""
        with self.lock:
            arrivals: list[Arrival] = []
            for taken in batch:
                stream = self.streams.get(taken.topic)
                if self.clock.simulated and taken.topic == CLOCK:
                    skipped = self.clock.set(taken.data, taken.sequence)
                    if skipped is not None:
                        for other in self.streams.values():
                            other.account.skip(*skipped)
                if stream is None:
                    continue
                log_ns = self.clock.log_ns(taken.received_ns)
                if log_ns is None:
                    self.without_clock += 1
                    continue
                if self.clock.jumped:
                    self._jump(arrivals)
                arrivals += self._count(stream, taken, log_ns)
            if self.session is not None and arrivals:
                self.session.put(arrivals)

    def _jump(self, arrivals: list[Arrival]) -> None:
        if self.session is not None:
            self.session.put(arrivals)
            arrivals.clear()
            self.session = self._on_jump(self.session)
        for stream in self.streams.values():
            stream.account.forget_publishers()

    def _count(self, stream: Stream, taken: Taken, log_ns: int) -> list[Arrival]:
        data = taken.data
        stream.heard += 1
        if stream.latched is not None:
            stream.latched.append(data)
        stamp_ns = stamp_of(data) if stream.has_header and len(data) >= 12 else None
        account = stream.account
        account.arrive(log_ns, len(data), stamp_ns, taken.publisher, taken.sequence)
        if stream.is_image and (size := size_of(data, stream.type)) is not None:
            account.resize(log_ns, *size)
        sent_ns = log_ns if self.clock.simulated else taken.sent_ns or log_ns
        return self._arrival(stream, data, log_ns, sent_ns)

    def _arrival(self, stream: Stream, data: bytes, log_ns: int, sent_ns: int) -> list[Arrival]:
        if self.session is None:
            return []
        compressed = None
        if stream.compress and self.session.encoder is not None:
            compressed = self.session.encoder.submit(data)
            if compressed is None:
                stream.account.lose(log_ns, 1, "the encoders were too slow")
                return []
        return [Arrival(stream, stream.account, data, log_ns, sent_ns, compressed)]
