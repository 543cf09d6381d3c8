"""The thread that computes: one thing at a time, errors passed on, nothing queued."""

from __future__ import annotations

import threading

import pytest

from fog_policy.inference_worker import InferenceWorker


def test_computes_in_one_other_thread_and_tells_when_done() -> None:
    worker = InferenceWorker()
    told = threading.Event()
    first = worker.submit(threading.get_ident, told.set)
    assert first is not None
    assert first.result(10) != threading.get_ident()
    assert told.wait(10)
    second = worker.submit(threading.get_ident)
    assert second is not None and second.result(10) == first.result(0)
    assert worker.close()


def test_a_busy_worker_takes_nothing_more() -> None:
    worker, release = InferenceWorker(), threading.Event()
    first = worker.submit(lambda: release.wait(30))
    assert worker.busy
    assert worker.submit(lambda: 1) is None
    assert not worker.close(0.05), "what hangs is not waited for"
    release.set()
    assert first is not None and first.result(10)
    assert worker.close(10)


def test_an_error_is_the_futures_and_the_thread_goes_on() -> None:
    worker = InferenceWorker()
    failed = worker.submit(lambda: 1 / 0)
    assert failed is not None
    with pytest.raises(ZeroDivisionError):
        failed.result(10)
    after = worker.submit(lambda: 7)
    assert after is not None and after.result(10) == 7
    worker.close()
