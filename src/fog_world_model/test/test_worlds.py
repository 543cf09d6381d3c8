"""Fast worlds against plain ones: diffusers' network and scheduler are the reference."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from fog_world_model.errors import FogError
from fog_world_model.global_model.fast_sampler import FastSampler
from fog_world_model.global_model.global_model import GlobalModel, WorldState, preset
from fog_world_model.global_model.presets import PRESETS
from fog_world_model.global_model.worlds import FastWorlds, PlainWorlds, precision_of, worlds

SIZES = {"height": 16, "width": 16, "action_size": 2, "proprioception_size": 3}
FIELDS = ("frames", "actions", "proprioception", "recurrent")


def trained(name: str, **changes: Any) -> GlobalModel:
    """A model whose every weight matters: an untrained one answers 0."""
    torch.manual_seed(0)
    config = preset(name, **SIZES)
    for part, fields in changes.items():
        whole = dataclasses.replace(getattr(config, part), **fields)
        config = dataclasses.replace(config, **{part: whole})
    model = GlobalModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def state_of(model: GlobalModel, batch: int = 3, seed: int = 1) -> WorldState:
    torch.manual_seed(seed)
    past = model.context_frames
    return WorldState(
        torch.rand(batch, past, 3, 16, 16) * 2 - 1,
        torch.rand(batch, past - 1, 2) * 2 - 1,
        torch.randn(batch, 3),
        torch.randn(batch, model.config.outcome.hidden) * 0.1,
    )


def run(world: PlainWorlds | FastWorlds, count: int = 6, batch: int = 3) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(3)
    actions = torch.rand(count, batch, 2, generator=torch.Generator().manual_seed(4)) * 2 - 1
    return [
        (outcome.reward, outcome.end_probability, *world.last)
        for outcome in (world.step(a, generator) for a in actions)
    ]


def close(left: list[tuple[Any, ...]], right: list[tuple[Any, ...]], atol: float) -> None:
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tiny", {}),
        ("tiny", {"denoiser": {"residual": False, "context_frames": 1}}),
        ("tiny", {"denoiser": {"context_frames": 5, "layers": 2, "attention": True}}),
        ("tiny", {"denoiser": {"context_noise": 0.3}, "sampler": {"steps": 3}}),
        ("tiny", {"denoiser": {"context_noise": 0.3}, "sampler": {"context_noise": 0.2}}),
        ("small", {}),
        ("diamond", {}),
        ("large", {}),
    ],
)
def test_fast_worlds_equal_plain_ones(name: str, changes: dict[str, Any]) -> None:
    """Six steps: the ring has gone round, and errors would have fed back."""
    model = trained(name, **changes)
    state = state_of(model)
    plain, fast = PlainWorlds(model), FastWorlds(model, precision="float32")
    plain.put(state)
    fast.put(state)
    first, second = run(plain), run(fast)
    moved = (first[-1][2] - state.frames[:, -1]).abs().mean()
    assert float(moved) > 0.02, "the frames must change for this to mean anything"
    close(first, second, 2e-4)
    for field in FIELDS:
        torch.testing.assert_close(
            getattr(plain.state, field), getattr(fast.state, field), rtol=0, atol=2e-4
        )


def test_bfloat16_is_near() -> None:
    """Its numbers have 8 binary digits; a frame is off by about a grey level of 128."""
    model = trained("small")
    plain, fast = PlainWorlds(model), FastWorlds(model, precision="bfloat16")
    for world in (plain, fast):
        world.put(state_of(model))
    frames = [run(world, 1)[0][2] for world in (plain, fast)]
    change = (frames[0] - state_of(model).frames[:, -1]).abs().mean()
    assert float((frames[0] - frames[1]).abs().mean()) < 0.05 * float(change)
    assert frames[1].dtype == torch.float32


def test_diffusers_model_is_left_as_it_is() -> None:
    model = trained("tiny")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    FastSampler(model.denoiser, model.sampler, torch.bfloat16)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) and v.dtype == after[k].dtype for k, v in before.items())


def test_some_worlds_are_moved_and_the_others_go_on() -> None:
    model = trained("tiny", denoiser={"context_frames": 3})
    plain, fast = PlainWorlds(model), FastWorlds(model)
    which = torch.tensor([True, False, True])
    for world in (plain, fast):
        world.put(state_of(model))
        run(world, 2)  # the ring's oldest frame is not in its first slot now
        world.put(state_of(model, seed=9), which)
    assert fast.oldest == 2
    close(run(plain), run(fast), 2e-4)


def test_going_on_from_a_state_bit_for_bit() -> None:
    model = trained("tiny", denoiser={"context_frames": 3})
    fast = FastWorlds(model, precision="bfloat16")
    fast.put(state_of(model))
    run(fast, 2)
    state, oldest = fast.state, fast.oldest
    first = run(fast)
    fast.put(state, oldest=oldest)
    close(first, run(fast), 0.0)
    torch.testing.assert_close(
        state.frames[:, -1], fast.state.frames[:, -1] * 0 + state.frames[:, -1]
    )


def test_results_can_be_learned_from() -> None:
    """Tensors of inference mode could not be kept for a backward pass."""
    model = trained("tiny")
    fast = FastWorlds(model)
    fast.put(state_of(model))
    reward, _, frame, proprio = run(fast, 1)[0]
    weight = torch.ones((), requires_grad=True)
    (weight * (reward.sum() + frame.sum() + proprio.sum())).backward()
    assert weight.grad is not None
    assert not frame.is_inference()


def test_results_of_a_step_are_not_overwritten_by_the_next() -> None:
    model = trained("tiny")
    fast = FastWorlds(model)
    fast.put(state_of(model))
    kept = run(fast, 4)
    copies = [tuple(x.clone() for x in step) for step in kept]
    run(fast, 4)
    close(kept, copies, 0.0)
    assert not torch.equal(kept[0][2], kept[1][2])


def test_compiled_equals_eager(caplog: pytest.LogCaptureFixture) -> None:
    """Where torch finds a C++ compiler, it must not fail; elsewhere the next test is what holds."""
    model = trained("tiny")
    eager, compiled = FastWorlds(model, compiled=False), FastWorlds(model, compiled=True)
    for world in (eager, compiled):
        world.put(state_of(model))
    first = run(eager)
    with caplog.at_level(logging.WARNING):
        second = run(compiled)
    if not compiled.compiled and not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("there is no C++ compiler")
    assert compiled.compiled, caplog.text
    close(first, second, 2e-4)


def test_where_compiling_fails_it_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(function: Any, **_: Any) -> Any:
        def call(*_: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler\nand a long trace")

        return call

    model = trained("tiny")
    eager, compiled = FastWorlds(model), FastWorlds(model, compiled=True)
    for world in (eager, compiled):
        world.put(state_of(model))
    first = run(eager)
    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        second = run(compiled)
    assert "no C++ compiler" in caplog.text
    assert "long trace" not in caplog.text
    assert not compiled.compiled
    close(first, second, 0.0)


def test_a_model_with_a_step_of_its_own_is_stepped_by_it() -> None:
    class Own(GlobalModel):
        def step(self, state: WorldState, action: Tensor, generator: Any) -> Any:
            raise NotImplementedError

    assert isinstance(worlds(Own(preset("tiny", **SIZES))), PlainWorlds)
    assert isinstance(worlds(GlobalModel(preset("tiny", **SIZES))), FastWorlds)


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert precision_of("auto", cpu) == torch.float32
    assert precision_of("bfloat16", cpu) == torch.bfloat16


def test_sizes_of_the_presets() -> None:
    """DIAMOND's published network has 4,406,851 parameters (with 18 discrete actions)."""
    sizes = {"height": 64, "width": 64, "action_size": 2, "proprioception_size": 2}
    count = {
        name: sum(p.numel() for p in GlobalModel(preset(name, **sizes)).denoiser.parameters())
        for name in PRESETS
    }
    assert count["diamond"] == pytest.approx(4_406_851, rel=0.02)
    assert count["large"] == pytest.approx(30e6, rel=0.05)
    assert count["small"] == 2_631_920, "the demo was measured with it"


def test_sampling_noisier_than_trained_is_refused() -> None:
    with pytest.raises(FogError, match=r"context_noise is 0\.2; .* 0 to 0\.1"):
        trained("diamond", sampler={"context_noise": 0.2})
