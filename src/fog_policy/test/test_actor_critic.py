"""Actor and TD(lambda) against independent computations."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from fog_policy.actor_critic import Actor, ActorCriticConfig, td_lambda


def test_td_lambda_by_hand() -> None:
    """gamma 0.5, lambda 0.5, one environment, rewards 1 2 3, values of s1..s3 10 20 30.

    G2 = 3 + 0.5 * 30                              = 18
    G1 = 2 + 0.5 * (0.5 * 20 + 0.5 * 18)           = 11.5
    G0 = 1 + 0.5 * (0.5 * 10 + 0.5 * 11.5)         = 6.375
    """
    targets = td_lambda(
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.zeros(3, 1),
        torch.tensor([[10.0], [20.0], [30.0]]),
        gamma=0.5,
        lambda_=0.5,
    )
    assert targets.flatten().tolist() == [6.375, 11.5, 18.0]


def test_td_lambda_end_cuts() -> None:
    """The same with an end after the second step: G1 = 2, G0 = 1 + 0.5 * (5 + 1) = 4."""
    targets = td_lambda(
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.tensor([[0.0], [1.0], [0.0]]),
        torch.tensor([[10.0], [20.0], [30.0]]),
        gamma=0.5,
        lambda_=0.5,
    )
    assert targets.flatten().tolist() == [4.0, 2.0, 18.0]


def test_log_probability_against_torch_distributions() -> None:
    torch.manual_seed(0)
    actor = Actor(ActorCriticConfig(features=6, action_size=3, hidden=16)).double()
    features, noise = torch.randn(5, 6).double(), torch.randn(5, 3).double()
    action, log_prob = actor(features, noise)
    mean, log_std = actor._gaussian(features)
    reference = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)


def test_log_probability_is_finite_when_saturated() -> None:
    actor = Actor(ActorCriticConfig(features=2, action_size=1, hidden=8))
    action, log_prob = actor(torch.randn(4, 2), torch.full((4, 1), 300.0))
    assert torch.isfinite(log_prob).all()
    assert action.abs().max() <= 1.0


def test_mode_is_the_action_without_noise() -> None:
    actor = Actor(ActorCriticConfig(features=6, action_size=3, hidden=16))
    features = torch.randn(5, 6)
    action, _ = actor(features, torch.zeros(5, 3))
    assert torch.equal(action, actor.mode(features))


@pytest.mark.parametrize("lambda_", [0.0, 1.0])
def test_td_lambda_limits(lambda_: float) -> None:
    """lambda 0 is one step, lambda 1 the discounted sum of the rollout."""
    torch.manual_seed(0)
    rewards, values = torch.randn(4, 2), torch.randn(4, 2)
    targets = td_lambda(rewards, torch.zeros(4, 2), values, gamma=0.9, lambda_=lambda_)
    if lambda_ == 0.0:
        torch.testing.assert_close(targets, rewards + 0.9 * values)
    else:
        whole = sum(0.9**t * rewards[t] for t in range(4)) + 0.9**4 * values[-1]
        torch.testing.assert_close(targets[0], whole)
