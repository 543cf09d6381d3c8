"""Who has the world: one visitor at a time, a person in a browser or a program."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class SeatTakenError(Exception):
    """Somebody else has the world; the message says who and since when."""


@dataclass(eq=False)
class Visitor:
    """Who has the world."""

    kind: str
    """``person`` or ``program``."""
    since_s: float
    seen_s: float
    """When they last did something."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Proves to the HTTP interface who is asking."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once they have the world no longer."""


class Seat:
    """The only seat in the world. Everything here happens in the server's event loop."""

    def __init__(self, idle_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Make a free seat.

        Args:
            idle_timeout_s: A visitor who does nothing for so long loses the seat.
            clock: Seconds, never running backwards.
        """
        self.idle_timeout_s, self._clock = idle_timeout_s, clock
        self._visitor: Visitor | None = None

    @property
    def visitor(self) -> Visitor | None:
        """Who has it now."""
        self.expire()
        return self._visitor

    def take(self, kind: str) -> Visitor:
        """Sit down.

        Args:
            kind: ``person`` or ``program``.

        Raises:
            SeatTakenError: Somebody else sits there.
        """
        if self.visitor is not None:
            raise SeatTakenError(self.description)
        now = self._clock()
        self._visitor = Visitor(kind, now, now)
        return self._visitor

    def touch(self, visitor: Visitor) -> None:
        """The visitor has done something."""
        visitor.seen_s = self._clock()

    def leave(self, visitor: Visitor) -> None:
        """Stand up; nothing happens where somebody else sits already."""
        visitor.ended.set()
        if self._visitor is visitor:
            self._visitor = None

    def expire(self) -> None:
        """Free the seat of a visitor who has done nothing for too long."""
        visitor = self._visitor
        if visitor is not None and self._clock() - visitor.seen_s > self.idle_timeout_s:
            self.leave(visitor)

    def of(self, token: str) -> Visitor | None:
        """The visitor who proves it with their token."""
        visitor = self.visitor
        if visitor is None or not secrets.compare_digest(visitor.token, token):
            return None
        return visitor

    @property
    def description(self) -> str:
        """Who has the world and since when, in words."""
        visitor = self.visitor
        if visitor is None:
            return "the world is free"
        now = self._clock()
        who = "A person" if visitor.kind == "person" else "A program"
        return (
            f"{who} has had this world for {now - visitor.since_s:.0f} s and last did something "
            f"{now - visitor.seen_s:.0f} s ago. It is free when they leave, or when they have "
            f"done nothing for {self.idle_timeout_s:.0f} s."
        )
