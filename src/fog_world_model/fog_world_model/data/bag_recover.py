"""Make a new bag of what is whole in one that was not closed, is cut or damaged."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard
from mcap.writer import MCAP0_MAGIC

from fog_world_model.data.bag_metadata import custom_of, read_metadata
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.durable import sync_folder
from fog_world_model.data.mcap_salvage import Found, McapSalvage
from fog_world_model.data.sqlite_salvage import SqliteSalvage
from fog_world_model.errors import FogError

Progress = Callable[[str, int, int], None]
"""Called with a description, the megabytes read, and the total."""

_SUFFIXES: Final = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""A serialised message begins with 0, so one that begins with this is compressed."""
_LARGEST_MESSAGE: Final = 1 << 31
_FILE_BYTES: Final = 16 << 30
_REPORT_BYTES: Final = 1 << 22


@dataclass(frozen=True)
class Recovery:
    """What came of a recovery."""

    path: Path
    """The new bag."""
    saved: Mapping[str, int]
    """Topic -> messages in it."""
    missing: Mapping[str, int]
    """Topic -> messages that are known to be missing in between, by their numbers; only bags of
    this project's recorder have numbers."""
    losses: tuple[str, ...]
    """What could not be read, in words."""


def recover_bag(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
) -> Recovery:
    """Copy every message that is whole into a new bag; the source is only read.

    What was recorded with it (the task, the account of the topics, the outcome of the episode) is
    carried over; ``fog_warnings`` gets a sentence on what happened, ``fog_recovery`` the numbers.

    Args:
        source: The ``.part`` folder of a killed recorder, a bag folder with or without
            metadata.yaml, or a bare .mcap or .db3 file, also compressed with zstd.
        target: Folder of the new bag, with MCAP storage; by default beside the source with
            ``_recovered`` at the end of its name.
        progress: Told how far it is.

    Raises:
        FogError: There is no storage file, no message in it can be read, the target exists, or the
            disk is full.
    """
    origin = Path(source)
    origin = origin if origin.exists() else origin.with_name(origin.name + ".part")
    if not origin.exists():
        raise FogError(f"bag {source}: no such file or folder")
    path = _default_target(origin) if target is None else Path(target)
    if path.exists():
        raise FogError(
            f"bag {path}: exists already; name another folder for the new bag with --output"
        )
    try:
        files, custom = _storage_files(origin)
    except OSError as error:
        raise FogError(f"bag {origin}: cannot be read ({error.strerror or error})") from error
    # A folder of its own, because <path>.part may be the source.
    work = path.with_name(path.name + ".recovering")
    try:
        shutil.rmtree(work, ignore_errors=True)  # an earlier recovery was killed
        work.mkdir(parents=True)
        recovery = _Copy(origin, work / path.name, files, progress).run(custom)
        recovery.path.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise FogError(
            f"bag {path}: cannot be written ({error.strerror or error}); {origin} is as it was. "
            "Make room, or name a folder on another disk with --output"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Recovery(path, recovery.saved, recovery.missing, recovery.losses)


def _default_target(origin: Path) -> Path:
    name = origin.resolve().name
    for ending in (".part", *_SUFFIXES):
        name = name.removesuffix(ending)
    return origin.resolve().with_name(f"{name}_recovered")


def _storage_files(origin: Path) -> tuple[list[Path], dict[str, str]]:
    """The files of a bag in their order, and what its metadata.yaml, if any, carries.

    Raises:
        FogError: There is no storage file.
    """
    if origin.is_file():
        return [origin], {}
    folders = [origin, *sorted(p for p in origin.iterdir() if p.is_dir())]
    for folder in folders:
        found = sorted((p for p in folder.iterdir() if p.name.endswith(_SUFFIXES)), key=_by_number)
        if not found:
            continue
        listed: list[Path] = []
        custom: dict[str, str] = {}
        with suppress(FogError, KeyError, TypeError):
            information = read_metadata(folder)
            custom = custom_of(information)
            listed = [folder / Path(p).name for p in information["relative_file_paths"]]
        listed = [p for p in listed if p in found]
        return listed + [p for p in found if p not in listed], custom
    raise FogError(
        f"bag {origin}: has no .mcap or .db3 file in it; name the bag folder, the .part folder "
        "that a killed recorder left, or the file itself"
    )


def _by_number(path: Path) -> list[tuple[int, str]]:
    """``bag_10`` comes after ``bag_9``."""
    return [(int(d or 0), t) for d, t in re.findall(r"(\d*)(\D*)", path.name)]


class _Copy:
    """One run from the files of a bag to a new one."""

    def __init__(
        self, origin: Path, path: Path, files: list[Path], progress: Progress | None
    ) -> None:
        self._origin, self._path, self._files, self._progress = origin, path, files, progress
        self._sizes = [f.stat().st_size for f in files]
        self._losses: list[str] = []
        self._refused: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        self._missing: Counter[str] = Counter()
        self._custom: dict[str, str] = {}
        self._reported = 0

    def run(self, custom: Mapping[str, str]) -> Recovery:
        split = _FILE_BYTES if sum(self._sizes) > _FILE_BYTES else None
        bag = BagWriter(self._path, max_bytes=split, flush_s=60.0)  # a rerun is cheap
        try:
            for index, file in enumerate(self._files):
                self._copy_file(bag, index, file)
            saved = {t: n for t, n in bag.counts.items() if n}
            self._losses += [f"{n} messages {reason}" for reason, n in self._refused.items()]
            if not saved:
                raise FogError(
                    f"bag {self._origin}: nothing can be saved, not one message is whole"
                    + "".join(f"; {loss}" for loss in self._losses)
                )
            recovery = Recovery(self._path, saved, dict(self._missing), tuple(self._losses))
            for key, text in (self._custom | dict(custom)).items():
                bag.set_custom(key, text)
            self._mark(bag, recovery, self._custom | dict(custom))
            bag.close()
        except FogError as error:
            bag.abort()
            if isinstance(error.__cause__, OSError):  # it would name the folder of the work
                raise error.__cause__ from error
            raise
        except BaseException:
            bag.abort()
            raise
        return recovery

    def _mark(self, bag: BagWriter, recovery: Recovery, custom: Mapping[str, str]) -> None:
        warnings: list[str] = []
        with suppress(ValueError, TypeError):
            warnings = [str(w) for w in json.loads(custom.get("fog_warnings", "[]"))]
        losses = list(recovery.losses)
        losses += [f"{topic}: {n} messages are missing" for topic, n in recovery.missing.items()]
        warnings.append(
            f"recovered from {self._origin.name}, which was cut, damaged or not closed: "
            + ("; ".join(losses) or "all that is in its files is here")
        )
        bag.set_custom("fog_warnings", json.dumps(warnings))
        account = {
            "source": self._origin.name,
            "saved": dict(recovery.saved),
            "missing": dict(recovery.missing),
            "losses": list(recovery.losses),
        }
        bag.set_custom("fog_recovery", json.dumps(account))

    def _copy_file(self, bag: BagWriter, index: int, file: Path) -> None:
        work = self._path.parent / f"file_{index}"
        work.mkdir()
        try:
            storage = self._open(file, work)
        except FogError as error:
            self._losses.append(str(error))
            return
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            self._losses.append(f"{file.name}: cannot be read: {error.strerror or error}")
            return
        with closing(storage):
            for found in storage.messages():
                self._copy_message(bag, found, storage.numbered)
                self._report(index, storage.position)
            self._losses += storage.losses
            self._custom |= storage.custom
        self._report(index, self._sizes[index])
        shutil.rmtree(work)

    def _open(self, file: Path, work: Path) -> McapSalvage | SqliteSalvage:
        with file.open("rb") as stream:
            magic = stream.read(16)
        if file.suffix == ".zstd" or (magic.startswith(_ZSTD_MAGIC) and file.suffix != ".mcap"):
            file = self._unpack(file, work / file.name.removesuffix(".zstd"))
            with file.open("rb") as stream:
                magic = stream.read(16)
        if magic == _SQLITE_MAGIC or (file.suffix == ".db3" and magic[:8] != MCAP0_MAGIC):
            return SqliteSalvage(file, work)
        return McapSalvage(file)

    def _unpack(self, file: Path, path: Path) -> Path:
        """Unpack a compressed file as far as it is whole."""
        with file.open("rb") as packed, path.open("wb") as stream:
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            try:
                while block := reader.read(1 << 20):
                    stream.write(block)
            except zstandard.ZstdError as error:
                self._losses.append(f"{file.name}: cannot be unpacked to its end: {error}")
        return path

    def _copy_message(self, bag: BagWriter, found: Found, numbered: bool) -> None:
        topic, data = found.topic, found.data
        if numbered:
            gap = found.number - self._last.get(topic.name, 0) - 1
            if gap > 0:
                self._missing[topic.name] += gap
            self._last[topic.name] = found.number
        if data.startswith(_ZSTD_MAGIC):
            try:
                if zstandard.frame_content_size(data) > _LARGEST_MESSAGE:
                    raise zstandard.ZstdError("impossible size")
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            except (zstandard.ZstdError, MemoryError):
                self._refused[f"of {topic.name} cannot be unpacked"] += 1
                return
        try:
            bag.add_topic(topic.name, topic.type, description=topic)
        except FogError:
            if bag.is_open:
                self._refused[f"of {topic.name} are {topic.type}, unlike those before"] += 1
                return
            raise
        bag.write(topic.name, topic.type, data, found.log_ns, publish_ns=found.publish_ns)

    def _report(self, index: int, position: int) -> None:
        done = sum(self._sizes[:index]) + min(position, self._sizes[index])
        if self._progress is not None and (
            done - self._reported >= _REPORT_BYTES or done == sum(self._sizes)
        ):
            self._reported = done
            total = -(-sum(self._sizes) // 10**6)
            self._progress(f"recover {self._origin.name}, MB", -(-done // 10**6), total)
