"""Messages of an MCAP file by their place, without copying what nobody looks at.

The ``mcap`` and ``rosbags`` libraries hand out messages one by one, each copied several times on
the way: for raw images that takes longer than all that is done with them. Here the library reads
the index, and this module walks the records of one chunk at a time: in the first pass over the
heads of messages only, in the second over whole chunks, whose checksums are tested. Chunks are
independent, so threads can work on several at once. Layout: https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from mcap.reader import make_reader
from mcap.records import Chunk
from mcap.stream_reader import get_chunk_data_stream

from fog_world_model.data.message_head import Buffer

_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_MESSAGE_OPCODE = 0x05
_CHUNK_OPCODE = 0x06
_CHUNK = struct.Struct("<QQQI")
_BLOCK = 32_768
"""Bytes read at once in a search for heads: one image's, or dozens of small messages."""


class DamagedChunk(ValueError):
    """The bytes of a chunk are not what its index, its records or its checksum say."""


class McapChunks:
    """The chunks of one file. Methods may be called from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Open a file and read its index.

        Raises:
            DamagedChunk: It has no index, or messages that are in no chunk.
            Exception: As the ``mcap`` library raises for damaged files.
        """
        self.path = path
        with path.open("rb") as stream:
            summary = make_reader(stream).get_summary()
        if summary is None or not summary.chunk_indexes:
            raise DamagedChunk(f"{path.name} has no index of chunks")
        self.topics = {c.id: c.topic for c in summary.channels.values()}
        """Channel -> topic."""
        self._chunks = sorted(summary.chunk_indexes, key=lambda c: c.chunk_start_offset)
        self._file = os.open(path, os.O_RDONLY)
        self._own = threading.local()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self._chunks)

    def size(self, number: int) -> int:
        """Bytes of a chunk's records, decompressed."""
        return int(self._chunks[number].uncompressed_size)

    def heads(
        self, number: int, needed: dict[int, int]
    ) -> Iterator[tuple[int, int, int, int, Buffer]]:
        """Walk over the messages of a chunk.

        Args:
            number: Which chunk.
            needed: Channel -> bytes that are wanted of each message; other channels are skipped.

        Yields:
            Channel, log time in ns, place of the message's data in the chunk and their length,
            followed by at least the wanted bytes, or all when there are fewer.

        Raises:
            DamagedChunk: Record lengths do not add up.
            OSError: The file cannot be read.
        """
        start, stored, size, compression, _ = self._locate(number)
        if compression:
            yield from _walk(_Window(self._decompress(start, stored, size, compression)), needed)
        else:
            yield from _walk(_Window(None, self._file, start, size), needed)

    def records(self, number: int) -> memoryview:
        """All records of a chunk, decompressed, after a test of the checksum.

        Valid until the same thread asks for the next chunk: the memory is used again, because
        fresh memory for every chunk takes as long as reading it.

        Raises:
            DamagedChunk: The checksum does not fit.
            OSError: The file cannot be read.
        """
        start, stored, size, compression, crc = self._locate(number)
        if compression:
            data = memoryview(self._decompress(start, stored, size, compression))
        else:
            data = self._room(size)
            _read_into(self._file, start, data)
        if crc and zlib.crc32(data) != crc:
            raise DamagedChunk(f"{self.path.name}: chunk {number}: the checksum does not fit")
        return data

    def _room(self, size: int) -> memoryview:
        """Memory of this thread's own."""
        if len(getattr(self._own, "memory", b"")) < size:
            self._own.memory = bytearray(size)
        return memoryview(self._own.memory)[:size]

    def _locate(self, number: int) -> tuple[int, int, int, str, int]:
        """Start and length of the stored records, their real length, compression, checksum."""
        index = self._chunks[number]
        head = _read(self._file, index.chunk_start_offset, 64)
        opcode, _ = _RECORD.unpack_from(head)
        _, _, size, crc = _CHUNK.unpack_from(head, 9)
        (length,) = struct.unpack_from("<I", head, 37)
        if opcode != _CHUNK_OPCODE or length > 10 or size != index.uncompressed_size:
            raise DamagedChunk(f"{self.path.name}: chunk {number} is not where the index says")
        compression = head[41 : 41 + length].decode("ascii", "replace")
        (stored,) = struct.unpack_from("<Q", head, 41 + length)
        if stored != index.compressed_size or (not compression and stored != size):
            raise DamagedChunk(f"{self.path.name}: chunk {number} has another size than indexed")
        return index.chunk_start_offset + 49 + length, stored, size, compression, crc

    def _decompress(self, start: int, stored: int, size: int, compression: str) -> bytes:
        chunk = Chunk(
            compression=compression,
            data=_read(self._file, start, stored),
            message_start_time=0,
            message_end_time=0,
            uncompressed_crc=0,
            uncompressed_size=size,
        )
        try:
            stream, found = get_chunk_data_stream(chunk)
        except Exception as error:  # each library has exceptions of its own for damaged data
            raise DamagedChunk(f"{self.path.name}: {error}") from error
        if found != size:
            raise DamagedChunk(f"{self.path.name}: a chunk holds {found} of {size} bytes")
        return stream.read(size)


class _Window:
    """Bytes of a chunk, in memory or read from the file where they are asked for."""

    def __init__(
        self, data: Buffer | None, file: int = -1, start: int = 0, size: int | None = None
    ) -> None:
        self.size = len(data or b"") if size is None else size
        self._file, self._start = file, start
        self._block: memoryview = memoryview(data or b"")
        self._first = 0

    def get(self, at: int, length: int) -> memoryview:
        """Some bytes; fewer at the end of the chunk."""
        length = min(length, self.size - at)
        if not self._first <= at <= at + length <= self._first + len(self._block):
            count = min(max(length, _BLOCK), self.size - at)
            self._block, self._first = memoryview(_read(self._file, self._start + at, count)), at
        return self._block[at - self._first : at - self._first + length]


def _walk(window: _Window, needed: dict[int, int]) -> Iterator[tuple[int, int, int, int, Buffer]]:
    at = 0
    while at < window.size:
        head = window.get(at, _RECORD.size + _MESSAGE.size)
        if len(head) < _RECORD.size:
            raise DamagedChunk("a record is cut")
        opcode, length = _RECORD.unpack_from(head)
        at += _RECORD.size
        if length > window.size - at or (opcode == _MESSAGE_OPCODE and length < _MESSAGE.size):
            raise DamagedChunk(f"a record claims to be {length} bytes long")
        if opcode == _MESSAGE_OPCODE:
            channel, _, log_ns, _ = _MESSAGE.unpack_from(head, _RECORD.size)
            if channel in needed:
                place, count = at + _MESSAGE.size, length - _MESSAGE.size
                yield channel, log_ns, place, count, window.get(place, min(count, needed[channel]))
        at += length


def _read(file: int, start: int, length: int) -> bytes:
    data = os.pread(file, length, start)
    if len(data) < length:  # more than 2 GiB, or a file that has become shorter
        whole = bytearray(length)
        _read_into(file, start, memoryview(whole))
        return bytes(whole)
    return data


def _read_into(file: int, start: int, room: memoryview) -> None:
    done = 0
    while done < len(room):
        count = os.preadv(file, [room[done:]], start + done)
        if not count:
            raise DamagedChunk("the file ends within a chunk")
        done += count
