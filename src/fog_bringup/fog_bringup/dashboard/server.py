"""The web server of the operator's page: who may watch, who may stop, who may start.

==============================  ===================================================================
``GET /api/state``              all that the page shows but the picture, JSON
``POST /api/emergency_stop``    anybody; 200: the policy node has confirmed it, 202: not yet
``POST /api/reset``             needs the page's token: the robot may move
``POST /api/lifecycle/NAME``    ``configure``, ``activate``, ``deactivate``; needs the token too
``/watch``                      WebSocket: ``hello`` with the token, then states and pictures
==============================  ===================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from fog_bringup.action_fields import field_label, field_unit
from fog_bringup.dashboard.board import Board
from fog_bringup.dashboard.operator import TRANSITIONS, Answer, Robot, StopButton
from fog_bringup.dashboard.viewer import Viewer
from fog_bringup.web.guard import Guard
from fog_bringup.web.server import SHARED_STATIC

STATIC = Path(__file__).parent / "static"
"""The page; what it shares with others is under ``/shared``."""
MOST_VIEWERS = 16
_ANSWER_S = 90.0
"""Longer than anything that asks the policy node waits itself."""
_log = logging.getLogger("fog.dashboard")


def make_app(
    board: Board,
    robot: Robot,
    *,
    policy_node: str,
    names: Iterable[str] = (),
    public: bool = False,
    may_start: bool = True,
    notes: Iterable[str] = (),
) -> FastAPI:
    """The application.

    Args:
        board: What is shown.
        robot: Does what is asked for.
        policy_node: The policy node's full name.
        names: Names other than ``localhost`` by which this machine may be called.
        public: Whether it may be called by addresses other than loopback.
        may_start: Whether the page may start movement; everybody may stop it in any case.
        notes: Shown on the page.
    """
    token, shown = secrets.token_urlsafe(24), list(notes)
    stop_button = StopButton(robot, f"{policy_node}/emergency_stop")
    viewers: set[Viewer] = set()
    changing = asyncio.Lock()

    def state() -> dict[str, Any]:
        return {
            "type": "state",
            **board.snapshot(),
            "stop": stop_button.describe(),
            "viewers": len(viewers),
        }

    def require_start(authorization: str) -> None:
        if not may_start:
            raise HTTPException(403, "this page only watches and stops (parameter may_start)")
        given = authorization.removeprefix("Bearer ").encode()
        if not secrets.compare_digest(token.encode(), given):
            raise HTTPException(401, "this needs the token of the page; load the page again")

    # The pages of documentation that FastAPI offers load their scripts from elsewhere.
    app = FastAPI(title="fog dashboard", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, names=tuple(names), public=public)

    @app.get("/api/state")
    async def get_state() -> dict[str, Any]:
        return state()

    @app.post("/api/emergency_stop")
    async def emergency_stop() -> JSONResponse:
        found = await stop_button.press()
        return JSONResponse(found, 200 if found["state"] == "confirmed" else 202)

    @app.post("/api/reset")
    async def reset(authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        require_start(authorization)
        text = _say(await _wait(robot.reset(), "reset"))
        stop_button.clear()
        return text

    @app.post("/api/lifecycle/{transition}")
    async def lifecycle(
        transition: str, authorization: Annotated[str, Header()] = ""
    ) -> dict[str, Any]:
        require_start(authorization)
        if transition not in TRANSITIONS:
            raise HTTPException(404, f"{transition}: expected one of {', '.join(TRANSITIONS)}")
        if changing.locked():
            raise HTTPException(409, "the policy node is still busy with the transition before")
        async with changing:
            text = _say(await _wait(robot.change(transition), transition))
        if transition == "activate":
            stop_button.clear()
        return text

    @app.websocket("/watch")
    async def watch(socket: WebSocket) -> None:
        await socket.accept()
        if len(viewers) >= MOST_VIEWERS:
            text = f"{MOST_VIEWERS} others watch already; the emergency stop works all the same"
            await socket.send_json({"type": "full", "text": text})
            await socket.close(4001)
            return
        viewer = Viewer(socket, board.camera, state)
        viewers.add(viewer)
        try:
            await viewer.run(_hello(board, policy_node, token if may_start else "", shown))
        except WebSocketDisconnect:
            pass
        except Exception:
            _log.exception("a viewer's connection ended")
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket.close(1011)
        finally:
            viewers.discard(viewer)

    app.mount("/shared", StaticFiles(directory=SHARED_STATIC))
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


def _hello(board: Board, policy_node: str, token: str, notes: list[str]) -> dict[str, Any]:
    """What a page has to know once."""
    task = board.task
    action = task.action
    return {
        "type": "hello",
        "token": token,
        "task": task.name,
        "description": task.description,
        "policy_node": policy_node,
        "control_hz": task.control_hz,
        "image_topic": task.image.topic,
        "action_topic": action.topic,
        "stale_after_s": board.camera.stale_after_s,
        "fields": [
            {"name": n, "label": field_label(n), "unit": field_unit(n), "low": low, "high": high}
            for n, low, high in zip(action.fields, action.low, action.high, strict=True)
        ],
        "notes": notes,
    }


async def _wait(future: Any, what: str) -> Answer:
    try:
        answer: Answer = await asyncio.wait_for(
            asyncio.shield(asyncio.wrap_future(future)), _ANSWER_S
        )
    except asyncio.TimeoutError as error:
        raise HTTPException(504, f"{what}: no answer within {_ANSWER_S:g} s") from error
    return answer


def _say(answer: Answer) -> dict[str, Any]:
    if not answer.success:
        raise HTTPException(502, answer.text)
    return {"text": answer.text}
