"""Pictures of closed-loop episodes, kept for their films. No ROS here.

While an episode runs, :class:`FilmCamera` keeps its images; with the commands they lie in a file of
their own beside the record (:class:`Take`). :mod:`fog_bringup.closed_loop_film` draws films.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fog_world_model.data.images import ImageArray, decode_image, resize
from fog_world_model.data.messages import deserialise, read_fields
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

FILMED = 4
"""Episodes of which films are shown unless the user says otherwise: the first ones, good or bad."""


@dataclass(frozen=True)
class Take:
    """What is kept of an episode for its film, at the start and after every control step."""

    frames: npt.NDArray[np.uint8]
    """``[step, height, width, channel]`` RGB at the task's size, as the policy was shown them."""
    commands: npt.NDArray[np.float32]
    """``[step, action]`` in [-1, 1], in force when the picture was taken; NaN: none yet."""

    def save(self, path: Path) -> None:
        """Write it, in one go.

        Raises:
            OSError: It cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez_compressed(file, frames=self.frames, commands=self.commands)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Take:
        """Read it.

        Raises:
            FogError: The file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                return cls(content["frames"], content["commands"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise FogError(
                f"{path}: not the pictures of an episode ({error}); delete it, and the page does "
                "without that film"
            ) from error


class FilmCamera:
    """Takes the images of an episode as they come."""

    def __init__(self, task: TaskConfig) -> None:
        """Wait for :meth:`start`."""
        self._task = task
        self._images: dict[int, ImageArray] = {}
        self._rolling = False

    def start(self) -> None:
        """Forget what was before: from now on images are kept."""
        self._images, self._rolling = {}, True

    def receive(self, stamp_ns: int, data: bytes) -> None:
        """Take a serialised ``sensor_msgs/msg/Image``; one that cannot be read is as one lost."""
        if not self._rolling:
            return
        size = self._task.image.height, self._task.image.width
        try:
            message = deserialise(data, "sensor_msgs/msg/Image")
            self._images[stamp_ns] = resize(decode_image(message), *size)
        except FogError:
            return

    def has(self, stamp_ns: int) -> bool:
        """Whether the image of that instant has come."""
        return stamp_ns in self._images

    def stop(self, moments: Sequence[tuple[int, bytes | None]]) -> Take | None:
        """End the episode.

        Args:
            moments: Of its control steps: the picture's stamp, and the serialised command in force.

        Returns:
            Its pictures, with the one before for each that was lost; None where all were.
        """
        self._rolling = False
        images, self._images = self._images, {}
        found = [images.get(stamp_ns) for stamp_ns, _ in moments]
        last = next((image for image in found if image is not None), None)
        if last is None:
            return None
        frames = []
        for image in found:
            last = last if image is None else image
            frames.append(last)
        return Take(np.stack(frames), np.stack([self._command(data) for _, data in moments]))

    def _command(self, data: bytes | None) -> npt.NDArray[np.float32]:
        action = self._task.action
        if data is None:
            return np.full(len(action.fields), np.nan, np.float32)
        return action.to_normalised(read_fields(deserialise(data, action.type), action.fields))
