"""From bags to an episode store: what is new is imported, what is there stays, nothing is lost."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fog_world_model.data.bag_identity import fingerprint
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_topics import find_topics
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.import_bag import BagJob
from fog_world_model.data.import_report import report_lines, totals
from fog_world_model.data.import_workers import import_jobs
from fog_world_model.data.labellers import make_labeller
from fog_world_model.data.shard import EpisodeEntry, Shard, ShardEntry, writing
from fog_world_model.data.store_index import VALIDATION_FRACTION, Split, StoreIndex, read_index
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

Progress = Callable[[str, int, int], None]
"""Called with a description, what is done, and the total."""


@dataclass(frozen=True)
class _Bag:
    """A bag that the store is to hold."""

    path: Path
    fingerprint: str
    shard: str
    source: str


def import_bags(
    bags: Sequence[str | os.PathLike[str]],
    task: TaskConfig,
    output: str | os.PathLike[str],
    *,
    validation_fraction: float | None = None,
    seed: int | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> EpisodeStore:
    """Build an episode store from bags, or add bags to one.

    A bag whose content the store holds already is skipped; one that has changed since replaces
    what it gave before. When the import is killed, finished bags are kept, and the same call goes
    on from there.

    Args:
        bags: rosbag2 folders with the task's topics.
        task: Names the topics, fields and rates.
        output: Store to write, or to add to.
        validation_fraction: Share of the episodes that is held out; None: that of the store, 0.1
            for a new one.
        seed: Of the split; None: that of the store, 0 for a new one.
        workers: Processes and threads; 0: as many as there are cores.
        progress: Told about images decoded.
        tell: Told in a sentence which bags were skipped and why, and the reports of the others.

    Raises:
        FogError: A bag cannot be read, lacks a topic, or no episode can be built from any; the
            output is something else, or a store of another task or with another split.
        KeyboardInterrupt: Stopped; the store is as it was, but for finished bags, which the next
            call takes up.
    """
    if not bags:
        raise FogError("fog import: name at least one bag")
    make_labeller(task)  # an option that is wrong shows before the work
    paths = [Path(bag) for bag in bags]
    store = Path(output)
    existing = _existing(store, task)
    split = _split(store, existing, validation_fraction, seed)
    tell = tell or (lambda _: None)
    with _locked(store):
        chosen = _choose(paths, existing, store, tell)
        for bag in _import_missing(chosen, existing, task, store, workers, progress):
            tell("\n".join(report_lines(_described(store, bag.shard)[2])))
        index = _merge(chosen, existing, task, split, store)
        index.write(store)
        _clear(store, set(index.shards))
    return EpisodeStore(store)


def _existing(store: Path, task: TaskConfig) -> StoreIndex | None:
    """Index of the store that bags are added to; None for a new one.

    Raises:
        FogError: The output is something else, or a store of another task.
    """
    if (store / "index.json").exists():
        index, _ = read_index(store)
        task.require_same(index.task, f"episode store {store}")
        return index
    left_behind = {"shards", "report.json", "report.json.tmp", "index.json.tmp"}
    if store.exists() and (not store.is_dir() or {p.name for p in store.iterdir()} - left_behind):
        raise FogError(
            f"episode store {store}: exists already and is no episode store; choose another "
            "--output"
        )
    return None


def _split(
    store: Path, existing: StoreIndex | None, fraction: float | None, seed: int | None
) -> Split:
    if existing is None:
        return Split(VALIDATION_FRACTION if fraction is None else fraction, seed or 0)
    split = existing.split
    if fraction not in (None, split.validation_fraction) or seed not in (None, split.seed):
        raise FogError(
            f"episode store {store}: holds out {split.validation_fraction:g} of its episodes with "
            f"seed {split.seed}; leave the option away, or change the split with "
            f"'fog data split {store}'"
        )
    return split


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Make the store's folder and keep other imports out of it; clear up what came to nothing.

    Raises:
        FogError: The folder cannot be written, or another import is at work on it.
    """
    missing = [p for p in (store, *store.parents) if not p.exists()]
    with writing(store):
        (store / "shards").mkdir(parents=True, exist_ok=True)
        folder = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FogError(
                f"episode store {store}: another import is at work on it; wait for it to end"
            ) from None
        try:
            yield
        finally:
            _clear(store, None)
            if not (store / "index.json").exists() and not any((store / "shards").iterdir()):
                shutil.rmtree(store, ignore_errors=True)
                for path in missing[1:]:
                    with suppress(OSError):
                        path.rmdir()
    finally:
        os.close(folder)


def _clear(store: Path, kept: set[str] | None) -> None:
    """Delete shards without a name, and whole ones that no index lists, unless ``kept`` is None."""
    for folder in (store / "shards").iterdir():
        if folder.suffix == ".part" or (kept is not None and folder.name not in kept):
            shutil.rmtree(folder, ignore_errors=True)


