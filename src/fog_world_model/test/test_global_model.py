"""The global model: which frame is denoised given what, and what a step keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler
from fog_world_model.global_model.global_model import GlobalModel, preset

# See conftest.py: the second channel of a frame and the second action field say which step it is.
SIZES = {"height": 16, "width": 16, "action_size": 2, "proprioception_size": 2}


def step_of(frame: Tensor) -> Tensor:
    """``[..., channel, height, width]`` -> the number of the step."""
    return ((frame[..., 1, 0, 0] + 1) * 127.5).round().long()


@pytest.mark.parametrize("length", [3, 4, 7])
def test_what_is_denoised_given_what(
    monkeypatch: pytest.MonkeyPatch,
    tiny_global: GlobalModel,
    coded_store: EpisodeStore,
    length: int,
) -> None:
    windows = WindowSampler(coded_store, length=length).sample(5)
    calls: list[tuple[Tensor, ...]] = []
    true_loss = tiny_global.denoiser.loss

    def spy(frame: Tensor, context: Tensor, actions: Tensor, proprio: Tensor) -> Any:
        calls.append((frame, context, actions, proprio))
        return true_loss(frame, context, actions, proprio)

    monkeypatch.setattr(tiny_global.denoiser, "loss", spy)
    losses = tiny_global.loss(windows)
    statistics = coded_store.normalisation
    assert len(calls) == (2 if length > 3 else 1)
    assert len(calls[0][0]) == 5 * (length - 2)
    for frame, _context, actions, proprio in calls:
        now = step_of(frame)
        assert torch.equal(
            (actions[..., 1] * 100).round().long(), torch.stack([now - 2, now - 1], 1)
        )
        told = proprio[:, 1] * float(statistics.std[1]) + float(statistics.mean[1])
        assert torch.equal(told.round().long(), now - 1)
    frame, context = calls[0][:2]
    assert torch.equal(step_of(context), torch.stack([step_of(frame) - 2, step_of(frame) - 1], 1))
    parts = [v for k, v in losses.items() if k != "total"]
    torch.testing.assert_close(losses["total"], torch.stack(parts).sum())
    assert ("own" in losses) == (length > 3)


def test_second_pass_sees_its_own_frames(
    monkeypatch: pytest.MonkeyPatch, tiny_global: GlobalModel, coded_store: EpisodeStore
) -> None:
    """A denoiser that always answers -1 (step 0): its answers must be the context of the second."""
    windows = WindowSampler(coded_store, length=5).sample(3)
    contexts: list[Tensor] = []

    def stub(frame: Tensor, context: Tensor, actions: Tensor, proprio: Tensor) -> Any:
        contexts.append(context)
        return torch.zeros((), requires_grad=True), torch.full_like(frame, -1.0)

    monkeypatch.setattr(tiny_global.denoiser, "loss", stub)
    tiny_global.loss(windows)
    real, own = (c.unflatten(0, (3, -1)) for c in contexts)
    # Targets 2, 3, 4 first; then 3 and 4 again, whose contexts are (1, own 2) and (own 2, own 3).
    assert real.shape[1] == 3
    assert own.shape[1] == 2
    assert torch.equal(own[:, 0, 0], windows.image[:, 1])
    assert (own[:, 0, 1] == -1).all()
    assert (own[:, 1] == -1).all()


def test_start_and_step_keep_the_newest(
    monkeypatch: pytest.MonkeyPatch, tiny_global: GlobalModel, coded_store: EpisodeStore
) -> None:
    windows = WindowSampler(coded_store, length=5).sample(4)
    state = tiny_global.start(windows)
    assert torch.equal(state.frames, windows.image[:, -2:])
    assert torch.equal(state.actions, windows.action[:, -2:-1])
    assert torch.equal(state.proprioception, windows.proprioception[:, -1])
    action = torch.full((4, 2), 0.5)
    given: list[tuple[Tensor, ...]] = []
    sample = tiny_global.sampler.sample

    def spy(denoiser: Any, *arguments: Any) -> Tensor:
        given.append(arguments)
        return sample(denoiser, *arguments)

    monkeypatch.setattr(tiny_global.sampler, "sample", spy)
    after, outcome = tiny_global.step(state, action, torch.Generator().manual_seed(0))
    context, actions, proprio, _ = given[0]
    assert torch.equal(context, state.frames)
    assert torch.equal(actions, torch.stack([windows.action[:, -2], action], 1))
    assert torch.equal(proprio, windows.proprioception[:, -1])
    assert torch.equal(after.frames[:, 0], state.frames[:, 1])
    assert not torch.equal(after.frames[:, 1], state.frames[:, 1])
    assert torch.equal(after.actions, action[:, None])
    assert torch.equal(after.proprioception, outcome.proprioception)
    assert not torch.equal(after.recurrent, state.recurrent)


def test_the_context_warms_up_the_outcome_head(
    tiny_global: GlobalModel, coded_store: EpisodeStore
) -> None:
    """The recurrent state after n observations is that of n - 1 transitions."""
    windows = WindowSampler(coded_store, length=4).sample(2)
    state = tiny_global.start(windows)
    recurrent = tiny_global.outcome.initial(2)
    for t in range(3):
        _, recurrent = tiny_global.outcome.step(
            windows.image[:, t],
            windows.proprioception[:, t],
            windows.action[:, t],
            windows.image[:, t + 1],
            recurrent,
        )
    assert torch.equal(state.recurrent, recurrent)
    assert bool(recurrent.any())


@pytest.mark.parametrize("name", ["tiny", "small", "diamond", "large"])
def test_presets_build_and_step(name: str) -> None:
    model = GlobalModel(preset(name, **SIZES))
    context = model.context_frames
    windows = Windows(
        torch.rand(1, context, 3, 16, 16) * 2 - 1,
        torch.randn(1, context, 2),
        torch.rand(1, context, 2),
        torch.rand(1, context),
        torch.zeros(1, context),
    )
    state = model.start(windows)
    after, outcome = model.step(state, torch.zeros(1, 2), torch.Generator().manual_seed(0))
    assert after.frames.shape == state.frames.shape
    assert float(after.frames.abs().max()) <= 1.0
    assert torch.isfinite(after.frames).all()
    assert torch.isfinite(outcome.reward).all()
