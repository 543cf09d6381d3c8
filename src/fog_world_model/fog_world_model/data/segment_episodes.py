"""From a synchronised segment and its decoded messages to episodes in a shard."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_world_model.data.bag_topics import BagTopics
from fog_world_model.data.episode import Episode
from fog_world_model.data.episode_pieces import Piece, labelled_pieces, usable_pieces
from fog_world_model.data.import_report import Contents
from fog_world_model.data.labellers import Labeller, Labels
from fog_world_model.data.labellers.labeller import BASE_FIELDS
from fog_world_model.data.shard import ShardWriter
from fog_world_model.data.synchronise import IntArray, Segment, Stream
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, StreamConfig, TaskConfig


class SegmentEpisodes:
    """Builds the episodes of one bag, in order, and writes them."""

    def __init__(
        self,
        task: TaskConfig,
        topics: BagTopics,
        streams: dict[str, Stream],
        labeller: Labeller | None,
        writer: ShardWriter,
        source: tuple[str, str],
    ) -> None:
        """Start.

        Args:
            task: What an episode is made of.
            topics: Where the bag has it.
            streams: As they were synchronised.
            labeller: Computes rewards and ends; None: they come from topics, or there are none.
            writer: Where episodes go.
            source: Name of the bag, and the outcome that its recorder noted.
        """
        self._task, self._topics, self._streams = task, topics, streams
        self._labeller, self._writer, self._source = labeller, writer, source
        self.segments: list[Segment] = []
        """What became an episode."""
        self.breaks: Counter[str] = Counter()
        """Why segments were cut; see :class:`fog_world_model.data.synchronise.Synchronised`."""
        self.faults: Counter[str] = Counter()
        """What was wrong with steps and transitions, and with how many."""
        self.contents = Contents(task)

    def add(self, segment: Segment, messages: dict[str, list[Any]], stamps: IntArray) -> None:
        """Build and write the episodes of a segment.

        Args:
            segment: Its steps.
            messages: Per topic ``[step]``: the field values of the message; for the image topic
                the image at the task's size and what the labeller saw, None when it is damaged.
            stamps: ``[image]``: stamps in the order of arrival.

        Raises:
            FogError: The disk is full.
        """
        task, topics = self._task, self._topics
        steps = len(segment.images)
        pictures = messages[topics.image]
        step_faults = [
            "" if picture is not None else f"{topics.image}: damaged picture"
            for picture in pictures
        ]
        values = {
            topic: _rows(messages[topic], len(config.fields))
            for topic, config in topics.streams.items()
        }
        for config in task.proprioception:
            _blame(step_faults, values[config.topic], f"{config.topic}: not finite")
        transition_faults = [""] * (steps - 1)
        for led_to in (task.action, task.reward, task.end):
            if led_to is not None:
                _blame(transition_faults, values[led_to.topic][1:], f"{led_to.topic}: not finite")
        self.faults.update(f for f in (*step_faults, *transition_faults) if f)
        for first, last in usable_pieces(step_faults, transition_faults, self.breaks):
            inside = {topic: rows[first:last] for topic, rows in values.items()}
            self._label(segment, (first, last), pictures[first:last], inside, stamps)

    def _label(
        self,
        segment: Segment,
        piece: Piece,
        pictures: list[Any],
        values: dict[str, FloatArray],
        stamps: IntArray,
    ) -> None:
        """Take rewards and ends from the topics, or cut the piece by what the labeller knows."""
        if self._labeller is None:
            count = len(pictures) - 1
            self._write(segment, piece, pictures, values, self._recorded(values, count), stamps)
            return
        sights = np.stack([sight for _, sight in pictures]).astype(np.float32)
        labels = self._labeller.label(sights, self._base(values))
        if len(labels.reward) != len(pictures) - 1 or len(labels.end) != len(pictures) - 1:
            raise FogError(
                f"labeller {type(self._labeller).__name__}: gave {len(labels.reward)} rewards and "
                f"{len(labels.end)} ends for {len(pictures) - 1} transitions"
            )
        missing = int((~np.isfinite(labels.reward)).sum())
        if missing:
            self.faults[f"label: {self._labeller.unknown}"] += missing
        for first, last in labelled_pieces(labels, self._labeller.unknown, self.breaks):
            part = Labels(labels.reward[first : last - 1], labels.end[first : last - 1])
            self._write(
                segment,
                (piece[0] + first, piece[0] + last),
                pictures[first:last],
                {topic: rows[first:last] for topic, rows in values.items()},
                part,
                stamps,
            )

    def _recorded(self, values: dict[str, FloatArray], count: int) -> Labels:
        """Rewards and ends of the topics: those in force at the following anchor."""

        def column(config: StreamConfig | None) -> FloatArray:
            if config is None:
                return np.zeros(count, np.float32)
            return values[config.topic][1:, 0]

        return Labels(column(self._task.reward), column(self._task.end) > 0.5)

    def _base(self, values: dict[str, FloatArray]) -> FloatArray | None:
        """``[step, field]``: pose of the robot, see :data:`BASE_FIELDS`."""
        if not self._topics.pose:
            return None
        return values[self._topics.pose][:, -len(BASE_FIELDS) :]

    def _write(
        self,
        segment: Segment,
        piece: Piece,
        pictures: list[Any],
        values: dict[str, FloatArray],
        labels: Labels,
        stamps: IntArray,
    ) -> None:
        task, steps = self._task, len(pictures)
        part = segment.part(*piece, self._streams)
        commands = values[task.action.topic][1:]
        action = np.zeros((steps, task.action_size), np.float32)
        action[:-1] = task.action.to_normalised(commands)
        reward, end = np.zeros(steps, np.float32), np.zeros(steps, np.bool_)
        reward[:-1], end[:-1] = labels.reward, labels.end
        proprioception: list[npt.NDArray[np.float32]] = [
            values[s.topic][:, : len(s.fields)] for s in task.proprioception
        ]
        episode = Episode(
            image=np.stack([image for image, _ in pictures]),
            proprioception=np.concatenate(
                proprioception or [np.zeros((steps, 0), np.float32)], axis=1
            ),
            action=action,
            reward=reward,
            end=end,
            stamp_ns=stamps[part.images],
        )
        name, outcome = self._source
        self._writer.append(episode, source=f"{name}#{len(self.segments)}", outcome=outcome)
        self.contents.add(episode, commands)
        self.segments.append(part)


def _rows(messages: list[Any], fields: int) -> FloatArray:
    """``[step, field]``; zeros where a segment needs no message."""
    rows = np.zeros((len(messages), fields), np.float32)
    for row, message in zip(rows, messages, strict=True):
        if message is not None:
            row[:] = message
    return rows


def _blame(faults: list[str], values: FloatArray, reason: str) -> None:
    """Note the rows of ``[row, field]`` that are not finite."""
    for i in np.flatnonzero(~np.isfinite(values).all(axis=1)):
        faults[int(i)] = faults[int(i)] or reason
