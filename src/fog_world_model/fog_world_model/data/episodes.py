"""Episode stores: the data that world models are fitted to.

A store is a folder:

===================  =============================================================================
``index.json``       the task, the split, the shards, the episodes and the report of the import
``report.json``      the report once more, for people
``shards/<name>/``   the episodes of one bag (see :mod:`fog_world_model.data.shard`)
===================  =============================================================================

To those who read it a store is one long array of rows per part of an episode (``image``,
``proprioception``, ``action``, ``reward``, ``end``, ``stamp_ns``), episode after episode in the
order of the index, wherever the rows lie.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fog_world_model.data.episode import ARRAYS, Episode, Normalisation, row_shapes
from fog_world_model.data.shard import EpisodeEntry, Shard, ShardWriter, chunk_rows, writing
from fog_world_model.data.store_index import FORMAT, Split, StoreIndex, read_index
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

__all__ = [
    "ARRAYS",
    "FORMAT",
    "Episode",
    "EpisodeEntry",
    "EpisodeStore",
    "EpisodeWriter",
    "Normalisation",
]


Place = Literal["auto", "ram", "disk"]
"""Where images are read from; ``auto``: memory, if they take less than half of what is free."""


class EpisodeWriter:
    """Write a store of one shard beside its final place and move it there when it is whole.

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
        try:
            self._shard = ShardWriter(self.path, "episodes", task, folder=self._part)
        except FogError:
            shutil.rmtree(self._part, ignore_errors=True)
            raise

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

    def append(self, episode: Episode, *, source: str, outcome: str = "") -> None:
        """Add an episode; ``source`` says where it was recorded.

        Raises:
            FogError: A value is not finite, an array has another shape than the task's, or the
                disk is full.
        """
        self._shard.append(episode, source=source, outcome=outcome)

    def finish(
        self, *, validation_fraction: float, report: dict[str, Any], seed: int = 0
    ) -> EpisodeStore:
        """Choose the split, write the index, and give the store its name.

        Args:
            validation_fraction: Share of the episodes that is held out.
            report: Kept in the index.
            seed: Of the split.

        Raises:
            FogError: There is no episode, or the disk is full.
        """
        split = Split(validation_fraction, seed)
        shard = self._shard.finish(fingerprint="", bag="", report={})
        entry, episodes, _, _ = shard.describe()
        index = StoreIndex(
            self.task, split, {shard.folder.name: entry}, split.apply(episodes), report
        )
        index.write(self._part, self.path)
        with writing(self.path):
            self._part.rename(self.path)
        return EpisodeStore(self.path)


