"""The decoupled gradient against plain back-propagation, and its forward values bit for bit.

At the end: a rollout gone through again, with the same numbers for the same policy.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.decoupled_gradient import Rollout, objective, rollout, swap
from fog_policy.fog_config import FogConfig
from fog_policy.gradient_check import check_gradient
from fog_policy.local_world import LatentWorld
from fog_policy.retraced import retrace
from fog_world_model.data.windows import Windows
from fog_world_model.errors import FogError
from fog_world_model.imagination import ImaginedEnv, ImaginedStep
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState

ENVIRONMENTS, HORIZON, GAMMA = 3, 5, 0.9
A = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64)
B = torch.tensor([[0.5, -0.3]], dtype=torch.float64)


def quadratic(x: Tensor) -> Tensor:
    return -(x**2).sum(-1) + 0.3 * x[..., 0]


class LinearSystem:
    """x' = x A + a B with reward q(x'): the same differentiable system for both worlds.

    ``ends`` says after which steps environments end; they go on from ``fresh``.
    """

    def __init__(self, start: Tensor, ends: Tensor, *, matrix: Tensor = A) -> None:
        self.x, self.ends, self.matrix, self.t = start.clone(), ends, matrix, 0
        self.fresh = torch.full_like(start, 0.7)

    def step(self, action: Tensor) -> ImaginedStep:
        assert not action.requires_grad, "the global world must see the action without gradient"
        self.x = self.x @ A + action @ B
        end = self.ends[self.t]
        self.t += 1
        return ImaginedStep(torch.zeros(len(self.x), 3, 1, 1), self.x, quadratic(self.x), end)

    def restart(self, which: Tensor | None = None) -> Windows:
        assert which is not None
        self.x = torch.where(which[:, None], self.fresh, self.x)
        empty = torch.zeros(0)
        return Windows(empty, self.fresh, empty, empty, empty)

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        return LatentState(state.deterministic, state.stochastic @ self.matrix + action @ B)

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        return LatentState(predicted.deterministic, step.proprioception)

    def reward(self, state: LatentState) -> Tensor:
        return quadratic(state.stochastic)

    def start(self, contexts: Windows) -> LatentState:
        return LatentState(torch.zeros(len(self.x), 0), contexts.proprioception)


class LinearPolicy(nn.Module):
    """a = tanh(x w + 0.1 noise)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.4], [-0.7]], dtype=torch.float64))

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(features @ self.weight + 0.1 * noise), noise.sum(-1)


def end_patterns() -> list[Tensor]:
    none = torch.zeros(HORIZON, ENVIRONMENTS, dtype=torch.bool)
    middle, last, often = none.clone(), none.clone(), none.clone()
    middle[2, 1] = True
    last[-1, 0] = True
    often[0, 0] = often[1, 0] = often[3, 2] = often[-1, 2] = True
    return [none, middle, last, often]


@pytest.mark.parametrize("ends", end_patterns())
def test_equals_back_propagation_when_both_worlds_are_the_same(ends: Tensor) -> None:
    torch.manual_seed(0)
    start = torch.randn(ENVIRONMENTS, 2, dtype=torch.float64)
    noise = torch.randn(HORIZON, ENVIRONMENTS, 1, dtype=torch.float64)

    def value(features: Tensor) -> Tensor:
        return 2.0 * features.sum(-1)

    policy = LinearPolicy()
    system = LinearSystem(start, ends)
    state = LatentState(torch.zeros(ENVIRONMENTS, 0, dtype=torch.float64), start)
    flow = rollout(policy, system, system, state, noise)
    decoupled_value = objective(flow, value(flow.next_features[-1]), gamma=GAMMA)
    (decoupled,) = torch.autograd.grad(decoupled_value, policy.weight)

    # The same objective in one differentiable piece, environment by environment.
    total = torch.zeros((), dtype=torch.float64)
    for i in range(ENVIRONMENTS):
        x, discount = start[i], 1.0
        for t in range(HORIZON):
            action = torch.tanh(x @ policy.weight + 0.1 * noise[t, i])
            x = x @ A + action @ B
            total = total + discount * quadratic(x)
            discount *= GAMMA
            if ends[t, i]:
                x, discount = torch.full((2,), 0.7, dtype=torch.float64), 1.0
        if not ends[-1, i]:
            total = total + discount * value(x)
    plain_value = total / ENVIRONMENTS / HORIZON
    (plain,) = torch.autograd.grad(plain_value, policy.weight)

    assert float(plain.abs().max()) > 1e-3
    torch.testing.assert_close(decoupled_value, plain_value, rtol=1e-12, atol=0)
    torch.testing.assert_close(decoupled, plain, rtol=1e-12, atol=0)


