"""The one thread that owns the device."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Runs what touches the model, one call after the other, beside the server's event loop.

    The event loop stays free to answer meanwhile, and no two calls meet on the device (CUDA graphs
    even belong to the thread that recorded them). A caller who is cancelled no longer waits, but
    the call ends before the next one begins.
    """

    def __init__(self) -> None:
        """Start the thread with the first call."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="world")

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in the thread, and wait for what it returns or raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))

    def wait_for(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As :meth:`call`, for those who have no event loop yet."""
        return self._thread.submit(work, *args, **kwargs).result()

    def close(self) -> None:
        """Wait for the call under way, and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
