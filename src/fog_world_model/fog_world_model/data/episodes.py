"""Episodes at rest: zarr arrays with their metadata.

A store is a folder of zarr arrays, one row per step over all episodes:

=================  ====================================  ==========================================
``image``          ``[step, height, width, channel]``    uint8 RGB
``proprioception`` ``[step, field]``                     float32, physical units
``action``         ``[step, field]``                     float32 in [-1, 1]
``reward``         ``[step]``                            float32
``end``            ``[step]``                            bool
``stamp_ns``       ``[step]``                            int64
=================  ====================================  ==========================================

Row t of an episode holds o_t and the transition (o_t, a_t) -> o_{t+1} with r_t and d_t; the
transition of an episode's last row is zero and never used. The group's attributes hold the task,
the episodes' borders, their sources, the split and the hash of the content.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from fog_world_model.errors import FogError
from fog_world_model.task import FloatArray, TaskConfig, task_from_dict

ARRAYS = ("image", "proprioception", "action", "reward", "end", "stamp_ns")
FORMAT = 1


@dataclass(frozen=True)
class Episode:
    """One episode in memory; see the module's docstring for the rows."""

    image: npt.NDArray[np.uint8]
    proprioception: FloatArray
    action: FloatArray
    reward: FloatArray
    end: npt.NDArray[np.bool_]
    stamp_ns: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of rows (observations); there is one transition less."""
        return len(self.image)


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


class EpisodeWriter:
    """Write a store beside its final place and move it there when it is whole.

    As a context manager it leaves nothing behind when :meth:`finish` was not reached.
    """

    def __init__(self, path: str | os.PathLike[str], task: TaskConfig) -> None:
        """Start a store.

        Raises:
            FogError: ``path`` exists already, or nothing can be written there.
        """
        self.path, self.task = Path(path), task
        if self.path.exists():
            raise FogError(f"episode store {self.path}: exists already; choose another --output")
        self._part = self.path.with_name(self.path.name + ".part")
        with self._writing():
            self._start(task)
        self._episodes: list[dict[str, Any]] = []
        self._pending: list[Episode] = []
        self._rows = 0
        self._hash = hashlib.sha256(task.hash.encode())

    def __enter__(self) -> EpisodeWriter:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete what an unfinished store has written."""
        shutil.rmtree(self._part, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            shutil.rmtree(self._part, ignore_errors=True)
            raise FogError(
                f"episode store {self.path}: cannot be written ({error.strerror or error}); "
                "make room or choose another --output"
            ) from error

    def _start(self, task: TaskConfig) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._group = zarr.open_group(str(self._part), mode="w")
        image, p, a = task.image, task.proprioception_size, task.action_size
        rows: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": ((image.height, image.width, 3), np.uint8),
            "proprioception": ((p,), np.float32),
            "action": ((a,), np.float32),
            "reward": ((), np.float32),
            "end": ((), np.bool_),
            "stamp_ns": ((), np.int64),
        }
        self._arrays = {
            name: zarr.open_array(
                str(self._part / name),
                mode="w",
                shape=(0, *shape),
                chunks=(256 if name == "image" else 8192, *shape),
                dtype=dtype,
            )
            for name, (shape, dtype) in rows.items()
        }

    def append(self, episode: Episode, *, source: str) -> None:
        """Add an episode; ``source`` says where it was recorded.

        Raises:
            FogError: The disk is full.
        """
        self._episodes.append({"start": self._rows, "length": len(episode), "source": source})
        self._rows += len(episode)
        self._pending.append(episode)
        if sum(map(len, self._pending)) >= 1024:
            self._flush()

    def _flush(self) -> None:
        for name in ARRAYS:
            block = np.concatenate([getattr(e, name) for e in self._pending])
            with self._writing():
                self._arrays[name].append(block)
            self._hash.update(np.ascontiguousarray(block).tobytes())
        self._pending = []

    def finish(self, *, validation_fraction: float, report: dict[str, Any]) -> EpisodeStore:
        """Choose the split, write the metadata, and give the store its name.

        Raises:
            FogError: There is no episode, or the disk is full.
        """
        if not self._episodes:
            raise FogError(f"episode store {self.path}: there is no episode to store")
        if self._pending:
            self._flush()
        with self._writing():
            self._group.attrs.update(
                {
                    "format": FORMAT,
                    "task": self.task.to_dict(),
                    "task_hash": self.task.hash,
                    "data_hash": self._hash.hexdigest(),
                    "episodes": self._episodes,
                    "validation": _split(self._episodes, validation_fraction),
                    "report": report,
                }
            )
            self._part.rename(self.path)
        return EpisodeStore(self.path)


