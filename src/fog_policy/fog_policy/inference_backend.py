"""The policy's step in PyTorch or in ONNX Runtime, whichever is faster on this machine. No ROS.

For one robot at a time most of PyTorch's time goes into calling operations, not into computing
them; ONNX Runtime runs the whole step as one call. Which one wins depends on the machine and the
size of the networks, so it is measured when the bundle is loaded.
"""

from __future__ import annotations

import importlib
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor
from fog_policy.bundle import Bundle
from fog_policy.decision import Controller
from fog_policy.recurrent_controller import RecurrentController
from fog_world_model.data.episodes import Normalisation
from fog_world_model.data.images import ImageArray
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState, kl_divergence
from fog_world_model.task import FloatArray, TaskConfig

BACKENDS = ("auto", "torch", "onnx")

PARITY = 1e-4
"""Actions in [-1, 1] of both may differ by this; float32 rounding is about 1e-6 a step."""

_INPUTS = ("image", "proprioception", "previous_action", "deterministic", "stochastic")
_OUTPUTS = ("action", "next_deterministic", "next_stochastic", "surprise")
_WARM_UP, _MEASURED = 5, 30
_OnnxState = tuple[FloatArray, FloatArray]
"""Deterministic and stochastic part, ``[1, size]`` each."""


class PolicyStep(nn.Module):
    """One step as a function of tensors alone: encode, filter, act."""

    def __init__(self, local: LocalModel, actor: Actor) -> None:
        super().__init__()
        self.local, self.actor = local, actor

    def forward(
        self,
        image: Tensor,
        proprioception: Tensor,
        previous_action: Tensor,
        deterministic: Tensor,
        stochastic: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Filter an observation and act.

        Args:
            image: ``[1, height, width, channel]`` uint8.
            proprioception: ``[1, field]``, normalised.
            previous_action: ``[1, action]`` in [-1, 1].
            deterministic: ``[1, deterministic]``.
            stochastic: ``[1, stochastic]``.

        Returns:
            Action ``[1, action]`` in [-1, 1], the two parts of the new state, and the surprise
            ``[1]``: KL of posterior and prior, nats.
        """
        frame = image.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        embedding = self.local.encoder(frame, proprioception)
        before = LatentState(deterministic, stochastic)
        state, prior, posterior = self.local.observe(
            before, previous_action, embedding, sample=False
        )
        surprise = kl_divergence(posterior, prior)
        return self.actor.mode(state.features), state.deterministic, state.stochastic, surprise


class OnnxController(RecurrentController[_OnnxState]):
    """The policy in ONNX Runtime, on the CPU.

    Args:
        local: Encoder and RSSM.
        actor: The policy.
        normalisation: Of the proprioception.
        task: Gives the sizes.
        threads: For one operation.

    Raises:
        FogError: ONNX Runtime or what the export needs is not installed, or the export fails.
    """

    def __init__(
        self,
        local: LocalModel,
        actor: Actor,
        normalisation: Normalisation,
        task: TaskConfig,
        *,
        threads: int = 1,
    ) -> None:
        self._session = _session(_export(local, actor, task), threads)
        first = local.rssm.initial(1)
        initial = first.deterministic.cpu().numpy(), first.stochastic.cpu().numpy()
        super().__init__(normalisation, task, initial)

    def _step(
        self, image: ImageArray, vector: FloatArray, previous: FloatArray, state: _OnnxState
    ) -> tuple[FloatArray, _OnnxState, float]:
        inputs = (image[None], vector[None], previous[None], *state)
        action, deterministic, stochastic, surprise = self._session.run(
            _OUTPUTS, dict(zip(_INPUTS, inputs, strict=True))
        )
        return action[0], (deterministic, stochastic), float(surprise[0])


@dataclass(frozen=True)
class Chosen:
    """A controller and why it was chosen."""

    controller: Controller
    backend: str
    """``torch`` or ``onnx``."""
    step_ms: dict[str, float]
    """Backend -> median wall time of a step, ms."""
    note: str
    """For the log; empty when there is nothing to say."""


def choose(bundle: Bundle, *, backend: str, device: str, threads: int) -> Chosen:
    """Load a bundle for the backend asked for, or for the faster one.

    Args:
        bundle: The opened bundle.
        backend: One of :data:`BACKENDS`.
        device: Where PyTorch computes; ONNX Runtime computes on the CPU only.
        threads: For one operation, in either.

    Raises:
        FogError: The weights do not load, the device does not work, or the backend asked for does
            not work here.
    """
    if backend not in BACKENDS:
        raise FogError(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    torch.set_num_threads(threads)
    found: dict[str, Controller] = {}
    notes = []
    if backend != "onnx":
        try:
            found["torch"] = bundle.controller(device=device)
        except (RuntimeError, AssertionError) as error:  # unknown, or not in this PyTorch
            raise FogError(f"device {device!r} does not work: {error}") from error
    on_cpu = device == "cpu"
    if backend == "onnx" and not on_cpu:
        raise FogError(f"backend onnx computes on the cpu only, not on {device!r}; give torch")
    if backend != "torch" and on_cpu:
        try:
            local, actor = bundle.networks()
            found["onnx"] = OnnxController(
                local.eval(), actor.eval(), bundle.checkpoint.normalisation, bundle.task,
                threads=threads,
            )  # fmt: skip
        except FogError as error:
            if backend == "onnx":
                raise
            notes.append(str(error))
    if len(found) == 2:
        difference = parity(bundle.task, found["torch"], found["onnx"])
        if not difference <= PARITY:
            notes.append(f"onnx differs from torch by {difference:.2g} and is not used")
            del found["onnx"]
    step_ms = {name: _measure(bundle.task, controller) for name, controller in found.items()}
    best = min(step_ms, key=lambda name: step_ms[name])
    found[best].reset()
    return Chosen(found[best], best, step_ms, "; ".join(notes))


def parity(task: TaskConfig, one: Controller, other: Controller, *, steps: int = 10) -> float:
    """The largest difference of two controllers' actions over an episode of noise; both are reset.

    Args:
        task: Gives the sizes.
        one: A controller.
        other: Another one.
        steps: Length of the episode.
    """
    rng = np.random.default_rng(0)
    one.reset()
    other.reset()
    largest = 0.0
    previous = np.zeros(task.action_size, np.float32)
    for _ in range(steps):
        image = rng.integers(0, 256, (task.image.height, task.image.width, 3), dtype=np.uint8)
        vector = rng.normal(size=task.proprioception_size).astype(np.float32)
        left, right = (c.act(image, vector, previous) for c in (one, other))
        # NaN stays: max() would drop it.
        largest = float(np.maximum(largest, np.abs(left - right).max()))
        previous = left
    one.reset()
    other.reset()
    return largest


def _measure(task: TaskConfig, controller: Controller) -> float:
    """Median wall time of a step, ms; the first calls, which allocate, do not count."""
    image = np.zeros((task.image.height, task.image.width, 3), np.uint8)
    vector = np.zeros(task.proprioception_size, np.float32)
    previous = np.zeros(task.action_size, np.float32)
    times = []
    for _ in range(_WARM_UP + _MEASURED):
        begin = time.perf_counter()
        controller.act(image, vector, previous)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[_WARM_UP:]) * 1e3)


def _export(local: LocalModel, actor: Actor, task: TaskConfig) -> bytes:
    """The step as an ONNX model."""
    state = local.rssm.initial(1)
    arguments = (
        torch.zeros(1, task.image.height, task.image.width, 3, dtype=torch.uint8),
        torch.zeros(1, task.proprioception_size),
        torch.zeros(1, task.action_size),
        state.deterministic,
        state.stochastic,
    )
    target = io.BytesIO()
    export: Callable[..., Any] = torch.onnx.export
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter that traces takes a second; its successor, ten times as long for the
            # same graph.
            warnings.simplefilter("ignore")
            export(
                PolicyStep(local, actor).eval(),
                arguments,
                target,
                input_names=list(_INPUTS),
                output_names=list(_OUTPUTS),
                dynamo=False,
            )
    except Exception as error:  # of many kinds: missing packages, unknown operations
        raise FogError(f"backend onnx: the export fails: {error}") from error
    return target.getvalue()


def _session(model: bytes, threads: int) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise FogError("backend onnx: onnxruntime is not installed; give torch") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
