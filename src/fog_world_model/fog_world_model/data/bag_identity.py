"""What tells one bag from another: a fingerprint of its content, not of its name or its date."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fog_world_model.errors import FogError

_EDGE_BYTES = 1 << 20
_SAMPLES = 64
_SAMPLE_BYTES = 4096


def fingerprint(bag: str | os.PathLike[str]) -> str:
    """Hash of what a bag holds.

    All of metadata.yaml, the sizes of the files, their first and last MiB and 64 samples of 4 KiB
    in between go into it: recordings that differ are told apart, a copy is not, and a day of
    recording takes milliseconds. It is no proof that no bit has flipped; the import itself tests
    the checksums of what it reads.

    Args:
        bag: Bag folder, or a single .mcap or .db3 file.

    Returns:
        SHA-256, hex.

    Raises:
        FogError: A file cannot be read.
    """
    path = Path(bag)
    digest = hashlib.sha256()
    try:
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
        for file in files:
            size = file.stat().st_size
            digest.update(f"{file.suffix} {size}\0".encode())
            with file.open("rb") as stream:
                if size <= 2 * _EDGE_BYTES + _SAMPLES * _SAMPLE_BYTES:
                    digest.update(stream.read())
                    continue
                digest.update(stream.read(_EDGE_BYTES))
                stride = (size - 2 * _EDGE_BYTES) // _SAMPLES
                for i in range(_SAMPLES):
                    stream.seek(_EDGE_BYTES + i * stride)
                    digest.update(stream.read(_SAMPLE_BYTES))
                stream.seek(size - _EDGE_BYTES)
                digest.update(stream.read())
    except OSError as error:
        raise FogError(f"bag {path}: {error.filename}: {error.strerror or error}") from error
    return digest.hexdigest()
