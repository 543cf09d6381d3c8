"""ONNX Runtime against PyTorch: the same actions over an episode, and which of them is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_policy import inference_backend
from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.bundle import Bundle, write_bundle
from fog_policy.inference_backend import OnnxController, choose, parity
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.task import TaskConfig

pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(
    tiny_local: LocalModel, tiny_task: TaskConfig, manifest: dict[str, Any], tmp_path: Path
) -> Bundle:
    """Untrained networks whose actions are far from zero."""
    sizes = ActorCriticConfig(tiny_local.features_size, tiny_task.action_size, hidden=16)
    actor = Actor(sizes)
    last = actor.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.mul_(20.0)
    more = {
        "task_hash": tiny_task.hash,
        "local_config": vars(tiny_local.config),
        "actor_critic": vars(sizes),
    }
    return write_bundle(tiny_local, actor, tmp_path / "bundle", {**manifest, **more})


def test_both_give_the_same_actions_and_forget_alike(bundle: Bundle) -> None:
    local, actor = bundle.networks()
    task = bundle.task
    onnx = OnnxController(local, actor, bundle.checkpoint.normalisation, task)
    reference = bundle.controller()
    rng = np.random.default_rng(1)
    shape = (task.image.height, task.image.width, 3)
    seen = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(8)]
    vectors = rng.normal(size=(8, task.proprioception_size)).astype(np.float32)
    for _ in range(2):  # the second time after a reset
        previous = np.zeros(task.action_size, np.float32)
        actions = []
        for image, vector in zip(seen, vectors, strict=True):
            expected = reference.act(image, vector, previous)
            assert onnx.act(image, vector, previous) == pytest.approx(expected, abs=1e-5)
            previous = expected
            actions.append(expected)
        assert np.std(actions, axis=0).max() > 0.01, "actions that do not change compare nothing"
        onnx.reset()
        reference.reset()


def test_a_state_that_is_not_reset_shows_in_the_parity(bundle: Bundle) -> None:
    one, other = bundle.controller(), bundle.controller()
    assert parity(bundle.task, one, other) == 0.0

    class Forgetful:
        surprise = None

        def reset(self) -> None:
            other.reset()

        def act(self, *inputs: Any) -> Any:
            other.reset()
            return other.act(*inputs)

    assert parity(bundle.task, one, Forgetful()) > inference_backend.PARITY


def test_the_faster_one_is_chosen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"TorchController": 2.0, "OnnxController": 1.0}
    monkeypatch.setattr(inference_backend, "_measure", lambda task, c: times[type(c).__name__])
    chosen = choose(bundle, backend="auto", device="cpu", threads=1)
    assert chosen.backend == "onnx" and isinstance(chosen.controller, OnnxController)
    assert chosen.step_ms == {"torch": 2.0, "onnx": 1.0}
    times["OnnxController"] = 3.0
    assert choose(bundle, backend="auto", device="cpu", threads=1).backend == "torch"
    assert choose(bundle, backend="onnx", device="cpu", threads=1).backend == "onnx"
    # One that answers otherwise is not used, however fast.
    times["OnnxController"] = 1.0
    monkeypatch.setattr(inference_backend, "parity", lambda *controllers: 0.1)
    chosen = choose(bundle, backend="auto", device="cpu", threads=1)
    assert chosen.backend == "torch"
    assert chosen.note == "onnx differs from torch by 0.1 and is not used"


def test_a_backend_that_cannot_work_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(FogError, match="computes on the cpu only"):
        choose(bundle, backend="onnx", device="cuda", threads=1)
    with pytest.raises(FogError, match="device 'nonsense' does not work"):
        choose(bundle, backend="auto", device="nonsense", threads=1)
    with pytest.raises(FogError, match="expected one of auto, torch, onnx"):
        choose(bundle, backend="tensorrt", device="cpu", threads=1)
