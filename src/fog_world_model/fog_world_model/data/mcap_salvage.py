"""Read what is whole of an MCAP file that is cut or damaged anywhere."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Header, Metadata, Schema
from mcap.stream_reader import get_chunk_data_stream
from mcap.writer import MCAP0_MAGIC
from rosbags.rosbag2.metadata import parse_qos

from fog_world_model.data.bag_metadata import DEFAULT_QOS, Topic, dump_qos, standard_definition
from fog_world_model.data.embedded_metadata import check_index, of_text
from fog_world_model.data.mcap_file import CUSTOM_RECORD, TOPIC_RECORD, topic_checksum

_HEAD: Final = struct.Struct("<BQ")
_CHUNK_HEAD: Final = struct.Struct("<QQQII")
_MESSAGE_HEAD: Final = struct.Struct("<HIQQ")
_OPCODES: Final = frozenset(int(opcode) for opcode in Opcode)
_SMALL: Final = 64 << 20
"""No description of a topic is larger; a length beyond it is damage."""
_BLOCK: Final = 4 << 20
_LAST_NS: Final = 2**63 - 1

# A chunk's head: opcode, length below 2^48, times, size, checksum, name of the compression.
_CHUNK_PATTERN: Final = re.compile(
    rb"\x06.{6}\x00\x00.{24}.{4}(?:\x00\x00\x00\x00|\x03\x00\x00\x00lz4|\x04\x00\x00\x00zstd)",
    re.DOTALL,
)
_PATTERN_SIZE: Final = 45


class Found(NamedTuple):
    """A message that could be read."""

    topic: Topic
    log_ns: int
    publish_ns: int
    number: int
    """As its writer numbered it."""
    data: bytes


@dataclass(frozen=True)
class _ChunkHead:
    """A chunk record whose lengths agree with each other."""

    start: int
    """Position of its data in the file."""
    size: int
    """Size of the data, bytes; the file may be cut within."""
    chunk: Chunk
    """Without the data."""

    @property
    def end(self) -> int:
        return self.start + self.size


def known_qos(text: str) -> str:
    """QoS profiles of any recorder as :func:`fog_world_model.data.bag_metadata.dump_qos` has them.

    What cannot be made out becomes the default profile.
    """
    try:
        return dump_qos(parse_qos(text))
    except Exception:  # the parser fails in many ways on damaged text
        return dump_qos([DEFAULT_QOS])


class McapSalvage:
    """The messages of a file, chunk by chunk; each chunk's checksum is compared.

    Where the sequence of records is broken, the next chunk is searched for. At most one chunk is
    in memory.

    Args:
        path: An MCAP file, whole or not.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.custom: dict[str, str] = {}
        """Custom texts found so far."""
        self.numbered = False
        """Whether the messages of a topic are numbered from 1 on."""
        self.position = 0
        """How far the file has been read, bytes."""
        self._stream = path.open("rb")
        self._size = self._stream.seek(0, 2)
        self._schemas: dict[int, Schema] = {}
        self._topics: dict[int, Topic] = {}
        self._foreign: dict[int, str] = {}
        self._damaged_chunks = self._skipped = self._cut = self._unchecked = 0
        self._unreadable: Counter[str] = Counter()
        self._read_index()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    @property
    def losses(self) -> list[str]:
        """What could not be read, in words, up to :attr:`position`."""
        name, found = self.path.name, []
        if self._damaged_chunks:
            found.append(f"{name}: {self._damaged_chunks} damaged chunks were left out")
        if self._skipped:
            found.append(f"{name}: {self._skipped} bytes between whole records were passed over")
        if self._cut:
            found.append(f"{name}: the last {self._cut} bytes hold no whole record")
        if self._unchecked:
            found.append(
                f"{name}: the checksum of the last {self._unchecked} messages is cut off, "
                "so they could not be checked"
            )
        found += [
            f"{name}: {count} messages {reason}" for reason, count in self._unreadable.items()
        ]
        return found

    def messages(self) -> Iterator[Found]:
        """Yield what is whole, in the order of the file."""
        position = len(MCAP0_MAGIC) if self._read(0, 8) == MCAP0_MAGIC else 0
        if not self._plausible(position):
            position = self._resume(position, position)
        while position < self._size:
            self.position = position
            head = self._head(position)
            assert head is not None, "only plausible positions are gone to"
            opcode, length = head
            start = position + _HEAD.size
            end = resume_from = start + length
            if opcode == Opcode.FOOTER:
                break
            if opcode == Opcode.CHUNK:
                chunk = self._chunk_head(position)
                if chunk is not None and chunk.end > self._size:
                    yield from self._cut_chunk(chunk)
                    break
                if chunk is None or not (yield from self._chunk(chunk)):
                    self._damaged_chunks += 1
                    resume_from = start
            elif opcode == Opcode.MESSAGE:
                found = self._message(self._read(start, length))
                if found is not None:
                    yield found
                resume_from = start
            else:
                if length <= _SMALL:
                    self._description(opcode, self._read(start, length))
                resume_from = start  # nothing vouches for the length of this record
            position = end if self._plausible(end) else self._resume(resume_from, end)
        self.position = self._size

    def _resume(self, search_from: int, expected: int) -> int:
        """Position of the next chunk after the sequence of records broke."""
        following = self._next_chunk(search_from)
        if following is None:
            self._cut += max(0, self._size - expected)
            return self._size
        self._skipped += max(0, following - expected)
        return following

    def _read(self, start: int, length: int) -> bytes:
        """Part of the file; shorter at its end and where the disk gives an error."""
        try:
            self._stream.seek(start)
            return self._stream.read(max(0, min(length, self._size - start)))
        except OSError:
            return b""

    def _head(self, position: int) -> tuple[int, int] | None:
        """Opcode and length of a record that fits into the file, or of a last chunk that is cut."""
        data = self._read(position, _HEAD.size)
        if len(data) < _HEAD.size:
            return None
        opcode, length = _HEAD.unpack(data)
        if opcode in _OPCODES and position + _HEAD.size + length <= self._size:
            return opcode, length
        if opcode == Opcode.CHUNK and self._chunk_head(position) is not None:
            return opcode, length
        return None

    def _plausible(self, position: int) -> bool:
        """Whether a record, or the end of the file, is at this position."""
        return position == self._size or self._head(position) is not None

    def _chunk_head(self, position: int) -> _ChunkHead | None:
        data = self._read(position, _HEAD.size + _CHUNK_HEAD.size + 12)
        if len(data) < _HEAD.size + _CHUNK_HEAD.size + 8:
            return None
        opcode, length = _HEAD.unpack_from(data)
        first, last, size, checksum, name_size = _CHUNK_HEAD.unpack_from(data, _HEAD.size)
        if opcode != Opcode.CHUNK or name_size > 4:
            return None
        at = _HEAD.size + _CHUNK_HEAD.size + name_size
        name, data = data[at - name_size : at], data[at:]
        if name not in (b"", b"lz4", b"zstd"):
            return None
        if len(data) < 8:
            data = self._read(position + at, 8)
        if len(data) < 8:
            return None
        stored = int.from_bytes(data[:8], "little")
        if length != _CHUNK_HEAD.size + name_size + 8 + stored:
            return None
        if not name and size != stored:
            return None
        chunk = Chunk(name.decode(), b"", last, first, checksum, size)
        return _ChunkHead(position + at + 8, stored, chunk)

    def _next_chunk(self, position: int) -> int | None:
        """Position of the first chunk from here on."""
        while position < self._size:
            block = self._read(position, _BLOCK)
            for match in _CHUNK_PATTERN.finditer(block):
                if self._chunk_head(position + match.start()) is not None:
                    return position + match.start()
            self.position = position
            position += _BLOCK - _PATTERN_SIZE if len(block) in (0, _BLOCK) else _BLOCK
        return None

    def _chunk(self, head: _ChunkHead) -> Generator[Found, None, bool]:
        """Yield the messages of a chunk; return whether it is whole."""
        try:
            chunk = replace(head.chunk, data=self._read(head.start, head.size))
            stream, size = get_chunk_data_stream(chunk, validate_crc=True)
            if size != chunk.uncompressed_size:
                return False
            data = stream.read(size)
        except Exception:  # the decompressors fail in many ways on damaged bytes
            return False
        return (yield from self._records(data)) == size

    def _cut_chunk(self, head: _ChunkHead) -> Iterator[Found]:
        """The whole messages of an uncompressed chunk within which the file ends."""
        left = self._size - head.start
        if head.chunk.compression:
            self._cut += left
            return
        records = self._records(self._read(head.start, left))
        while True:
            try:
                yield next(records)
            except StopIteration as stop:
                self._cut += left - stop.value
                return
            self._unchecked += 1

    def _records(self, data: bytes) -> Generator[Found, None, int]:
        """Yield the messages of a chunk's content; return up to where it holds whole records."""
        position = 0
        while position + _HEAD.size <= len(data):
            opcode, length = _HEAD.unpack_from(data, position)
            start = position + _HEAD.size
            if opcode not in _OPCODES or start + length > len(data):
                break
            position = start + length
            if opcode == Opcode.MESSAGE:
                found = self._message(memoryview(data)[start:position])
                if found is not None:
                    yield found
            else:
                self._description(opcode, data[start:position])
        return position

    def _message(self, record: bytes | memoryview) -> Found | None:
        if len(record) < _MESSAGE_HEAD.size:
            self._unreadable["are shorter than their head"] += 1
            return None
        channel, number, log_ns, publish_ns = _MESSAGE_HEAD.unpack_from(record)
        topic = self._topics.get(channel)
        if topic is None:
            self._unreadable[self._foreign.get(channel, "are of an unknown topic")] += 1
            return None
        if log_ns > _LAST_NS:
            self._unreadable[f"of {topic.name} have an impossible time"] += 1
            return None
        return Found(topic, log_ns, publish_ns, number, bytes(record[_MESSAGE_HEAD.size :]))

    def _description(self, opcode: int, record: bytes) -> None:
        """Take in a record that says something of the file or of its channels."""
        stream = ReadDataStream(BytesIO(record))
        try:
            if opcode == Opcode.HEADER:
                self.numbered = Header.read(stream).library.startswith("fog ")
            elif opcode == Opcode.SCHEMA:
                schema = Schema.read(stream)
                self._schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                self._channel(Channel.read(stream))
            elif opcode == Opcode.METADATA:
                self._metadata(Metadata.read(stream))
            elif opcode == Opcode.ATTACHMENT:
                self._unreadable["are attachments, which are not carried over"] += 1
        except Exception:  # a damaged record is a description less; its messages count as lost
            return

    def _channel(self, channel: Channel) -> None:
        schema = self._schemas.get(channel.schema_id)
        if channel.message_encoding != "cdr":
            self._foreign[channel.id] = f"are encoded as {channel.message_encoding!r}, not as CDR"
        elif schema is not None:
            self._topics[channel.id] = Topic(
                channel.topic,
                schema.name,
                known_qos(channel.metadata.get("offered_qos_profiles", "")),
                channel.metadata.get("topic_type_hash", ""),
                schema.data.decode(),
                schema.encoding,
            )

    def _metadata(self, record: Metadata) -> None:
        texts = record.metadata
        if record.name == CUSTOM_RECORD:
            self.custom |= texts
        elif record.name == "rosbag2":
            self.custom |= of_text(texts.get("serialized_metadata", ""))
        elif record.name == TOPIC_RECORD:
            if texts.pop("crc32") != topic_checksum(texts):
                return
            definition, type_hash = standard_definition(texts["type"])
            qos = texts["offered_qos_profiles"]
            topic = Topic(texts["topic"], texts["type"], qos, type_hash, definition)
            self._topics.setdefault(int(texts["id"]), topic)

    def _read_index(self) -> None:
        """Learn the channels from the index at the end, if the file has a whole one."""
        try:
            start = check_index(self.path)
        except (OSError, ValueError):
            return
        position = start
        while position and (head := self._head(position)) is not None:
            opcode, length = head
            if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._description(opcode, self._read(position + _HEAD.size, length))
            position += _HEAD.size + length
