"""One page that watches.

A page gets the next state once it has shown the one before, and always the newest: on a slow
connection it sees fewer of them, and never old ones that have piled up on the way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from fog_bringup.dashboard.camera import Camera

PERIOD_S = 0.1
"""States are sent this often at most."""


class Viewer:
    """Sends states, each followed by the picture that belongs to it if there is a new one.

    Args:
        socket: Accepted already.
        camera: Has the pictures.
        state: All that is shown, as plain data.
    """

    def __init__(
        self, socket: WebSocket, camera: Camera, state: Callable[[], dict[str, Any]]
    ) -> None:
        self._socket, self._camera, self._state = socket, camera, state
        self._shown = asyncio.Event()

    async def run(self, hello: dict[str, Any]) -> None:
        """Go on until the page is gone.

        Args:
            hello: Sent first.
        """
        await self._socket.send_text(json.dumps(hello))
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._send())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            # A send to a page that is gone fails in more than one way.
            if error is not None and not isinstance(
                error, (WebSocketDisconnect, RuntimeError, OSError)
            ):
                raise error

    async def _listen(self) -> None:
        while True:
            await self._socket.receive_text()  # only ever: it has been shown
            self._shown.set()

    async def _send(self) -> None:
        sent = 0
        while True:
            picture = None
            if self._camera.number != sent:
                picture = await asyncio.to_thread(self._camera.picture)
                sent = picture.number if picture is not None else self._camera.number
            self._shown.clear()
            state = self._state()
            state["camera"]["picture"] = None if picture is None else picture.number
            if picture is not None:
                state["camera"] |= {"width": picture.width, "height": picture.height}
            await self._socket.send_text(json.dumps(state))
            if picture is not None:
                await self._socket.send_bytes(picture.jpeg)
            await asyncio.gather(self._shown.wait(), asyncio.sleep(PERIOD_S))
