"""Check, merge, filter and split episode stores.

Shards never change, so a store that is made from another one shares their files (hard links; copies
on another disk), and only the index is new.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fog_world_model.data.episode import ARRAYS, Episode
from fog_world_model.data.import_report import totals
from fog_world_model.data.shard import EpisodeEntry, Shard, ShardEntry, writing
from fog_world_model.data.store_index import Split, StoreIndex, read_index
from fog_world_model.errors import FogError

Outcome = Literal["success", "failure", "unmarked"]
Progress = Callable[[str, int, int], None]


def check_store(path: str | os.PathLike[str], progress: Progress | None = None) -> StoreIndex:
    """Read all of a store and compare it with its index.

    Args:
        path: The store.
        progress: Told about rows read.

    Returns:
        Its index.

    Raises:
        FogError: Something is missing or damaged; the message lists the shards and episodes.
    """
    store = Path(path)
    index, _ = read_index(store)
    damaged: list[str] = []
    total = sum(entry.rows for entry in index.shards.values())
    done = 0
    by_shard: dict[str, list[EpisodeEntry]] = {name: [] for name in index.shards}
    for episode in index.episodes:
        by_shard[episode.shard].append(episode)
    for name, entry in index.shards.items():
        shard = Shard(store / "shards" / name)
        damage = shard.damage(entry.rows) or _disagreement(shard, entry, by_shard[name])
        if damage:
            damaged.append(f"shard {name}: {damage}")
            done += entry.rows
            continue
        for episode in shard.describe()[1]:  # also those that the store does not list
            try:
                content = read_episode(shard, episode)
                content.require_valid(index.task)
                if content.hash != episode.hash:
                    damaged.append(f"episode {episode.source} (shard {name}): its hash differs")
            except Exception as error:  # zarr raises many kinds for damaged arrays
                damaged.append(f"episode {episode.source} (shard {name}): {error}")
            done += episode.length
            if progress is not None:
                progress(f"checking {store.name}", done, total)
    try:
        same = json.loads((store / "report.json").read_text(encoding="utf-8")) == index.report
    except (OSError, ValueError):
        same = False
    if not same:
        damaged.append("report.json is missing, or not the report of the index")
    if damaged:
        shown = "\n  ".join(damaged[:50])
        more = f"\n  and {len(damaged) - 50} more" if len(damaged) > 50 else ""
        raise FogError(
            f"episode store {store}: damaged, make the shards again with 'fog import':\n  "
            f"{shown}{more}"
        )
    return index


def read_episode(shard: Shard, entry: EpisodeEntry) -> Episode:
    """Load one episode of a shard.

    Raises:
        Exception: As zarr raises for damaged arrays.
    """
    rows = slice(entry.start, entry.start + entry.length)
    return Episode(**{name: np.asarray(shard.array(name)[rows]) for name in ARRAYS})


def _disagreement(shard: Shard, entry: ShardEntry, episodes: Sequence[EpisodeEntry]) -> str:
    """In what a shard's own description and the index differ; empty: in nothing."""
    try:
        described, found, _, _ = shard.describe()
    except FogError as error:
        return str(error)
    if (described.rows, described.fingerprint) != (entry.rows, entry.fingerprint):
        return "shard.json is of another shard than the index"
    if sum(e.length for e in found) != entry.rows:
        return "the episodes of shard.json are not as long as its arrays"
    known = {(e.start, e.length, e.hash) for e in found}
    strange = [e.source for e in episodes if (e.start, e.length, e.hash) not in known]
    return f"shard.json has no episode {strange[0]}" if strange else ""


