"""The benchmark of the gradient: the three ways are what they say, and memory tells them apart."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fog_bringup.benchmarks import gradient
from fog_bringup.benchmarks.gradient_update import Setting, Update
from fog_bringup.cli import main
from fog_policy.decoupled_gradient import rollout
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import WorldState
from fog_world_model.global_model.sampler import Sampler
from fog_world_model.local_model.rssm import LatentState

SETTING = Setting("tiny", environments=3, horizon=3, steps=2, side=16)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny networks: more threads only get into each other's way


@pytest.fixture
def update() -> Update:
    """An update in which the picture depends on everything: a fresh denoiser only copies."""
    made = Update(SETTING)
    torch.manual_seed(1)
    nn.init.normal_(made.model.denoiser.unet.conv_out.weight, std=0.05)
    nn.init.normal_(made.actor.body[-1].weight, std=0.3)  # type: ignore[arg-type]
    return made


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["benchmark", "gradient", "--json", "--preset", "tiny", "--environments", "4"]
    command += ["--horizon", "3", "--repeats", "1", "--denoising-steps", "2", "6"]
    command += ["--threads", "1", "--device", "cpu"]
    threads = torch.get_num_threads()
    assert main(command) == 0
    figures = json.loads(capsys.readouterr().out)
    ways = {way: figures[way] for way in ("global_forward", "decoupled", "full_backprop")}
    assert all(way["seconds"] > 0 and way["peak_mb"] > 0 for way in ways.values())
    assert torch.get_num_threads() == threads
    assert figures["enough"] == (figures["decoupled_over_global_forward"] <= 1.3)
    parts = figures["decoupled"]["parts"]
    share = parts["global_forward"] / sum(parts.values())
    assert figures["share_in_global_forward"] == pytest.approx(share)
    assert 0.2 < share < 1
    # Activations of every denoising step are kept by the one and by the other of none.
    few, many = (figures["peak_mb_by_denoising_steps"][n] for n in "26")
    grown = {way: many[way] - few[way] for way in few}
    assert grown["full_backprop"] > 10
    assert abs(grown["decoupled"]) < 0.3 * grown["full_backprop"]


def test_full_back_propagation_steps_as_the_model_does(update: Update) -> None:
    """The same rollout by the models' own functions, which know of no gradient."""
    flow = update.attached_rollout(seed=5)
    generator = torch.Generator().manual_seed(5)
    world, state = update.start, update.state
    plain = Sampler(update.model.sampler.config, update.model.config.denoiser.sigma_data)
    update.model.sampler = plain
    for t, noise in enumerate(update.noise):
        with torch.no_grad():
            action, _ = update.actor(state.features, noise)
            world, outcome = update.model.step(world, action, generator)
            embedding = update.local.encoder(world.frames[:, -1], world.proprioception)
            state, _, _ = update.local.observe(state, action, embedding, sample=False)
        assert torch.equal(flow.rewards[t], outcome.reward)
        assert torch.equal(flow.next_features[t], state.features)


def test_full_gradient_is_that_of_finite_differences(update: Update) -> None:
    """Along its own direction, with everything that goes around the denoising steps cut off."""
    with torch.no_grad():
        update.model.outcome.vector.weight.zero_()  # rewards see the action in the frame alone
        update.local.rssm.input[0].weight.zero_()  # type: ignore[operator]  # and so do states
    for module in (update.model, update.local, update.actor):
        module.double()
    start, state = update.start, update.state
    update.start = WorldState(
        start.frames.double(), start.actions.double(),
        start.proprioception.double(), start.recurrent.double(),
    )  # fmt: skip
    update.state = LatentState(state.deterministic.double(), state.stochastic.double())
    update.noise = update.noise.double()
    parameters = list(update.actor.parameters())

    def value() -> Tensor:
        return update.attached_rollout().rewards.mean()

    found = torch.autograd.grad(value(), parameters)
    length = torch.stack([g.square().sum() for g in found]).sum().sqrt()
    assert float(length) > 1e-5
    values, epsilon = [], 3e-4
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, g in zip(parameters, found, strict=True):
                parameter.add_(g / length, alpha=sign * epsilon)
            values.append(float(value()))
    measured = (values[0] - values[1]) / (2 * epsilon)
    assert measured == pytest.approx(float(length), rel=0.01)


def test_who_is_reached(update: Update) -> None:
    """Every part of the models by full back-propagation, none of the global one's by ours."""
    update.model.requires_grad_(True)
    update.local.requires_grad_(True)
    parts = [update.model.denoiser, update.model.outcome, update.local.encoder]

    def reached() -> list[bool]:
        return [any(p.grad is not None for p in part.parameters()) for part in parts]

    world, local = update.env, update.latent
    flow = rollout(update.actor, world, local, update.state, update.noise)
    update.value(flow).backward()
    assert reached() == [False, False, False]
    update.value(update.attached_rollout()).backward()
    assert reached() == [True, True, True]


def test_what_does_not_fit_is_none_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(setting: Setting, way: str, threads: int) -> float | str:
        return "out of memory: 5 GB asked for" if way == "full_backprop" else 3.0

    monkeypatch.setattr(gradient, "_peak_mb", peak)
    figures = gradient.measure(SETTING, denoising_steps=[1], repeats=1, threads=1)
    assert figures["full_backprop"] == {
        "seconds": None, "peak_mb": None, "reason": "out of memory: 5 GB asked for",
    }  # fmt: skip
    assert figures["peak_mb_by_denoising_steps"] == {"1": {"decoupled": 3.0, "full_backprop": None}}


def test_a_child_without_memory_says_so() -> None:
    """A limit that no update fits under; of the two ways that must fit, it is an error."""
    big = replace(SETTING, environments=400, side=64)
    answer = gradient._peak_mb(big, "full_backprop", 1, share=0.0)
    assert isinstance(answer, str)
    assert answer.startswith("out of memory")
    with pytest.raises(FogError, match=r"400 environments and horizon 3 .* out of memory"):
        gradient._peak_mb(big, "decoupled", 1, share=0.0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--preset", "huge", "expected one of tiny"), ("--horizon", "0", "expected 1 or more")],
)
def test_wrong_options(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "gradient", "--device", "cpu", option, value]) == 2
    assert message in capsys.readouterr().err


def test_environments_do_not_end() -> None:
    made = Update(SETTING)
    steps = [made.env.step(action.tanh()) for action in made.noise]
    assert not any(bool(step.end.any()) for step in steps)
