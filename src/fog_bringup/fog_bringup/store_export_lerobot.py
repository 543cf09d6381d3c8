"""An episode store as a LeRobot data set of format v3.0.

The layout is that of LeRobot's ``meta/info.json``, ``meta/tasks.parquet``, ``meta/episodes`` and
``data`` files (https://huggingface.co/docs/lerobot/lerobot-dataset-v3). Images are stored as PNG in
the data files, so that they are exactly those of the store. A row is a transition: the last
observation of an episode, after which no command was given, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fog_bringup.export_folder import export_folder
from fog_bringup.progress import Report
from fog_world_model.data.episodes import Episode, EpisodeStore
from fog_world_model.task import TaskConfig

VERSION = "v3.0"
IMAGE_KEY = "observation.images.camera"
FILES_PER_CHUNK = 1000
FILE_MB = 100
"""A data file is closed when it has grown to this size."""
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_DATA = "data/chunk-{:03d}/file-{:03d}.parquet"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"

Stats = dict[str, npt.NDArray[Any]]
"""``min``, ``max``, ``mean``, ``std``, quantiles (``q01``, ...) and ``count`` of a feature."""


def export_lerobot(store: EpisodeStore, output: Path, progress: Report | None = None) -> Path:
    """Write a store as a LeRobot data set: the training episodes, then the validation episodes.

    ============================= ======= ====================================================
    ``observation.images.camera`` uint8   PNG of the image, ``[height, width, channel]``
    ``observation.state``         float32 proprioception, ``[field]``, physical units
    ``action``                    float32 command, ``[field]``, physical units
    ``next.reward``               float32 reward of the transition
    ``next.done``                 bool    whether the transition ended the episode
    ``stamp_ns``                  int64   measured stamp of the image
    ``timestamp``                 float32 nominal, seconds: LeRobot asks for an even grid
    ============================= ======= ====================================================

    Source, outcome and split of each episode are columns of ``meta/episodes``.

    Args:
        store: What to export.
        output: Folder to write; it must not exist.
        progress: Told about every episode.

    Returns:
        The folder.

    Raises:
        FogError: ``output`` exists or cannot be written, or the store is damaged.
    """
    with export_folder(output) as part:
        _write(store, part, progress)
    return output


def _write(store: EpisodeStore, folder: Path, progress: Report | None) -> None:
    task = store.task
    features = _features(task)
    order = [*store.split("training"), *store.split("validation")]
    data = _DataFiles(folder, _schema(features))
    episodes: list[dict[str, Any]] = []
    total = _Totals(features)
    first = 0
    for number, index in enumerate(order):
        episode, entry = store.episode(int(index)), store.episodes[int(index)]
        columns = _columns(episode, task, number, first)
        place = data.append(columns)
        statistics = {key: _statistics(columns[key], features[key]) for key in features}
        total.add(columns)
        length = len(columns["index"])
        episodes.append(
            {
                "episode_index": number,
                "tasks": [_words(task)],
                "length": length,
                "data/chunk_index": place[0],
                "data/file_index": place[1],
                "dataset_from_index": first,
                "dataset_to_index": first + length,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                "source": entry.source,
                "outcome": entry.outcome,
                "split": "validation" if entry.held_out else "training",
                **{
                    f"stats/{key}/{name}": value.tolist()
                    for key, stats in statistics.items()
                    for name, value in stats.items()
                },
            }
        )
        first += length
        if progress is not None:
            progress("exporting", number + 1, len(order))
    data.close()
    _write_parquet(folder / _EPISODES, pa.Table.from_pylist(episodes))
    _write_parquet(folder / "meta/tasks.parquet", _tasks(task))
    _write_json(folder / "meta/stats.json", total.statistics())
    _write_json(folder / "meta/info.json", _info(store, features, len(order), first))
    _write_json(
        folder / "meta/fog.json",
        {"task": task.to_dict(), "task_hash": task.hash, "data_hash": store.data_hash},
    )


def _words(task: TaskConfig) -> str:
    """What the robot is to do, in words."""
    return task.description or task.name


def _features(task: TaskConfig) -> dict[str, dict[str, Any]]:
    """Feature -> type, shape and names of its entries."""
    state = [f"{s.topic}.{field}" for s in task.proprioception for field in s.fields]
    image = [task.image.height, task.image.width, 3]
    features: dict[str, dict[str, Any]] = {
        IMAGE_KEY: {"dtype": "image", "shape": image, "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": [len(state)], "names": state},
        "action": {
            "dtype": "float32",
            "shape": [task.action_size],
            "names": list(task.action.fields),
        },
    }
    if not state:
        del features["observation.state"]
    for name, dtype in (
        ("next.reward", "float32"),
        ("next.done", "bool"),
        ("stamp_ns", "int64"),
        ("timestamp", "float32"),
        ("frame_index", "int64"),
        ("episode_index", "int64"),
        ("index", "int64"),
        ("task_index", "int64"),
    ):
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    return features


def _schema(features: dict[str, dict[str, Any]]) -> pa.Schema:
    """Types of the columns; one that ``datasets`` reads as images is marked for it."""
    fields: list[pa.Field] = []
    marks: dict[str, Any] = {}
    for key, feature in features.items():
        dtype, size = feature["dtype"], feature["shape"][0]
        if dtype == "image":
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            marks[key] = {"_type": "Image"}
        else:
            kind = {"bool": pa.bool_(), "float32": pa.float32(), "int64": pa.int64()}[dtype]
            marks[key] = {"dtype": dtype, "_type": "Value"}
            if size > 1:
                kind = pa.list_(kind, size)
                marks[key] = {"feature": marks[key], "length": size, "_type": "Sequence"}
        fields.append(pa.field(key, kind))
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": marks}})})


def _columns(
    episode: Episode, task: TaskConfig, number: int, first: int
) -> dict[str, npt.NDArray[Any]]:
    """The rows of an episode, by feature; the images as they are."""
    steps = len(episode) - 1
    frames = np.arange(steps)
    return {
        IMAGE_KEY: episode.image[:-1],
        "observation.state": episode.proprioception[:-1],
        "action": task.action.to_physical(episode.action[:-1]),
        "next.reward": episode.reward[:-1],
        "next.done": episode.end[:-1],
        "stamp_ns": episode.stamp_ns[:-1],
        "timestamp": (frames / task.control_hz).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(steps, number),
        "index": first + frames,
        "task_index": np.zeros(steps, np.int64),
    }


class _DataFiles:
    """Data files of about equal size, one row group for each episode."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema
        self._writer: pq.ParquetWriter | None = None
        self._number, self._bytes = 0, 0

    def append(self, columns: dict[str, npt.NDArray[Any]]) -> tuple[int, int]:
        """Write an episode; numbers of the chunk and of the file it is in."""
        if self._writer is not None and self._bytes >= FILE_MB * 2**20:
            self._writer.close()
            self._writer, self._bytes, self._number = None, 0, self._number + 1
        place = divmod(self._number, FILES_PER_CHUNK)
        if self._writer is None:
            path = self._folder / _DATA.format(*place)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, self._schema)
        arrays = [_arrow(columns[field.name], field.type) for field in self._schema]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._bytes += table.nbytes
        self._writer.write_table(table)
        return place

    def close(self) -> None:
        """Finish the last file."""
        if self._writer is not None:
            self._writer.close()


