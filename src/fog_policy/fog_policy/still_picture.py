"""Notices a camera that goes on sending one and the same picture. No ROS here.

A frozen camera is not silent: its driver repeats the last picture with fresh stamps. The noise of a
real camera makes every picture differ from the one before, even in front of a wall; but a simulated
camera draws the same picture again when nothing moves, and so does a video decoder. So a picture
that stays is held against the camera only for as long as

- the robot is told to move: some field of the command in force is beyond :data:`MOVING` of its
  bound. The time of a robot that is told to stand, or to creep, does not count; and
- its proprioception says that it does move: the changes of some value since the picture was first
  seen add up to more than :data:`CHANGED`. A simulated pusher that is pressed against the edge of
  its table sees the same picture, and rightly. (A task without proprioception has nobody to ask:
  the command alone decides.)

In 3187 pictures of the simulated Go2 none was the same as the one before while the robot was told
to move; in the recordings of Push-T up to 1.1 s of them were, in which the pusher moved by 1 mm.

Pictures are compared, and not digests of them: a live camera's differ within the first few pixels,
which takes no time, and nothing has to be computed over all the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fog_policy.command_limits import Command
from fog_world_model.data.message_head import raw_image
from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, TaskConfig

MOVING = 0.1
"""Share of a field's bound beyond which a command tells the robot to move. Slower than that, a
simulated picture may well stay the same for a while."""
CHANGED = 0.01
"""Changes of a proprioceptive value (rad, m, m/s, rad/s, ...) that show that the robot moves. Their
sum counts, so that the noise of a real sensor gets there within moments."""

_HEAD = 4096
"""Bytes that are compared first."""


class StillPicture:
    """Compares each picture with the one before.

    Args:
        task: Gives the bounds of the command and the camera's timeout.
    """

    def __init__(self, task: TaskConfig) -> None:
        bound = np.maximum(np.abs(task.action.low), np.abs(task.action.high))
        self._moving = MOVING * bound
        self._blind = task.proprioception_size == 0
        safety = task.safety
        self._longest_s = safety.timeouts_s.get(task.image.topic, safety.image_timeout_s)
        self.clear()

    def clear(self) -> None:
        """Forget everything: the next picture is the first."""
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._stamp_ns = 0
        self._values: dict[str, FloatArray] = {}
        self._begin()

    def _begin(self) -> None:
        self._told_s = 0.0
        self._changes: dict[str, npt.NDArray[np.float64]] = {}

    @property
    def seconds(self) -> float:
        """How long the robot has been told to move with this picture, s; 0 unless it did move."""
        moved = any(float(sums.max(initial=0.0)) > CHANGED for sums in self._changes.values())
        return self._told_s if moved or self._blind else 0.0

    def picture(self, data: bytes, stamp_ns: int, command: Command) -> None:
        """Take a picture.

        Args:
            data: The serialised sensor_msgs/msg/Image.
            stamp_ns: Its stamp; one that is older than the last is passed over.
            command: ``[action]``: what the robot is being told, physical units.
        """
        if self._pixels is not None and stamp_ns <= self._stamp_ns:
            return
        try:
            pixels = np.frombuffer(raw_image(data).data, np.uint8)
        except FogError:
            return
        # Time in which no picture came is that of another rule.
        passed_s = min((stamp_ns - self._stamp_ns) / 1e9, self._longest_s)
        if self._pixels is None or not _same(pixels, self._pixels):
            self._begin()
        elif (np.abs(command) > self._moving).any():
            self._told_s += passed_s
        self._pixels, self._stamp_ns = pixels, stamp_ns

    def values(self, topic: str, values: FloatArray) -> None:
        """Take proprioception.

        Args:
            topic: Where it came.
            values: ``[field]``, physical units.
        """
        before = self._values.get(topic)
        self._values[topic] = values
        if before is None:
            return
        change = np.abs(values.astype(np.float64) - before)
        sums = self._changes.get(topic)
        # What is not finite is another rule's.
        change = np.where(np.isfinite(change), change, 0.0)
        self._changes[topic] = change if sums is None else sums + change


def _same(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> bool:
    return (
        len(one) == len(other)
        and np.array_equal(one[:_HEAD], other[:_HEAD])
        and np.array_equal(one[_HEAD:], other[_HEAD:])
    )
