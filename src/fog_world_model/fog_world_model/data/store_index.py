"""The index of an episode store: which shards, which episodes of them, and the split.

``index.json`` is all that makes a folder of shards a store. It is written aside and renamed, so a
store always has one whole index, the old or the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fog_world_model.data.shard import EpisodeEntry, ShardEntry, write_json, writing
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict

FORMAT = 2
VALIDATION_FRACTION = 0.1


@dataclass(frozen=True)
class Split:
    """How episodes are held out for validation."""

    validation_fraction: float = VALIDATION_FRACTION
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fraction.

        Raises:
            FogError: It is no fraction.
        """
        if not 0.0 <= self.validation_fraction <= 1.0:
            raise FogError(
                f"--validation-fraction {self.validation_fraction:g}: expected a number in [0, 1]"
            )

    def place(self, source: str) -> float:
        """Number in [0, 1) that decides: below the fraction an episode is held out.

        A function of the seed and of the source alone, so that other episodes never move one
        from training to validation or back.
        """
        digest = hashlib.sha256(f"{self.seed}:{source}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def apply(
        self, episodes: Sequence[EpisodeEntry], decided: Mapping[str, bool] | None = None
    ) -> list[EpisodeEntry]:
        """Decide which episodes are held out.

        Where there are two episodes and the fraction is not zero, both sides get at least one.

        Args:
            episodes: All episodes of a store.
            decided: Source -> whether it is held out, for those that keep the side that they are
                on, whatever it is.
        """
        decided = decided or {}
        result = [
            replace(
                e,
                held_out=decided.get(e.source, self.place(e.source) < self.validation_fraction),
            )
            for e in episodes
        ]
        sides = {e.held_out for e in result}
        if self.validation_fraction > 0.0 and len(result) > 1 and len(sides) == 1:
            # The one nearest to the other side, of those that may still move.
            free = [i for i, e in enumerate(result) if e.source not in decided]
            sign = -1.0 if True in sides else 1.0
            nearest = min(
                free or range(len(result)), key=lambda i: sign * self.place(result[i].source)
            )
            result[nearest] = replace(result[nearest], held_out=True not in sides)
        return result


@dataclass(frozen=True)
class StoreIndex:
    """Content of ``index.json``."""

    task: TaskConfig
    split: Split
    shards: dict[str, ShardEntry]
    episodes: list[EpisodeEntry]
    report: dict[str, Any]

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) of the task and of all episodes, in their order."""
        digest = hashlib.sha256(self.task.hash.encode())
        for episode in self.episodes:
            digest.update(episode.hash.encode())
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "format": FORMAT,
            "task": self.task.to_dict(),
            "task_hash": self.task.hash,
            "data_hash": self.data_hash,
            "split": asdict(self.split),
            "shards": {name: asdict(shard) for name, shard in self.shards.items()},
            "episodes": [asdict(e) for e in self.episodes],
            "report": self.report,
        }

    def write(self, folder: Path, store: Path | None = None) -> None:
        """Write ``index.json`` and, for people, ``report.json``.

        Args:
            folder: Where to.
            store: The store's name in errors, when it lies elsewhere for now.

        Raises:
            FogError: There is no episode, or the disk is full.
        """
        name = folder if store is None else store
        if not self.episodes:
            raise FogError(f"episode store {name}: there is no episode to store")
        with writing(name):
            write_json(folder / "report.json", self.report)
            write_json(folder / "index.json", self.to_dict())


def read_index(folder: Path) -> tuple[StoreIndex, dict[str, Any]]:
    """Read a store's index.

    Args:
        folder: The store.

    Returns:
        The index, and the same as plain data.

    Raises:
        FogError: It is missing, damaged, of another format, or contradicts itself.
    """
    path, where = folder / "index.json", f"episode store {folder}"
    if not folder.exists():
        raise FogError(f"{where}: no such folder; make one with 'fog import'")
    if not path.exists():
        if (folder / "shards").is_dir():
            raise FogError(
                f"{where}: its import was not finished (no index.json); run the same 'fog import' "
                "again, finished bags are kept"
            )
        old = any((folder / name).exists() for name in ("zarr.json", ".zgroup"))
        raise FogError(
            f"{where}: not an episode store of format {FORMAT}"
            + (": it was made by an older version; make it again with 'fog import'" if old else "")
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise FogError(
                f"{where}: format {content.get('format')}, this version reads format {FORMAT}; "
                "make it again with 'fog import'"
            )
        index = StoreIndex(
            task_from_dict(content["task"], source=where),
            Split(**content["split"]),
            {name: ShardEntry(**shard) for name, shard in content["shards"].items()},
            [EpisodeEntry(**e) for e in content["episodes"]],
            content["report"],
        )
        lost = [e.source for e in index.episodes if not _fits(e, index.shards)]
        same = index.data_hash == content["data_hash"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FogError(f"{where}: index.json cannot be read: {error!r}") from error
    if lost or not same:
        raise FogError(
            f"{where}: index.json is damaged: "
            + (f"episode {lost[0]} lies in no shard" if lost else "its hash does not fit")
        )
    return index, content


def _fits(episode: EpisodeEntry, shards: dict[str, ShardEntry]) -> bool:
    """Whether an episode lies within its shard."""
    return (
        episode.shard in shards
        and episode.start >= 0
        and episode.length > 0
        and episode.start + episode.length <= shards[episode.shard].rows
    )
