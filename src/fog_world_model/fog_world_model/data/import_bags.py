"""From bags to an episode store: decode, synchronise, resize, write, and report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.data.images import decode_image, resize
from fog_world_model.data.messages import header_stamp_ns, read_fields
from fog_world_model.data.synchronise import Segment, Stream, Synchronised, synchronise
from fog_world_model.errors import FogError
from fog_world_model.task import StreamConfig, TaskConfig

Progress = Callable[[str, int, int], None]
"""Called with a description, what is done, and the total."""


@dataclass(frozen=True)
class _Topic:
    """All messages of one numeric topic."""

    times: Stream
    values: npt.NDArray[np.float32]
    """``[message, field]``."""


def import_bags(
    bags: Sequence[str | os.PathLike[str]],
    task: TaskConfig,
    output: str | os.PathLike[str],
    *,
    validation_fraction: float = 0.1,
    progress: Progress | None = None,
) -> EpisodeStore:
    """Build an episode store from bags.

    Args:
        bags: rosbag2 folders with the task's topics.
        task: Names the topics, fields and rates.
        output: Where the store is written; it must not exist.
        validation_fraction: Share of the episodes that is held out.
        progress: Told about images decoded.

    Raises:
        FogError: A bag cannot be read, lacks a topic, or no episode can be built from any.
    """
    if not bags:
        raise FogError("fog import: name at least one bag")
    for path in bags:  # every bag is checked before the long work starts
        with BagReader(path) as bag:
            bag.require({k: v for k, v in task.topics().items() if k != _info_topic(task)})
    reports = []
    with EpisodeWriter(output, task) as writer:
        for path in bags:
            with BagReader(path) as bag:
                synchronised, topics, stamps = _synchronise_bag(bag, task)
                _write_segments(bag, task, synchronised.segments, topics, stamps, writer, progress)
                reports.append({"bag": str(path), **_report(synchronised)})
        totals = _totals(reports)
        if not totals["episodes"]:
            raise _nothing_built(bags, task, totals["breaks"])
        return writer.finish(
            validation_fraction=validation_fraction, report={"bags": reports, **totals}
        )


def _nothing_built(
    bags: Sequence[str | os.PathLike[str]], task: TaskConfig, breaks: dict[str, int]
) -> FogError:
    reasons = "; ".join(f"{reason} ({count} times)" for reason, count in breaks.items())
    return FogError(
        f"bag {', '.join(map(str, bags))}: no episode could be built at {task.control_hz:g} Hz: "
        f"{reasons or 'there are fewer than two images'}. See control_hz and max_age_s in the "
        "task file."
    )


def _info_topic(task: TaskConfig) -> str:
    return task.image.camera_info_topic


def _synchronise_bag(
    bag: BagReader, task: TaskConfig
) -> tuple[Synchronised, dict[str, _Topic], npt.NDArray[np.int64]]:
    configs = {s.topic: s for s in task.streams()}
    times: dict[str, list[int]] = {t: [] for t in configs}
    values: dict[str, list[npt.NDArray[np.float32]]] = {t: [] for t in configs}
    by_arrival = dict.fromkeys(configs, False)
    image_stamps: list[int] = []
    image_arrivals: list[int] = []
    for message in bag.messages([task.image.topic, *configs]):
        with _naming(bag, message.topic):
            decoded = message.decode()
            if message.topic != task.image.topic:
                values[message.topic].append(read_fields(decoded, configs[message.topic].fields))
        stamp = header_stamp_ns(decoded)
        if message.topic == task.image.topic:
            image_stamps.append(stamp or message.log_ns)
            image_arrivals.append(message.log_ns)
            continue
        # A driver that never fills in its header is placed by arrival, like a type without one.
        by_arrival[message.topic] = not stamp
        times[message.topic].append(stamp or message.log_ns)
    topics = {
        topic: _Topic(
            _stream(config, np.asarray(times[topic], np.int64), by_arrival[topic], task),
            np.asarray(values[topic], np.float32).reshape(-1, len(config.fields)),
        )
        for topic, config in configs.items()
    }

    def numbers(config: StreamConfig | None) -> tuple[str, npt.NDArray[np.int64]] | None:
        if config is None:
            return None
        return config.topic, topics[config.topic].values[:, 0].round().astype(np.int64)

    stamps = np.asarray(image_stamps, np.int64)
    synchronised = synchronise(
        stamps,
        np.asarray(image_arrivals, np.int64),
        {topic: t.times for topic, t in topics.items()},
        period_ns=task.period_ns,
        image_topic=task.image.topic,
        markers=numbers(task.marker),
        ends=numbers(task.end),
        max_steps=task.episode.max_steps,
    )
    return synchronised, topics, stamps


@contextmanager
def _naming(bag: BagReader, topic: str) -> Iterator[None]:
    """Say in errors which bag and topic they are about."""
    try:
        yield
    except FogError as error:
        raise FogError(f"bag {bag.path}: topic {topic}: {error}") from error


def _stream(
    config: StreamConfig, stamps: npt.NDArray[np.int64], by_arrival: bool, task: TaskConfig
) -> Stream:
    led_to = {task.action.topic, *(s.topic for s in (task.reward, task.end) if s is not None)}
    return Stream(
        stamp_ns=stamps,
        max_age_ns=round(config.max_age_s * 1e9),
        by_arrival=by_arrival,
        slack_ns=round(config.slack_s * 1e9) if by_arrival else 0,
        needed_at_start=config.topic not in led_to,
    )


def _write_segments(
    bag: BagReader,
    task: TaskConfig,
    segments: list[Segment],
    topics: dict[str, _Topic],
    stamps: npt.NDArray[np.int64],
    writer: EpisodeWriter,
    progress: Progress | None,
) -> None:
    """Second pass over the bag: decode just the images that became steps."""
    if not segments:
        return
    wanted: dict[int, list[tuple[int, int]]] = {}
    for s, segment in enumerate(segments):
        for step, image in enumerate(segment.images):
            wanted.setdefault(int(image), []).append((s, step))
    height, width = task.image.height, task.image.width
    buffers: dict[int, npt.NDArray[np.uint8]] = {}
    left = {s: len(segment.images) for s, segment in enumerate(segments)}
    done, next_segment = 0, 0
    for index, message in enumerate(bag.messages([task.image.topic])):
        for s, step in wanted.get(index, ()):
            buffer = buffers.setdefault(
                s, np.empty((len(segments[s].images), height, width, 3), np.uint8)
            )
            with _naming(bag, message.topic):
                buffer[step] = resize(decode_image(message.decode()), height, width)
            left[s] -= 1
            done += 1
        if progress is not None and index % 100 == 0:
            progress(f"importing {bag.path.name}", done, sum(len(x.images) for x in segments))
        while next_segment < len(segments) and left[next_segment] == 0:
            images = buffers.pop(next_segment)
            episode = _episode(task, segments[next_segment], topics, stamps, images)
            writer.append(episode, source=f"{bag.path.name}#{next_segment}")
            next_segment += 1
    if progress is not None:
        progress(f"importing {bag.path.name}", done, done)


def _episode(
    task: TaskConfig,
    segment: Segment,
    topics: dict[str, _Topic],
    stamps: npt.NDArray[np.int64],
    images: npt.NDArray[np.uint8],
) -> Episode:
    steps = len(segment.images)

    def observed(config: StreamConfig) -> npt.NDArray[np.float32]:
        return topics[config.topic].values[segment.messages[config.topic]]

    def led_to(config_topic: str | None, size: int) -> npt.NDArray[np.float32]:
        """Values of the transition out of each step: those in force at the following anchor."""
        rows = np.zeros((steps, size), np.float32)
        if config_topic is not None:
            rows[:-1] = topics[config_topic].values[segment.messages[config_topic][1:]]
        return rows

    command = led_to(task.action.topic, task.action_size)
    action = task.action.to_normalised(command)
    action[-1] = 0.0
    proprioception = np.concatenate(
        [observed(s) for s in task.proprioception] or [np.zeros((steps, 0), np.float32)], axis=1
    )
    return Episode(
        image=images,
        proprioception=proprioception,
        action=action,
        reward=led_to(task.reward.topic if task.reward else None, 1)[:, 0],
        end=led_to(task.end.topic if task.end else None, 1)[:, 0] > 0.5,
        stamp_ns=stamps[segment.images],
    )


def _report(synchronised: Synchronised) -> dict[str, Any]:
    topics = {}
    for topic, account in synchronised.account.items():
        entry = asdict(account)
        ages = np.asarray(entry.pop("staleness_ns"), np.float64) / 1e6
        if len(ages):
            entry["staleness_ms"] = {
                "p50": float(np.percentile(ages, 50)),
                "p99": float(np.percentile(ages, 99)),
                "max": float(ages.max()),
            }
        topics[topic] = entry
    return {
        "episodes": len(synchronised.segments),
        "transitions": sum(len(s.images) - 1 for s in synchronised.segments),
        "breaks": dict(synchronised.breaks),
        "topics": topics,
    }


def _totals(reports: list[dict[str, Any]]) -> dict[str, Any]:
    breaks: Counter[str] = Counter()
    for report in reports:
        breaks.update(report["breaks"])
    return {
        "episodes": sum(r["episodes"] for r in reports),
        "transitions": sum(r["transitions"] for r in reports),
        "breaks": dict(breaks),
    }


def find_bags(path: str | os.PathLike[str]) -> list[Path]:
    """Bags at a path: the folder itself, or the bags directly inside it.

    Raises:
        FogError: There is none.
    """
    folder = Path(path)
    if (folder / "metadata.yaml").exists() or not folder.is_dir():
        return [folder]
    found = sorted(p.parent for p in folder.glob("*/metadata.yaml"))
    if not found:
        raise FogError(
            f"bag {folder}: neither it nor a folder in it has a metadata.yaml; a rosbag2 bag is a "
            "folder with metadata.yaml and .mcap or .db3 files"
        )
    return found
