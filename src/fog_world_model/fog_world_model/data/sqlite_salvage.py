"""Read what SQLite gives of a rosbag2 file (.db3) that was not closed, or is damaged."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from fog_world_model.data.bag_metadata import Topic, standard_definition
from fog_world_model.data.embedded_metadata import of_sqlite
from fog_world_model.data.mcap_salvage import Found, known_qos
from fog_world_model.errors import FogError

_SIDE_FILES: Final = ("-wal", "-journal")
"""What SQLite has beside a database that was being written to; it holds the newest messages."""
_ATTEMPTS: Final = 2000
_STEP: Final = 1 << 20


class SqliteSalvage:
    """The messages of a database, in the order in which they were written.

    The file itself is opened read-only and never changed. Where a page is damaged, reading goes on
    behind it.

    Args:
        path: The database.
        work: Folder for a copy of it, which is needed when SQLite has to finish what it left in a
            file of its own beside the database.

    Raises:
        FogError: It is no rosbag2 database, or its table of topics cannot be read.
        OSError: The copy does not fit on the disk.
    """

    def __init__(self, path: Path, work: Path) -> None:
        self.path = path
        self.custom: dict[str, str] = {}
        """Custom texts found in it."""
        self.numbered = False
        """The messages are not numbered by topic."""
        self.position = 0
        """How much has been read, bytes of messages."""
        self._gaps = self._odd = 0
        sides = [Path(f"{path}{side}") for side in _SIDE_FILES]
        if any(side.exists() and side.stat().st_size for side in sides):
            copy = work / path.name
            for file in (path, *(side for side in sides if side.exists())):
                shutil.copyfile(file, work / file.name)
            uri = copy.resolve().as_uri()
        else:
            uri = f"{path.resolve().as_uri()}?immutable=1"
        self._database = sqlite3.connect(uri, uri=True)
        with suppress(sqlite3.Error):
            self.custom = of_sqlite(path)
        try:
            self._topics = self._read_topics()
        except (sqlite3.Error, ValueError, OverflowError, MemoryError) as error:
            self._database.close()
            raise FogError(f"{path}: its topics cannot be read: {error}") from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @property
    def losses(self) -> list[str]:
        """What could not be read, in words."""
        found = []
        if self._gaps:
            found.append(f"{self.path.name}: messages on {self._gaps} damaged places were left out")
        if self._odd:
            found.append(f"{self.path.name}: {self._odd} rows are no messages of a known topic")
        return found

    def _read_topics(self) -> dict[int, Topic]:
        definitions: dict[str, tuple[str, str]] = {}
        with suppress(sqlite3.Error):  # only newer bags have this table
            for typename, encoding, text in self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                definitions[str(typename)] = (str(text), str(encoding))
        cursor = self._database.execute("SELECT * FROM topics")
        names = [column[0] for column in cursor.description]
        topics: dict[int, Topic] = {}
        for row in cursor:
            fields: dict[str, Any] = dict(zip(names, row, strict=True))
            if fields["serialization_format"] != "cdr":
                continue
            typename, type_hash = str(fields["type"]), str(fields.get("type_description_hash", ""))
            definition, encoding = definitions.get(typename, ("", ""))
            if not definition:
                with suppress(FogError):
                    (definition, type_hash), encoding = standard_definition(typename), "ros2msg"
            topics[int(fields["id"])] = Topic(
                str(fields["name"]),
                typename,
                known_qos(str(fields.get("offered_qos_profiles", ""))),
                type_hash,
                definition,
                encoding,
            )
        return topics

    def messages(self) -> Iterator[Found]:
        """Yield what can be read."""
        last, step = -1, 1
        for _ in range(_ATTEMPTS):
            broken = False
            try:
                for row, topic, log_ns, data in self._database.execute(
                    "SELECT rowid, topic_id, timestamp, data FROM messages "
                    "WHERE rowid >= ? ORDER BY rowid",
                    (last + step,),
                ):
                    if not isinstance(row, int) or row <= last:  # the tree of pages is damaged
                        broken = True
                        break
                    last, step = row, 1
                    found = self._message(topic, log_ns, data)
                    if found is None:
                        self._odd += 1
                        continue
                    self.position += len(found.data)
                    yield found
            except (sqlite3.Error, ValueError, OverflowError, MemoryError):
                broken = True
            if not broken:
                return
            if step == 1:
                self._gaps += 1
            step *= 2
            if step > _STEP:
                return

    def _message(self, topic: object, log_ns: object, data: object) -> Found | None:
        known = self._topics.get(topic) if isinstance(topic, int) else None
        if known is None or not isinstance(log_ns, int) or not isinstance(data, bytes):
            return None
        return Found(known, log_ns, log_ns, 0, data) if log_ns >= 0 else None
