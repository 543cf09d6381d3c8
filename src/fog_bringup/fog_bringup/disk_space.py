"""Watches the disk that a recording goes to: how much is free, and whether it is still there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Final

from fog_world_model.errors import FogError

MEGABYTE: Final = 1_000_000
_RATE_S: Final = 5.0
"""File systems count in steps: a rate takes some seconds."""
_SHORT_S: Final = 120.0
"""A disk that is full sooner than this, at the present rate, is a warning."""


def free_bytes(folder: Path) -> int:
    """Bytes free for the user on the disk that a folder lies on, or will lie on.

    Raises:
        FogError: The disk cannot be asked.
    """
    present = folder.absolute()
    while not present.exists() and present != present.parent:
        present = present.parent
    try:
        return shutil.disk_usage(present).free
    except OSError as error:
        raise FogError(f"{folder}: its disk does not answer ({error.strerror})") from error


class DiskWatch:
    """The disk under one recording.

    Args:
        part: Folder that grows; it exists.
        reserve: Free bytes at which the recording has to end.

    Raises:
        FogError: The disk cannot be asked.
    """

    def __init__(self, part: Path, reserve: int) -> None:
        self._part, self.reserve = part, reserve
        self.free = free_bytes(part)
        self._device = self._where()
        self._rate, self._before = 0.0, self.free
        self._at = time.monotonic()

    def look(self) -> str:
        """Look again, and say why the recording has to end; nothing: it may go on.

        Raises:
            FogError: The folder is not there any more: the disk was unplugged, or somebody has
                deleted it.
        """
        now = time.monotonic()
        if self._where() != self._device:
            raise FogError(
                f"bag {self._part}: the folder has disappeared (was the disk unplugged?); what "
                "came through is on that disk. Plug it in, or choose another folder."
            )
        free = self.free = free_bytes(self._part)
        if now - self._at > _RATE_S:
            self._rate = (self._before - free) / (now - self._at)
            self._before, self._at = free, now
        if free < self.reserve:
            return f"the disk is nearly full: {free // MEGABYTE} MB free"
        return ""

    @property
    def warning(self) -> str:
        """A sentence when the end is near; else nothing."""
        left_s = (self.free - self.reserve) / self._rate if self._rate > 0 else float("inf")
        if left_s < _SHORT_S:
            return f"the disk is full in {left_s:.0f} s: {self.free // MEGABYTE} MB free"
        return ""

    def _where(self) -> int | None:
        try:
            return self._part.stat().st_dev
        except OSError:
            return None
