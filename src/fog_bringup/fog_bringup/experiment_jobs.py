"""Carries out the runs of an experiment, in this process or several side by side in their own.

A small network on a processor hardly gains from a second core, so on a machine without a GPU two
runs of one thread each are done sooner than the same two one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fog_bringup.experiment_run import ExperimentRun
from fog_policy.methods import Sources
from fog_policy.train_policy import make_learner
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError

_POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """A run that is not finished."""

    method: str
    config: Any
    """Of the method, with its seed."""
    run: ExperimentRun
    start_from: Path | None = None
    """Bundle of the policy that it begins with."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method}, seed {self.config.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    content: Mapping[str, Any] | None
    """Of its ``run.json``; None when it failed."""
    failure: str = ""


Show = Callable[[Job, float, str], None]
"""Told which job, the share of it that is over, and a line for people."""
Stopped = Callable[[], bool]


def carry_out(
    jobs: Sequence[Job], sources: Sources, *, at_once: int, show: Show, stopped: Stopped
) -> Iterator[Outcome]:
    """Carry jobs out and give what became of each as soon as it is over.

    Args:
        jobs: In the order in which they are begun.
        sources: Recordings and world models, the same for all.
        at_once: How many run side by side; 1: in this process.
        show: Called with the progress.
        stopped: Asked between updates whether to give up.

    Raises:
        KeyboardInterrupt: ``stopped`` said so; what had begun is saved.
    """
    if at_once > 1 and len(jobs) > 1:
        yield from _side_by_side(jobs, sources, min(at_once, len(jobs)), show, stopped)
        return
    for job in jobs:

        def tell(share: float, text: str, job: Job = job) -> None:
            show(job, share, text)

        try:
            yield Outcome(job, _go(job, sources, tell, stopped))
        except FogError as error:
            yield Outcome(job, None, str(error))


def _go(
    job: Job, sources: Sources, show: Callable[[float, str], None], stopped: Stopped
) -> dict[str, Any]:
    learner, manifest = make_learner(job.method, sources, job.config, job.start_from)
    return job.run.go(learner, manifest, sources.store, show=show, stopped=stopped)


def _side_by_side(
    jobs: Sequence[Job], sources: Sources, at_once: int, show: Show, stopped: Stopped
) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    messages, stop = context.Queue(), context.Event()
    places = (sources.store.path, sources.world, sources.local_model)
    pool = ProcessPoolExecutor(
        at_once, mp_context=context, initializer=_begin, initargs=(messages, stop, os.getpid())
    )
    interrupted = False
    with pool:
        waiting: dict[Future[dict[str, Any]], Job] = {
            pool.submit(_in_process, number, job, places): job for number, job in enumerate(jobs)
        }
        while waiting:
            done, _ = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            while not messages.empty():
                number, share, text = messages.get()
                show(jobs[number], share, text)
            if stopped() and not interrupted:
                interrupted = True
                stop.set()
            for future in done:
                job = waiting.pop(future)
                try:
                    yield Outcome(job, future.result())
                except KeyboardInterrupt:
                    interrupted = True
                except FogError as error:
                    yield Outcome(job, None, str(error))
                except BrokenProcessPool:
                    yield Outcome(job, None, "its process was killed; is there too little memory?")
    if interrupted:
        raise KeyboardInterrupt


_messages: Any = None
_stop: Any = None
_parent = 0


def _begin(messages: Any, stop: Any, parent: int) -> None:
    """Set a process up: Ctrl-C reaches all, and the first one says when to save and end."""
    global _messages, _stop, _parent
    _messages, _stop, _parent = messages, stop, parent
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _stopped() -> bool:
    return bool(_stop.is_set()) or os.getppid() != _parent


def _in_process(number: int, job: Job, places: tuple[Path, Path, Path]) -> dict[str, Any]:
    if _stopped():
        raise KeyboardInterrupt
    store, global_model, local_model = places
    sources = Sources(EpisodeStore(store, job.run.task), global_model, local_model)
    return _go(job, sources, lambda share, text: _messages.put((number, share, text)), _stopped)
