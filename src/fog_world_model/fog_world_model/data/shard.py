"""A shard: the episodes of one bag, as zarr arrays that never change once they are whole.

A shard is a folder with one array per part of an episode (``[row, ...]``, rows of all its episodes
one after the other, see :class:`fog_world_model.data.episode.Episode`) and ``shard.json``, which
says where the episodes are, what their content hashes to, and which bag they came from. It is
written under another name and renamed when it is whole: a folder with the shard's name is a whole
shard, whenever the writer was killed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from fog_world_model.data.durable import replace_file
from fog_world_model.data.episode import ARRAYS, Episode, row_shapes
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

IMAGE_CHUNK_ROWS = 32
"""A window of some 20 steps is read from one or two chunks."""
CHUNK_ROWS = 1024
_FLUSH_CHUNKS = {"image": 8}
_METADATA = ("zarr.json", ".zarray", ".zattrs")
_ZARR_2 = zarr.__version__.startswith("2.")


@dataclass(frozen=True)
class EpisodeEntry:
    """Where an episode lies, and where it comes from."""

    shard: str
    """Name of its shard."""
    start: int
    """First row in the shard."""
    length: int
    """Rows."""
    source: str
    """Name of the bag and number of the segment in it, ``BAG#SEGMENT``."""
    outcome: str
    """What the one who recorded it said of it: ``success``, ``failure`` or nothing."""
    hash: str
    """SHA-256 of the content."""
    held_out: bool = False
    """Whether it belongs to the validation split."""


@dataclass(frozen=True)
class ShardEntry:
    """What a shard was made from."""

    rows: int
    fingerprint: str
    """Identifies the content of the bag; see :mod:`fog_world_model.data.bag_identity`."""
    bag: str
    """Absolute path that the bag had."""


@contextmanager
def writing(store: Path) -> Iterator[None]:
    """Turn the errors of a disk that is full or gone into one for the user.

    Raises:
        FogError: Something in the block could not be written.
    """
    try:
        yield
    except OSError as error:
        raise FogError(
            f"episode store {store}: cannot be written ({error.strerror or error}); "
            "make room or choose another --output"
        ) from error


