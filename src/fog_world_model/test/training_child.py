"""Train a tiny world model in a process of its own, and have something happen to it on the way.

Not a test: the tests run it, in processes that a server forks which has imported everything, so
that they start at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.training.loop_config import LoopConfig
from fog_world_model.training.train_world_models import train_global, train_local


@dataclass(frozen=True)
class Answer:
    """How a child process ended."""

    status: int
    stdout: str
    stderr: str


def start(told: dict[str, Any], folder: Path, processes: int = 1) -> list[ForkServerProcess]:
    """Start processes that train together; their output goes to files in ``folder``.

    What is ``told``: ``kind``, ``store``, ``output``, ``loop`` (settings), ``resume``,
    ``largest_file`` in bytes, and what happens in process ``rank`` at which call of the loss:
    ``at`` (call -> name of a signal, ``out of memory``, or ``not a number`` for the loss of the
    window that is then in row 1, whenever it is computed).
    """
    context = multiprocessing.get_context("forkserver")
    # What is installed; before Python 3.13 the server does not look in this file's folder.
    context.set_forkserver_preload(["fog_world_model.training.train_world_models"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = []
    for rank in range(processes):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        arguments = (told, str(folder / f"{rank}"), variables if processes > 1 else {})
        found.append(context.Process(target=_child, args=arguments))
        found[-1].start()
    return found


def train(told: dict[str, Any], folder: Path, processes: int = 1) -> list[Answer]:
    """Start processes as :func:`start` does, and wait for their end."""
    running = start(told, folder, processes)
    answers = []
    try:
        for rank, process in enumerate(running):
            process.join(120)
            assert process.exitcode is not None, "still running after 120 s"
            texts = [(folder / f"{rank}.{name}").read_text() for name in ("stdout", "stderr")]
            answers.append(Answer(process.exitcode, *texts))
    finally:
        for process in running:
            process.kill()
            process.join()
    return answers


def _child(told: dict[str, Any], output: str, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    status = _train(told)
    sys.stdout.flush()
    sys.exit(status)


def _train(told: dict[str, Any]) -> int:
    torch.set_num_threads(1)
    if limit := told.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    kind = {"global": GlobalModel, "local": LocalModel}[told["kind"]]
    true_loss, calls, spoiled = kind.loss, 0, torch.tensor(float("inf"))

    def loss(self: Any, windows: Any) -> dict[str, torch.Tensor]:
        nonlocal calls, spoiled
        calls += 1
        happens = told.get("at", {}).get(calls)
        if happens and int(os.environ.get("RANK", "0")) == told.get("rank", 0):
            print(f"{happens} at call {calls}", file=sys.stderr, flush=True)
            if happens == "out of memory":
                torch.empty(2**58)
            elif happens == "not a number":
                spoiled = windows.image[1].clone()
            else:
                os.kill(os.getpid(), signal.Signals[happens])
        losses = true_loss(self, windows)
        if any(torch.equal(image, spoiled) for image in windows.image):
            losses["total"] = losses["total"] * float("nan")
        return losses

    kind.loss = loss  # type: ignore[method-assign]
    fit = {"global": train_global, "local": train_local}[told["kind"]]
    loop = LoopConfig(**{"device": "cpu", **told["loop"]})
    try:
        result = fit(
            EpisodeStore(told["store"]), told["output"], loop, preset="tiny", window=5,
            resume=told.get("resume", False),
        )  # fmt: skip
    except FogError as error:
        print(f"fog: {error}", file=sys.stderr)
        return 2
    if result.main:
        print(json.dumps({"step": result.step, "losses": result.losses, "curve": result.curve}))
    return 130 if result.interrupted else 0