def _split(episodes: list[dict[str, Any]], fraction: float) -> list[int]:
    """Held-out episodes: those with the smallest hash of source and place, so reproducible."""
    count = round(len(episodes) * fraction)
    if fraction > 0 and len(episodes) > 1:
        count = min(max(count, 1), len(episodes) - 1)

    def key(i: int) -> str:
        return hashlib.sha256(f"{episodes[i]['source']}:{i}".encode()).hexdigest()

    return sorted(sorted(range(len(episodes)), key=key)[:count])


class EpisodeStore:
    """A finished store, opened for reading."""

    def __init__(self, path: str | os.PathLike[str], task: TaskConfig | None = None) -> None:
        """Open a store.

        Args:
            path: The store's folder.
            task: When given, the store must have been made for this task.

        Raises:
            FogError: It is missing, is not a store, or belongs to another task.
        """
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self.path = Path(path)
        if not self.path.exists():
            raise FogError(f"episode store {self.path}: no such folder; make one with 'fog import'")
        try:
            self._group = zarr.open_group(str(self.path), mode="r")
            self.attributes: dict[str, Any] = dict(self._group.attrs)
            missing = [n for n in ARRAYS if not (self.path / n).is_dir()]
            rows = sum(e["length"] for e in self.attributes.get("episodes", ()))
            cut = [n for n in ARRAYS if n not in missing and self.array(n).shape[0] != rows]
        except Exception as error:  # zarr raises many kinds for damaged stores
            raise FogError(f"episode store {self.path}: cannot be read: {error}") from error
        if missing or self.attributes.get("format") != FORMAT:
            raise FogError(
                f"episode store {self.path}: not an episode store of format {FORMAT} "
                f"(missing {', '.join(missing) or 'nothing'}, "
                f"format {self.attributes.get('format')})"
            )
        if cut or "task" not in self.attributes:
            raise FogError(
                f"episode store {self.path}: damaged: {', '.join(cut) or 'the task'} is not whole; "
                "make the store again with 'fog import'"
            )
        self.task = task_from_dict(self.attributes["task"], source=f"episode store {self.path}")
        if task is not None:
            task.require_same(self.task, f"episode store {self.path}")

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) of the task and of all arrays."""
        return str(self.attributes["data_hash"])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``[episode]``: rows of each episode."""
        return np.asarray([e["length"] for e in self.attributes["episodes"]], np.int64)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """``[episode]``: first row of each episode."""
        return np.asarray([e["start"] for e in self.attributes["episodes"]], np.int64)

    @property
    def transitions(self) -> int:
        """Number of transitions over all episodes."""
        return int((self.lengths - 1).sum())

    def split(self, name: str) -> npt.NDArray[np.int64]:
        """Indices of the episodes of ``training`` or ``validation``."""
        held_out = set(self.attributes["validation"])
        wanted = name == "validation"
        return np.asarray(
            [i for i in range(len(self.lengths)) if (i in held_out) == wanted], np.int64
        )

    def array(self, name: str) -> Any:
        """One of the arrays, lazily loaded; see the module's docstring."""
        return zarr.open_array(str(self.path / name), mode="r")

    def episode(self, index: int) -> Episode:
        """Load one episode."""
        start, length = int(self.starts[index]), int(self.lengths[index])
        return Episode(**{name: self.load(name, start, start + length) for name in ARRAYS})

    def load(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows of one array in memory, all by default.

        Raises:
            FogError: The array is damaged.
        """
        try:
            return np.asarray(self.array(name)[start:stop])
        except Exception as error:  # zarr raises many kinds for damaged arrays
            raise FogError(
                f"episode store {self.path}: array '{name}' cannot be read: {error}; "
                "make the store again with 'fog import'"
            ) from error

    def column(self, name: str) -> npt.NDArray[Any]:
        """A whole array, read once and shared by all who ask; do not write to it.

        Raises:
            FogError: The array is damaged.
        """
        if name not in self._columns:
            self._columns[name] = self.load(name)
        return self._columns[name]

    @cached_property
    def normalisation(self) -> Normalisation:
        """Statistics of the proprioception over the training episodes.

        A field that never changes gets a standard deviation of 1, not of 0.
        """
        proprioception = self.column("proprioception")
        rows = np.concatenate(
            [
                proprioception[self.starts[i] : self.starts[i] + self.lengths[i]]
                for i in self.split("training")
            ]
        )
        std = rows.std(axis=0)
        return Normalisation(
            rows.mean(axis=0).astype(np.float32), np.where(std > 1e-4, std, 1.0).astype(np.float32)
        )
