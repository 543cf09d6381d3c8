"""The global model: which frame is denoised given what, and what a step keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalChanges, GlobalModel, preset
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import load_global, train_global

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


@pytest.mark.parametrize("name", ["tiny", "small", "medium", "diamond", "large"])
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


@pytest.mark.parametrize(("steps", "length"), [(0, 6), (2, 6), (3, 6), (9, 6)])
def test_own_frames_are_passed_on_as_many_times_as_asked(
    monkeypatch: pytest.MonkeyPatch, coded_store: EpisodeStore, steps: int, length: int
) -> None:
    """Each pass answers with a value of its own, so a context says which passes it is made of.

    With L = 2 and 6 observations the first pass denoises frames 2 to 5 (answer 0.1), the next 3 to
    5 (0.2) given the first one's, the next 4 and 5 (0.3) given that one's, then 5 alone.
    """
    config = dataclasses.replace(preset("tiny", **SIZES), autoregressive_steps=steps)
    model = GlobalModel(config)
    windows = WindowSampler(coded_store, length=length).sample(2)
    contexts: list[Tensor] = []

    def stub(frame: Tensor, context: Tensor, actions: Tensor, proprio: Tensor) -> Any:
        contexts.append(context.unflatten(0, (2, -1))[0, :, :, 0, 0, 0])  # [target, time]
        loss = torch.tensor(float(len(contexts)), requires_grad=True)
        return loss, torch.full_like(frame, 0.1 * len(contexts))

    monkeypatch.setattr(model.denoiser, "loss", stub)
    losses = model.loss(windows)
    passes = min(steps, 3)
    assert len(contexts) == 1 + passes
    real = float(windows.image[0, 1, 0, 0, 0])
    expected = [
        [[real, 0.1], [0.1, 0.1], [0.1, 0.1]],
        [[0.1, 0.2], [0.2, 0.2]],
        [[0.2, 0.3]],
    ]
    for found, rows in zip(contexts[1:], expected, strict=False):
        torch.testing.assert_close(found, torch.tensor(rows))
    assert ("own" in losses) == (steps > 0)
    if steps:  # the losses are 1, 2, 3, ...
        assert float(losses["own"].detach()) == sum(range(2, 2 + passes)) / passes


def test_changes_of_a_preset() -> None:
    small = preset("small", **SIZES)
    assert GlobalChanges().apply(small) == small
    changed = GlobalChanges(residual=False, autoregressive_steps=3, context_noise=0.2).apply(small)
    assert not changed.denoiser.residual
    assert (changed.autoregressive_steps, changed.denoiser.context_noise) == (3, 0.2)
    assert changed.denoiser.channels == small.denoiser.channels
    with pytest.raises(FogError, match="autoregressive_steps is -1"):
        GlobalChanges(autoregressive_steps=-1).apply(small)
    with pytest.raises(FogError, match="context noise 3: expected a level from 0 to 2"):
        GlobalChanges(context_noise=3.0).apply(small)


def test_changes_are_trained_and_come_back_from_the_checkpoint(
    coded_store: EpisodeStore, tmp_path: Path
) -> None:
    changes = GlobalChanges(residual=False, autoregressive_steps=2, context_noise=0.3)
    loop = LoopConfig(max_steps=2, batch_size=2, device="cpu", pictures_every_s=0)
    result = train_global(coded_store, tmp_path / "model", loop, preset="tiny", changes=changes)
    assert result.step == 2
    assert "own" in result.losses, "the window has room for the model's own frames"
    model, _ = load_global(tmp_path / "model", coded_store.task)
    assert model.config == changes.apply(preset("tiny", **SIZES))
