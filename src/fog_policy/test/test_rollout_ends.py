"""Every pattern of ends and every option of the rollout, against independent computations."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.decoupled_gradient import objective, rollout, soft_bonus
from fog_policy.local_world import LatentWorld
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows
from fog_world_model.global_model.global_model import GlobalModel, preset
from fog_world_model.global_model.worlds import Precision
from fog_world_model.imagination import ImaginedEnv, ImaginedStep
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState

GAMMA, TEMPERATURE, TARGET = 0.9, 0.3, -1.5
FRESH = (0.4, -0.6, 0.2)
"""Where an environment goes on from after its first, second and third end."""


def moved(x: Tensor, action: Tensor) -> Tensor:
    return torch.sin(x + 0.5 * action)


def paid(x: Tensor) -> Tensor:
    return torch.cos(2 * x) + 0.1 * x


class Sine:
    """x' = sin(x + a / 2) for both worlds, with ends at given steps ``[time][env]``."""

    def __init__(self, start: Tensor, ends: Tensor) -> None:
        self.x, self.ends, self.t = start.clone(), ends, 0
        self.restarts = [0] * len(start)

    def step(self, action: Tensor) -> ImaginedStep:
        assert not action.requires_grad
        self.x = moved(self.x, action)
        self.t += 1
        nothing = torch.zeros(len(self.x), 0)
        return ImaginedStep(nothing, self.x, paid(self.x)[:, 0], self.ends[self.t - 1])

    def restart(self, which: Tensor | None = None) -> Windows:
        assert which is not None
        fresh = torch.zeros_like(self.x)
        for i in which.nonzero().flatten().tolist():
            fresh[i] = FRESH[self.restarts[i]]
            self.restarts[i] += 1
        self.x = torch.where(which[:, None], fresh, self.x)
        nothing = torch.zeros(0)
        return Windows(nothing, fresh, nothing, nothing, nothing)

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        return LatentState(state.deterministic, moved(state.stochastic, action))

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        return LatentState(predicted.deterministic, step.proprioception)

    def reward(self, state: LatentState) -> Tensor:
        return paid(state.stochastic)[:, 0]

    def start(self, contexts: Windows) -> LatentState:
        x = contexts.proprioception
        return LatentState(x[:, :0], x)


class Gaussian(nn.Module):
    """a = w x + b + e^s noise, not squashed, so that its log-probability is easily written down."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))
        self.s = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.w * features + self.b, (self.s + 0.3 * features).exp()
        normal = torch.distributions.Normal(mean, std)
        action = mean + std * noise
        return action, normal.log_prob(action).sum(-1)


@pytest.mark.parametrize("soft", [False, True])
def test_every_pattern_of_ends_has_the_gradient_of_plain_back_propagation(soft: bool) -> None:
    """Two environments, three steps, all 64 patterns; with and without the entropy."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 2, 1, generator=generator, dtype=torch.float64)
    policy, temperature = Gaussian(), torch.tensor(TEMPERATURE, dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        return (3 * x + x**2)[..., 0]

    for pattern in product([False, True], repeat=6):
        ends = torch.tensor(pattern).view(3, 2)
        system = Sine(start, ends)
        state = LatentState(start[:, :0], start)
        flow = rollout(policy, system, system, state, noise)
        bonus = soft_bonus(flow.log_probs, temperature, target=TARGET)
        found = objective(
            flow, value(flow.next_features[-1]), gamma=GAMMA, bonus=bonus if soft else None
        )

        total = torch.zeros((), dtype=torch.float64)
        for i in range(2):
            x, discount, ended = start[i], 1.0, 0
            for t in range(3):
                mean, std = policy.w * x + policy.b, (policy.s + 0.3 * x).exp()
                action = mean + std * noise[t, i]
                log_prob = torch.distributions.Normal(mean, std).log_prob(action)[0]
                x = moved(x, action)
                total = total + discount * paid(x)[0]
                if soft:
                    total = total + discount * TEMPERATURE * (1.5 - log_prob) / 3.0
                discount *= GAMMA
                if ends[t, i]:
                    x, discount = torch.full((1,), FRESH[ended], dtype=torch.float64), 1.0
                    ended += 1
            if not ends[2, i]:
                total = total + discount * value(x)
        plain = total / 2 / 3

        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-14)
        parameters = list(policy.parameters())
        pairs = zip(
            torch.autograd.grad(found, parameters),
            torch.autograd.grad(plain, parameters),
            strict=True,
        )
        for decoupled, expected in pairs:
            torch.testing.assert_close(decoupled, expected, rtol=1e-11, atol=1e-14)


def test_soft_bonus_is_nothing_at_the_target_and_the_temperature_at_its_opposite() -> None:
    log_probs = torch.tensor([[1.5], [0.0], [-1.5]])  # entropies of -1.5, 0 and 1.5 nats
    bonus = soft_bonus(log_probs, torch.tensor(0.4), target=-1.5)
    torch.testing.assert_close(bonus, torch.tensor([[0.0], [0.2], [0.4]]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("sample_prior", [False, True])
def test_forward_values_are_those_without_a_gradient(
    tiny_store: EpisodeStore, tiny_local: LocalModel, precision: Precision, sample_prior: bool
) -> None:
    """In both precisions, from a bank of contexts, whatever the gradient goes through."""
    torch.manual_seed(0)
    model = GlobalModel(preset("tiny", height=16, width=16, action_size=3, proprioception_size=2))
    contexts = ContextBank.load(tiny_store, length=3, count=40)
    env = ImaginedEnv(
        model.requires_grad_(False), contexts,
        environments=4, max_steps=12, seed=0, precision=precision,
    )  # fmt: skip
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3, hidden=16))
    local = LatentWorld(tiny_local, sample_prior=sample_prior)
    with torch.no_grad():
        state = local.start(env.restart())
    noise = torch.randn(6, 4, 3)
    before = env.snapshot()
    with_gradient = rollout(actor, env, local, state, noise)
    env.restore(before)
    with torch.no_grad():
        without = rollout(actor, env, local, state, noise)
    assert float(with_gradient.ends.sum()) > 0
    for name in ("features", "next_features", "actions", "log_probs", "rewards", "ends"):
        left, right = getattr(with_gradient, name), getattr(without, name)
        assert left.requires_grad == (name not in ("features", "ends"))
        assert torch.equal(left.detach(), right), name
    for left, right in zip(with_gradient.steps, without.steps, strict=True):
        assert torch.equal(left.image, right.image)
