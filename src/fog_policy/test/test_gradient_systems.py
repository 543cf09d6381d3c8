"""The decoupled gradient on whole systems: one that it climbs, and recurrent models it must equal.

What one step, one swap or one hand-written policy does is tested in test_decoupled_gradient.py and
test_rollout_ends.py.
"""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from fog_policy.actor_critic import Actor, ActorCriticConfig, Critic
from fog_policy.decoupled_gradient import objective, rollout, soft_bonus
from fog_policy.local_world import LatentWorld
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.windows import Windows
from fog_world_model.global_model.global_model import GlobalModel, WorldState, preset
from fog_world_model.global_model.worlds import Precision
from fog_world_model.imagination import ImaginedEnv, ImaginedStep
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.local_model.rssm import RSSM, LatentState

GAMMA = 0.95
GOAL, PENDULUMS, SWING = 0.6, 8, 15
"""Angle to hold, rad; how many pendulums; steps of a rollout."""
ACTION, STOCHASTIC, STEPS, TEMPERATURE, TARGET = 2, 3, 4, 0.3, -2.0


class Pendulum:
    """A damped pendulum with a motor, 0.2 s a step; the reward falls with the distance to GOAL.

    State: angle (rad, 0 hangs down) and angular velocity (rad/s). A motor at full power holds a
    horizontal pendulum where gravity is 3. As both worlds: the true one, and a wrong belief.
    """

    def __init__(self, start: Tensor, *, wind: float = 0.0, gravity: float = 3.0) -> None:
        self.x, self.wind, self.gravity = start, wind, gravity

    def move(self, x: Tensor, action: Tensor) -> Tensor:
        angle, velocity = x[:, :1], x[:, 1:]
        torque = 3 * action + self.wind - self.gravity * angle.sin() - velocity
        velocity = velocity + 0.2 * torque
        return torch.cat([angle + 0.2 * velocity, velocity], dim=1)

    def step(self, action: Tensor) -> ImaginedStep:
        self.x = self.move(self.x, action)
        end = torch.zeros(len(self.x), dtype=torch.bool)
        return ImaginedStep(self.x[:, :0], self.x, paid(self.x), end)

    def restart(self, which: Tensor | None = None) -> Windows:
        raise AssertionError("there are no ends")

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        return LatentState(state.deterministic, self.move(state.stochastic, action))

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        return LatentState(predicted.deterministic, step.proprioception)

    def reward(self, state: LatentState) -> Tensor:
        return paid(state.stochastic)

    def start(self, contexts: Windows) -> LatentState:
        raise AssertionError("there are no ends")


def paid(x: Tensor) -> Tensor:
    return -((x[:, 0] - GOAL) ** 2)


