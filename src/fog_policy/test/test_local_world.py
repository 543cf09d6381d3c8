"""The local model as the only world: its two halves must agree."""

from __future__ import annotations

import torch

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.decoupled_gradient import rollout
from fog_policy.local_world import LocalAlone
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.local_model.local_model import LocalModel


def alone(model: LocalModel, store: EpisodeStore) -> LocalAlone:
    contexts = WindowSampler(store, length=3, seed=0)
    device = torch.device("cpu")
    return LocalAlone(model, contexts, environments=4, max_steps=6, seed=0, device=device)


def test_values_and_gradients_come_from_the_same_sample(
    tiny_local: LocalModel, tiny_store: EpisodeStore
) -> None:
    world = alone(tiny_local, tiny_store)
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3, hidden=16))
    with torch.no_grad():
        state = world.start(world.restart())
    flow = rollout(actor, world, world, state, torch.randn(5, 4, 3))
    # What the gradient sees is what the world went through, step by step, rewards included.
    kept = flow.ends[:-1].sum(0) == 0
    torch.testing.assert_close(
        flow.state.features[kept], flow.next_features[-1][kept].detach(), rtol=0, atol=0
    )
    expected = tiny_local.reward_head(flow.next_features).squeeze(-1)
    torch.testing.assert_close(flow.rewards, expected)
    (gradient,) = torch.autograd.grad(flow.rewards.sum(), actor.body[0].weight)
    assert float(gradient.abs().sum()) > 0
    assert world.steps == 20


def test_steps_are_samples_that_differ_and_repeat_with_the_seed(
    tiny_local: LocalModel, tiny_store: EpisodeStore
) -> None:
    def features() -> torch.Tensor:
        world = alone(tiny_local, tiny_store)
        with torch.no_grad():
            state = world.start(world.restart())
            world.step(torch.zeros(4, 3))
            return world.predict(state, torch.zeros(4, 3)).stochastic

    first, second = features(), features()
    assert torch.equal(first, second)
    world = alone(tiny_local, tiny_store)
    with torch.no_grad():
        state = world.start(world.restart())
        mean = tiny_local.imagine(state, torch.zeros(4, 3)).stochastic
    assert not torch.allclose(first, mean)


def test_restart_touches_only_the_chosen(tiny_local: LocalModel, tiny_store: EpisodeStore) -> None:
    world = alone(tiny_local, tiny_store)
    world.restart()
    before = world._state
    world.restart(torch.tensor([True, False, False, True]))
    changed = (world._state.features != before.features).any(-1)
    assert changed.tolist() == [True, False, False, True]
    assert world.age[0] == 0
    assert world.age[3] == 0
