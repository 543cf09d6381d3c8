"""The web server of ``fog play``: page, WebSocket and HTTP interface on one port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Response
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from fog_bringup.play.program import program_routes
from fog_bringup.play.seat import Seat, SeatTakenError
from fog_bringup.play.session import Session
from fog_bringup.play.video import encode_video
from fog_bringup.play.worker import Worker
from fog_bringup.play.world import PlayedWorld
from fog_bringup.web.guard import Guard
from fog_bringup.web.server import SHARED_STATIC
from fog_world_model.errors import FogError

STATIC = Path(__file__).parent / "static"
"""The page; what it shares with others is under ``/shared``."""
_log = logging.getLogger("fog.play")


def make_app(
    world: PlayedWorld,
    worker: Worker,
    *,
    idle_timeout_s: float = 300.0,
    names: Iterable[str] = (),
    public: bool = False,
    notes: Iterable[str] = (),
) -> FastAPI:
    """The application.

    Args:
        world: What is played.
        worker: The thread that owns the device; it ends with the server.
        idle_timeout_s: A visitor who does nothing for so long loses the world.
        names: Names other than ``localhost`` by which this machine may be called.
        public: Whether it may be called by addresses other than loopback.
        notes: Shown on the page.
    """
    seat, shown = Seat(idle_timeout_s), list(notes)
    encoding = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_expire(seat))
        yield
        watch.cancel()
        worker.close()

    # The pages of documentation that FastAPI offers load their scripts from elsewhere.
    app = FastAPI(
        title="fog play", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(Guard, names=tuple(names), public=public)
    app.include_router(program_routes(world, worker, seat))

    @app.websocket("/play")
    async def play(socket: WebSocket) -> None:
        await socket.accept()
        try:
            visitor = seat.take("person")
        except SeatTakenError as error:
            await socket.send_json({"type": "taken", "text": str(error)})
            await socket.close(4001)
            return
        try:
            await Session(socket, world, worker, seat, visitor, shown).run()
        except WebSocketDisconnect:
            pass
        except Exception as error:
            _log.exception("the session ended")
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket.send_json({"type": "error", "text": f"{error!r}", "fatal": True})
                await socket.close(1011)
        finally:
            seat.leave(visitor)

    @app.get("/play/video")
    async def video(authorization: Annotated[str, Header()] = "") -> Response:
        visitor = seat.of(authorization.removeprefix("Bearer "))
        if visitor is None or visitor.kind != "person":
            raise HTTPException(401, "only who plays can save the video")
        seat.touch(visitor)
        try:
            context, steps = await worker.call(world.film)
            async with encoding:
                content = await asyncio.to_thread(encode_video, world.store.task, context, steps)
        except FogError as error:
            raise HTTPException(500, str(error)) from error
        return Response(content, media_type="video/mp4", headers={"Cache-Control": "no-store"})

    app.mount("/shared", StaticFiles(directory=SHARED_STATIC))
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


async def _expire(seat: Seat) -> None:
    while True:
        await asyncio.sleep(min(1.0, seat.idle_timeout_s / 10))
        seat.expire()
