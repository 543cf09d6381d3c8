"""The average of an actor's weights, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from fog_policy.actor_average import ActorAverage
from fog_policy.actor_critic import Actor, ActorCriticConfig


def set_to(actor: Actor, value: float) -> None:
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.fill_(value)


def values(actor: Actor) -> list[float]:
    """The different values among its weights."""
    return torch.cat([p.detach().flatten() for p in actor.parameters()]).unique().tolist()


@pytest.fixture
def actor() -> Actor:
    return Actor(ActorCriticConfig(3, 2, hidden=4))


@pytest.mark.parametrize(
    ("decay", "after"),
    # Kept are 2/11 and then 3/12 of what was there, or the decay where that is less.
    [(0.9, [1.0, 20 / 11, 5 / 11 + 3.0]), (0.1, [1.0, 1.9, 3.79])],
)
def test_it_follows_the_actor(actor: Actor, decay: float, after: list[float]) -> None:
    average = ActorAverage(actor, decay)
    assert average.policy is actor, "nothing was learned yet"
    set_to(actor, 7.0)  # such as the weights that learning is to begin with
    for weight, expected in zip((1.0, 2.0, 4.0), after, strict=True):
        set_to(actor, weight)
        average.update()
        assert values(average.policy) == pytest.approx([expected])
        assert values(actor) == [weight], "what learns is left alone"


def test_without_a_decay_the_actor_is_the_policy(actor: Actor) -> None:
    average = ActorAverage(actor, 0.0)
    average.update()
    assert average.policy is actor
    assert average.state() == ({}, {"averaged": 0})


def test_it_goes_on_from_its_state(actor: Actor) -> None:
    first, other = ActorAverage(actor, 0.5), Actor(actor.config)
    for weight in (1.0, 2.0):
        set_to(actor, weight)
        first.update()
    second = ActorAverage(other, 0.5)
    files, said = first.state()
    second.load(files, said)
    set_to(other, 4.0)
    set_to(actor, 4.0)
    first.update()
    second.update()
    assert values(second.policy) == values(first.policy) == pytest.approx([5 / 11 + 3.0])
