"""A folder that an export writes aside and that gets its name when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fog_world_model.errors import FogError


@contextmanager
def export_folder(output: Path) -> Iterator[Path]:
    """Give the folder to write in; it does not exist yet. Nothing is left of an unfinished one.

    Raises:
        FogError: ``output`` exists, or it cannot be written.
    """
    if output.exists():
        raise FogError(f"--output {output}: exists already; choose another folder")
    part = output.with_name(output.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        part.rename(output)
    except OSError as error:
        raise FogError(
            f"--output {output}: cannot be written ({error.strerror or error}); make room or "
            "choose another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
