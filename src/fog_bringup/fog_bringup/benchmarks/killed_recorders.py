"""Recorders that are killed at random times: what can be read afterwards, and what is missing."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fog_bringup.benchmarks.recording_processes import TYPES, publishers, recorder, ros_environment
from fog_bringup.fastdds_segments import removed_after_kill
from fog_bringup.live_scene import stamp_of
from fog_bringup.progress import Report
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_recover import recover_bag
from fog_world_model.errors import FogError

PROMISED_S: Final = 1.0
"""A killed recorder loses nothing that is older."""
_RUNS_S: Final = (0.5, 4.0)
"""A recorder lives between these times after the first messages."""
_BEGUN_BYTES: Final = 50_000
"""A bag of this size holds messages, not only the task."""
_MATCH_S: Final = 60.0
_DEPTH: Final = 1000
"""Messages that a publisher repeats for a recorder that did not get them. It is deep, because what
the middleware loses is not what the kill loses (``fog benchmark recording`` counts that, too)."""


@dataclass
class _Loss:
    """What a bag of a killed recorder lacks."""

    missing: int = 0
    """Messages that were sent more than :data:`PROMISED_S` before the kill."""
    oldest_s: float = 0.0
    """Age of the oldest message that is missing, at the kill; younger ones count, too."""
    sentences: list[str] = field(default_factory=list)
    """Of each topic that lacks old messages."""


def measure(kills: int, folder: Path, report: Report) -> dict[str, Any]:
    """Kill recorders with SIGKILL while publishers go on, recover their bags, and compare.

    Half of them record a camera of 640x480, the other half one of 64x48, beside joints at 500 Hz,
    an IMU at 200 Hz and odometry at 50 Hz.

    Args:
        kills: How many.
        folder: For bags and logs; made here.
        report: Told of every kill.

    Returns:
        ``killed``, ``readable``, ``complete`` (nothing older than a second before the kill is
        missing on any topic), ``worst_s`` (age of the oldest message that is missing, at the kill,
        over all; 0: none), ``missing``, the messages older than a second that are not there, and
        ``losses``, a sentence for each topic of a bag that lacks such.
    """
    rng = np.random.default_rng()
    results: list[_Loss] = []
    unreadable = 0
    for size, count in (("640x480", kills - kills // 2), ("64x48", kills // 2)):
        place = folder / size
        place.mkdir(parents=True)
        environment = ros_environment()
        ended: list[tuple[Path, int]] = []
        with publishers(place, environment, 30, size, depth=_DEPTH) as (begin, end):
            for number in range(count):
                report("killing recorders", len(results) + unreadable + number, kills)
                bag = place / f"reach_cube_{number:03d}"
                with recorder(place, place / f"log_{number}", environment) as (process, _):
                    if not number:
                        begin()
                    _wait_for_messages(bag)
                    time.sleep(rng.uniform(*_RUNS_S))
                    with removed_after_kill(process.pid):
                        killed_ns = time.time_ns()
                        process.send_signal(signal.SIGKILL)
                        process.wait()
                ended.append((bag, killed_ns))
            sent = end()
        for bag, killed_ns in ended:
            try:
                results.append(_missing(bag, killed_ns, sent))
            except FogError:
                unreadable += 1
    report("killing recorders", kills, kills)
    return {
        "killed": kills,
        "readable": len(results),
        "complete": sum(not r.missing for r in results),
        "worst_s": max((r.oldest_s for r in results), default=0.0),
        "missing": sum(r.missing for r in results),
        "losses": [sentence for r in results for sentence in r.sentences],
    }


def _wait_for_messages(bag: Path) -> None:
    folder = bag.with_name(f"{bag.name}.part") / bag.name
    deadline = time.monotonic() + _MATCH_S
    while sum(f.stat().st_size for f in folder.glob("*.mcap")) < _BEGUN_BYTES:
        if time.monotonic() > deadline:
            raise FogError(f"bag {bag}: nothing arrives")
        time.sleep(0.02)


def _missing(bag: Path, killed_ns: int, sent: dict[str, npt.NDArray[np.int64]]) -> _Loss:
    """Messages that were sent after the bag's first of their topic, and are not in it."""
    recovered = bag.with_name(f"{bag.name}_recovered")
    recover_bag(bag.with_name(f"{bag.name}.part"), recovered)
    stamps: dict[str, list[int]] = {topic: [] for topic in TYPES}
    with BagReader(recovered) as reader:
        for message in reader.messages([t for t in TYPES if t in reader.topics]):
            stamps[message.topic].append(stamp_of(message.data))
    loss = _Loss()
    for topic, there in stamps.items():
        # A recorder that had heard nothing of a topic when it was killed cannot have lost any.
        first, last = min(there, default=killed_ns), max(there, default=killed_ns)
        expected = sent[topic][(sent[topic] >= first) & (sent[topic] < killed_ns)]
        absent = np.setdiff1d(expected, np.asarray(there, np.int64))
        if not len(absent):
            continue
        oldest_s = (killed_ns - int(absent.min())) / 1e9
        loss.oldest_s = max(loss.oldest_s, oldest_s)
        if missing := int(np.sum(absent < killed_ns - PROMISED_S * 1e9)):
            loss.missing += missing
            loss.sentences.append(
                f"{bag}: {topic}: {missing} of {len(expected)} are missing, the oldest sent "
                f"{oldest_s:.2f} s before the kill; {int(np.sum(absent < last))} lie before the "
                f"newest that is there, of {(killed_ns - last) / 1e9:.2f} s before the kill"
            )
    return loss
