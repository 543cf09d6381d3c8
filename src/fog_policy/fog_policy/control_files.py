"""The control report on disk: JSON, text, and a picture drawn by a process. No ROS here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from fog_policy.control_report import ControlReport, write_json, write_text
from fog_world_model.errors import FogError


class ControlFiles:
    """Writes ``NAME.json``, ``NAME.txt`` and ``NAME.png``.

    Args:
        path: The JSON file.
    """

    def __init__(self, path: str) -> None:
        self._json = Path(path)
        self._drawing: subprocess.Popen[bytes] | None = None

    def write(self, report: ControlReport, about: dict[str, Any]) -> str:
        """Write the report; the picture follows by itself a little later, whatever comes.

        Args:
            report: What to write.
            about: What it belongs to (bundle, task).

        Returns:
            The files' names for a person.

        Raises:
            FogError: They cannot be written.
        """
        try:
            content = {**about, **report.to_dict(), "series": report.series()}
            write_json(self._json, content)
            write_text(self._json.with_suffix(".txt"), report.text())
        except OSError as error:
            raise FogError(f"report {self._json}: not written ({error.strerror})") from error
        if self._drawing is not None and self._drawing.poll() is None:
            self._drawing.kill()  # an older picture is not worth finishing
            self._drawing.wait()
        # The control loop may be running, and comes first.
        nice = shutil.which("nice")
        command = [nice, "-n", "10"] if nice else []
        command += [sys.executable, "-m", "fog_policy.control_picture"]
        # Nobody waits for it: a launcher gives a node that ends less time than drawing takes on a
        # busy machine. In a session of its own it gets no Ctrl-C, and ends by itself.
        self._drawing = subprocess.Popen(
            [*command, str(self._json), str(self._json.with_suffix(".png"))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stem = self._json.with_suffix("")
        return f"{stem}.json, {stem}.txt, {stem}.png"
