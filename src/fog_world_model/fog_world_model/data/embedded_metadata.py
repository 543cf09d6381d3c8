"""What a storage file says of itself: the checksum of its index, and texts stored inside it."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path
from typing import Final

import yaml
from mcap.exceptions import McapError
from mcap.reader import make_reader

from fog_world_model.data.bag_metadata import custom_of
from fog_world_model.data.mcap_file import CUSTOM_RECORD

_FOOTER: Final = struct.Struct("<BQQQI")
_MAGIC_SIZE: Final = 8


def check_index(path: Path) -> int:
    """Compare the index at the end of an MCAP file with its checksum; other files pass.

    Returns:
        Position of the index in the file; 0 when it has none.

    Raises:
        ValueError: They differ, or the file has no end.
        OSError: The file cannot be read.
    """
    if path.suffix != ".mcap":
        return 0
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        footer_start = end - _FOOTER.size - _MAGIC_SIZE
        if footer_start < _MAGIC_SIZE:
            raise ValueError(f"{path.name} has only {end} bytes")
        stream.seek(footer_start)
        opcode, length, summary_start, _, checksum = _FOOTER.unpack(stream.read(_FOOTER.size))
        if (opcode, length) != (2, 20):
            raise ValueError(f"{path.name} has no index at its end")
        if not checksum:
            return int(summary_start)
        start = summary_start or footer_start
        if not _MAGIC_SIZE <= start <= footer_start:
            raise ValueError(f"the index of {path.name} is damaged")
        stream.seek(start)
        found, left = 0, footer_start + _FOOTER.size - 4 - start
        while left and (block := stream.read(min(left, 1 << 20))):
            found = zlib.crc32(block, found)
            left -= len(block)
        if found != checksum:
            raise ValueError(f"the index of {path.name} is damaged")
    return int(summary_start)


def embedded_custom(path: Path) -> dict[str, str]:
    """Custom texts that a whole .mcap or .db3 file carries inside; empty when there are none."""
    try:
        return _of_mcap(path) if path.suffix == ".mcap" else of_sqlite(path)
    except (OSError, McapError, ValueError, struct.error, sqlite3.Error):
        return {}


def _of_mcap(path: Path) -> dict[str, str]:
    custom: dict[str, str] = {}
    with path.open("rb") as stream:
        for record in make_reader(stream).iter_metadata():
            if record.name == CUSTOM_RECORD:
                custom |= record.metadata
            elif record.name == "rosbag2":
                custom |= of_text(record.metadata.get("serialized_metadata", ""))
    return custom


def of_text(text: str) -> dict[str, str]:
    """Custom texts of a bag's metadata, given as YAML; empty when it is damaged."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return custom_of(content) if isinstance(content, dict) else {}


def of_sqlite(path: Path) -> dict[str, str]:
    """Custom texts in the table ``metadata`` of a SQLite bag.

    Raises:
        sqlite3.Error: There is no such table, or it is damaged.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as database:
        rows = database.execute("SELECT metadata FROM metadata ORDER BY id").fetchall()
    custom: dict[str, str] = {}
    for (text,) in rows:
        custom |= of_text(str(text))
    return custom
