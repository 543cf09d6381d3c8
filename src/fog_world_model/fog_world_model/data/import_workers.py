"""Import several bags at once, in processes of their own."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fog_world_model.data.import_bag import BagJob, Interrupted, import_bag
from fog_world_model.errors import FogError

_WORTH_PROCESSES = 100_000_000
"""Bytes of bags that take longer to import than processes take to start."""

JobProgress = Callable[[int, int, int], None]
"""Called with the number of the job, its images done, and their total."""


def import_jobs(jobs: Sequence[BagJob], workers: int, progress: JobProgress) -> None:
    """Write the shards of some bags.

    Several large bags are imported by one process each, others one after the other by threads.

    Args:
        jobs: What to import.
        workers: Processes and threads, together.
        progress: Told about images done.

    Raises:
        FogError: A bag could not be imported; shards that are whole by then stay.
        KeyboardInterrupt: SIGINT or SIGTERM; whole shards stay.
    """
    processes = min(workers, len(jobs))
    if sum(_size(job.bag) for job in jobs) < _WORTH_PROCESSES:
        processes = 1
    with _sigterm_interrupts():
        if processes > 1:
            share = max(1, workers // processes)
            _in_processes([replace(j, threads=share) for j in jobs], processes, progress)
            return
        for number, job in enumerate(jobs):

            def told(done: int, total: int, number: int = number) -> None:
                progress(number, done, total)

            import_bag(replace(job, threads=workers), told, lambda: False)


def _size(bag: Path) -> int:
    files = [bag] if bag.is_file() else [p for p in bag.iterdir() if p.is_file()]
    return sum(p.stat().st_size for p in files)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: unwind, and leave nothing half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_processes(jobs: Sequence[BagJob], count: int, progress: JobProgress) -> None:
    # Not forked: the parent may hold threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting: Any = context.Queue()
    reports: Any = context.Queue()
    for item in [*enumerate(jobs), *[None] * count]:
        waiting.put(item)
    processes = [
        context.Process(target=_work, args=(waiting, reports), daemon=True) for _ in range(count)
    ]
    running = len(jobs)
    try:
        for process in processes:
            process.start()
        while running:
            try:
                kind, number, value = reports.get(timeout=0.5)
            except queue.Empty:
                dead = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
                if dead and reports.empty():
                    raise FogError(
                        f"fog import: a worker died (exit status {dead[0]}); if memory was short, "
                        "try fewer --workers. Finished bags are kept: run it again to go on"
                    ) from None
                continue
            if kind == "images":
                progress(number, *value)
            elif value is not None:
                raise FogError(value)
            else:
                running -= 1
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.pid is not None and process.is_alive():
                process.terminate()
                process.join()
        for channel in (waiting, reports):
            channel.cancel_join_thread()
            channel.close()


def _work(waiting: Any, reports: Any) -> None:
    """Body of a process: it takes one bag after the other; the parent alone answers to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def orphaned() -> bool:
        return parent is not None and not parent.is_alive()

    while True:
        try:
            item = waiting.get(timeout=1.0)
        except queue.Empty:
            if orphaned():
                return
            continue
        if item is None:
            return
        number, job = item
        failure: str | None = None

        def told(done: int, total: int, number: int = number) -> None:
            reports.put(("images", number, (done, total)))

        try:
            import_bag(job, told, orphaned)
        except Interrupted:
            return
        except FogError as error:
            failure = str(error)
        except Exception as error:  # the parent must hear of it, whatever it is
            failure = f"bag {job.bag}: the import failed: {type(error).__name__}: {error}"
        reports.put(("ended", number, failure))
