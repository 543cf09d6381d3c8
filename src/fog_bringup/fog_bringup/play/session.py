"""One person who drives the world over a WebSocket."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import time
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from fog_bringup.play import messages
from fog_bringup.play.controls import action_of
from fog_bringup.play.seat import Seat, Visitor
from fog_bringup.play.worker import Worker
from fog_bringup.play.world import PlayedStep, PlayedWorld

_UNDER_WAY_S = 0.4
"""Steps of this time, but at least two, may be under way to the page: a slow connection slows the
world down."""
_RATE_STEPS = 10
"""Steps over which the rate is taken."""
STOPPED, DRIVING, REPLAYING = "stopped", "driving", "replaying"


class Session:
    """Listens to a page, and lets the world go on at the task's rate meanwhile."""

    def __init__(
        self,
        socket: WebSocket,
        world: PlayedWorld,
        worker: Worker,
        seat: Seat,
        visitor: Visitor,
        notes: list[str],
    ) -> None:
        """Take over a socket that was accepted; ``notes`` are shown on the page."""
        self._socket, self._world, self._worker = socket, world, worker
        self._seat, self._visitor, self._notes = seat, visitor, notes
        self._task = world.store.task
        self._mode = STOPPED
        self._deflection = [0.0] * self._task.action_size
        self._under_way = max(2, round(_UNDER_WAY_S * self._task.control_hz))
        self._once = False
        self._sent = self._shown = 0
        self._times: collections.deque[float] = collections.deque(maxlen=_RATE_STEPS + 1)
        self._wake = asyncio.Event()
        # A reset must not fall between a step and its message.
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Go on until the page is gone, or has done nothing for too long."""
        idle = self._seat.idle_timeout_s
        await self._send(messages.hello(self._world, self._visitor.token, idle, self._notes))
        await self._reset({"episode": self._world.first_choice().index, "seed": 0})
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._go_on()),
            asyncio.create_task(self._visitor.ended.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._visitor.ended.is_set():
                await self._send({"type": "idle", "seconds": idle})
                await self._socket.close(4002)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, WebSocketDisconnect):
                raise error

    async def _send(self, message: dict[str, Any]) -> None:
        # Gone is gone: _listen() hears of it too.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.send_text(json.dumps(message))

    async def _listen(self) -> None:
        while True:
            try:
                try:
                    text = await self._socket.receive_text()
                except RuntimeError:  # a send has found out first that the visitor is gone
                    return
                await self._obey(json.loads(text))
            except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
                await self._send({"type": "error", "text": f"not understood: {error}"})

    async def _obey(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "shown":
            self._shown = max(self._shown, int(message["step"]))
            self._wake.set()
            return
        if kind == "drive":
            action_of(message["deflection"], self._task.action)  # ValueError for nonsense
            self._deflection = [float(v) for v in message["deflection"]]
            if not message.get("input"):
                return
            if self._mode == REPLAYING:  # the person takes over
                await self._set_mode(DRIVING)
        self._seat.touch(self._visitor)
        if kind == "run":
            await self._set_mode(DRIVING)
        elif kind == "stop":
            await self._set_mode(STOPPED)
        elif kind == "once":
            self._once = True
            await self._set_mode(STOPPED)
            self._wake.set()
        elif kind == "reset":
            await self._reset(message)
        elif kind == "replay":
            await self._replay()
        elif kind != "drive":
            raise ValueError(f"type {kind!r}")

    async def _set_mode(self, mode: str, why: str = "") -> None:
        self._mode = mode
        self._times.clear()
        self._wake.set()
        await self._send({"type": "mode", "mode": mode, "why": why})

    async def _reset(self, message: dict[str, Any]) -> None:
        episode, row, seed = (message.get(key) for key in ("episode", "row", "seed"))
        if episode is None:
            others = [c for c in self._world.choices if c.held_out] or self._world.choices
            episode = random.choice(others).index
        seed = random.randrange(2**31) if seed is None else int(seed)
        async with self._turn:
            self._shown = self._sent = 0
            started = await self._worker.call(
                self._world.start, int(episode), int(row or 0), seed % 2**63
            )
            await self._send(messages.context(started))
            await self._set_mode(STOPPED)

    async def _replay(self) -> None:
        async with self._turn:
            self._shown = self._sent = 0
            await self._send(messages.context(await self._worker.call(self._world.again)))
            await self._set_mode(REPLAYING)

    async def _go_on(self) -> None:
        """Make a step whenever one is due, at the task's rate or as fast as the device can."""
        period = 1.0 / self._task.control_hz
        due = time.monotonic()
        while True:
            waits = self._mode == STOPPED and not self._once
            if waits or self._sent - self._shown >= self._under_way:
                self._wake.clear()
                await self._wake.wait()
                continue
            # A delay of less than a period is made up for, so that the rate is kept on average.
            now = time.monotonic()
            due = (due if now - due < period else now) + period
            await self._step()
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _step(self) -> None:
        async with self._turn:
            once, self._once = self._once, False
            if self._mode == STOPPED and not once:
                return
            done: PlayedStep | None
            if self._mode == REPLAYING:
                done = await self._worker.call(self._world.replay_step)
            else:
                action = action_of(self._deflection, self._task.action)
                done = await self._worker.call(self._world.step, action)
            if done is None:
                await self._set_mode(STOPPED, "the recording ends here")
                return
            self._sent = done.step
            self._times.append(time.monotonic())
            span = self._times[-1] - self._times[0]
            rate = (len(self._times) - 1) / span if len(self._times) > 3 and span > 0 else None
            await self._send(messages.step(done, self._task, rate))
            if done.end and self._mode == DRIVING:
                await self._set_mode(STOPPED, "the world says that the episode ends here")
            elif done.recorded_end and self._mode == REPLAYING:
                await self._set_mode(STOPPED, "the recorded episode ends here")
