"""The local model: divergence, derivatives, and what a state has and has not seen."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as reference_kl

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import Gaussian, LatentState, kl_divergence


def gaussian(*shape: int) -> Gaussian:
    return Gaussian(torch.randn(*shape).double(), torch.rand(*shape).double() + 0.1)


def test_kl_against_torch_distributions() -> None:
    torch.manual_seed(0)
    left, right = gaussian(4, 5, 6), gaussian(4, 5, 6)
    expected = reference_kl(
        Independent(Normal(left.mean, left.std), 1), Independent(Normal(right.mean, right.std), 1)
    )
    found = kl_divergence(left, right)
    assert found.shape == (4, 5)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(kl_divergence(left, left), torch.zeros(4, 5).double())


def test_kl_by_hand() -> None:
    """N(1, 2) against N(0, 1): (4 + 1 - 1) / 2 - ln 2 = 1.306853."""
    one = torch.ones(1)
    found = kl_divergence(Gaussian(one, 2 * one), Gaussian(0 * one, one))
    assert float(found) == pytest.approx(1.306853, abs=1e-6)


def test_sample_is_reparameterised() -> None:
    mean = torch.tensor([1.0, 2.0], requires_grad=True)
    std = torch.tensor([0.5, 3.0], requires_grad=True)
    noise = torch.tensor([2.0, -1.0])
    sample = Gaussian(mean, std).sample(noise)
    assert sample.tolist() == [2.0, -1.0]
    sample.sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [1.0, 1.0]
    assert std.grad is not None
    assert torch.equal(std.grad, noise)


def random_state(model: LocalModel, batch: int) -> LatentState:
    return LatentState(
        torch.randn(batch, model.config.deterministic).double(),
        torch.randn(batch, model.config.stochastic).double(),
    )


def test_jacobian_of_the_prior(tiny_local: LocalModel) -> None:
    """Of state and reward with respect to action and state: not zero, and as differences say."""
    model = tiny_local.double()
    torch.manual_seed(1)
    state, action = random_state(model, 1), torch.rand(1, 2).double()

    def by_action(a: Tensor) -> Tensor:
        after = model.imagine(state, a)
        return torch.cat([after.features[0], model.reward(after)])

    def by_state(z: Tensor) -> Tensor:
        return model.imagine(LatentState(state.deterministic, z), action).features[0]

    for function, at in ((by_action, action), (by_state, state.stochastic)):
        jacobian = torch.autograd.functional.jacobian(function, at).squeeze(1)
        assert jacobian.shape == (len(function(at)), at.shape[1])
        for i in range(at.shape[1]):
            h = torch.zeros_like(at)
            h[0, i] = 1e-6
            difference = (function(at + h) - function(at - h)) / 2e-6
            torch.testing.assert_close(jacobian[:, i], difference, rtol=1e-5, atol=1e-8)
            deterministic, stochastic = difference.split([32, len(difference) - 32])
            assert float(deterministic.abs().max()) > 1e-4
            assert float(stochastic.abs().max()) > 1e-5


def sampled(store: EpisodeStore, batch: int = 3, length: int = 6) -> Windows:
    return WindowSampler(store, length=length, seed=0).sample(batch)


def test_filter_equals_stepping_by_hand(tiny_local: LocalModel, coded_store: EpisodeStore) -> None:
    """As the controller on the robot does it: a zero action before the first observation."""
    windows = sampled(coded_store)
    with torch.no_grad():
        states, priors, posteriors = tiny_local.filter(windows, sample=False)
        h, z = torch.zeros(3, 32), torch.zeros(3, 8)
        action = torch.zeros(3, 2)
        for t in range(6):
            rssm = tiny_local.rssm
            h = rssm.cell(rssm.input(torch.cat([z, action], -1)), h)
            embedding = tiny_local.encoder(windows.image[:, t], windows.proprioception[:, t])
            prior, posterior = rssm.prior(h), rssm.posterior(h, embedding)
            z = posterior.mean
            # Convolutions over 18 images at once and over 3 round differently.
            close = partial(torch.testing.assert_close, rtol=0, atol=1e-5)
            close(states.deterministic[:, t], h)
            close(states.stochastic[:, t], z)
            close(priors.mean[:, t], prior.mean)
            close(priors.std[:, t], prior.std)
            close(posteriors.std[:, t], posterior.std)
            action = windows.action[:, t]
    assert float(priors.std.min()) > 0.1


@pytest.mark.parametrize("field", ["image", "proprioception", "action"])
def test_no_state_sees_what_comes_later(
    tiny_local: LocalModel, coded_store: EpisodeStore, field: str
) -> None:
    """Changing o_3 changes the states from 3 on, changing a_3 those from 4 on."""
    windows = sampled(coded_store)
    changed = getattr(windows, field).clone()
    changed[:, 3] += 0.5
    other = dataclasses.replace(windows, **{field: changed})
    with torch.no_grad():
        before = tiny_local.filter(windows, sample=False)[0].features
        after = tiny_local.filter(other, sample=False)[0].features
    first = 4 if field == "action" else 3
    assert torch.equal(before[:, :first], after[:, :first])
    assert (before[:, first:] != after[:, first:]).any(-1).all()


@pytest.mark.parametrize("field", ["reward", "end"])
def test_loss_reads_transitions_where_they_arrive(
    tiny_local: LocalModel, coded_store: EpisodeStore, field: str
) -> None:
    """The last row's transition is unused; any other changes its own loss and no other."""
    windows = sampled(coded_store)
    name = {"reward": "reward", "end": "continue"}[field]

    def losses(row: int | None) -> dict[str, Tensor]:
        values = getattr(windows, field).clone()
        if row is not None:
            values[:, row] = 1 - values[:, row]
        torch.manual_seed(0)
        return tiny_local.loss(dataclasses.replace(windows, **{field: values}))

    reference, last, middle = losses(None), losses(-1), losses(2)
    for key, value in reference.items():
        assert torch.equal(last[key], value), key
        assert torch.equal(middle[key], value) == (key not in (name, "total")), key