def test_gradient_is_the_local_worlds_when_the_worlds_differ() -> None:
    """One step, reward x' only: the derivative must be the local B's, the value the global's."""
    start = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    ends = torch.zeros(2, 1, dtype=torch.bool)
    noise = torch.zeros(2, 1, 1, dtype=torch.float64)
    policy = LinearPolicy()
    right, wrong = LinearSystem(start, ends), LinearSystem(start, ends, matrix=2 * A)
    state = LatentState(torch.zeros(1, 0, dtype=torch.float64), start)
    same = rollout(policy, right, right, state, noise)
    mixed = rollout(policy, LinearSystem(start, ends), wrong, state, noise)
    assert torch.equal(same.rewards, mixed.rewards), "values come from the global world alone"
    gradients = [
        torch.autograd.grad(
            objective(f, torch.zeros(1, dtype=torch.float64), gamma=GAMMA), policy.weight
        )[0]
        for f in (same, mixed)
    ]
    assert not torch.allclose(*gradients), "gradients come from the local world"


def test_swap_is_exact() -> None:
    value = torch.tensor([1e-30, 1.0, -3.3e7, 0.1])
    carrier = torch.tensor([1e15, 0.3, 1.0, -7.7], requires_grad=True)
    result = swap(value, carrier**2)
    assert torch.equal(result, value)
    (gradient,) = torch.autograd.grad(result.sum(), carrier)
    assert torch.equal(gradient, 2 * carrier.detach())


@pytest.mark.parametrize("sample_prior", [False, True])
def test_forward_values_equal_a_gradient_free_rollout(
    tiny_env: ImaginedEnv, tiny_local: LocalModel, sample_prior: bool
) -> None:
    """Against a loop that knows nothing of gradients, bit for bit, restarts included."""
    torch.manual_seed(1)
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3, hidden=16))
    local = LatentWorld(tiny_local, sample_prior=sample_prior)
    with torch.no_grad():
        state = local.start(tiny_env.restart())
    noise = torch.randn(6, tiny_env.environments, 3)
    before = tiny_env.snapshot()
    flow = rollout(actor, tiny_env, local, state, noise)
    assert flow.rewards.requires_grad
    assert flow.next_features.requires_grad

    tiny_env.restore(before)
    with torch.no_grad():
        plain = state
        for t in range(len(noise)):
            assert torch.equal(plain.features, flow.features[t])
            action, _ = actor(plain.features, noise[t])
            step = tiny_env.step(action)
            h = tiny_local.rssm.advance(plain, action)
            z = tiny_local.rssm.posterior(
                h, tiny_local.encoder(step.image, step.proprioception)
            ).mean
            plain = LatentState(h, z)
            assert torch.equal(action, flow.actions[t])
            assert torch.equal(step.reward, flow.rewards[t])
            assert torch.equal(plain.features, flow.next_features[t])
            if bool(step.end.any()):
                plain = plain.where(step.end, local.start(tiny_env.restart(step.end)))
    assert float(flow.ends.sum()) > 0, "the comparison must have met an end"


def test_nothing_flows_through_encoder_or_global_model(
    tiny_env: ImaginedEnv, tiny_local: LocalModel
) -> None:
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3, hidden=16))
    local = LatentWorld(tiny_local)
    tiny_local.requires_grad_(True)
    tiny_env.model.requires_grad_(True)
    with torch.no_grad():
        state = local.start(tiny_env.restart())
    flow = rollout(actor, tiny_env, local, state, torch.zeros(3, tiny_env.environments, 3))
    objective(flow, flow.next_features[-1].sum(-1), gamma=GAMMA).backward()
    assert all(p.grad is not None for p in actor.parameters())
    untouched = [tiny_local.encoder, tiny_local.rssm.posterior_head, tiny_env.model]
    assert all(p.grad is None for m in untouched for p in m.parameters())
    assert all(p.grad is not None for p in tiny_local.rssm.cell.parameters())
    assert all(p.grad is not None for p in tiny_local.reward_head.parameters())


