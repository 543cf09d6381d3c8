"""Exceptions go to one place, and signals do not."""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from fog_policy.callback_guard import CallbackGuard


def test_an_exception_is_handed_over_with_the_callbacks_name() -> None:
    failures: list[tuple[str, str]] = []
    guard = CallbackGuard(lambda name, error: failures.append((name, str(error))))
    half = guard("timer", lambda number: 1.0 / number)
    assert half(2) == 0.5
    assert failures == []
    assert half(0) is None
    assert failures == [("timer", "float division by zero")]


def test_a_service_is_answered_all_the_same() -> None:
    failures: list[str] = []
    guard = CallbackGuard(lambda name, error: failures.append(name))

    def broken(request: Any, response: Any) -> Any:
        raise RuntimeError("no disk")

    answer = guard.service("service x", broken)(None, SimpleNamespace(success=True, message=""))
    assert (answer.success, answer.message) == (False, "failed: no disk")
    assert failures == ["service x"]


def test_a_signal_goes_through() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallbackGuard(lambda name, error: None)("x", interrupted)()


def test_rclpy_sees_the_callbacks_own_arguments() -> None:
    """It counts them to find out whether a subscription wants to know about the message as well."""
    wrapped = CallbackGuard(lambda name, error: None)("x", functools.partial(pow, 2))
    inspect.signature(wrapped).bind(3)
    assert wrapped(3) == 8