class EpisodeStore:
    """A finished store, opened for reading."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        task: TaskConfig | None = None,
        *,
        images: Place = "auto",
    ) -> None:
        """Open a store.

        Args:
            path: The store's folder.
            task: When given, the store must have been made for this task.
            images: Where training windows take images from, see
                :func:`fog_world_model.data.image_sources.image_source`.

        Raises:
            FogError: It is missing, is not a store, is not whole, or belongs to another task.
        """
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self._scale: Normalisation | None = None
        self.path, self.images_from = Path(path), images
        self.index, self.attributes = read_index(self.path)
        self.task = self.index.task
        if task is not None:
            task.require_same(self.task, f"episode store {self.path}")
        self.shards = {name: Shard(self.path / "shards" / name) for name in self.index.shards}
        """Name -> shard."""
        for name, shard in self.shards.items():
            if damage := shard.damage(self.index.shards[name].rows):
                raise FogError(
                    f"episode store {self.path}: damaged: shard {name}: {damage}; make the store "
                    "again with 'fog import'"
                )

    @property
    def episodes(self) -> list[EpisodeEntry]:
        """Where each episode lies, where it comes from, and what became of it."""
        return self.index.episodes

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) of the task and of all arrays."""
        return self.index.data_hash

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``[episode]``: rows of each episode."""
        return np.asarray([e.length for e in self.episodes], np.int64)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """``[episode]``: first row of each episode, counted over the whole store."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def transitions(self) -> int:
        """Number of transitions over all episodes."""
        return int((self.lengths - 1).sum())

    def split(self, name: str) -> npt.NDArray[np.int64]:
        """Indices of the episodes of ``training`` or ``validation``."""
        wanted = name == "validation"
        chosen = [i for i, e in enumerate(self.episodes) if e.held_out == wanted]
        return np.asarray(chosen, np.int64)

    def array(self, name: str) -> StoredColumn:
        """One of the arrays, read when it is sliced."""
        return StoredColumn(self, name)

    def episode(self, index: int) -> Episode:
        """Load one episode.

        Raises:
            FogError: It is damaged.
        """
        start, length = int(self.starts[index]), int(self.lengths[index])
        return Episode(**{name: self.load(name, start, start + length) for name in ARRAYS})

    def load(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows of one array in memory, all by default.

        Raises:
            FogError: The array is damaged.
        """
        total = int(self.lengths.sum())
        start, stop, _ = slice(start, stop).indices(total)
        shape, dtype = row_shapes(self.task)[name]
        rows = np.empty((max(0, stop - start), *shape), dtype)
        for shard, first, last, place in self._spans(start, stop):
            try:
                rows[place : place + last - first] = self.shards[shard].array(name)[first:last]
            except Exception as error:  # zarr raises many kinds for damaged arrays
                raise FogError(
                    f"episode store {self.path}: shard {shard}: array '{name}' cannot be read: "
                    f"{error}; make the store again with 'fog import'"
                ) from error
        return rows

    def _spans(self, start: int, stop: int) -> Iterator[tuple[str, int, int, int]]:
        """Shard, its first and its last row (exclusive), and the place in the result.

        Episodes that lie one after the other in a shard are read in one go.
        """
        index = int(np.searchsorted(self.starts, start, side="right")) - 1
        open_span: tuple[str, int, int, int] | None = None
        row = start
        while row < stop:
            entry = self.episodes[index]
            first = entry.start + row - int(self.starts[index])
            last = min(entry.start + entry.length, first + stop - row)
            if open_span is not None and open_span[0] == entry.shard and open_span[2] == first:
                open_span = (*open_span[:2], last, open_span[3])
            else:
                if open_span is not None:
                    yield open_span
                open_span = (entry.shard, first, last, row - start)
            row += last - first
            index += 1
        if open_span is not None:
            yield open_span

    def column(self, name: str) -> npt.NDArray[Any]:
        """A whole array, read once and shared by all who ask; do not write to it.

        Raises:
            FogError: The array is damaged.
        """
        if name not in self._columns:
            self._columns[name] = self.load(name)
        return self._columns[name]

    @property
    def normalisation(self) -> Normalisation:
        """How proprioception is normalised: by its own statistics, or :meth:`normalised_as` told.

        Its own are those of the training episodes; a field that never changes gets a standard
        deviation of 1, not of 0.
        """
        return self._own_normalisation if self._scale is None else self._scale

    def normalised_as(self, normalisation: Normalisation) -> EpisodeStore:
        """The same store, its proprioception on the scale that a model was trained on.

        Its own scale is another one if the model was trained on other episodes.
        """
        view = copy.copy(self)
        view._scale = normalisation
        return view

    @cached_property
    def _own_normalisation(self) -> Normalisation:
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


class StoredColumn:
    """One array of a store, over all its shards; slicing it reads the rows."""

    def __init__(self, store: EpisodeStore, name: str) -> None:
        """Remember what is to be read."""
        shape, dtype = row_shapes(store.task)[name]
        self._store, self._name = store, name
        self.shape = (int(store.lengths.sum()), *shape)
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @cached_property
    def chunk_borders(self) -> npt.NDArray[np.int64]:
        """``[chunk + 1]``: rows between which one chunk on disk is read, ascending from 0.

        Rows within two neighbouring borders lie in one chunk; reading all of them decodes it once.
        """
        step, borders, before = chunk_rows(self._name), [], ("", -1)
        for start, entry in zip(self._store.starts, self._store.episodes, strict=True):
            if before != (entry.shard, entry.start):
                borders.append(int(start))
            end = entry.start + entry.length
            first = -(-entry.start // step) * step
            borders += [int(start) + row - entry.start for row in range(first, end, step)]
            before = (entry.shard, end)
        return np.unique(np.asarray([*borders, len(self)], np.int64))

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Read rows; the slice has no step."""
        return self._store.load(self._name, *slice(rows.start, rows.stop).indices(len(self))[:2])
