"""One bag into one shard: look at the stamps, synchronise, decode what is used, write, report."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fog_world_model.data import import_report
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_scan import WHOLE, BagScan, Look, Places
from fog_world_model.data.bag_topics import CAMERA_INFO, BagTopics, find_topics
from fog_world_model.data.clock_epochs import synchronise_epochs
from fog_world_model.data.compressed_images import (
    DamagedPicture,
    decode_compressed,
    require_supported,
    shrink_compressed,
)
from fog_world_model.data.images import check_layout, decode_image, resize, shrink
from fog_world_model.data.labellers import CameraModel, Labeller, make_labeller
from fog_world_model.data.message_head import (
    HEAD_BYTES,
    Buffer,
    compressed_image,
    has_header,
    picture_size,
    raw_image,
    stamp_ns,
)
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.data.segment_episodes import SegmentEpisodes
from fog_world_model.data.shard import ShardWriter
from fog_world_model.data.synchronise import IntArray, Segment, Stream, Synchronised, settle
from fog_world_model.task import FloatArray, StreamConfig, TaskConfig

BagProgress = Callable[[int, int], None]
"""Called with the images done and their total."""
_PICTURE_HEAD_BYTES = 65_536


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


@dataclass
class _Looked:
    """What the first pass found of a topic."""

    stamps: array[int] = field(default_factory=lambda: array("q"))
    values: list[FloatArray] = field(default_factory=list)
    kinds: array[int] = field(default_factory=lambda: array("q"))


@dataclass(frozen=True)
class _Timeline:
    """A topic's messages in the order of their arrival."""

    order: IntArray
    """``[message]``: number in the bag."""
    arrivals: IntArray
    stamps: IntArray
    """Arrivals where a driver never fills in its header, or the type has none."""
    by_arrival: bool


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
        _single_threaded_opencv(),
    ):
        report = _Import(job, bag, scan, writer).run(progress, stopped)
        writer.finish(fingerprint=job.fingerprint, bag=os.fspath(job.bag), report=report)