def test_gradient_check_leaves_everything_as_it_was(
    tiny_env: ImaginedEnv, tiny_local: LocalModel
) -> None:
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3, hidden=16))
    local = LatentWorld(tiny_local)
    with torch.no_grad():
        state = local.start(tiny_env.restart())
    parameters = [p.detach().clone() for p in actor.parameters()]
    before = tiny_env.snapshot()
    cosine = check_gradient(
        actor, tiny_env, local, state, lambda f: 0 * f.sum(-1),
        horizon=3, gamma=GAMMA, directions=2, seed=0,
    ).decoupled  # fmt: skip
    assert -1.0 <= cosine <= 1.0
    after = tiny_env.snapshot()
    assert torch.equal(before[0].frames, after[0].frames)
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    for old, new in zip(parameters, actor.parameters(), strict=True):
        torch.testing.assert_close(old, new.detach(), rtol=1e-5, atol=1e-6)


def begun(seed: int = 0) -> tuple[Tensor, Tensor, LatentState]:
    torch.manual_seed(seed)
    start = torch.randn(ENVIRONMENTS, 2, dtype=torch.float64)
    noise = torch.randn(HORIZON, ENVIRONMENTS, 1, dtype=torch.float64)
    return start, noise, LatentState(torch.zeros(ENVIRONMENTS, 0, dtype=torch.float64), start)


def gradient(flow: Rollout, policy: LinearPolicy) -> Tensor:
    target = objective(flow, 2.0 * flow.next_features[-1].sum(-1), gamma=GAMMA)
    (found,) = torch.autograd.grad(target, policy.weight)
    return found


@pytest.mark.parametrize("ends", end_patterns())
def test_the_same_policy_gets_the_same_rollout_bit_for_bit(ends: Tensor) -> None:
    start, noise, state = begun()
    policy, wrong = LinearPolicy(), LinearSystem(start, ends, matrix=1.7 * A)
    flow = rollout(policy, LinearSystem(start, ends), wrong, state, noise)
    again = retrace(policy, wrong, flow, noise)
    for name in ("features", "next_features", "actions", "log_probs", "rewards", "ends"):
        assert torch.equal(getattr(again, name), getattr(flow, name)), name
    assert torch.equal(again.state.features, flow.state.features)
    assert torch.equal(gradient(again, policy), gradient(flow, policy))


@pytest.mark.parametrize("ends", end_patterns())
def test_where_the_local_world_is_right_it_is_the_rollout_of_the_new_policy(ends: Tensor) -> None:
    start, noise, state = begun()
    policy = LinearPolicy()
    system = LinearSystem(start, ends)
    flow = rollout(policy, system, system, state, noise)
    with torch.no_grad():
        policy.weight.add_(torch.tensor([[0.5], [0.8]], dtype=torch.float64))
    expected = rollout(policy, LinearSystem(start, ends), system, state, noise)
    again = retrace(policy, system, flow, noise)
    assert not torch.allclose(again.rewards, flow.rewards)
    for name in ("features", "next_features", "actions", "rewards"):
        torch.testing.assert_close(getattr(again, name), getattr(expected, name))
    torch.testing.assert_close(gradient(again, policy), gradient(expected, policy))


def test_a_wrong_local_world_errs_with_the_change_alone() -> None:
    """By hand: one step, of a policy that was 0 in the rollout, in a world with twice the effect.

    bar s = x A (action 0), and the reward there is q(x A). The new action a moves the state by
    a B, as the local world says, wherever that believes x A to be.
    """
    start, noise, state = begun()
    noise = torch.zeros(1, ENVIRONMENTS, 1, dtype=torch.float64)
    ends = torch.zeros(1, ENVIRONMENTS, dtype=torch.bool)
    policy, wrong = LinearPolicy(), LinearSystem(start, ends, matrix=3.0 * A)
    with torch.no_grad():
        policy.weight.zero_()
    flow = rollout(policy, LinearSystem(start, ends), wrong, state, noise)
    with torch.no_grad():
        policy.weight.copy_(torch.tensor([[0.3], [0.1]], dtype=torch.float64))
    again = retrace(policy, wrong, flow, noise)
    action = torch.tanh(start @ policy.weight.detach())
    torch.testing.assert_close(again.next_features[0], start @ A + action @ B)
    torch.testing.assert_close(again.rewards[0], quadratic(start @ A + action @ B))


def test_what_cannot_be_gone_through_again_is_refused() -> None:
    start, noise, state = begun()
    ends = torch.zeros(HORIZON, ENVIRONMENTS, dtype=torch.bool)
    system = LinearSystem(start, ends)
    flow = rollout(LinearPolicy(), system, system, state, noise)
    with pytest.raises(ValueError, match="trace"):
        retrace(LinearPolicy(), system, flow, noise[:2])
    with pytest.raises(FogError, match="actor_passes is 2 with sample_prior"):
        FogConfig(actor_passes=2, sample_prior=True)
