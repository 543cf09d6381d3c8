"""Memory and processor time of a process over time, read from /proc."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from fog_bringup.benchmarks.recording_processes import cpu_seconds


@dataclass
class Usage:
    """Samples of one process."""

    pid: int
    seconds: list[float] = field(default_factory=list)
    """When, since the first sample."""
    rss_mb: list[float] = field(default_factory=list)
    """Resident memory, MB (10^6 bytes)."""
    _begin_s: float = 0.0
    _begin_cpu_s: float = 0.0
    _cpu_s: float = 0.0

    def sample(self) -> None:
        """Take one; of a process that has ended, nothing."""
        try:
            rss, cpu_s = _rss_mb(self.pid), cpu_seconds(self.pid)
        except (OSError, IndexError):
            return
        now = time.monotonic()
        if not self.seconds:
            self._begin_s, self._begin_cpu_s = now, cpu_s
        self.seconds.append(now - self._begin_s)
        self.rss_mb.append(rss)
        self._cpu_s = cpu_s - self._begin_cpu_s

    @property
    def cores(self) -> float:
        """Processor seconds per second."""
        return self._cpu_s / self.seconds[-1] if self.seconds and self.seconds[-1] > 0 else 0.0


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise IndexError(f"process {pid} has no memory")
