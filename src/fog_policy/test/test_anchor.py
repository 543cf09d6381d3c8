"""The divergence from the policy that learning began with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.anchor import divergence
from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer


@pytest.fixture
def actors() -> tuple[Actor, Actor]:
    """Two that differ in mean and spread."""
    torch.manual_seed(0)
    made = [Actor(ActorCriticConfig(5, 3, hidden=8)) for _ in range(2)]
    with torch.no_grad():
        for actor in made:
            for parameter in actor.body[-1].parameters():
                parameter.add_(torch.randn_like(parameter))
    return made[0], made[1]


def test_it_is_that_of_the_two_gaussians(actors: tuple[Actor, Actor]) -> None:
    anchor, actor = actors
    features = torch.randn(4, 7, 5)
    sides = []
    for one in actors:
        mean, log_std = one.gaussian(one.body(features))
        sides.append(Independent(Normal(mean, log_std.exp()), 1))
    with torch.no_grad():
        expected = float(kl_divergence(sides[0], sides[1]).mean())
        assert float(divergence(anchor, actor, features)) == pytest.approx(expected, rel=1e-5)
        assert float(divergence(anchor, anchor, features)) == pytest.approx(0.0, abs=1e-6)


def test_its_gradient_is_the_actors_and_leads_to_the_anchor(actors: tuple[Actor, Actor]) -> None:
    anchor, actor = actors
    features = torch.randn(64, 5)
    optimiser = torch.optim.Adam(actor.parameters(), lr=1e-2)
    before = float(divergence(anchor, actor, features).detach())
    for _ in range(200):
        optimiser.zero_grad()
        divergence(anchor, actor, features).backward()
        optimiser.step()
    assert all(parameter.grad is None for parameter in anchor.parameters())
    assert float(divergence(anchor, actor, features).detach()) < 0.1 * before


def test_a_heavy_anchor_holds_the_policy_where_it_began(
    make_trainer: Callable[..., FogTrainer], tiny_config: FogConfig
) -> None:
    moved = {}
    for weight in (0.0, 100.0):
        made = make_trainer(replace(tiny_config, actor_rate=3e-3, anchor=weight))
        start = copy.deepcopy(made.actor)
        for _ in range(8):
            log = made.update()
        features = made.phase.state.features
        moved[weight] = float(divergence(start, made.actor, features).detach())
        assert ("divergence" in log) == (weight > 0)
    assert moved[100.0] < 0.1 * moved[0.0]
