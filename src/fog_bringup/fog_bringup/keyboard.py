"""Keys of a terminal as a command: a key moves its field for as long as it repeats."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Sequence

from fog_world_model.errors import FogError

_HOLD_S = 0.6
"""A terminal shows no release of a key; this bridges the delay before it repeats."""


class Keyboard:
    """Reads single keys from standard input until it is closed.

    Args:
        keys: For each field the two keys that push it up and down, for example ``ws``.

    Raises:
        FogError: Standard input is not a terminal.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not sys.stdin.isatty():
            raise FogError(
                "mode:=keyboard needs a terminal on standard input; start the node from a shell, "
                "not from a launch file, or use mode:=joy"
            )
        self._keys = list(keys)
        self._pressed: dict[str, float] = {}
        self._input = sys.stdin.fileno()
        self._settings = termios.tcgetattr(self._input)
        self._stop_reader, self._stop_writer = os.pipe()
        tty.setcbreak(self._input)
        self._thread = threading.Thread(target=self._read, name="keyboard", daemon=True)
        self._thread.start()

    def deflection(self) -> list[float]:
        """Per field -1, 0 or 1."""
        return deflection(self._keys, dict(self._pressed), time.monotonic())

    def close(self) -> None:
        """Stop reading and give the terminal back as it was."""
        os.write(self._stop_writer, b"x")
        self._thread.join()
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._settings)
        os.close(self._stop_reader)
        os.close(self._stop_writer)

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._input, self._stop_reader], [], [])
            if self._stop_reader in ready:
                return
            key = os.read(self._input, 1).decode(errors="ignore").lower()
            if key == " ":
                self._pressed.clear()
            elif key:
                self._pressed[key] = time.monotonic()


def deflection(keys: Sequence[str], pressed: dict[str, float], now_s: float) -> list[float]:
    """What keys mean.

    Args:
        keys: For each field the key that pushes it up and the one that pushes it down.
        pressed: Key -> when it was last seen, s.
        now_s: Now, by the same clock.

    Returns:
        Per field -1, 0 or 1; of two opposite keys the newer one counts.
    """
    values = []
    for pair in keys:
        times = {1.0: pressed.get(pair[0], -1e9), -1.0: pressed.get(pair[1], -1e9)}
        sign = max(times, key=lambda s: times[s])
        values.append(sign if now_s - times[sign] < _HOLD_S else 0.0)
    return values
