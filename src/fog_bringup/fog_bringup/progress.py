"""Progress of long work on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Report = Callable[[str, int, int], None]
"""Called with a description, what is done, and the total."""


class RateColumn(ProgressColumn):
    """Mean work done per second."""

    def render(self, task: Task) -> Text:
        """Show the rate, or nothing while it is unknown."""
        seconds = task.finished_time or task.elapsed
        if not seconds or not task.completed:
            return Text("")
        rate = task.completed / seconds
        return Text(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Report]:
    """Show one bar per description, with rate and time left.

    Args:
        console: Where to; standard error unless given, so that standard output stays clean.

    Yields:
        The function to report to.
    """
    bars: dict[str, TaskID] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        refresh_per_second=2,  # drawing more often costs a fifth of a core
    ) as progress:

        def report(description: str, done: int, total: int) -> None:
            if description not in bars:
                bars[description] = progress.add_task(description, total=total)
            progress.update(bars[description], completed=done, total=total)

        yield report
