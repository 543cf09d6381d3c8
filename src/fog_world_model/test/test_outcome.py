"""The outcome head: two-hot rewards by hand, one step equal to the trained sequence."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fog_world_model.global_model.outcome import (
    OutcomeConfig,
    OutcomeHead,
    symexp,
    symlog,
    two_hot,
)

BINS = torch.tensor([-1.0, 0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("value", "weights"),
    [
        (0.25, [0.0, 0.75, 0.25, 0.0]),
        (-0.9, [0.9, 0.1, 0.0, 0.0]),
        (1.0, [0.0, 0.0, 1.0, 0.0]),
        (-1.0, [1.0, 0.0, 0.0, 0.0]),
        (2.0, [0.0, 0.0, 0.0, 1.0]),
        (-7.0, [1.0, 0.0, 0.0, 0.0]),
        (7.0, [0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_two_hot_by_hand(value: float, weights: list[float]) -> None:
    assert two_hot(torch.tensor(value), BINS).tolist() == pytest.approx(weights, abs=1e-6)


def test_mean_over_bins_gives_the_value_back() -> None:
    bins = torch.linspace(-3, 3, 63)
    values = torch.rand(5, 200) * 6 - 3
    weights = two_hot(values, bins)
    assert weights.shape == (5, 200, 63)
    assert (weights >= 0).all()
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 200))
    torch.testing.assert_close((weights * bins).sum(-1), values, rtol=0, atol=1e-5)


def test_symlog_by_hand() -> None:
    values = torch.tensor([0.0, math.e - 1, -(math.e**2 - 1), 1e-4])
    torch.testing.assert_close(symlog(values), torch.tensor([0.0, 1.0, -2.0, 0.99995e-4]))
    torch.testing.assert_close(symexp(torch.tensor([1.0, -2.0])), values[1:3])
    many = torch.linspace(-19, 19, 101)
    torch.testing.assert_close(symexp(symlog(many)), many)


def head() -> OutcomeHead:
    torch.manual_seed(0)
    return OutcomeHead(
        OutcomeConfig(channels=16, hidden=32),
        height=16,
        width=16,
        action_size=2,
        proprioception_size=3,
    )


def test_steps_equal_the_sequence_that_is_trained() -> None:
    """The losses, computed from the outcomes of one step after the other."""
    model, batch, time = head(), 3, 4
    frames, proprio = torch.rand(batch, time + 1, 3, 16, 16), torch.randn(batch, time + 1, 3)
    action, reward = torch.rand(batch, time, 2), torch.randn(batch, time)
    end = (torch.rand(batch, time) < 0.5).float()
    losses = model.loss(
        frames[:, :-1], proprio[:, :-1], action, frames[:, 1:], reward, end, proprio[:, 1:]
    )
    state = model.initial(batch)
    square, entropy = [], []
    for t in range(time):
        outcome, state = model.step(
            frames[:, t], proprio[:, t], action[:, t], frames[:, t + 1], state
        )
        assert outcome.reward.shape == outcome.end_probability.shape == (batch,)
        square.append((outcome.proprioception - proprio[:, t + 1]).square().mean())
        entropy.append(F.binary_cross_entropy(outcome.end_probability, end[:, t]))
    torch.testing.assert_close(losses["proprioception"], torch.stack(square).mean())
    torch.testing.assert_close(losses["end"], torch.stack(entropy).mean())


def test_reward_is_read_from_the_bins() -> None:
    """With all weight on one bin the reward is that bin's, out of symlog."""
    model = head()
    last = model.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[40] = 100.0
        last.bias[63] = math.log(3.0)  # the end: odds of 3 are a probability of 0.75
    frame, proprio = torch.rand(1, 3, 16, 16), torch.tensor([[1.0, 2.0, 3.0]])
    with torch.no_grad():
        outcome, _ = model.step(frame, proprio, torch.zeros(1, 2), frame, model.initial(1))
    place = -3 + 40 * 6 / 62
    assert float(outcome.reward) == pytest.approx(math.expm1(place), rel=1e-4)
    assert float(outcome.end_probability) == pytest.approx(0.75, rel=1e-5)
    assert torch.equal(outcome.proprioception, proprio)  # a change of zero


def test_reward_loss_is_least_at_the_true_distribution() -> None:
    """Logits of the two-hot target itself: the loss is its entropy, and nothing is lower."""
    model = head()
    value = 0.4
    target = two_hot(symlog(torch.tensor(value)), model.bins)
    last = model.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[:63] = target.clamp_min(1e-9).log()

    def loss(reward: float) -> float:
        frames, proprio = torch.zeros(1, 1, 3, 16, 16), torch.zeros(1, 1, 3)
        one = torch.full((1, 1), reward)
        losses = model.loss(frames, proprio, torch.zeros(1, 1, 2), frames, one, one * 0, proprio)
        return float(losses["reward"])

    entropy = -float((target * target.clamp_min(1e-9).log()).sum())
    assert loss(value) == pytest.approx(entropy, abs=1e-4)
    assert loss(value + 0.3) > 1.0


def test_what_happened_before_matters() -> None:
    model = head()
    frame, proprio, action = torch.rand(1, 3, 16, 16), torch.zeros(1, 3), torch.zeros(1, 2)
    first, state = model.step(frame, proprio, action, frame, model.initial(1))
    second, _ = model.step(frame, proprio, action, frame, state)
    assert not torch.equal(first.reward, second.reward)
