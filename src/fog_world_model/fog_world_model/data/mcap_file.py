"""One MCAP file in the making, as rosbag2 lays it out, with what a recovery of it needs."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Literal

from mcap.writer import LIBRARY_IDENTIFIER, CompressionType, Writer

from fog_world_model.data.bag_metadata import BagFile, Topic

LIBRARY: Final = f"fog {LIBRARY_IDENTIFIER}"
"""Names the writer in the head of the file; those of this writer number the messages of a topic
from 1 on, so that a recovery can tell how many are missing in between."""
CUSTOM_RECORD: Final = "fog_custom_data"
"""Name of MCAP's Metadata records that carry the custom texts as they were set."""
TOPIC_RECORD: Final = "fog_topic"
"""Name of those that repeat what a channel is, in case that the first chunk is damaged."""

_RECORD_HEAD: Final = 31


def topic_checksum(texts: Mapping[str, str]) -> str:
    """Checksum of a :data:`TOPIC_RECORD`, because MCAP has none for it."""
    return f"{zlib.crc32(json.dumps(texts, sort_keys=True).encode()):08x}"


def open_file(path: Path) -> IO[bytes]:
    """A new file for writing; it must not exist."""
    return path.open("xb")


class McapFile:
    """A file that is being written; every method may raise OSError.

    Args:
        path: It must not exist.
        compression: Of the chunks.
        chunk_bytes: Size at which a chunk is closed.
    """

    def __init__(self, path: Path, compression: Literal["", "zstd"], chunk_bytes: int) -> None:
        self.content = BagFile(path.name)
        """What it holds so far."""
        self.size = 0
        """About its size, bytes; what waits in the chunk counts uncompressed."""
        self._stream = open_file(path)
        self._mcap = Writer(
            self._stream,
            chunk_size=chunk_bytes,
            compression=CompressionType.ZSTD if compression else CompressionType.NONE,
        )
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._mcap.start(profile="ros2", library=LIBRARY)

    def add_topic(self, topic: Topic) -> None:
        """Describe a topic, twice: in the chunk, and in a record outside of it."""
        if topic.type not in self._schemas:
            self._schemas[topic.type] = self._mcap.register_schema(
                topic.type, topic.encoding, topic.definition.encode()
            )
        metadata = {"offered_qos_profiles": topic.qos, "topic_type_hash": topic.type_hash}
        channel = self._mcap.register_channel(
            topic.name, "cdr", self._schemas[topic.type], metadata
        )
        self._channels[topic.name] = channel
        texts = {"id": str(channel), "topic": topic.name, "type": topic.type, **metadata}
        self._mcap.add_metadata(TOPIC_RECORD, {**texts, "crc32": topic_checksum(texts)})

    def add_message(
        self, topic: str, data: bytes, log_ns: int, publish_ns: int, number: int
    ) -> None:
        """Append a message of a topic that was added.

        Args:
            topic: Topic name.
            data: CDR bytes.
            log_ns: Time of arrival, ns.
            publish_ns: Time of sending, ns.
            number: Which message of the topic it is, from 1 on.
        """
        self._mcap.add_message(self._channels[topic], log_ns, data, publish_ns, number & 0xFFFFFFFF)
        self.content.add(log_ns)
        self.size += len(data) + _RECORD_HEAD

    def add_custom(self, key: str, text: str) -> None:
        """Append a custom text."""
        self._mcap.add_metadata(CUSTOM_RECORD, {key: text})

    def flush(self) -> None:
        """End the chunk and hand everything to the kernel."""
        self._mcap.flush()
        self.size = self._stream.tell()

    def sync(self) -> None:
        """Wait until what was flushed is on the disk."""
        os.fsync(self._stream.fileno())

    def finish(self, metadata: str) -> None:
        """Write the index and close the file; bringing it to the disk is left to the kernel.

        Args:
            metadata: That of the bag, YAML. `ros2 bag` stores it, too, so that a file alone says as
                much as the bag.
        """
        self._mcap.add_metadata("rosbag2", {"serialized_metadata": metadata})
        self._mcap.finish()
        self._stream.close()

    def abandon(self) -> None:
        """Close the file as it is; this never raises."""
        with suppress(OSError):
            self._stream.close()