def learned(way: str) -> tuple[float, float]:
    """Train a policy; give the mean reward that it gets in the true world, before and after."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    actor = Actor(ActorCriticConfig(2, 1, hidden=16)).double()
    optimiser = torch.optim.Adam(actor.parameters(), lr=1e-2)
    start = 0.3 * torch.randn(PENDULUMS, 2, generator=generator, dtype=torch.float64)
    state = LatentState(start[:, :0], start)

    def drawn() -> Tensor:
        shape = (SWING, PENDULUMS, 1)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    trial = drawn()

    def true_reward() -> float:
        with torch.no_grad():
            return float(
                rollout(actor, Pendulum(start), Pendulum(start), state, trial).rewards.mean()
            )

    def true() -> Pendulum:
        return Pendulum(start)

    def wrong() -> Pendulum:
        return Pendulum(start, wind=4.0, gravity=2.0)

    before = true_reward()
    for _ in range(45):
        world = wrong() if way == "wrong model alone" else true()
        local = true() if way == "true gradient" else wrong()
        flow = rollout(actor, world, local, state, drawn())
        nothing = torch.zeros(PENDULUMS, dtype=torch.float64)
        optimiser.zero_grad()
        (-objective(flow, nothing, gamma=0.99)).backward()
        optimiser.step()
    return before, true_reward()


def test_climbs_the_true_objective_where_the_wrong_model_alone_descends() -> None:
    """The local model believes in a wind that is not there, and in too little gravity.

    Where it rolls out alone, the wind (4, against a motor of 3) carries every pendulum far beyond
    the goal: the slope of the reward there says "back", and it teaches the motor to push backwards
    with all its might. In the true world, where nothing blows, that leads away from the goal.

    Coupled, the same model is asked for derivatives only, at states where the true world has been.
    There the pendulums hang below the goal and the slope of the reward says "on". The wind is a
    constant and has no part in any derivative; the wrong gravity scales one of them, without
    turning its sign. So the update rises as that of the true derivatives does.
    """
    before, best = learned("true gradient")
    also_before, decoupled = learned("decoupled")
    _, alone = learned("wrong model alone")
    assert also_before == before
    assert best > 0.2 * before > before, "the system can be learned"
    assert decoupled - before > 0.95 * (best - before)
    assert alone < 3 * before < before, "it does not merely climb more slowly"


class Recurrent(LatentWorld):
    """A recurrent model that is both worlds: what it shows is its own prediction.

    Pattern of ends ``[time][env]``; after each the environment goes on from ``fresh``.
    """

    def __init__(
        self,
        model: LocalModel,
        state: LatentState,
        fresh: LatentState,
        ends: Tensor,
        *,
        sample_prior: bool,
    ) -> None:
        super().__init__(model, sample_prior=sample_prior)
        self.now, self.fresh, self.ends, self.t = state, fresh, ends, 0

    def step(self, action: Tensor) -> ImaginedStep:
        drawn_from = torch.get_rng_state()
        with torch.no_grad():
            self.now = self.predict(self.now, action)
            reward = self.reward(self.now)
        torch.set_rng_state(drawn_from)  # the prediction with a gradient draws the same sample
        self.t += 1
        shown = torch.cat([self.now.deterministic, self.now.stochastic], dim=1)
        return ImaginedStep(shown, shown, reward, self.ends[self.t - 1])

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        width = predicted.deterministic.shape[1]
        return LatentState(step.proprioception[:, :width], step.proprioception[:, width:])

    def restart(self, which: Tensor | None = None) -> Windows:
        assert which is not None
        self.now = self.now.where(which, self.fresh)
        nothing = torch.zeros(0)
        return Windows(nothing, nothing, nothing, nothing, nothing)

    def start(self, contexts: Windows) -> LatentState:
        return self.fresh


def recurrent_model() -> LocalModel:
    config = LocalModelConfig(
        16, 16, ACTION, 1, depth=4, embedding=8, deterministic=5, stochastic=STOCHASTIC, hidden=8
    )
    return LocalModel(config).double().requires_grad_(False)


def biased(actor: Actor, *, saturated: bool) -> None:
    """Give the actor means that depend on the state, by choice where tanh is nearly flat."""
    last = actor.body[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(10.0)
        if saturated:
            last.bias[:ACTION] = torch.tensor([4.0, -5.0])


@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_equals_plain_back_propagation_for_every_option_and_pattern_of_ends(
    sampled: bool, soft: bool, saturated: bool
) -> None:
    """Mean or sample of the prior, with entropy or without, free or saturated; 16 patterns each.

    The plain computation goes along each chain with the networks of the recurrent model and
    PyTorch's own squashed distribution, and knows of no swap.
    """
    torch.manual_seed(0)
    model = recurrent_model()
    config = ActorCriticConfig(model.features_size, ACTION, hidden=8)
    actor, critic = Actor(config).double(), Critic(config).double().requires_grad_(False)
    biased(actor, saturated=saturated)
    double = torch.float64
    state = LatentState(torch.randn(1, 5, dtype=double).tanh(), torch.randn(1, 3, dtype=double))
    fresh = LatentState(torch.randn(1, 5, dtype=double).tanh(), torch.randn(1, 3, dtype=double))
    noise = torch.randn(STEPS, 1, ACTION, dtype=double)
    torch.manual_seed(1)
    draws = torch.randn(STEPS, 1, STOCHASTIC, dtype=double) if sampled else None
    temperature = torch.tensor(TEMPERATURE, dtype=double)
    parameters = list(actor.parameters())
    seen = []
    for pattern in product([False, True], repeat=STEPS):
        ends = torch.tensor(pattern)[:, None]
        world = Recurrent(model, state, fresh, ends, sample_prior=sampled)
        torch.manual_seed(1)  # of the samples of the prior
        flow = rollout(actor, world, world, state, noise)
        bonus = soft_bonus(flow.log_probs, temperature, target=TARGET) if soft else None
        found = objective(flow, critic(flow.next_features[-1]), gamma=GAMMA, bonus=bonus)
        plain = plain_objective(actor, critic, model, state, fresh, noise, draws, pattern, soft)
        torch.testing.assert_close(found, plain, rtol=1e-11, atol=0)
        decoupled = torch.autograd.grad(found, parameters)
        expected = torch.autograd.grad(plain, parameters)
        for left, right in zip(decoupled, expected, strict=True):
            # Relative to the layer's largest: single entries may be sums that cancel.
            size = float(right.abs().max())
            torch.testing.assert_close(left, right, rtol=0, atol=1e-9 * size)
        seen.append(torch.cat([g.flatten() for g in expected]))
        assert bool((flow.actions.abs() > 0.97).all()) == saturated
    different = torch.pdist(torch.stack(seen)) > 1e-6 * torch.stack(seen).norm(dim=1).max()
    assert bool(different.all()), "every pattern has a gradient of its own"


def plain_objective(
    actor: Actor,
    critic: Critic,
    model: LocalModel,
    state: LatentState,
    fresh: LatentState,
    noise: Tensor,
    draws: Tensor | None,
    ends: tuple[bool, ...],
    soft: bool,
) -> Tensor:
    """Discounted rewards of one environment's chains per step, in one differentiable piece."""
    low, high = actor.config.log_std_min, actor.config.log_std_max
    rssm: RSSM = model.rssm
    h, z = state.deterministic, state.stochastic
    total, discount = torch.zeros((), dtype=torch.float64), 1.0
    for t, end in enumerate(ends):
        mean, raw = actor.body(torch.cat([h, z], dim=1)).split(ACTION, dim=1)
        std = torch.exp(low + (high - low) / (1 + torch.exp(-raw)))
        squashed = TransformedDistribution(
            Independent(Normal(mean, std), 1), [TanhTransform(cache_size=1)]
        )
        action = squashed.transforms[0](mean + std * noise[t])
        log_prob = squashed.log_prob(action)
        h = rssm.cell(rssm.input(torch.cat([z, action], dim=1)), h)
        centre, spread = rssm.prior_head(h).split(STOCHASTIC, dim=1)
        z = centre
        if draws is not None:
            z = centre + (nn.functional.softplus(spread) + rssm.minimal_std) * draws[t]
        reward = model.reward_head(torch.cat([h, z], dim=1))[0, 0]
        if soft:
            reward = reward + TEMPERATURE * (2.0 - log_prob[0]) / 4.0
        total = total + discount * reward
        discount *= GAMMA
        if end:
            h, z, discount = fresh.deterministic, fresh.stochastic, 1.0
    if not ends[-1]:
        total = total + discount * critic(torch.cat([h, z], dim=1))[0]
    return total / len(ends)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_forward_values_of_the_small_models_are_those_without_a_gradient(
    precision: Precision,
) -> None:
    """Bit for bit, with everything that the worlds remember, at the size that two cores train."""
    torch.manual_seed(0)
    sizes = {"height": 64, "width": 64, "action_size": ACTION, "proprioception_size": 2}
    model = GlobalModel(preset("small", **sizes)).requires_grad_(False)
    nn.init.normal_(model.denoiser.unet.conv_out.weight, std=0.02)  # a fresh one sees no noise
    local = LocalModel(LocalModelConfig(**sizes)).requires_grad_(False)
    length = model.context_frames
    windows = Windows(
        torch.rand(6, length, 3, 64, 64) * 2 - 1, torch.randn(6, length, 2),
        torch.rand(6, length, 2) * 2 - 1, torch.zeros(6, length), torch.zeros(6, length),
    )  # fmt: skip
    env = ImaginedEnv(
        model, ContextBank(windows, seed=0), environments=3, max_steps=99, seed=0,
        device="cpu", precision=precision,
    )  # fmt: skip
    latent, actor = LatentWorld(local), Actor(ActorCriticConfig(local.features_size, ACTION))
    with torch.no_grad():
        state = latent.start(env.restart())
    noise = torch.randn(4, 3, ACTION)
    before = env.snapshot()
    attached = rollout(actor, env, latent, state, noise)
    left = env.snapshot()
    env.restore(before)
    with torch.no_grad():
        detached = rollout(actor, env, latent, state, noise)
    right = env.snapshot()
    assert float(attached.ends.sum()) > 0, "the comparison must have met an end"
    for field in ("features", "next_features", "actions", "log_probs", "rewards", "ends"):
        assert torch.equal(getattr(attached, field), getattr(detached, field)), field
    for one, other in zip(attached.steps, detached.steps, strict=True):
        assert all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    assert isinstance(left[0], WorldState)
    assert all(
        torch.equal(getattr(left[0], f.name), getattr(right[0], f.name)) for f in fields(left[0])
    )
    assert torch.equal(left[3], right[3]), "the same random numbers are left"  # type: ignore[arg-type]
    gradient = torch.autograd.grad(
        objective(attached, torch.zeros(3), gamma=GAMMA), list(actor.parameters())
    )
    assert all(bool(g.isfinite().all()) for g in gradient)
    assert any(float(g.abs().max()) > 0 for g in gradient)
