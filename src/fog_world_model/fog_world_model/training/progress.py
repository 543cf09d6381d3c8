"""Progress of a training run on the terminal or in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float, str], None]]:
    """Show progress on standard error; call it with the fraction done and a text.

    On a terminal it is a bar with the time that is left; in a log file a line every 5 seconds.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        told = time.monotonic()
        first: tuple[float, float] | None = None  # when, and how far: a resumed run is not at 0

        def tell(fraction: float, text: str) -> None:
            nonlocal told, first
            now = time.monotonic()
            first = first or (now, fraction)
            if now - told < 5 and fraction < 1:
                return
            told = now
            line = f"{description}: {fraction:4.0%}, {text}"
            if (gained := fraction - first[1]) > 0:
                left = (now - first[0]) * (1 - fraction) / gained
                line += f", {max(left, 0):.0f} s left"
            console.print(line, soft_wrap=True)  # a line of a log file is not folded

        yield tell
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
        refresh_per_second=2,
    ) as bar:
        task: TaskID = bar.add_task(description, total=1.0, text="")

        def update(fraction: float, text: str) -> None:
            bar.update(task, completed=min(fraction, 1.0), text=text)

        yield update
