"""A learned world for tests, made of made-up recordings, and `fog play` on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from processes import NodeProcess, ros_environment

from fog_world_model.data.episodes import Episode, EpisodeWriter
from fog_world_model.task import TaskConfig
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import train_global


def write_toy_world(task: TaskConfig, folder: Path, *, steps: int = 30) -> tuple[Path, Path]:
    """Write an episode store and a checkpoint.

    A bright square goes through each episode's picture. The model is hardly trained: it only has
    weights that are not zero, so that an action matters.

    Args:
        task: The task of both.
        folder: Where to write them.
        steps: Training steps.

    Returns:
        The store and the checkpoint.
    """
    with EpisodeWriter(folder / "store", task) as writer:
        for number in range(6):
            writer.append(_episode(task, number, 14 + 2 * number), source=f"toy#{number}")
        store = writer.finish(validation_fraction=0.3, report={})
    loop = LoopConfig(
        time_budget_s=60.0,
        max_steps=steps,
        batch_size=4,
        learning_rate=1e-2,
        warmup_steps=1,
        device="cpu",
        threads=1,
    )
    train_global(store, folder / "global", loop, preset="tiny")
    return folder / "store", folder / "global"


def start_play(toy_world: tuple[Path, Path], *more: str) -> NodeProcess:
    """Start `fog play`; it finds the store beside the checkpoint.

    Args:
        toy_world: What :func:`write_toy_world` returned.
        *more: Further options.
    """
    command = ["fog", "play", str(toy_world[1]), "--port", "0", "--threads", "1", *more]
    return NodeProcess(command, ros_environment(), limit_s=300.0)


def url_of(process: NodeProcess) -> str:
    """Where a `fog play` answers, once it does."""
    return process.wait_for(r"http://\S+:\d+", 60.0)[0]


def _episode(task: TaskConfig, number: int, length: int) -> Episode:
    generator = np.random.default_rng(number)
    image = np.full((length, task.image.height, task.image.width, 3), 40 + 20 * number, np.uint8)
    for t in range(length):
        image[t, 8:16, (2 * t) % 24 : (2 * t) % 24 + 8] = (250, 200, 10 * number)
    action = generator.uniform(-1, 1, (length, task.action_size)).astype(np.float32)
    return Episode(
        image=image,
        proprioception=generator.normal(size=(length, task.proprioception_size)).astype(np.float32),
        action=action,
        reward=generator.uniform(size=length).astype(np.float32),
        end=np.zeros(length, bool),
        stamp_ns=np.arange(length) * task.period_ns,
    )
