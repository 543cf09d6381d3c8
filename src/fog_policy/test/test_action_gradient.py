"""Derivatives by the first action, on systems where the answer is known."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from fog_policy.action_gradient import ActionGradients, action_gradients, agreement
from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.local_world import LatentWorld
from fog_world_model.data.windows import Windows
from fog_world_model.imagination import ImaginedEnv, ImaginedStep
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState

START = torch.tensor([[1.0], [-0.5], [2.0], [0.25]])
HORIZONS = (1, 2, 4)


class Line:
    """x' = x + a and the reward -x'^2; the local world believes in an offset and another slope.

    Environment 0 ends after ``end`` steps and goes on from 5.
    """

    def __init__(self, *, offset: float = 0.0, slope: float = 1.0, end: int = 99) -> None:
        self.offset, self.slope, self.end = offset, slope, end
        self.x, self.age, self.environments = START, torch.zeros(len(START)), len(START)

    def step(self, action: Tensor) -> ImaginedStep:
        self.x, self.age = self.x + action, self.age + 1
        over = (self.age == self.end) & (torch.arange(len(self.x)) == 0)
        return ImaginedStep(self.x[..., None, None], self.x, -(self.x[:, 0] ** 2), over)

    def restart(self, which: Tensor | None = None) -> Windows:
        assert which is not None
        self.x = torch.where(which[:, None], torch.full_like(self.x, 5.0), self.x)
        return Windows(*[torch.zeros(0)] * 5)

    def snapshot(self) -> tuple[Tensor, Tensor]:
        return self.x, self.age

    def restore(self, snapshot: tuple[Tensor, Tensor]) -> None:
        self.x, self.age = snapshot

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        moved = state.stochastic + self.slope * action + self.offset
        return LatentState(state.deterministic, moved)

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        return LatentState(predicted.deterministic, step.proprioception)

    def reward(self, state: LatentState) -> Tensor:
        return -(state.stochastic[:, 0] ** 2)

    def start(self, contexts: Windows) -> LatentState:
        return LatentState(torch.zeros(len(self.x), 0), self.x)


def halving(features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A policy that goes half of the way to zero, 0.75 at most at its first step."""
    return -0.5 * features, noise[:, 0]


def found(line: Line) -> ActionGradients:
    state = LatentState(torch.zeros(len(START), 0), START)
    noise = torch.zeros(4, len(START), 1)
    env = cast("ImaginedEnv", line)
    before = torch.get_rng_state()
    gradients = action_gradients(halving, env, line, state, noise, horizons=HORIZONS)
    assert torch.equal(line.x, START) and torch.equal(torch.get_rng_state(), before)
    return gradients


