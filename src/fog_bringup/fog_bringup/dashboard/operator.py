"""What an operator can do: stop, reset, and move the policy node through its lifecycle."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from fog_bringup.dashboard.stream import Clock

CONFIRM_S = 1.0
"""An emergency stop that the policy node has not confirmed after so long is said to have failed."""
TRANSITIONS = ("configure", "activate", "deactivate")
"""Those of a lifecycle node that the page offers."""


@dataclass(frozen=True)
class Answer:
    """Of the policy node."""

    success: bool
    text: str


class Robot(Protocol):
    """What asks the policy node. Each returns at once; the answer comes from another thread."""

    def stop(self) -> Future[Answer]:
        """Engage the emergency stop, and ask again until it is confirmed."""

    def reset(self) -> Future[Answer]:
        """Release it."""

    def change(self, transition: str) -> Future[Answer]:
        """Change the lifecycle state, see :data:`TRANSITIONS`."""


class StopButton:
    """Presses the emergency stop, and remembers for all who watch whether it was confirmed.

    To be used within one event loop.

    Args:
        robot: Asks the policy node.
        service: The service's name, for the message.
        clock: Seconds, never running backwards.
        confirm_s: See :data:`CONFIRM_S`.
    """

    def __init__(
        self,
        robot: Robot,
        service: str,
        *,
        clock: Clock = time.monotonic,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        self._robot, self._service, self._clock = robot, service, clock
        self._confirm_s = confirm_s
        self._pressed_s: float | None = None
        self._number = 0
        self._after_s: float | None = None
        self._text = ""

    async def press(self) -> dict[str, Any]:
        """Stop the robot, and wait for the confirmation, but no longer than ``confirm_s``.

        Returns:
            As :meth:`describe`.
        """
        begin = self._clock()
        self._number += 1
        mine = self._number
        self._pressed_s, self._after_s, self._text = begin, None, ""
        asked = asyncio.wrap_future(self._robot.stop())

        def answered(future: asyncio.Future[Answer]) -> None:
            # A late confirmation counts as well, but not that of a press before the newest.
            if mine != self._number or future.cancelled():
                return
            error = future.exception()
            if error is None and future.result().success:
                self._after_s, self._text = self._clock() - begin, future.result().text
            else:
                self._text = str(error) if error else future.result().text

        asked.add_done_callback(answered)
        await asyncio.wait([asked], timeout=self._confirm_s)
        await asyncio.sleep(0)  # lets answered() run
        return self.describe()

    def clear(self) -> None:
        """A person has decided to go on: the press before is history."""
        self._number += 1
        self._pressed_s = None

    def describe(self) -> dict[str, Any]:
        """State of the newest press: ``none``, ``asked``, ``confirmed`` or ``unconfirmed``."""
        if self._pressed_s is None:
            return {
                "state": "none",
                "number": self._number,
                "pressed_s": None,
                "after_s": None,
                "text": "",
            }
        pressed_s = self._clock() - self._pressed_s
        state = "confirmed" if self._after_s is not None else "asked"
        text = self._text
        if self._after_s is None and (self._text or pressed_s >= self._confirm_s):
            state = "unconfirmed"
            text = text or f"{self._service} did not answer within {self._confirm_s:g} s"
        return {
            "state": state,
            "number": self._number,
            "pressed_s": pressed_s,
            "after_s": self._after_s,
            "text": text,
        }
