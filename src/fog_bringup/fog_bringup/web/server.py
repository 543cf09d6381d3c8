"""How a page is served: a port that is taken first, and uvicorn on it."""

from __future__ import annotations

import errno
import math
import socket
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from fog_bringup.web.guard import is_loopback
from fog_world_model.errors import FogError

SHARED_STATIC = Path(__file__).parent / "static"
"""Look and small functions of all pages; they need nothing from elsewhere."""
_CLOSE_S = 3
"""How long an end waits for open connections,"""
_CLOSE_NODE_S = 1
"""and how long in a node, which a launch file gives less than two seconds to end."""


def listen(host: str, port: int, *, spelled: str = "--{} {}") -> socket.socket:
    """Take a port, before anything takes long.

    Args:
        host: Name or address of this machine.
        port: TCP port; 0 for any that is free.
        spelled: How the user gives an option and its value, for the messages.

    Raises:
        FogError: There is no such address here, or the port is taken or not allowed.
    """
    here, there = spelled.format("host", host), spelled.format("port", port)
    if not 0 <= port <= 65535:  # the resolver would take the remainder
        raise FogError(f"{there}: expected 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise FogError(f"{here}: not a name or address of this machine ({error})") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise FogError(
                f"{there}: taken by another program on {host}; end it, or choose another "
                "port (0: any that is free)"
            ) from error
        if error.errno == errno.EACCES:
            raise FogError(f"{there}: not allowed; choose one from 1024 on") from error
        raise FogError(f"{here}: cannot be bound ({error.strerror})") from error
    return listener


def is_public(listener: socket.socket) -> bool:
    """Whether others than this machine itself can reach a port."""
    return not is_loopback(listener.getsockname()[0])


def guarded_names(host: str, names: tuple[str, ...], public: bool) -> set[str]:
    """Names other than ``localhost`` by which browsers may call this machine.

    Args:
        host: What was asked to listen on.
        names: Further ones that the user gave.
        public: See :func:`is_public`.
    """
    return {*names, host, *([socket.gethostname()] if public else [])}


def page_url(listener: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    address, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if address in ("0.0.0.0", "::") else address
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"


def network_warning(listener: socket.socket, program: str, danger: str, option: str) -> str:
    """What to say loudly where a port is not this machine's alone.

    Args:
        listener: The port.
        program: What listens.
        danger: What everybody on the network can do there, lines of at most 74 characters.
        option: What to leave out for a page of one's own.
    """
    address, port = listener.getsockname()[:2]
    lines = [
        f"{program} listens on {address} port {port}: EVERYBODY who reaches this",
        *f"machine over the network {danger}".split("\n"),
        f"There is no password and no encryption. For yourself alone, leave {option}",
        f"out and forward the port: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE",
    ]
    line = "!" * 78
    return "\n".join([line, *(f"!!  {text}" for text in lines), line])


def serve(app: FastAPI, listener: socket.socket, *, idle_timeout_s: float = 300.0) -> None:
    """Answer until SIGINT or SIGTERM, then close what is open.

    Args:
        app: What answers.
        listener: From :func:`listen`.
        idle_timeout_s: A connection without a request is kept for a little longer than this.

    Raises:
        KeyboardInterrupt: It was SIGINT.
    """
    _server(app, idle_timeout_s, _CLOSE_S).run(sockets=[listener])


class BackgroundServer:
    """Answers in a thread of its own; signals stay with the main thread.

    Args:
        app: What answers.
        listener: From :func:`listen`; closed with the server.
    """

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        self._server, self._listener = _server(app, 60.0, _CLOSE_NODE_S), listener
        self._thread = threading.Thread(target=self._run, name="web server", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it answers, or will in a moment."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Close what is open, and wait for it."""
        self._server.should_exit = True
        self._thread.join(_CLOSE_NODE_S + 0.5)
        self._listener.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])


def _server(app: FastAPI, idle_timeout_s: float, close_s: int) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        # A machine that vanished is noticed within ten seconds.
        ws_ping_interval=5.0,
        ws_ping_timeout=5.0,
        ws_max_size=1 << 16,
        # A program may think between two requests; its connection is kept as long as its seat.
        timeout_keep_alive=math.ceil(idle_timeout_s) + 5,
        timeout_graceful_shutdown=close_s,
    )
    return uvicorn.Server(config)
