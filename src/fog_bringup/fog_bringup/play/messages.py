"""What the server and the page say to each other: JSON objects with a ``type``.

From the page:

==========  ======================================================================================
``drive``   ``deflection`` per field in [-1, 1], from now on; ``input``: a person caused it
``shown``   ``step``: the page has drawn it; only a few steps are under way
``run``     let time go on
``stop``    hold time
``once``    one step, then hold time
``reset``   ``episode``, ``row``, ``seed``: start another world (each may be left out)
``replay``  start the same world again and give it the recorded actions
==========  ======================================================================================

To the page: ``hello`` once, then ``context`` for every world, ``step`` for every step, ``mode``
when it changes, ``error`` for what could not be done, ``taken`` or ``idle`` before the end.
"""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

from fog_bringup.play.controls import field_controls
from fog_bringup.play.world import MOST_STEPS, Image, PlayedContext, PlayedStep, PlayedWorld
from fog_world_model.task import TaskConfig

MOST_EPISODES = 1000
"""Episodes that the page offers, held-out ones first: more make a list that nobody reads."""


def pixels(image: Image) -> str:
    """RGB bytes in base64, row after row."""
    return base64.b64encode(image.tobytes()).decode()


def hello(
    world: PlayedWorld, token: str, idle_timeout_s: float, notes: list[str]
) -> dict[str, Any]:
    """What the page has to know about the world."""
    task: TaskConfig = world.store.task
    return {
        "type": "hello",
        "token": token,
        "task": task.name,
        "description": task.description,
        "control_hz": task.control_hz,
        "width": task.image.width,
        "height": task.image.height,
        "context_frames": world.model.context_frames,
        "max_steps": task.episode.max_steps,
        "most_steps": MOST_STEPS,
        "controls": [dataclasses.asdict(c) for c in field_controls(task.action)],
        "episodes": [
            {"index": c.index, "rows": c.rows, "held_out": c.held_out, "outcome": c.outcome}
            for c in sorted(world.choices, key=lambda c: not c.held_out)[:MOST_EPISODES]
        ],
        "device": str(world.device),
        "idle_timeout_s": idle_timeout_s,
        "notes": notes,
    }


def context(started: PlayedContext) -> dict[str, Any]:
    """A world has begun."""
    return {
        "type": "context",
        "episode": started.episode,
        "row": started.row,
        "seed": started.seed,
        "recorded_steps": started.recorded_steps,
        "images": [pixels(image) for image in started.images],
    }


def step(done: PlayedStep, task: TaskConfig, rate_hz: float | None) -> dict[str, Any]:
    """A step was imagined.

    Args:
        done: The step.
        task: Says what the action means in physical units.
        rate_hz: Steps per second of late; None while too few were made.
    """
    recorded = done.recorded_image
    return {
        "type": "step",
        "step": done.step,
        "image": pixels(done.image),
        "command": [float(v) for v in task.action.to_physical(done.action)],
        "reward": done.reward,
        "end": done.end,
        "end_probability": done.end_probability,
        "milliseconds": 1e3 * done.seconds,
        "rate_hz": rate_hz,
        "recorded_image": None if recorded is None else pixels(recorded),
        "recorded_reward": done.recorded_reward,
        "recorded_end": done.recorded_end,
        "psnr_db": done.psnr_db,
    }
