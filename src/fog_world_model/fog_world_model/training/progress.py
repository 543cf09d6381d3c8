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
        begun = told = time.monotonic()
        first: float | None = None  # a resumed run does not begin at 0

        def tell(fraction: float, text: str) -> None:
            nonlocal told, first
            if first is None:
                first = fraction
            if time.monotonic() - told >= 5 or fraction >= 1:
                told = time.monotonic()
                left = (told - begun) * (1 - fraction) / max(fraction - first, 1e-3)
                console.print(f"{description}: {fraction:4.0%}, {text}, {max(left, 0):.0f} s left")

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