def test_by_hand() -> None:
    """From x = 2 the action -1 is brought to -0.75, and x_1 = 1.25; the others halve.

    The sum of -x_t^2 is -x_1^2 (1 + 1/4 + 1/16 + 1/64), whose slope in the action is -2 x_1 times
    1, 1.25 and 1.328125 for one, two and four steps. Differences of a parabola are exact.
    """
    gradients = found(Line())
    arrived = torch.tensor([0.5, -0.25, 1.25, 0.125])
    expected = torch.stack([-2 * arrived * factor for factor in (1.0, 1.25, 1.328125)])
    for way in (gradients.measured, gradients.decoupled, gradients.local):
        torch.testing.assert_close(way[..., 0], expected)
    assert gradients.whole.all()
    said = agreement(gradients)
    for estimate in (said.decoupled, said.local):
        for values in (estimate.value, estimate.low, estimate.high):
            np.testing.assert_allclose(values, [1.0, 1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(said.gain.value, 0.0, atol=1e-6)
    assert said.contexts == [4, 4, 4]
    size = math.sqrt(sum((2 * x) ** 2 for x in arrived.tolist()) / 4)
    assert said.sizes["measured"] == pytest.approx([size, 1.25 * size, 1.328125 * size], rel=1e-5)


def test_a_biased_local_model_misleads_alone_but_not_coupled() -> None:
    """It foretells x_1 = x + a - 2, which is below zero everywhere: alone it says "up"."""
    gradients = found(Line(offset=-2.0))
    torch.testing.assert_close(gradients.decoupled, gradients.measured)
    alone = -2 * (torch.tensor([0.5, -0.25, 1.25, 0.125]) - 2)
    torch.testing.assert_close(gradients.local[0, :, 0], alone)
    said = agreement(gradients)
    up, down = alone, -2 * torch.tensor([0.5, -0.25, 1.25, 0.125])
    cosine = float(up @ down / up.norm() / down.norm())
    assert said.local.value[0] == pytest.approx(cosine, abs=1e-6)
    assert said.gain.value[0] == pytest.approx(1 - cosine, abs=1e-6)
    assert said.local.low[0] < cosine < said.local.high[0]


def test_a_local_model_that_takes_right_for_left() -> None:
    """Over one step both derivatives are turned round, and their sizes are right."""
    gradients = found(Line(slope=-1.0))
    torch.testing.assert_close(gradients.decoupled[0], -gradients.measured[0])
    said = agreement(gradients)
    assert said.decoupled.value[0] == pytest.approx(-1.0)
    assert said.sizes["decoupled"][0] == said.sizes["measured"][0]


def test_contexts_whose_rollouts_end_are_left_out() -> None:
    """An end after two steps leaves one and two steps whole, and not four."""
    gradients = found(Line(end=2))
    assert gradients.whole.tolist() == [[True] * 4, [True] * 4, [False, True, True, True]]
    said = agreement(gradients)
    assert said.contexts == [4, 4, 3]
    np.testing.assert_allclose(said.decoupled.value, 1.0, atol=1e-6)


def test_nobody_left_is_no_figure() -> None:
    nothing = torch.ones(1, 3, 2)
    said = agreement(
        ActionGradients((1,), nothing, nothing, nothing, torch.zeros(1, 3, dtype=torch.bool))
    )
    assert said.contexts == [0]
    assert said.decoupled.rounded() == {"value": [None], "low": [None], "high": [None]}


def test_interval_is_that_of_resampled_contexts() -> None:
    """Against a bootstrap written out, with resampling of its own."""
    generator = torch.Generator().manual_seed(0)
    measured = torch.randn(1, 60, 2, generator=generator)
    noisy = measured + torch.randn(1, 60, 2, generator=generator)
    gradients = ActionGradients((3,), measured, noisy, -noisy, torch.ones(1, 60, dtype=torch.bool))
    said, draws = agreement(gradients, resamples=4000), []
    rng = np.random.default_rng(7)
    for _ in range(4000):
        rows = torch.from_numpy(rng.integers(0, 60, 60))
        one, other = (x[0, rows].flatten() for x in (measured, noisy))
        draws.append(float(one @ other / one.norm() / other.norm()))
    low, high = np.percentile(draws, [2.5, 97.5])
    assert said.decoupled.low[0] == pytest.approx(low, abs=0.02)
    assert said.decoupled.high[0] == pytest.approx(high, abs=0.02)
    assert said.local.value[0] == pytest.approx(-said.decoupled.value[0])
    # Four copies of every context say no more than one of them, if it is known that they are.
    copies = [torch.cat([x] * 4, 1) for x in (measured, noisy, -noisy)]
    fourfold = ActionGradients((3,), *copies, torch.ones(1, 240, dtype=torch.bool))
    together = agreement(fourfold, resamples=4000, episodes=5 + torch.arange(60).repeat(4))
    assert together.decoupled.low[0] == pytest.approx(said.decoupled.low[0])
    assert together.contexts == [240]


def test_in_real_worlds_nothing_changes(tiny_env: ImaginedEnv, tiny_local: LocalModel) -> None:
    """Several fields, an untrained global model with ends and noise, and its environment."""
    local = LatentWorld(tiny_local.requires_grad_(False))
    with torch.no_grad():
        state = local.start(tiny_env.restart())
    torch.manual_seed(4)
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3))
    noise = torch.randn(3, 4, 3)
    before, random = tiny_env.observation, torch.get_rng_state()
    gradients = [
        action_gradients(actor, tiny_env, local, state, noise, horizons=(1, 3)) for _ in range(2)
    ]
    for name in ("measured", "decoupled", "local"):
        one, other = (getattr(g, name) for g in gradients)
        assert one.shape == (2, 4, 3)
        assert torch.equal(one, other), name
    assert torch.equal(gradients[0].whole, gradients[1].whole) and gradients[0].whole[0].all()
    assert all(torch.equal(b, a) for b, a in zip(before, tiny_env.observation, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    # Over one step both know the same state; the reward's derivative is taken at another one.
    assert float(gradients[0].decoupled[0].abs().max()) > 0
