"""A file by which a node that was started again knows that it was. No ROS here.

Whoever starts the node anew when it has died (a launch file, systemd) names a file that lasts as
long as its watch does. The first start writes it; a start that finds it is a restart, and knows
what the one before was about: a process that was killed had no time to leave another word.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fog_policy.control_report import write_json
from fog_world_model.errors import FogError


@dataclass(frozen=True)
class RunState:
    """What the one before was about."""

    active: bool = False
    """Whether it was active, and nobody had deactivated it."""
    emergency_stop: str | None = None
    """Who had stopped the robot, as long as nobody had reset it."""


class RunFile:
    """Reads and writes it.

    Args:
        path: The file.

    Raises:
        FogError: It cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self.found = self._read()
        """What was found at the start; None: this is the first."""
        self._state = self.found or RunState()
        if self.found is None:
            try:
                self._write()
            except OSError as error:
                raise FogError(
                    f"parameter run_file {path}: cannot be written ({error.strerror}); give a file "
                    "in a folder that exists"
                ) from error

    def note(self, state: RunState) -> str:
        """Write a state where it is another one.

        Returns:
            What went wrong; empty when nothing did. A robot that drives is no reason to fail.
        """
        if state == self._state:
            return ""
        self._state = state
        try:
            self._write()
        except OSError as error:
            return f"run_file {self._path}: not written ({error.strerror})"
        return ""

    def _write(self) -> None:
        if not self._path.parent.is_dir():  # a folder that is gone is not made again
            raise FileNotFoundError(2, "No such folder")
        content = {"active": self._state.active, "emergency_stop": self._state.emergency_stop}
        write_json(self._path, content)

    def _read(self) -> RunState | None:
        if not self._path.exists():
            return None
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            active, stop = content["active"], content["emergency_stop"]
            if isinstance(active, bool) and (stop is None or isinstance(stop, str)):
                return RunState(active, stop)
        except (OSError, ValueError, TypeError, KeyError):
            pass
        # Somebody was here, and more is not known: to drive on would be a guess.
        return RunState()