def merge_stores(
    paths: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> StoreIndex:
    """Put the episodes of several stores of one task into a new one.

    A recording that is in more than one store comes once. Every episode stays on the side of the
    split that it is on; the seed and the fraction are those of the first store.

    Args:
        paths: The stores.
        output: The new store.

    Raises:
        FogError: A store cannot be read or belongs to another task, an episode is held out in one
            store and not in the other, or the output exists or cannot be written.
    """
    stores = [Path(p) for p in paths]
    if len(stores) < 2:
        raise FogError("fog data merge: name at least two stores")
    indices = [read_index(store)[0] for store in stores]
    for store, index in zip(stores[1:], indices[1:], strict=True):
        indices[0].task.require_same(index.task, f"episode store {store}")
    shards: dict[str, ShardEntry] = {}
    folders: dict[str, Path] = {}
    names: dict[str, str] = {}
    episodes: list[EpisodeEntry] = []
    listed: dict[tuple[str, int], EpisodeEntry] = {}
    for store, index in zip(stores, indices, strict=True):
        for name, entry in index.shards.items():
            content = _content(store, name, entry)
            if content not in names:
                names[content] = _free_name(name, shards)
                shards[names[content]] = entry
                folders[names[content]] = store / "shards" / name
            for episode in (e for e in index.episodes if e.shard == name):
                moved = replace(episode, shard=names[content])
                known = listed.setdefault((moved.shard, moved.start), moved)
                if known.held_out != moved.held_out:
                    raise FogError(
                        f"episode store {store}: holds out episode {episode.source} "
                        f"differently than the stores before it; give them one split first "
                        f"('fog data split')"
                    )
                if known is moved:
                    episodes.append(moved)
    report = _reports(folders)
    index = StoreIndex(indices[0].task, indices[0].split, shards, episodes, report)
    return _make(Path(output), index, folders)


def filter_store(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    only: Outcome | None = None,
    min_steps: int = 0,
) -> StoreIndex:
    """Take some episodes of a store into a new one; each stays on its side of the split.

    Args:
        path: The store.
        output: The new store.
        only: Outcome that the episodes must have; None: any.
        min_steps: Transitions that they must have at least.

    Raises:
        FogError: No episode is left, the store cannot be read, or the output exists or cannot be
            written.
    """
    store = Path(path)
    index, _ = read_index(store)
    outcome = None if only is None else "" if only == "unmarked" else only
    chosen = [
        e
        for e in index.episodes
        if e.length - 1 >= min_steps and (outcome is None or e.outcome == outcome)
    ]
    if not chosen:
        outcomes = sorted({e.outcome or "unmarked" for e in index.episodes})
        raise FogError(
            f"episode store {store}: no episode is left; outcomes are {', '.join(outcomes)}, the "
            f"longest has {max(e.length for e in index.episodes) - 1} steps"
        )
    used = {e.shard for e in chosen}
    shards = {name: entry for name, entry in index.shards.items() if name in used}
    folders = {name: store / "shards" / name for name in shards}
    report = {**_reports(folders), "filtered": {"only": only or "", "min_steps": min_steps}}
    report["episodes"] = len(chosen)
    report["transitions"] = sum(e.length - 1 for e in chosen)
    return _make(Path(output), StoreIndex(index.task, index.split, shards, chosen, report), folders)


def split_store(
    path: str | os.PathLike[str], *, validation_fraction: float, seed: int
) -> StoreIndex:
    """Decide anew which episodes of a store are held out.

    Args:
        path: The store; its index is replaced in one step.
        validation_fraction: Share of the episodes.
        seed: Of the choice.

    Raises:
        FogError: The store cannot be read or written, or the fraction is none.
    """
    store = Path(path)
    index, _ = read_index(store)
    split = Split(validation_fraction, seed)
    changed = replace(index, split=split, episodes=split.apply(index.episodes))
    changed.write(store)
    return changed


def _content(store: Path, name: str, entry: ShardEntry) -> str:
    """What tells shards of different stores apart."""
    _, episodes, _, _ = Shard(store / "shards" / name).describe()
    return " ".join([entry.fingerprint, str(entry.rows), *(e.hash for e in episodes)])


def _free_name(name: str, taken: dict[str, Any]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _reports(folders: dict[str, Path]) -> dict[str, Any]:
    """The reports of shards, and their sums."""
    reports = [Shard(folder).describe()[2] for folder in folders.values()]
    reports = [r for r in reports if r]  # stores that were not imported have none
    return {"bags": reports, **totals(reports)}


def _make(output: Path, index: StoreIndex, folders: dict[str, Path]) -> StoreIndex:
    """Write a store of shards that lie in others, beside its place, and rename it."""
    if output.exists():
        raise FogError(f"episode store {output}: exists already; choose another --output")
    part = output.with_name(output.name + ".part")
    try:
        with writing(output):
            shutil.rmtree(part, ignore_errors=True)
            (part / "shards").mkdir(parents=True)
            for name, folder in folders.items():
                shutil.copytree(folder, part / "shards" / name, copy_function=_link)
            index.write(part, output)
            part.rename(output)
    except shutil.Error as error:
        raise FogError(f"episode store {output}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return index


def _link(source: str, target: str) -> str:
    """A hard link; a copy where the file system has none, or on another one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
