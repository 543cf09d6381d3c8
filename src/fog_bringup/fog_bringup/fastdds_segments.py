"""Shared memory of Fast DDS that nobody uses any more.

Every process of ROS has segments in /dev/shm, 32 MB and more each, that carry its images. One that
is killed leaves them behind, and nothing takes them away before the machine starts again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_SEGMENT = re.compile(r"fastdds_[0-9a-f]{16}")
_MAPPED = re.compile(rf"{SHARED_MEMORY}/{_SEGMENT.pattern}\b")


def mapped_segments(pid: int) -> set[Path]:
    """Segments that a process uses: its own, and those of whoever has sent it something.

    Raises:
        OSError: There is no such process.
    """
    return {Path(name) for name in _MAPPED.findall(Path(f"/proc/{pid}/maps").read_text())}


def abandoned_segments(among: Iterable[Path] | None = None) -> dict[Path, int]:
    """Segments whose owner is dead, in whatever container it lived.

    Their owner holds a lock on the file beside them, ``SEGMENT_el``, for as long as it lives; names
    are random and never used again.

    Args:
        among: Where to look; None: in all of the shared memory.

    Returns:
        Segment -> size in bytes; without those of others that cannot be asked or removed.
    """
    found = {}
    for path in sorted(SHARED_MEMORY.iterdir() if among is None else among):
        if _SEGMENT.fullmatch(path.name) and _is_free(_lock_of(path)):
            try:
                found[path] = path.stat().st_size
            except OSError:  # gone in the meantime
                continue
    return found


def remove_segments(segments: dict[Path, int]) -> int:
    """Take abandoned segments away.

    Args:
        segments: As :func:`abandoned_segments` gives them.

    Returns:
        How many bytes are free now that were not.
    """
    freed = 0
    for path, size in segments.items():
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        freed += size
        _lock_of(path).unlink(missing_ok=True)
    return freed


@contextlib.contextmanager
def removed_after_kill(pid: int) -> Iterator[None]:
    """Around the kill of a process and the wait for its end: take away what it leaves."""
    segments: set[Path] = set()
    with contextlib.suppress(OSError):  # it has ended already
        segments = mapped_segments(pid)
    yield
    remove_segments(abandoned_segments(segments))


def _lock_of(segment: Path) -> Path:
    return segment.with_name(segment.name + "_el")


def _is_free(lock: Path) -> bool:
    try:
        # For writing: whoever may not may not remove it either.
        file = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
