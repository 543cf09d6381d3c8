"""One episode in memory: its arrays, their shapes, and what they are normalised by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, TaskConfig

ARRAYS = ("image", "proprioception", "action", "reward", "end", "stamp_ns")


@dataclass(frozen=True)
class Episode:
    """One episode in memory.

    Row t holds o_t and the transition (o_t, a_t) -> o_{t+1} with r_t and d_t; the transition of
    the last row is zero and never used.
    """

    image: npt.NDArray[np.uint8]
    """``[step, height, width, channel]`` RGB."""
    proprioception: FloatArray
    """``[step, field]``, physical units."""
    action: FloatArray
    """``[step, field]`` in [-1, 1]."""
    reward: FloatArray
    """``[step]``."""
    end: npt.NDArray[np.bool_]
    """``[step]``."""
    stamp_ns: npt.NDArray[np.int64]
    """``[step]``: stamps of the images."""

    def __len__(self) -> int:
        """Number of rows (observations); there is one transition less."""
        return len(self.image)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the content."""
        digest = hashlib.sha256()
        for name in ARRAYS:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype.name} {array.shape}\0".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def require_valid(self, task: TaskConfig) -> None:
        """Check shapes, types and values.

        Args:
            task: Gives the sizes.

        Raises:
            FogError: An array has another shape or type than the task asks for, or holds a value
                that is not finite; an action lies outside [-1, 1].
        """
        for name, (shape, dtype) in row_shapes(task).items():
            array = getattr(self, name)
            if array.shape != (len(self), *shape) or array.dtype != dtype:
                raise FogError(
                    f"'{name}' is {array.dtype} {list(array.shape)}, "
                    f"expected {np.dtype(dtype)} {[len(self), *shape]}"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise FogError(f"'{name}' holds values that are not finite")
        if len(self) < 2:
            raise FogError(f"an episode needs at least two steps, not {len(self)}")
        if np.abs(self.action).max(initial=0.0) > 1.0:
            raise FogError("'action' leaves [-1, 1]")


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each proprioceptive field over the training episodes."""

    mean: FloatArray
    std: FloatArray

    def apply(self, proprioception: npt.ArrayLike) -> FloatArray:
        """Physical units -> about unit scale, ``[..., field]``."""
        return ((np.asarray(proprioception, np.float32) - self.mean) / self.std).astype(np.float32)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @staticmethod
    def from_dict(content: dict[str, list[float]]) -> Normalisation:
        """Inverse of :meth:`to_dict`."""
        return Normalisation(
            np.asarray(content["mean"], np.float32), np.asarray(content["std"], np.float32)
        )


def row_shapes(task: TaskConfig) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Array -> shape and type of one row of an episode of this task."""
    image = task.image
    return {
        "image": ((image.height, image.width, 3), np.uint8),
        "proprioception": ((task.proprioception_size,), np.float32),
        "action": ((task.action_size,), np.float32),
        "reward": ((), np.float32),
        "end": ((), np.bool_),
        "stamp_ns": ((), np.int64),
    }
