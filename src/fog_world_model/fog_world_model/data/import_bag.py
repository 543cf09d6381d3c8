"""One bag into one shard: look at the stamps, synchronise, decode what is used, write, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fog_world_model.data import import_report
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_scan import BagScan
from fog_world_model.data.bag_topics import find_topics
from fog_world_model.data.clock_epochs import REASON, synchronise_epochs
from fog_world_model.data.labellers import make_labeller
from fog_world_model.data.message_decoder import MessageDecoder
from fog_world_model.data.segment_episodes import SegmentEpisodes
from fog_world_model.data.shard import ShardWriter
from fog_world_model.data.synchronise import Segment, Synchronised, settle
from fog_world_model.data.timelines import Timelines
from fog_world_model.task import TaskConfig

BagProgress = Callable[[int, int], None]
"""Called with the images done and their total."""
_NEVER = 2**62


@dataclass(frozen=True)
class BagJob:
    """One bag to import."""

    bag: Path
    store: Path
    shard: str
    """Name of the shard to be."""
    source: str
    """Name of the bag in the sources of its episodes."""
    fingerprint: str
    task: TaskConfig
    threads: int = 1


class Interrupted(Exception):
    """The import was asked to stop."""


def import_bag(job: BagJob, progress: BagProgress, stopped: Callable[[], bool]) -> None:
    """Write the shard of a bag; without an episode it is an empty one.

    Args:
        job: What to import, and where to.
        progress: Told about images done.
        stopped: Asked now and then whether to stop.

    Raises:
        FogError: The bag cannot be read, lacks a topic, or the disk is full.
        Interrupted: ``stopped`` said so.
    """
    with (
        BagReader(job.bag) as bag,
        BagScan(bag) as scan,
        ShardWriter(job.store, job.shard, job.task) as writer,
        single_threaded_opencv(),
    ):
        report = _Import(job, bag, scan, writer).run(progress, stopped)
        writer.finish(fingerprint=job.fingerprint, bag=str(job.bag.resolve()), report=report)


@contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Threads work on whole images; OpenCV's own would only get into their way."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class _Import:
    def __init__(self, job: BagJob, bag: BagReader, scan: BagScan, writer: ShardWriter) -> None:
        self._job, self._bag, self._scan, self._writer = job, bag, scan, writer
        self._task = job.task
        self._topics = find_topics(bag, job.task)
        self._outcome = str(bag.episode.get("outcome", "") or "")

    def run(self, progress: BagProgress, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Do it, and return the report."""
        task, topics = self._task, self._topics
        times = Timelines(self._scan, topics, task)
        if stopped():
            raise Interrupted
        streams = times.streams()
        synchronised = synchronise_epochs(
            times.images.stamps,
            times.images.arrivals,
            streams,
            {topic: times.lines[topic].arrivals for topic in streams},
            image_topic=topics.image,
            image_kinds=times.image_kinds,
            markers=times.numbers(task.marker),
            ends=times.numbers(task.end),
            period_ns=task.period_ns,
            max_steps=task.episode.max_steps,
        )
        decoder = MessageDecoder(self._bag, topics, task)
        episodes = SegmentEpisodes(
            task,
            topics,
            streams,
            make_labeller(task),
            self._writer,
            (self._job.source, self._outcome),
        )
        self._collect(synchronised.segments, times, decoder, episodes, progress, stopped)
        return self._report(synchronised, times, decoder, episodes)

    def _collect(
        self,
        segments: list[Segment],
        times: Timelines,
        decoder: MessageDecoder,
        episodes: SegmentEpisodes,
        progress: BagProgress,
        stopped: Callable[[], bool],
    ) -> None:
        """Fetch the messages of each segment and hand it on when all of them are there.

        Within a topic messages come in the order of the bag, so the last one that a segment needs
        says that it is complete; what no later segment needs is given up.
        """
        image_topic = self._topics.image
        needs = [times.in_bag(segment) for segment in segments]
        wanted = {
            topic: np.unique(
                np.concatenate([np.zeros(0, np.int64), *(n[topic][n[topic] >= 0] for n in needs)])
            )
            for topic in times.lines
        }
        last = [{topic: int(k.max()) for topic, k in need.items()} for need in needs]
        later: list[dict[str, int]] = []  # first message that a later segment needs
        first = dict.fromkeys(times.lines, _NEVER)
        for need in reversed(needs):
            later.append(first)
            first = {
                topic: min(k, int(need[topic][need[topic] >= 0].min(initial=_NEVER)))
                for topic, k in first.items()
            }
        later.reverse()
        held: dict[str, dict[int, Any]] = {topic: {} for topic in times.lines}
        frontier = dict.fromkeys(times.lines, -1)
        done, following, total = 0, 0, len(wanted[image_topic])
        for topic, number, result in self._scan.fetch(
            times.places, wanted, decoder, self._job.threads
        ):
            held[topic][number] = result
            frontier[topic] = number
            if topic == image_topic:
                done += 1
                if done % 32 == 0:
                    progress(done, total)
                    if stopped():
                        raise Interrupted
            while following < len(needs) and all(
                frontier[t] >= k for t, k in last[following].items()
            ):
                need = needs[following]
                messages = {t: [held[t].get(k) for k in ks.tolist()] for t, ks in need.items()}
                episodes.add(segments[following], messages, times.images.stamps)
                for t, numbers in held.items():
                    for k in [k for k in numbers if k < later[following][t]]:
                        del numbers[k]
                following += 1
        assert following == len(needs)
        progress(done, total)

    def _report(
        self,
        synchronised: Synchronised,
        times: Timelines,
        decoder: MessageDecoder,
        episodes: SegmentEpisodes,
    ) -> dict[str, Any]:
        topics, task = self._topics, self._task
        account = synchronised.account
        settle(account, episodes.segments, topics.image)
        breaks = synchronised.breaks + episodes.breaks
        kept = sum(len(s.images) for s in episodes.segments)
        figures = episodes.contents.figures()
        recorder, losses = import_report.recorder_figures(
            self._bag.account, self._bag.warnings, [topics.image, *topics.streams]
        )
        sizes = ["{}x{} {}".format(*kind) for kind in times.kinds]
        warnings = [
            *losses,
            *import_report.topic_warnings(account, breaks, image_topic=topics.image),
            *import_report.content_warnings(figures, task),
            *decoder.warnings(),
        ]
        for reason, count in episodes.faults.items():
            steps = import_report.counted(count, "step")
            warnings.append(f"{reason}: {steps} left out")
        if len(sizes) > 1:
            warnings.append(
                f"{topics.image}: size or encoding changes within the bag: {'; '.join(sizes)}"
            )
        if jumps := synchronised.breaks[REASON]:
            warnings.append(
                f"{topics.image}: the clock jumped back ({import_report.counted(jumps, 'time')}); "
                "nothing was joined across"
            )
        notes = [
            f"{topic}: its stamps are equally spaced to the microsecond while it arrived with "
            "jitter: they were counted, not measured"
            for topic, line in times.lines.items()
            if not line.by_arrival and import_report.nominal(line.stamps, line.arrivals)
        ]
        recorded_for = self._bag.custom.get("fog_task_hash", "")
        if recorded_for and recorded_for != task.hash:
            notes.append("it was recorded for another task, or for another version of this one")
        if task.labeller is not None and decoder.camera is None:
            notes.append(f"{task.image.camera_info_topic}: no camera model; the labeller got none")
        return {
            "bag": os.fspath(self._job.bag),
            "episodes": len(episodes.segments),
            "transitions": kept - len(episodes.segments),
            "outcome": self._outcome,
            "breaks": dict(breaks),
            "steps": {
                "kept": kept,
                "broken": import_report.broken_steps(synchronised.breaks, episodes.faults),
            },
            "topics": import_report.topic_figures(account),
            "camera": import_report.camera_figures(times.images.stamps, sizes),
            **figures,
            "recorder": recorder,
            "warnings": warnings,
            "notes": notes,
        }
