"""The recorder against a plain one, and recorders that are killed; real topics, real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mcap.reader import make_reader

from fog_bringup.benchmarks import killed_recorders
from fog_bringup.benchmarks.recording_processes import (
    NODES,
    TYPES,
    cpu_seconds,
    finish,
    publishers,
    recorder,
    ros_environment,
    running,
)
from fog_bringup.progress import Report, progress_bar
from fog_world_model.data.bag_reader import BagReader

CAMERA_RATES: Final = (30, 60)


def measure(seconds: float, *, kills: int = 20) -> dict[str, Any]:
    """Record the same streams with this package's recorder and with a plain one, then kill some.

    A camera of 640x480 rgb8, joints at 500 Hz, an IMU at 200 Hz and odometry at 50 Hz, published by
    two processes, reliable, depth 10. The plain recorder (``plain_recorder_node``) subscribes with
    depth 10, lets rclpy decode, serialises again and uses ``mcap``'s writer with its defaults.

    Args:
        seconds: Length of each recording.
        kills: Recorders to kill, see :func:`fog_bringup.benchmarks.killed_recorders.measure`.

    Returns:
        ``runs``: for each camera rate ``camera_hz``, ``sent``, ``recorded``, ``plain_sent`` and
        ``plain_recorded`` (messages by topic), ``lost_counted`` (messages that the recorder itself
        counted as lost), ``missing_by_stamps`` (that it found missing by header stamps),
        ``recorder_cpu`` and ``plain_cpu`` (seconds of processor time per second). ``kills``: what
        became of recorders that were killed.
    """
    runs = []
    with tempfile.TemporaryDirectory(prefix="fog_recording_") as folder, progress_bar() as report:
        for hz in CAMERA_RATES:
            runs.append(_measure_rate(Path(folder) / str(hz), hz, seconds, report))
        killed = killed_recorders.measure(kills, Path(folder) / "kills", report) if kills else {}
    return {"runs": runs, "kills": killed}


def _measure_rate(folder: Path, hz: int, seconds: float, report: Report) -> dict[str, Any]:
    folder.mkdir()
    with recorder(folder, folder / "log") as (process, environment):
        sent, cpu = _record(process, folder, environment, hz, seconds, f"{hz} Hz", report)
        finish(process)
    bag = folder / "reach_cube_000"
    with BagReader(bag) as reader:
        recorded = {t: reader.counts.get(t, 0) for t in TYPES}
        account = json.loads(reader.custom["fog_account"])
    remove(bag)
    plain = folder / "plain.mcap"
    command = [sys.executable, "-m", f"{NODES}.plain_recorder_node", str(plain)]
    command += [f"{topic}={typename}" for topic, typename in TYPES.items()]
    environment = ros_environment()
    with running(command, environment, folder / "plain.log") as process:
        plain_sent, plain_cpu = _record(
            process, folder, environment, hz, seconds, f"{hz} Hz, plain", report
        )
        finish(process)
    with plain.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None and summary.statistics is not None
    counts = summary.statistics.channel_message_counts
    plain_recorded = {c.topic: counts.get(i, 0) for i, c in summary.channels.items()}
    plain.unlink()
    return {
        "camera_hz": hz,
        "seconds": seconds,
        "sent": sent,
        "recorded": recorded,
        "lost_counted": sum(account[t]["lost"] for t in TYPES if t in account),
        "missing_by_stamps": sum(account[t].get("missing", 0) for t in TYPES if t in account),
        "recorder_cpu": cpu,
        "plain_sent": plain_sent,
        "plain_recorded": {t: plain_recorded.get(t, 0) for t in TYPES},
        "plain_cpu": plain_cpu,
    }


def _record(
    process: subprocess.Popen[str],
    folder: Path,
    environment: Mapping[str, str],
    hz: int,
    seconds: float,
    name: str,
    report: Report,
) -> tuple[dict[str, int], float]:
    """Publish for some time; messages sent, and the processor time of a process per second."""
    with publishers(folder, environment, hz) as (begin, end):
        begin()
        before, began = cpu_seconds(process.pid), time.monotonic()
        for second in range(max(1, round(seconds))):
            report(f"recording, camera at {name}", second, round(seconds))
            time.sleep(max(0.0, began + min(seconds, second + 1) - time.monotonic()))
        used = cpu_seconds(process.pid) - before
        elapsed = time.monotonic() - began
        sent = end()
    report(f"recording, camera at {name}", round(seconds), round(seconds))
    return {topic: len(stamps) for topic, stamps in sent.items()}, used / elapsed


def remove(bag: Path) -> None:
    """Delete a bag: an hour's worth would not fit beside the next."""
    for file in bag.iterdir():
        file.unlink()
    bag.rmdir()
