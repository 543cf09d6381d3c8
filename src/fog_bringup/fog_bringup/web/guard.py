"""Keeps other web pages out: a check of the Host and Origin of every request."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LARGEST_BODY = 1 << 20
"""Bytes; an action of a thousand fields is far below it."""
_HEADERS = {
    # Everything the page needs is its own.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that refuses strangers.

    A page of another site can make a visitor's browser send requests here. It then names itself in
    Origin, and is refused. It can also let its own name resolve to this machine (DNS rebinding);
    then Host is that name, and is refused. An address cannot be rebound, so addresses are good.
    Programs send no Origin.
    """

    def __init__(self, app: ASGIApp, *, names: Iterable[str] = (), public: bool = False) -> None:
        """Wrap an application.

        Args:
            app: What is kept.
            names: Names other than ``localhost`` by which this machine may be called.
            public: Whether addresses other than loopback are good.
        """
        self._app, self._public = app, public
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it: 400, 403 or 413."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            status, text = refusal
            await PlainTextResponse(text + "\n", status)(scope, receive, send)
        else:
            # Closed before it was accepted: the browser sees status 403.
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._known(host):
            return 400, f"this server is not called {host!r}; use the address that it printed"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (
            f"http://{host}".lower(),
            f"https://{host}".lower(),
        ):
            return 403, f"requests from pages of {origin} are refused"
        try:
            if int(headers.get("content-length", "0")) > _LARGEST_BODY:
                return 413, f"the request is longer than {_LARGEST_BODY} bytes"
        except ValueError:
            return 400, "Content-Length is not a number"
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if is_loopback(name) or name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._public


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
