"""Record a simulated robot as fast as the machine allows, into the same bags that ROS would write.

Every episode is drawn from its own seed, so that what is recorded does not depend on the number of
processes. Messages are stamped with the robot's time.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fog_bringup.drivers import DriverMix
from fog_bringup.episode_recording import Share, record_share
from fog_bringup.progress import Report
from fog_bringup.robots.variations import SCENE
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


@dataclass(frozen=True)
class CollectConfig:
    """How much to record, and driven how. One of episodes, steps and seconds must be given."""

    episodes: int | None = None
    """Number of episodes."""
    steps: int | None = None
    """Number of control steps; the last episodes are finished, so it may become a few more."""
    seconds: float | None = None
    """Robot time, s; the last episodes are finished."""
    seed: int = 0
    mix: DriverMix = field(default_factory=DriverMix)
    workers: int = 1
    """Processes; each writes a bag of its own."""
    camera_hz: float = 10.0
    image_height: int | None = None
    """Rows of the picture; None: what the task's options say."""
    image_width: int | None = None
    vary: tuple[str, ...] = ()
    """Variations of the scene (:mod:`.robots.variations`) that every episode draws anew."""

    def limits(self, task: TaskConfig) -> tuple[int | None, int]:
        """Episodes (None: as many as it takes) and the control steps to expect.

        Raises:
            FogError: None or several limits are given, or one is not positive.
        """
        given = [v for v in (self.episodes, self.steps, self.seconds) if v is not None]
        if len(given) != 1 or given[0] <= 0:
            raise FogError("collect: give one of episodes, steps and seconds, greater than zero")
        if self.workers < 1:
            raise FogError(f"collect: workers must be at least 1, not {self.workers}")
        if other := [name for name in self.vary if name not in SCENE]:
            raise FogError(
                f"collect: {', '.join(other)} cannot be varied here, where no message is sent: "
                f"what can be is {', '.join(SCENE)}; robot_node has a parameter vary for the others"
            )
        if self.episodes is not None:
            return self.episodes, self.episodes * task.episode.max_steps
        return None, self.steps or max(1, math.ceil((self.seconds or 0.0) * task.control_hz))


@dataclass(frozen=True)
class Collected:
    """What was recorded."""

    bags: tuple[Path, ...]
    """Bag folders: the output itself, or inside it one per worker."""
    episodes: int
    steps: int
    """Control steps (transitions)."""
    seconds: float
    """Wall-clock time that it took."""
    interrupted: bool
    """Whether it was stopped early; its bags are sound and hold whole episodes even so."""


class _Tally:
    """Adds up what the workers report and passes it on."""

    def __init__(self, progress: Report | None, description: str, expected: int) -> None:
        self._progress, self._description, self._expected = progress, description, expected
        self.steps = self.episodes = 0

    def add(self, steps: int, episodes: int) -> None:
        """Count what was newly written."""
        self.steps += steps
        self.episodes += episodes
        if self._progress is not None:
            self._progress(self._description, self.steps, max(self._expected, self.steps))


def collect(
    task: TaskConfig,
    output: str | os.PathLike[str],
    config: CollectConfig,
    *,
    progress: Report | None = None,
) -> Collected:
    """Record episodes.

    SIGINT (Ctrl-C) and SIGTERM stop after the control step at hand: the unfinished episodes are
    left out, the bags are closed properly, and ``interrupted`` is set.

    Args:
        task: What to record, on which robot.
        output: Bag folder to be; with several workers a folder with one bag each. It must not
            exist, and it gets its name only when all is written.
        config: How much, driven how.
        progress: Told the control steps done.

    Raises:
        FogError: An option is impossible, the output exists, the disk is full, or the robot does
            not work on this machine.
        KeyboardInterrupt: Stopped before any episode was complete; nothing is left.
    """
    path = Path(output)
    if path.exists():
        raise FogError(f"{path}: exists already; choose another output or move it away")
    episodes, steps = config.limits(task)
    workers = config.workers if episodes is None else min(config.workers, episodes)
    tally = _Tally(progress, f"collecting {task.name}", steps)
    part = path.with_name(path.name + ".part")
    robot: dict[str, Any] = {
        "camera_hz": config.camera_hz,
        "image_height": config.image_height,
        "image_width": config.image_width,
    }
    if config.vary:
        robot["vary"] = config.vary
    shares = [
        Share(
            task,
            path if workers == 1 else part / f"bag_{k}",
            config.seed,
            config.mix,
            robot,
            first=k,
            stride=workers,
            episodes=None if episodes is None else len(range(k, episodes, workers)),
            steps=math.ceil(steps / workers),
        )
        for k in range(workers)
    ]
    start = time.monotonic()
    if workers == 1:
        stopped = threading.Event()
        with _set_by_signals(stopped):
            record_share(shares[0], tally.add, stopped)
        interrupted = stopped.is_set()
    else:
        if part.exists():
            shutil.rmtree(part)
        interrupted = _run(shares, tally)
        if tally.episodes:
            part.rename(path)
        else:
            shutil.rmtree(part, ignore_errors=True)
    if not tally.episodes:
        raise KeyboardInterrupt
    bags = [path] if workers == 1 else [path / share.path.name for share in shares]
    return Collected(
        tuple(bag for bag in bags if bag.exists()),
        tally.episodes,
        tally.steps,
        time.monotonic() - start,
        interrupted,
    )


def _run(shares: Sequence[Share], tally: _Tally) -> bool:
    """Record shares in processes of their own; return whether it was interrupted.

    Raises:
        FogError: A process failed; the others were stopped.
    """
    # Not forked: the parent may hold threads and GL contexts, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    stop = context.Event()
    processes = [
        context.Process(target=_worker, args=(share, reports, stop), daemon=True)
        for share in shares
    ]
    failure: str | None = None
    running = set(range(len(shares)))
    with _set_by_signals(stop):
        for process in processes:
            process.start()
        while running:
            try:
                kind, value = reports.get(timeout=0.5)
            except queue.Empty:
                dead = {k for k in running if not processes[k].is_alive()}
                if dead and reports.empty():
                    codes = ", ".join(str(processes[k].exitcode) for k in sorted(dead))
                    failure = failure or f"collect: a worker died (exit status {codes})"
                    running -= dead
                    stop.set()
                continue
            if kind == "written":
                tally.add(*value)
            else:
                running.discard(value[0])
                if value[1] is not None:
                    failure = failure or value[1]
                    stop.set()
        for process in processes:
            process.join()
    if failure is not None:
        raise FogError(failure)
    return stop.is_set()


def _worker(share: Share, reports: Any, stop: Any) -> None:
    """Body of a process; the parent alone answers to signals and sets ``stop``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    number, failure = share.first, None
    try:
        record_share(
            share,
            lambda steps, episodes: reports.put(("written", (steps, episodes))),
            _StopOrOrphaned(stop),
        )
    except FogError as error:
        failure = str(error)
    except Exception as error:  # the parent must hear of it, whatever it is
        failure = f"collect: worker {number} failed: {type(error).__name__}: {error}"
    reports.put(("ended", (number, failure)))


class _StopOrOrphaned:
    """Set when the parent asks, or when there is no parent any more."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Whether to stop."""
        parent = multiprocessing.parent_process()
        return bool(self._event.is_set()) or (parent is not None and not parent.is_alive())


@contextmanager
def _set_by_signals(stop: Any) -> Iterator[None]:
    """Let SIGINT and SIGTERM set an event instead of breaking off; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
