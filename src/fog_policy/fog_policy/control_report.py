"""How well the control loop kept its time, and what stopped the robot. No ROS here."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_policy.deadlines import Deadlines

_JITTER_BIN_MS = 0.01
_JITTER_BINS = 10_000
"""Jitter is counted in bins, up to 100 ms: at 50 Hz, values would fill the memory in the end."""
_LONG = 1.5
"""An interval between two decisions is long from so many control periods on."""
_SERIES = 15_000
"""The written report holds so many of the newest latencies and intervals, for its picture: those of
ten minutes at 20 Hz and more."""


class ControlReport:
    """Collects the ticks of one activation.

    Args:
        declared_hz: The control rate that the task asks for.
    """

    def __init__(self, declared_hz: float) -> None:
        self.declared_hz = declared_hz
        self.commands = 0
        """Commands published, zero commands included."""
        self.episodes = 1
        self.deadlines = Deadlines(1e9 / declared_hz)
        """Told of every tick, and of every decision."""
        self.long_intervals = 0
        """Intervals between two decisions of more than 1.5 control periods. Nothing is missed where
        one comes early in its period and the next one late, but the robot feels it."""
        self.repeated_images = 0
        """Commands computed from an image that had been used before."""
        self.resets = 0
        """How often the policy forgot the past."""
        self.overruns = 0
        """Ticks at which the policy was still busy with the one before."""
        self.waits = 0
        """Ticks that waited a moment for an image that was overdue."""
        self.published = 0
        """Messages published, between the commands too."""
        self.about: dict[str, Any] = {}
        """What else is to be said: device, backend, ..."""
        self._jitter = np.zeros(_JITTER_BINS + 1, np.int64)
        self._jitter_max_ms = 0.0
        self._differences = 0
        self._difference: npt.NDArray[np.float64] | None = None
        self._period_ns = 1e9 / declared_hz
        self._last_ns: int | None = None
        self._intervals_ns = array("d")
        self._latency_ns = array("d")
        self._image_age_ns = array("d")
        self._inference_ns = array("d")
        self._image_ns: int | None = None
        self._stopped_by: frozenset[str] = frozenset()
        self._stops: Counter[str] = Counter()
        self._stopped_commands: Counter[str] = Counter()
        self._limits: Counter[str] = Counter()

    @property
    def missed_deadlines(self) -> int:
        """Ticks without a decision in time; see :mod:`fog_policy.deadlines`."""
        return self.deadlines.missed

    def tick(self, now_ns: int) -> None:
        """Note that a tick's decision was published.

        Args:
            now_ns: When, by the node's clock.
        """
        self.commands += 1
        if self._last_ns is not None:
            interval = now_ns - self._last_ns
            self._intervals_ns.append(interval)
            self.long_intervals += interval > _LONG * self._period_ns
        self._last_ns = now_ns

    def restart_interval(self) -> None:
        """Do not count the time up to the next tick: the loop is being aligned to the camera."""
        self._last_ns = None
        self.deadlines.restart()

    def driven(
        self, image_ns: int, latency_ns: float, inference_ns: float, image_age_ns: float
    ) -> None:
        """Note a command that the policy computed and the filter let pass.

        Args:
            image_ns: Stamp of the image it was computed from.
            latency_ns: From that stamp to the command, by the node's clock.
            inference_ns: Wall time of the policy alone.
            image_age_ns: From that stamp to the tick that took the image: the part of the latency
                that the camera's period, the image's way and the phase of the ticks make up.
        """
        self._image_age_ns.append(image_age_ns)
        self._latency_ns.append(latency_ns)
        self._inference_ns.append(inference_ns)
        self.repeated_images += image_ns == self._image_ns
        self._image_ns = image_ns

    def jittered(self, deviation_ns: float) -> None:
        """Note by how much the time between two firings of the fastest timer was off.

        Args:
            deviation_ns: Wall time between them minus the timer's period; the sign does not count.
        """
        milliseconds = abs(deviation_ns) / 1e6
        self._jitter[min(int(milliseconds / _JITTER_BIN_MS), _JITTER_BINS)] += 1
        self._jitter_max_ms = max(self._jitter_max_ms, milliseconds)

    def compared(self, difference: npt.NDArray[np.float64]) -> None:
        """Note, in shadow mode, what the policy wanted minus what the robot was told.

        Args:
            difference: ``[action]``, physical units.
        """
        if self._difference is None:
            self._difference = np.zeros_like(difference)
        self._difference += np.abs(difference)
        self._differences += 1

    def end(self, now_ns: int) -> None:
        """Count the deadlines missed since the last command: no further one will tell.

        Args:
            now_ns: When the loop ended, by the node's clock.
        """
        self.deadlines.end(now_ns)
        self._last_ns = None

    def filtered(self, stops: Sequence[str], limits: Sequence[str]) -> None:
        """Note what the safety filter did to a command.

        Args:
            stops: Causes for which it became zero; empty when it did not.
            limits: Limits that changed it.
        """
        causes = frozenset(stops)
        self._stops.update(causes - self._stopped_by)
        self._stopped_commands.update(causes)
        self._limits.update(set(limits))
        self._stopped_by = causes

    def to_dict(self, *, newest: int = 0) -> dict[str, Any]:
        """The report as plain data.

        Args:
            newest: Rate, latency and inference time are taken over this many of the last ticks;
                0: over all.

        Returns:
            Times by the node's clock, latencies in milliseconds; None where nothing was measured.
            The rate is commands per second.
        """
        intervals_ns = self._intervals_ns[-newest:]
        seconds = sum(intervals_ns) / 1e9
        return {
            "declared_hz": self.declared_hz,
            "achieved_hz": len(intervals_ns) / seconds if seconds > 0 else None,
            "seconds": seconds,
            "commands": self.commands,
            "episodes": self.episodes,
            "missed_deadlines": self.missed_deadlines,
            "repeated_images": self.repeated_images,
            "long_intervals": self.long_intervals,
            "latency_ms": _percentiles(self._latency_ns[-newest:]),
            "image_age_ms": _percentiles(self._image_age_ns[-newest:]),
            "inference_ms": _percentiles(self._inference_ns[-newest:]),
            "stops": {
                cause: {"events": self._stops[cause], "commands": self._stopped_commands[cause]}
                for cause in sorted(self._stopped_commands)
            },
            "limits": dict(sorted(self._limits.items())),
            "resets": self.resets,
            "overruns": self.overruns,
            "waits": self.waits,
            "published": self.published,
            "jitter_ms": self._jitter_ms(),
            **self._comparison(),
            **self.about,
        }

    def series(self) -> dict[str, list[float]]:
        """The newest latencies and their parts and the intervals, one by one, ms, oldest first."""
        arrays = {
            "latency_ms": self._latency_ns,
            "image_age_ms": self._image_age_ns,
            "inference_ms": self._inference_ns,
            "interval_ms": self._intervals_ns,
        }
        return {
            name: [round(value / 1e6, 3) for value in values[-_SERIES:]]
            for name, values in arrays.items()
        }

    def _comparison(self) -> dict[str, Any]:
        if self._difference is None:
            return {}
        mean = (self._difference / self._differences).tolist()
        return {"shadow": {"commands": self._differences, "mean_absolute_difference": mean}}

    def _jitter_ms(self) -> dict[str, float | None]:
        count = int(self._jitter.sum())
        if count == 0:
            return {"p50": None, "p99": None, "max": None}
        below = np.cumsum(self._jitter)
        # The upper end of the bin that holds the percentile.
        p50, p99 = (
            (int(np.searchsorted(below, share * count)) + 1) * _JITTER_BIN_MS
            for share in (0.5, 0.99)
        )
        largest = self._jitter_max_ms
        return {"p50": min(p50, largest), "p99": min(p99, largest), "max": largest}

    def summary(self) -> str:
        """The report in one line, for the log."""
        report = self.to_dict()
        latency, inference = report["latency_ms"], report["inference_ms"]
        stops = ", ".join(f"{c} {n['events']}x" for c, n in report["stops"].items()) or "none"
        return (
            f"{self.commands} commands at {_number(report['achieved_hz'])} Hz "
            f"(declared {self.declared_hz:g} Hz), {self.missed_deadlines} deadlines missed; "
            f"image to command {_line(latency)}; inference {_line(inference)}; stops: {stops}"
        )

    def text(self) -> str:
        """The report as lines for a person."""
        report = self.to_dict()
        lines = [
            f"declared rate     {self.declared_hz:g} Hz",
            f"achieved rate     {_number(report['achieved_hz'])} Hz",
            f"commands          {self.commands}, published {self.published} times",
            f"missed deadlines  {self.missed_deadlines}",
            f"long intervals    {self.long_intervals}",
            f"image to command  {_line(report['latency_ms'])}",
            f"image at the tick {_line(report['image_age_ms'])}",
            f"inference         {_line(report['inference_ms'])}",
            f"timer jitter      {_line(report['jitter_ms'])}",
            f"policy resets     {self.resets}, episodes {self.episodes}",
        ]
        for cause, count in report["stops"].items():
            lines.append(f"stopped by        {cause}: {count['events']} times")
        if not report["stops"]:
            lines.append("stopped by        nothing")
        if "shadow" in report:
            shadow = report["shadow"]
            mean = ", ".join(_number(v) for v in shadow["mean_absolute_difference"])
            lines.append(f"shadow            {shadow['commands']} compared, off by {mean}")
        lines += [f"{name:<17} {value}" for name, value in self.about.items()]
        return "\n".join(lines) + "\n"


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write JSON beside its final place and move it there, so that it is never half there."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write a text as :func:`write_json` writes JSON."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(final.name + ".part")
    part.write_text(content, encoding="utf-8")
    part.replace(final)


def _percentiles(nanoseconds: array[float]) -> dict[str, float | None]:
    if not nanoseconds:
        return {"p50": None, "p99": None, "max": None}
    values = np.asarray(nanoseconds) / 1e6
    return {
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
    }


def _line(percentiles: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {_number(value)} ms" for name, value in percentiles.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
