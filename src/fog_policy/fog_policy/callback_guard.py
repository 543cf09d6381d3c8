"""Hands the exceptions of a node's callbacks to whoever stops the robot. No ROS here.

An exception that leaves a callback ends the executor, and with it the process: zero commands would
be published on the way out, but there would be nobody left to say why, or to be configured again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class CallbackGuard:
    """Wraps callbacks.

    Args:
        failed: Called, instead of the exception's going on, with the callback's name for a person
            and the exception. What it raises itself does go on.
    """

    def __init__(self, failed: Callable[[str, Exception], object]) -> None:
        self._failed = failed

    def __call__(
        self, name: str, callback: Callable[Arguments, Result]
    ) -> Callable[Arguments, Result | None]:
        """Wrap one; it returns None where it failed.

        KeyboardInterrupt, by which signals end the node, and SystemExit are let through.
        """

        @functools.wraps(callback)
        def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result | None:
            try:
                return callback(*args, **kwargs)
            except Exception as error:
                self._failed(name, error)
                return None

        return guarded

    def service(self, name: str, callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Wrap a service's callback: who calls it gets an answer all the same.

        Args:
            name: For a person.
            callback: Takes request and response and returns the response, which has ``success``
                and ``message`` (std_srvs/srv/Trigger).
        """

        @functools.wraps(callback)
        def guarded(request: Any, response: Any) -> Any:
            try:
                return callback(request, response)
            except Exception as error:
                self._failed(name, error)
                response.success, response.message = False, f"failed: {error}"
                return response

        return guarded
