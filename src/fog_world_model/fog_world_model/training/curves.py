"""Curves and pictures for TensorBoard, in a file that may fail without stopping the training."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar


class Curves:
    """Writes an event file that TensorBoard reads.

    torch's own writer hands events to a thread, whose failure (a full disk) ends in a traceback
    and in an exception at some later moment. This one writes at once; what cannot be written is
    said on standard error one time, and the curves end there.
    """

    def __init__(self, folder: str | os.PathLike[str], first_step: int = 0) -> None:
        """Open a new file in ``folder``.

        Args:
            folder: Where the event files of the run are.
            first_step: Whatever older files say of this step and later ones is no longer shown.
        """
        self._folder = Path(folder)
        self._records: RecordWriter | None = None
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._records = RecordWriter((self._folder / name).open("wb"))
        except OSError as error:
            self._give_up(error)
        self._write(file_version="brain.Event:2", step=first_step)
        self._write(session_log=SessionLog(status=SessionLog.START), step=first_step)
        self.flush()

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._write(summary=scalar(name, value), step=step)
        self.flush()

    def add_picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Add a picture ``[height, width, 3]``."""
        self._write(summary=image(name, picture, dataformats="HWC"), step=step)
        self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system, so that a killed run leaves it there."""
        if self._records is not None:
            try:
                self._records.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._records is not None:
            try:
                self._records.close()
            except OSError as error:
                self._give_up(error)
            self._records = None

    def _write(self, **content: Any) -> None:
        if self._records is not None:
            try:
                event = Event(wall_time=time.time(), **content)
                self._records.write(event.SerializeToString())
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        records, self._records = self._records, None
        if records is not None:
            with contextlib.suppress(OSError):  # it is what failed
                records.close()
        print(
            f"fog: {self._folder}: {error.strerror}; no more curves for TensorBoard, "
            "training goes on",
            file=sys.stderr,
        )