def _arrow(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_struct(kind):
        return pa.array([{"bytes": png, "path": None} for png in _pngs(values)], kind)
    if pa.types.is_fixed_size_list(kind):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
    return pa.array(values.reshape(len(values)), kind)


def _pngs(images: npt.NDArray[np.uint8]) -> Iterator[bytes]:
    for image in images:
        _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        yield data.tobytes()


def _statistics(values: npt.NDArray[Any], feature: dict[str, Any]) -> Stats:
    """Statistics over rows, or of each channel over rows and pixels, then within [0, 1]."""
    if feature["dtype"] == "image":
        return _image_statistics(_histogram(values), len(values))
    rows = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(rows, QUANTILES, axis=0)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)]),
        **{_name(q): row for q, row in zip(QUANTILES, quantiles, strict=True)},
    }


def _name(quantile: float) -> str:
    return f"q{round(100 * quantile):02d}"


def _histogram(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """``[channel, value]``: how often each value occurs."""
    return np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(3)])


def _image_statistics(histogram: npt.NDArray[np.int64], frames: int) -> Stats:
    """Exact statistics from ``[channel, value]``, each ``[channel, 1, 1]`` as LeRobot has them."""
    levels = np.arange(256) / 255.0
    share = np.cumsum(histogram, axis=1) / histogram.sum(axis=1, keepdims=True)
    mean = (histogram * levels).sum(axis=1) / histogram.sum(axis=1)
    square = (histogram * levels**2).sum(axis=1) / histogram.sum(axis=1)
    found = {
        "min": np.array([levels[np.flatnonzero(h)[0]] for h in histogram]),
        "max": np.array([levels[np.flatnonzero(h)[-1]] for h in histogram]),
        "mean": mean,
        "std": np.sqrt(np.maximum(0.0, square - mean**2)),
        **{_name(q): np.array([levels[np.searchsorted(s, q)] for s in share]) for q in QUANTILES},
    }
    return {**{k: v.reshape(3, 1, 1) for k, v in found.items()}, "count": np.array([frames])}


class _Totals:
    """Statistics over the whole data set."""

    def __init__(self, features: dict[str, dict[str, Any]]) -> None:
        self._features = features
        self._parts: dict[str, list[npt.NDArray[Any]]] = {k: [] for k in features if k != IMAGE_KEY}
        self._histogram = np.zeros((3, 256), np.int64)
        self._frames = 0

    def add(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        """Take in an episode."""
        self._histogram += _histogram(columns[IMAGE_KEY])
        self._frames += len(columns[IMAGE_KEY])
        for key, parts in self._parts.items():
            parts.append(columns[key])

    def statistics(self) -> dict[str, dict[str, list[Any]]]:
        """Feature -> statistics, as plain lists."""
        found = {IMAGE_KEY: _image_statistics(self._histogram, self._frames)}
        for key, parts in self._parts.items():
            found[key] = _statistics(np.concatenate(parts), self._features[key])
        return {key: {n: v.tolist() for n, v in stats.items()} for key, stats in found.items()}


def _info(
    store: EpisodeStore, features: dict[str, dict[str, Any]], episodes: int, frames: int
) -> dict[str, Any]:
    rate = store.task.control_hz
    training = len(store.split("training"))
    return {
        "codebase_version": VERSION,
        "robot_type": store.task.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": FILE_MB,
        "video_files_size_in_mb": 200,
        "fps": int(rate) if rate == int(rate) else rate,
        "splits": {
            name: f"{first}:{last}"
            for name, first, last in (("train", 0, training), ("validation", training, episodes))
            if last > first
        },
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features,
    }


def _tasks(task: TaskConfig) -> pa.Table:
    """The one task; its words are the index of the data frame that pandas makes of it."""
    table = pa.table({"task_index": pa.array([0], pa.int64()), "task": pa.array([_words(task)])})

    def column(name: str, kind: str, dtype: str) -> dict[str, Any]:
        described = {"name": name, "field_name": name, "metadata": None}
        return {**described, "pandas_type": kind, "numpy_type": dtype}

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _write_parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
