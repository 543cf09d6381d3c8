"""One thread for the policy's networks, so that timers never wait for them. No ROS here."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class InferenceWorker:
    """Computes one thing at a time, in one thread that lives as long as the worker.

    A thread of our own and not an executor of the library: at the end of the process that would
    wait for a computation that hangs.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._last: Future[Any] | None = None
        self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        return self._last is not None and not self._last.done()

    def submit(
        self, work: Callable[[], Any], finished: Callable[[], object] | None = None
    ) -> Future[Any] | None:
        """Compute in the thread.

        Args:
            work: What to compute; its result or exception is the future's.
            finished: Called in the thread once the future is done.

        Returns:
            The future; None when the worker is busy: nothing is queued, because an answer to an
            old observation is worth nothing.
        """
        if self.busy:
            return None
        future: Future[Any] = Future()
        if finished is not None:
            future.add_done_callback(lambda _: finished())
        self._last = future
        self._jobs.put((work, future))
        return future

    def close(self, timeout_s: float = 1.0) -> bool:
        """End the thread; False when what it computes does not end in time."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            # Neither the observation nor the answer is kept until the next one comes.
            del job, work, future
