"""Stages of a long command: those that are complete are not repeated, some run side by side.

Every stage leaves a note that it is complete, with the settings it was run with; a stage whose note
is there, after stages whose notes are there, is not run again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fog_bringup.progress import progress_bar
from fog_world_model.errors import FogError


class Stages:
    """Runs stages in order, and remembers on disk which are complete."""

    def __init__(self, folder: Path, console: Console) -> None:
        """Keep the notes in ``folder``."""
        self.folder, self._console = folder, console
        self._chain = ""
        self.seconds: dict[str, float] = {}

    def run(
        self, name: str, settings: dict[str, Any], outputs: Sequence[Path], work: Callable[[], Any]
    ) -> Any:
        """Run a stage unless it is complete with the same settings, and those before it too.

        Args:
            name: Of the stage.
            settings: What its result depends on, beside the stages before it.
            outputs: Files and folders it makes; leftovers of an interrupted run are removed.
            work: Does it; what it returns (JSON values) is kept in the note.

        Returns:
            What ``work`` returned, now or when the stage was completed.
        """
        text = json.dumps([self._chain, name, settings], sort_keys=True, default=str)
        self._chain = hashlib.sha256(text.encode()).hexdigest()
        note = self.folder / f"{name}.json"
        if note.exists():
            known = json.loads(note.read_text())
            if known["chain"] == self._chain and all(p.exists() for p in outputs):
                self._console.print(f"[green]✓[/] {name}: complete ({known['seconds']:.0f} s)")
                self.seconds[name] = known["seconds"]
                return known["result"]
            note.unlink()
        for path in outputs:
            for leftover in (path, path.with_name(path.name + ".part")):
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink(missing_ok=True)
        self._console.print(f"[bold]▶ {name}[/]")
        begun = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - begun, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = note.with_name(note.name + ".part")
        part.write_text(
            json.dumps({"chain": self._chain, "seconds": self.seconds[name], "result": result})
        )
        part.rename(note)
        self._console.print(f"[green]✓[/] {name}: {self.seconds[name]:.0f} s")
        return result


def run_side_by_side(commands: Mapping[str, Sequence[str]], logs: Path) -> None:
    """Run ``fog`` commands as processes at the same time, with one progress bar each.

    Args:
        commands: Description -> arguments of ``fog``.
        logs: Folder for what they print.

    Raises:
        FogError: One failed; the message ends with what it said last. The others are stopped.
        KeyboardInterrupt: Ctrl-C; all are stopped, with their checkpoints written.
    """
    logs.mkdir(parents=True, exist_ok=True)
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "fog_bringup.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        for name, arguments in commands.items()
    }
    said: dict[str, list[str]] = {name: [] for name in processes}
    try:
        with progress_bar() as report:

            def follow(name: str) -> None:
                stream = processes[name].stdout
                assert stream is not None
                with (logs / f"{name.replace(' ', '_')}.log").open("w") as log:
                    for line in stream:
                        log.write(line)
                        said[name].append(line.rstrip())
                        if match := re.search(r": +(\d+)%,", line):
                            report(name, min(int(match[1]), 100), 100)

            readers = [threading.Thread(target=follow, args=(n,), daemon=True) for n in processes]
            for reader in readers:
                reader.start()
            while any(p.poll() is None for p in processes.values()):
                failed = [n for n, p in processes.items() if p.poll() not in (None, 0)]
                if failed:
                    break
                time.sleep(0.2)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes.values():
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
    for reader in readers:
        reader.join(timeout=5)
    for name, process in processes.items():
        if process.returncode == 130:
            raise KeyboardInterrupt
        if process.returncode:
            tail = "\n  ".join(said[name][-8:])
            raise FogError(
                f"fog {' '.join(commands[name])} ended with status {process.returncode}:\n  {tail}"
            )
