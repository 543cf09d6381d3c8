"""The newest message of a topic, its age and its rate.

Written by the thread of the ROS callbacks and read by that of the web server. Only the newest
message is kept, so that nothing piles up where nobody looks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

RATE_WINDOW_S = 3.0
"""Rates are taken over so many seconds."""
_MOST_TIMES = 256
"""Arrivals that are remembered for it: faster topics are measured over less time."""

Clock = Callable[[], float]
"""Seconds, never running backwards."""


@dataclass(frozen=True)
class Arrival:
    """A message."""

    number: int
    """Counts from 1."""
    data: bytes
    """Serialised."""
    at_s: float
    """When it came, by the stream's clock."""
    travelled_s: float = 0.0
    """How old it was then, as far as its stamp tells."""


class Stream:
    """One topic.

    Args:
        clock: Seconds, never running backwards.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: Arrival | None = None
        self._times: deque[float] = deque(maxlen=_MOST_TIMES)

    def put(self, data: bytes, travelled_s: float = 0.0) -> None:
        """Keep a message in place of the one before.

        Args:
            data: Serialised.
            travelled_s: How old it is already.
        """
        now = self._clock()
        with self._lock:
            number = 1 if self._newest is None else self._newest.number + 1
            self._newest = Arrival(number, data, now, travelled_s)
            self._times.append(now)

    @property
    def newest(self) -> Arrival | None:
        """The newest message; None where nothing ever came."""
        with self._lock:
            return self._newest

    def age_s(self) -> float | None:
        """Age of the newest message, s; None where nothing ever came."""
        newest = self.newest
        return None if newest is None else self.age_of_s(newest)

    def age_of_s(self, arrival: Arrival) -> float:
        """Age of a message of this stream now, s."""
        return self._clock() - arrival.at_s + arrival.travelled_s

    def rate_hz(self) -> float | None:
        """Messages per second of late; 0 where they have ceased, None where none ever came."""
        now = self._clock()
        with self._lock:
            if self._newest is None:
                return None
            times = [t for t in self._times if now - t <= RATE_WINDOW_S]
        if len(times) < 2:
            return 0.0
        return (len(times) - 1) / max(times[-1] - times[0], 1e-6)