def _choose(
    paths: Sequence[Path], existing: StoreIndex | None, store: Path, tell: Callable[[str], None]
) -> list[_Bag]:
    """Give each bag a shard and a name; the same bag twice is one."""
    shards = existing.shards if existing else {}
    by_fingerprint = {entry.fingerprint: name for name, entry in shards.items()}
    sources = {
        e.shard: e.source.rpartition("#")[0] for e in (existing.episodes if existing else ())
    }
    taken = {source: shards[shard].fingerprint for shard, source in sources.items()}
    replaced = {shards[s].bag: source for s, source in sources.items()}
    chosen: dict[str, _Bag] = {}
    for path in paths:
        if not path.exists():
            BagReader(path)  # says what is wrong
        mark = fingerprint(path)
        if mark in chosen:
            tell(f"bag {path}: skipped, the same recording as {chosen[mark].path}")
            continue
        if mark in by_fingerprint:
            shard = by_fingerprint[mark]
            chosen[mark] = _Bag(path, mark, shard, sources.get(shard, path.name))
            if not Shard(store / "shards" / shard).damage(shards[shard].rows):
                tell(f"bag {path}: skipped, imported already and unchanged")
            continue
        name = path.resolve().name
        before = replaced.get(str(path.resolve()))
        for parent in path.resolve().parents:
            if taken.get(name, mark) == mark or name == before or not parent.name:
                break
            name = f"{parent.name}/{name}"
        taken[name] = mark
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.resolve().name).strip(".") or "bag"
        chosen[mark] = _Bag(path, mark, f"{plain[:80]}-{mark[:12]}", name)
    return list(chosen.values())


def _import_missing(
    chosen: Sequence[_Bag],
    existing: StoreIndex | None,
    task: TaskConfig,
    store: Path,
    workers: int,
    progress: Progress | None,
) -> list[_Bag]:
    """Import the bags whose shards are not there, whole and made from them; return those."""
    missing = [bag for bag in chosen if not _is_whole(store, bag, task)]
    for bag in missing:  # every bag is checked before the long work starts
        with BagReader(bag.path) as reader:
            find_topics(reader, task)
    jobs = [
        BagJob(bag.path, store, bag.shard, bag.source, bag.fingerprint, task) for bag in missing
    ]
    count = workers if workers > 0 else os.cpu_count() or 1

    def told(number: int, done: int, total: int) -> None:
        if progress is not None:
            progress(f"importing {jobs[number].source}", done, total)

    try:
        import_jobs(jobs, count, told)
        if existing is None and not any(_described(store, bag.shard)[1] for bag in chosen):
            raise _nothing_built(chosen, store, task)
    except FogError:
        for bag in chosen:  # what gave no episode is no progress worth keeping
            with suppress(FogError):
                if not _described(store, bag.shard)[1] and existing is None:
                    shutil.rmtree(store / "shards" / bag.shard, ignore_errors=True)
        raise
    return missing


def _is_whole(store: Path, bag: _Bag, task: TaskConfig) -> bool:
    """Whether an earlier import, finished or killed, left the shard of a bag."""
    try:
        entry, _, _, task_hash = Shard(store / "shards" / bag.shard).describe()
    except FogError:
        return False
    same = entry.fingerprint == bag.fingerprint and task_hash == task.hash
    return same and not Shard(store / "shards" / bag.shard).damage(entry.rows)


def _described(
    store: Path, shard: str
) -> tuple[ShardEntry, list[EpisodeEntry], dict[str, Any], str]:
    return Shard(store / "shards" / shard).describe()


def _merge(
    chosen: Sequence[_Bag],
    existing: StoreIndex | None,
    task: TaskConfig,
    split: Split,
    store: Path,
) -> StoreIndex:
    """The new index: old bags in their order, changed ones in their old place, new ones after."""
    news = {bag.shard: bag for bag in chosen}
    by_path = {str(bag.path.resolve()): bag.shard for bag in chosen}
    order: list[str] = []
    for name, entry in (existing.shards if existing else {}).items():
        successor = name if name in news else by_path.get(entry.bag, name)
        if successor not in order:
            order.append(successor)
    order += [name for name in news if name not in order]
    held_out = {e.source: e.held_out for e in existing.episodes} if existing else {}
    shards: dict[str, ShardEntry] = {}
    episodes: list[EpisodeEntry] = []
    reports = []
    for name in order:
        entry, found, report, _ = _described(store, name)
        shards[name] = entry
        episodes += found
        reports.append(report)
    if existing is not None:
        listed = {(e.shard, e.start) for e in existing.episodes}
        # A store that was filtered keeps to what was chosen; only what is new comes whole.
        episodes = [
            e for e in episodes if e.shard not in existing.shards or (e.shard, e.start) in listed
        ]
    return StoreIndex(
        task,
        split,
        shards,
        split.apply(episodes, held_out),
        {"bags": reports, **totals(reports)},
    )


def _nothing_built(chosen: Sequence[_Bag], store: Path, task: TaskConfig) -> FogError:
    breaks = totals([_described(store, bag.shard)[2] for bag in chosen])["breaks"]
    reasons = "; ".join(f"{reason} ({count} times)" for reason, count in breaks.items())
    return FogError(
        f"bag {', '.join(str(bag.path) for bag in chosen)}: no episode could be built at "
        f"{task.control_hz:g} Hz: {reasons or 'there are fewer than two images'}. See control_hz "
        "and max_age_s in the task file."
    )


def find_bags(path: str | os.PathLike[str]) -> list[Path]:
    """Bags at a path: the folder itself, or the bags directly inside it.

    Raises:
        FogError: There is none.
    """
    folder = Path(path)
    if (folder / "metadata.yaml").exists() or not folder.is_dir():
        return [folder]
    found = sorted(p.parent for p in folder.glob("*/metadata.yaml"))
    if not found:
        raise FogError(
            f"bag {folder}: neither it nor a folder in it has a metadata.yaml; a rosbag2 bag is a "
            "folder with metadata.yaml and .mcap or .db3 files"
        )
    return found