def test_reward_loss_by_hand(tiny_local: LocalModel, coded_store: EpisodeStore) -> None:
    """With a head that always says 2, half the squared error in units of 0.1."""
    windows = sampled(coded_store)
    last = tiny_local.reward_head[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(2.0)
    found = float(tiny_local.loss(windows)["reward"].detach())
    expected = float(0.5 * ((2.0 - windows.reward[:, :-1]) / 0.1).square().mean())
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("std", "expected"), [(0.1, 18.0), (0.3, 2.0), (0.6, 0.5)])
def test_the_rewards_weight_by_hand(
    tiny_local: LocalModel, coded_store: EpisodeStore, std: float, expected: float
) -> None:
    """An error of 0.6 is 6, 2 or 1 standard deviations; the total moves with half the square."""
    windows = sampled(coded_store)
    windows = dataclasses.replace(windows, reward=torch.full_like(windows.reward, 1.4))
    last = tiny_local.reward_head[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(2.0)
    tiny_local.config = dataclasses.replace(tiny_local.config, reward_std=std)
    losses = {name: float(value.detach()) for name, value in tiny_local.loss(windows).items()}
    assert losses["reward"] == pytest.approx(expected, rel=1e-4)
    last.bias.data.fill_(1.4)
    torch.manual_seed(0)
    without = float(tiny_local.loss(windows)["total"].detach())
    last.bias.data.fill_(2.0)
    torch.manual_seed(0)
    with_error = float(tiny_local.loss(windows)["total"].detach())
    assert with_error - without == pytest.approx(expected, rel=1e-3)


def test_kl_counts_only_above_the_free_nats(
    tiny_local: LocalModel, coded_store: EpisodeStore
) -> None:
    """Below the bound every step counts as the bound and nothing pulls at the prior."""
    windows = sampled(coded_store)
    with torch.no_grad():
        _, prior, posterior = tiny_local.filter(windows, sample=False)
        assert 1.0 < float(kl_divergence(posterior, prior).max()) < 5.0

    def total(free: float) -> tuple[float, float]:
        """The loss, and the norm of its gradient in the prior."""
        tiny_local.config = dataclasses.replace(tiny_local.config, free_nats=free)
        torch.manual_seed(0)
        loss = tiny_local.loss(windows)["total"]
        last = tiny_local.rssm.prior_head[-1]
        assert isinstance(last, nn.Linear)
        return float(loss.detach()), float(torch.autograd.grad(loss, last.weight)[0].norm())

    (five, below), (ten, _), (_, above) = total(5.0), total(10.0), total(0.0)
    assert ten - five == pytest.approx(5.0 * (1.0 + 0.1), rel=1e-3)  # weights 1 and 0.1
    assert below == 0.0
    assert above > 1e-3


def test_imagine_with_and_without_noise(tiny_local: LocalModel) -> None:
    state = LatentState(torch.randn(2, 32), torch.randn(2, 8))
    action = torch.rand(2, 2)
    mean, again = (tiny_local.imagine(state, action) for _ in range(2))
    assert torch.equal(mean.features, again.features)
    first, second = (tiny_local.imagine(state, action, sample=True) for _ in range(2))
    assert torch.equal(first.deterministic, mean.deterministic)
    assert not torch.equal(first.stochastic, second.stochastic)


def test_where_and_features() -> None:
    left = LatentState(torch.zeros(2, 3), torch.zeros(2, 1))
    right = LatentState(torch.ones(2, 3), 2 * torch.ones(2, 1))
    mixed = left.where(torch.tensor([False, True]), right)
    assert mixed.features.tolist() == [[0, 0, 0, 0], [1, 1, 1, 2]]
