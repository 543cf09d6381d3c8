"""The HTTP interface for programs: an imagined environment, one request a step.

======================  ==========================================================================
``GET /api/status``     the task, and whether the world is taken
``POST /api/env``       take it: answers with a token, sizes and bounds; 409 where it is taken
``POST /api/env/reset`` ``seed``, ``episode``, ``row`` (each may be left out): first observation
``POST /api/env/step``  ``action``: observation, reward, terminated, truncated
``DELETE /api/env``     give it back
======================  ==========================================================================

The token goes into every further request as ``Authorization: Bearer TOKEN``. Arrays are objects of
``dtype`` (little-endian), ``shape`` and ``data`` (base64 of the bytes, row after row).
"""

from __future__ import annotations

import base64
import math
import secrets
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter, Header, HTTPException
from pydantic import BaseModel, Field
from torch import Tensor

from fog_bringup.play.program_env import ProgramEnv
from fog_bringup.play.seat import Seat, SeatTakenError, Visitor
from fog_bringup.play.worker import Worker
from fog_bringup.play.world import PlayedWorld
from fog_world_model.data.windows import to_uint8_image
from fog_world_model.errors import FogError


class Opening(BaseModel):
    """What a program asks for."""

    split: Literal["training", "validation"] = "training"
    """Of the episodes that contexts are drawn from."""
    images: Literal["uint8", "float32"] = "uint8"
    """``[height, width, channel]``, or ``[channel, height, width]`` in [-1, 1]."""
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    """Steps after which a world is cut; the task's own limit when not given."""


class Reset(BaseModel):
    """Start another world."""

    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Of imagination and contexts from now on."""
    episode: int | None = None
    """Where to start; a context is drawn without it."""
    row: int = 0
    """Of that episode: the first observation of the context."""


class Step(BaseModel):
    """Go on by one step."""

    action: list[float]
    """Per field in [-1, 1]."""


def array(values: Tensor) -> dict[str, Any]:
    """An array as JSON values."""
    content = np.ascontiguousarray(values.detach().cpu().numpy())
    content = content.astype(content.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(content.tobytes()).decode()
    return {"dtype": content.dtype.str, "shape": list(content.shape), "data": data}


class Programs:
    """The environment that a program has, as long as it has the seat."""

    def __init__(self, world: PlayedWorld, worker: Worker, seat: Seat) -> None:
        """Share the world, the thread and the seat with the page."""
        self._world, self._worker, self._seat = world, worker, seat
        self._opening = Opening()
        self._env: ProgramEnv | None = None

    async def open(self, opening: Opening) -> dict[str, Any]:
        """Take the seat.

        Raises:
            SeatTakenError: Somebody else has it.
        """
        visitor = self._seat.take("program")
        self._opening, self._env = opening, None
        task = self._world.store.task
        return {
            "token": visitor.token,
            "task": task.to_dict(),
            "task_hash": task.hash,
            "image": [task.image.height, task.image.width, 3],
            "proprioception": [task.proprioception_size],
            "action": [task.action_size],
            "idle_timeout_s": self._seat.idle_timeout_s,
        }

    async def reset(self, request: Reset) -> dict[str, Any]:
        """Start a world.

        Raises:
            FogError: The split has no episode that is long enough.
            ValueError: The chosen place does not exist.
        """
        opening, env = self._opening, self._env

        def start() -> tuple[ProgramEnv, dict[str, Any]]:
            limit = opening.max_steps or self._world.store.task.episode.max_steps
            began = env or self._world.environment(split=opening.split, max_steps=limit)
            seed = request.seed
            if env is None and seed is None:
                seed = secrets.randbelow(2**31)
            windows, image, proprioception = began.reset(seed, request.episode, request.row)
            return began, {
                "image": self._image(image[0]),
                "proprioception": array(proprioception[0]),
                # A recurrent policy is warmed up on what was before.
                "context": {
                    "image": self._image(windows.image[0]),
                    "proprioception": array(windows.proprioception[0]),
                    "action": array(windows.action[0]),
                },
            }

        began, answer = await self._worker.call(start)
        if self._opening is opening:
            self._env = began
        return answer

    def _image(self, image: Tensor) -> dict[str, Any]:
        if self._opening.images == "float32":
            return array(image)
        return array(torch.from_numpy(np.ascontiguousarray(to_uint8_image(image))))

    async def step(self, action: list[float]) -> dict[str, Any]:
        """Go on by one step.

        Raises:
            ValueError: There is no world yet, or the action does not fit.
        """
        env, size = self._env, self._world.store.task.action_size
        if env is None:
            raise ValueError("reset the environment before its first step")
        if len(action) != size or not all(math.isfinite(v) and abs(v) <= 1.0 for v in action):
            raise ValueError(f"action: expected {size} numbers in [-1, 1], got {action}")

        def go_on() -> dict[str, Any]:
            given = torch.tensor([action], dtype=torch.float32, device=self._world.device)
            step, cut = env.step(given)
            return {
                "image": self._image(step.image[0]),
                "proprioception": array(step.proprioception[0]),
                "reward": float(step.reward[0]),
                "terminated": bool(step.end[0]),
                "truncated": cut,
            }

        return await self._worker.call(go_on)

    def close(self, visitor: Visitor) -> None:
        """Give the seat back."""
        self._seat.leave(visitor)
        self._env = None


def program_routes(world: PlayedWorld, worker: Worker, seat: Seat) -> APIRouter:
    """The routes above."""
    routes, programs = APIRouter(prefix="/api"), Programs(world, worker, seat)

    def who(authorization: str) -> Visitor:
        visitor = seat.of(authorization.removeprefix("Bearer "))
        if visitor is None or visitor.kind != "program":
            raise HTTPException(
                401,
                "this token is not, or no longer, that of the program that has the world; "
                f"one that does nothing for {seat.idle_timeout_s:.0f} s loses it",
            )
        seat.touch(visitor)
        return visitor

    @routes.get("/status")
    async def status() -> dict[str, Any]:
        task = world.store.task
        return {
            "task": task.name,
            "control_hz": task.control_hz,
            "taken": seat.visitor is not None,
            "description": seat.description,
        }

    @routes.post("/env")
    async def open_environment(opening: Opening) -> dict[str, Any]:
        try:
            return await programs.open(opening)
        except SeatTakenError as error:
            raise HTTPException(409, str(error)) from error

    @routes.post("/env/reset")
    async def reset(body: Reset, authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        who(authorization)
        try:
            return await programs.reset(body)
        except (FogError, ValueError) as error:
            raise HTTPException(422, str(error)) from error

    @routes.post("/env/step")
    async def step(body: Step, authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        who(authorization)
        try:
            return await programs.step(body.action)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    @routes.delete("/env")
    async def close(authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        programs.close(who(authorization))
        return {}

    return routes