def write_json(path: Path, content: object) -> None:
    """Write a JSON file aside, make it durable, and give it its name.

    Raises:
        OSError: The disk is full or gone.
    """
    replace_file(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


class ShardWriter:
    """A shard in the making; as a context manager it leaves nothing of an unfinished one."""

    def __init__(
        self, store: Path, name: str, task: TaskConfig, *, folder: Path | None = None
    ) -> None:
        """Start the shard ``name`` of a store.

        Args:
            store: Path of the store.
            name: Name of the shard's folder.
            task: Gives the sizes.
            folder: Where the store lies while it is made, if not at its path.

        Raises:
            FogError: Nothing can be written there.
        """
        self.store, self.task = store, task
        self.folder = (store if folder is None else folder) / "shards" / name
        self.part = self.folder.with_name(name + ".part")
        self.episodes: list[EpisodeEntry] = []
        self.rows = 0
        self._pending: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ARRAYS}
        try:
            with writing(store):
                shutil.rmtree(self.part, ignore_errors=True)
                self.part.mkdir(parents=True)
                zarr.open_group(str(self.part), mode="w")
                self._arrays = {
                    array: _create(self.part / array, shape, dtype, chunk_rows(array))
                    for array, (shape, dtype) in row_shapes(task).items()
                }
        except FogError:
            shutil.rmtree(self.part, ignore_errors=True)
            raise

    def __enter__(self) -> ShardWriter:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete what an unfinished shard has written."""
        shutil.rmtree(self.part, ignore_errors=True)

    def append(self, episode: Episode, *, source: str, outcome: str = "") -> None:
        """Add an episode.

        Args:
            episode: Its arrays are kept until they are written.
            source: Where it was recorded.
            outcome: ``success``, ``failure`` or nothing.

        Raises:
            FogError: A value is not finite or an array has another shape than the task's; the
                disk is full.
        """
        try:
            episode.require_valid(self.task)
        except FogError as error:
            raise FogError(f"episode {source}: {error}") from error
        self.episodes.append(
            EpisodeEntry(self.folder.name, self.rows, len(episode), source, outcome, episode.hash)
        )
        self.rows += len(episode)
        for name in ARRAYS:
            self._pending[name].append(getattr(episode, name))
            # Whole chunks only: one that is written in two goes is compressed twice.
            chunk = chunk_rows(name)
            if sum(map(len, self._pending[name])) >= chunk * _FLUSH_CHUNKS.get(name, 1):
                self._flush(name, chunk)

    def _flush(self, name: str, multiple: int) -> None:
        rows = np.concatenate(self._pending[name])
        whole = len(rows) // multiple * multiple
        self._pending[name] = [rows[whole:]]
        if whole:
            with writing(self.store):
                self._arrays[name].append(rows[:whole])

    def finish(self, *, fingerprint: str, bag: str, report: dict[str, Any]) -> Shard:
        """Write the rest and give the shard its name; a shard may be without episodes.

        Args:
            fingerprint: Identifies the bag's content.
            bag: Path of the bag.
            report: What became of its messages.

        Raises:
            FogError: The disk is full.
        """
        for name in ARRAYS:
            if self._pending[name]:
                self._flush(name, 1)
        with writing(self.store):
            write_json(
                self.part / "shard.json",
                {
                    **asdict(ShardEntry(self.rows, fingerprint, bag)),
                    "task_hash": self.task.hash,
                    "episodes": [asdict(e) for e in self.episodes],
                    "report": report,
                },
            )
            shutil.rmtree(self.folder, ignore_errors=True)
            self.part.rename(self.folder)
        return Shard(self.folder)


class Shard:
    """A whole shard, opened for reading."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; nothing is read yet."""
        self.folder = folder
        self._arrays: dict[str, Any] = {}

    def describe(self) -> tuple[ShardEntry, list[EpisodeEntry], dict[str, Any], str]:
        """What ``shard.json`` says: the shard, its episodes, the report, and the task's hash.

        Raises:
            FogError: It is missing or damaged.
        """
        try:
            content = json.loads((self.folder / "shard.json").read_text(encoding="utf-8"))
            entry = ShardEntry(content["rows"], content["fingerprint"], content["bag"])
            episodes = [EpisodeEntry(**e) for e in content["episodes"]]
            return entry, episodes, content["report"], content["task_hash"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FogError(
                f"episode store {self.folder.parent.parent}: shard {self.folder.name}: shard.json "
                f"cannot be read ({error!r}); make the store again with 'fog import'"
            ) from error

    def array(self, name: str) -> Any:
        """One of the arrays, opened once; see :class:`fog_world_model.data.episode.Episode`."""
        if name not in self._arrays:
            self._arrays[name] = zarr.open_array(str(self.folder / name), mode="r")
        return self._arrays[name]

    def damage(self, rows: int) -> str:
        """What is not whole, judged by the files alone, without reading data; empty: nothing.

        Args:
            rows: Rows that every array must have.
        """
        for name in ARRAYS:
            folder = self.folder / name
            if not folder.is_dir():
                return f"array '{name}' is missing"
            try:
                shape, chunks = _stored_shape(folder)
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                return f"array '{name}' cannot be read: {error or type(error).__name__}"
            if shape[0] != rows:
                return f"array '{name}' is not whole: it has {shape[0]} of {rows} rows"
            expected = math.prod(math.ceil(s / c) for s, c in zip(shape, chunks, strict=True))
            # A chunk that is not there would be read as zeros, without an error.
            with os.scandir(folder) as files:
                found = sum(f.name not in _METADATA and not f.name.startswith(".") for f in files)
            if found < expected:
                return f"array '{name}' is not whole: {found} of its {expected} chunks are there"
        return ""


def chunk_rows(name: str) -> int:
    """Rows in a chunk of an array."""
    return IMAGE_CHUNK_ROWS if name == "image" else CHUNK_ROWS


def _create(folder: Path, shape: tuple[int, ...], dtype: Any, chunk_rows: int) -> Any:
    """An array without rows. Chunks of zeros are written too: a missing file is damage."""
    options: dict[str, Any] = {"write_empty_chunks": True}
    if not _ZARR_2:
        options = {
            "config": options,
            "zarr_format": 3,
            "chunk_key_encoding": {"name": "default", "separator": "."},
        }
    return zarr.open_array(
        str(folder),
        mode="w",
        shape=(0, *shape),
        # A field without entries (no proprioception) still needs a chunk of one.
        chunks=(chunk_rows, *(max(1, s) for s in shape)),
        dtype=dtype,
        **options,
    )


def _stored_shape(folder: Path) -> tuple[list[int], list[int]]:
    """Shape and chunk shape from an array's metadata, a hundred times faster than opening it."""
    path = folder / "zarr.json"
    if not path.exists():
        content = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
        return content["shape"], content["chunks"]
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["shape"], content["chunk_grid"]["configuration"]["chunk_shape"]