@contextmanager
def _single_threaded_opencv() -> Iterator[None]:
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
        self._topics: BagTopics = find_topics(bag, job.task)
        self._labeller: Labeller | None = make_labeller(job.task)
        self._camera = _camera_model(bag, self._topics.camera_info) if self._labeller else None
        self._kinds: dict[tuple[Any, ...], int] = {}
        self._joint_orders: dict[str, set[tuple[str, ...]]] = {}
        self._lock = threading.Lock()
        self._own = threading.local()

    def run(self, progress: BagProgress, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Do it, and return the report."""
        topics = self._topics
        looked = {topic: _Looked() for topic in (topics.image, *topics.streams)}
        places = self._scan.look(self._looks(looked))
        if stopped():
            raise Interrupted
        lines = {t: _timeline(places[t], looked[t].stamps) for t in looked}
        synchronised, streams = self._synchronise(lines, looked)
        episodes = SegmentEpisodes(
            self._task, topics, streams, self._labeller, self._writer, self._source
        )
        self._collect(synchronised, streams, lines, places, episodes, progress, stopped)
        return self._report(synchronised, lines, looked, episodes)

    @property
    def _source(self) -> tuple[str, str]:
        return self._job.source, str(self._bag.episode.get("outcome", "") or "")

    # First pass

    def _looks(self, looked: dict[str, _Looked]) -> dict[str, Look]:
        task, topics = self._task, self._topics
        valued = {s.topic for s in (task.marker, task.end) if s is not None}
        looks = {}
        for topic, config in topics.streams.items():
            looks[topic] = self._numeric_look(config, looked[topic], valued=topic in valued)
        looks[topics.image] = (
            Look(_PICTURE_HEAD_BYTES, self._picture_look(looked[topics.image]))
            if topics.compressed
            else Look(HEAD_BYTES, self._image_look(looked[topics.image]))
        )
        return looks

    def _numeric_look(self, config: StreamConfig, looked: _Looked, *, valued: bool) -> Look:
        stamped = has_header(config.type)

        def see(_: int, head: Buffer) -> None:
            looked.stamps.append(stamp_ns(head) if stamped else 0)
            if valued:
                looked.values.append(
                    read_fields(deserialise(bytes(head), config.type), config.fields)
                )

        return Look(WHOLE if valued else 12, see)

    def _image_look(self, looked: _Looked) -> Callable[[int, Buffer], None]:
        def see(_: int, head: Buffer) -> None:
            image = raw_image(head)
            looked.stamps.append(stamp_ns(head))
            looked.kinds.append(self._kind(image.width, image.height, image.encoding))

        return see

    def _picture_look(self, looked: _Looked) -> Callable[[int, Buffer], None]:
        def see(_: int, head: Buffer) -> None:
            image = compressed_image(head)
            looked.stamps.append(stamp_ns(head))
            size = None
            try:
                require_supported(image)
                size = picture_size(image.data)
            except DamagedPicture:
                pass
            if size is None and looked.kinds:  # it breaks the episode when it is decoded
                looked.kinds.append(looked.kinds[-1])
            else:
                looked.kinds.append(self._kind(*(size or (0, 0))[::-1], image.format))

        return see

    def _kind(self, *kind: Any) -> int:
        return self._kinds.setdefault(kind, len(self._kinds))

    # Synchronisation

    def _synchronise(
        self, lines: dict[str, _Timeline], looked: dict[str, _Looked]
    ) -> tuple[Synchronised, dict[str, Stream]]:
        task, topics = self._task, self._topics
        led_to = {task.action.topic, *(s.topic for s in (task.reward, task.end) if s is not None)}
        streams = {
            topic: Stream(
                stamp_ns=lines[topic].stamps,
                max_age_ns=round(config.max_age_s * 1e9),
                by_arrival=lines[topic].by_arrival,
                slack_ns=round(config.slack_s * 1e9) if lines[topic].by_arrival else 0,
                needed_at_start=topic not in led_to,
            )
            for topic, config in topics.streams.items()
        }

        def numbers(config: StreamConfig | None) -> tuple[str, IntArray] | None:
            if config is None:
                return None
            values = np.asarray(looked[config.topic].values, np.float64).reshape(-1, 1)
            values = np.nan_to_num(values[lines[config.topic].order, 0], nan=-1.0)
            return config.topic, values.round().astype(np.int64)

        images = lines[topics.image]
        kinds = np.frombuffer(looked[topics.image].kinds, np.int64) if len(images.order) else None
        synchronised = synchronise_epochs(
            images.stamps,
            images.arrivals,
            streams,
            {topic: lines[topic].arrivals for topic in streams},
            image_topic=topics.image,
            image_kinds=np.zeros(0, np.int64) if kinds is None else kinds[images.order],
            markers=numbers(task.marker),
            ends=numbers(task.end),
            period_ns=task.period_ns,
            max_steps=task.episode.max_steps,
        )
        return synchronised, streams

    # Second pass

    def _collect(
        self,
        synchronised: Synchronised,
        streams: dict[str, Stream],
        lines: dict[str, _Timeline],
        places: dict[str, Places],
        episodes: SegmentEpisodes,
        progress: BagProgress,
        stopped: Callable[[], bool],
    ) -> None:
        """Fetch the messages of each segment and hand it on when all of them are there.

        Within a topic messages come in the order of the bag, so the last one that a segment needs
        says that it is complete; what no later segment needs is given up.
        """
        image_topic = self._topics.image
        needs = [_numbers(s, lines, image_topic) for s in synchronised.segments]
        wanted = {
            topic: np.unique(np.concatenate([n[topic][n[topic] >= 0] for n in needs]))
            if needs
            else np.zeros(0, np.int64)
            for topic in lines
        }
        last = [{t: int(n[t].max()) for t in n} for n in needs]
        first_later: list[dict[str, int]] = []
        lowest = dict.fromkeys(lines, 2**62)
        for need in reversed(needs):
            first_later.append(dict(lowest))
            lowest = {
                t: min(lowest[t], int(need[t][need[t] >= 0].min(initial=2**62))) for t in lowest
            }
        first_later.reverse()
        held: dict[str, dict[int, Any]] = {topic: {} for topic in lines}
        frontier = dict.fromkeys(lines, -1)
        done, following, total = 0, 0, len(wanted[image_topic])
        for topic, number, result in self._scan.fetch(
            places, wanted, self._decode, self._job.threads
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
                episodes.add(
                    synchronised.segments[following],
                    {
                        t: [held[t].get(k) for k in ks.tolist()]
                        for t, ks in needs[following].items()
                    },
                    lines[image_topic].stamps,
                )
                for t, numbers in held.items():
                    for k in [k for k in numbers if k < first_later[following][t]]:
                        del numbers[k]
                following += 1
        assert following == len(needs)
        progress(done, total)

    def _decode(self, topic: str, data: Buffer) -> Any:
        """One message; called from several threads."""
        if topic != self._topics.image:
            config = self._topics.streams[topic]
            message = deserialise(bytes(data), config.type)
            if config.type == "sensor_msgs/msg/JointState":
                self._note_joints(topic, tuple(message.name))
            return read_fields(message, config.fields)
        height, width = self._task.image.height, self._task.image.width
        try:
            if self._topics.compressed:
                picture = compressed_image(data)
                if self._labeller is None:
                    return shrink_compressed(picture, height, width), None
                whole = decode_compressed(picture)
            else:
                image = raw_image(data)
                check_layout(image)
                if self._labeller is None:
                    return shrink(image, height, width), None
                whole = decode_image(image)
        except DamagedPicture:
            return None
        if not hasattr(self._own, "labeller"):  # OpenCV's detectors are not for several threads
            self._own.labeller = make_labeller(self._task)
        return resize(whole, height, width), self._own.labeller.look(whole, self._camera)

    def _note_joints(self, topic: str, names: tuple[str, ...]) -> None:
        with self._lock:
            self._joint_orders.setdefault(topic, set()).add(names)

    # Report

    def _report(
        self,
        synchronised: Synchronised,
        lines: dict[str, _Timeline],
        looked: dict[str, _Looked],
        episodes: SegmentEpisodes,
    ) -> dict[str, Any]:
        topics, task = self._topics, self._task
        account = synchronised.account
        settle(account, episodes.segments, topics.image)
        breaks = synchronised.breaks + episodes.breaks
        kept = sum(len(s.images) for s in episodes.segments)
        figures = episodes.contents.figures()
        recorder, losses = import_report.recorder_figures(
            self._bag.account, [topics.image, *topics.streams]
        )
        sizes = ["{}x{} {}".format(*kind) for kind in self._kinds]
        images = lines[topics.image]
        warnings = [
            *losses,
            *self._bag.warnings,
            *import_report.topic_warnings(account, breaks, image_topic=topics.image),
            *import_report.content_warnings(figures, task),
            *self._joint_warnings(),
        ]
        for reason, count in episodes.faults.items():
            warnings.append(f"{reason} in {count} steps, which were left out")
        if len(sizes) > 1:
            warnings.append(
                f"{topics.image}: size or encoding changes within the bag: {'; '.join(sizes)}"
            )
        if synchronised.breaks["clock jumped back"]:
            warnings.append(
                f"{topics.image}: the clock jumped back {synchronised.breaks['clock jumped back']} "
                "times; nothing was joined across"
            )
        notes = [
            f"{topic}: its stamps are equally spaced to the microsecond while it arrived with "
            "jitter: they were counted, not measured"
            for topic, line in lines.items()
            if not line.by_arrival and import_report.nominal(line.stamps, line.arrivals)
        ]
        recorded_for = self._bag.custom.get("fog_task_hash", "")
        if recorded_for and recorded_for != task.hash:
            notes.append("it was recorded for another task, or for another version of this one")
        if self._labeller is not None and self._camera is None:
            notes.append(f"{task.image.camera_info_topic}: no camera model; the labeller got none")
        return {
            "bag": os.fspath(self._job.bag),
            "episodes": len(episodes.segments),
            "transitions": kept - len(episodes.segments),
            "outcome": self._source[1],
            "breaks": dict(breaks),
            "steps": {
                "kept": kept,
                "broken": import_report.broken_steps(synchronised.breaks, episodes.faults),
            },
            "topics": import_report.topic_figures(account),
            "camera": import_report.camera_figures(images.stamps, sizes),
            **figures,
            "recorder": recorder,
            "warnings": warnings,
            "notes": notes,
        }

    def _joint_warnings(self) -> list[str]:
        found = []
        for topic, orders in self._joint_orders.items():
            if len(orders) > 1:
                found.append(
                    f"{topic}: the joints come in {len(orders)} different orders (they were found "
                    "by name)"
                )
                continue
            (names,) = orders
            listed: list[str] = []
            for path in self._topics.streams[topic].fields:
                joint = path.partition(".")[2]
                if joint not in listed:
                    listed.append(joint)
            if [n for n in names if n in listed] != listed:
                found.append(
                    f"{topic}: the joints come in another order than the task lists them (they "
                    "were found by name)"
                )
        return found


def _timeline(places: Places, stamps: array[int]) -> _Timeline:
    order = np.argsort(places.log_ns, kind="stable")
    arrivals = places.log_ns[order]
    found = (np.frombuffer(stamps, np.int64) if stamps else np.zeros(0, np.int64))[order]
    # A driver that never fills in its header is placed by arrival, like a type without one.
    by_arrival = not len(found) or not found.all()
    return _Timeline(order, arrivals, arrivals if by_arrival else found, by_arrival)


def _numbers(
    segment: Segment, lines: dict[str, _Timeline], image_topic: str
) -> dict[str, IntArray]:
    """Per topic ``[step]``: numbers in the bag of a segment's messages, -1 where there is none."""
    found = {image_topic: lines[image_topic].order[segment.images]}
    for topic, index in segment.messages.items():
        found[topic] = np.where(index >= 0, lines[topic].order[np.maximum(index, 0)], -1)
    return found


def _camera_model(bag: BagReader, topic: str) -> CameraModel | None:
    """The first calibration that a bag holds; a camera that was never calibrated has none."""
    if not topic:
        return None
    message = next(iter(bag.messages([topic]))).decode()
    matrix: npt.NDArray[np.float64] = np.asarray(message.k, np.float64).reshape(3, 3)
    if message.__msgtype__ != CAMERA_INFO or matrix[0, 0] <= 0.0:
        return None
    distortion: npt.NDArray[np.float64] = np.asarray(message.d, np.float64)
    return CameraModel(matrix, distortion, int(message.height), int(message.width))
