"""PPO in imagined worlds: what it sees, what it is told, that it learns, stops and goes on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from fog_policy.actor_critic import Actor, ActorCriticConfig, td_lambda
from fog_policy.decoupled_gradient import rollout
from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.ppo_baseline import PpoLearner
from fog_policy.ppo_config import PpoConfig
from fog_policy.ppo_networks import SquashedGaussian
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel, WorldState
from fog_world_model.global_model.outcome import Outcome


class TwoGoals(GlobalModel):
    """Nothing ever changes; acting (0.5, -0.3, anything) is best and is worth 1."""

    def step(
        self, state: WorldState, action: Tensor, generator: torch.Generator
    ) -> tuple[WorldState, Outcome]:
        reward = 1 - (action[:, 0] - 0.5).square() - (action[:, 1] + 0.3).square()
        return state, Outcome(reward, torch.zeros_like(reward), state.proprioception)


class NotANumber(GlobalModel):
    """The reward of the third environment is not a number."""

    def step(
        self, state: WorldState, action: Tensor, generator: torch.Generator
    ) -> tuple[WorldState, Outcome]:
        reward = torch.zeros(len(action))
        reward[2] = float("nan")
        return state, Outcome(reward, torch.zeros(len(action)), state.proprioception)


Make = Callable[..., PpoLearner]


def squashed(sizes: ActorCriticConfig) -> tuple[Actor, Tensor]:
    torch.manual_seed(0)
    actor = Actor(sizes)
    last = actor.body[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(20)
    return actor, torch.randn(7, sizes.features)


def test_distribution_is_the_actors() -> None:
    """Against the actor itself, and against torch's own transformed distribution."""
    actor, features = squashed(ActorCriticConfig(features=5, action_size=3, hidden=16))
    distribution = SquashedGaussian(actor)
    distribution.update(actor.body(features))
    raw = distribution.sample()
    mean, log_std = distribution.params
    noise = (raw - mean) / log_std.exp()
    action, log_prob = actor(features, noise)
    torch.testing.assert_close(raw.tanh(), action)
    torch.testing.assert_close(distribution.log_prob(raw), log_prob)
    torch.testing.assert_close(actor.log_prob(features, raw), log_prob)
    torch.testing.assert_close(distribution.entropy, -log_prob)
    plain = TransformedDistribution(
        Independent(Normal(mean.double(), log_std.double().exp()), 1), TanhTransform()
    )
    expected = plain.log_prob(raw.double().tanh())
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        distribution.deterministic_output(actor.body(features)).tanh(), actor.mode(features)
    )


def test_log_probability_is_finite_where_the_action_is_at_its_bound() -> None:
    actor, features = squashed(ActorCriticConfig(features=5, action_size=3, hidden=16))
    distribution = SquashedGaussian(actor)
    distribution.update(actor.body(features))
    raw = torch.full((7, 3), 12.0)  # its tanh is 1 in 32 bits
    assert bool((raw.tanh() == 1).all())
    assert bool(distribution.log_prob(raw).isfinite().all())


def test_kl_is_that_of_the_gaussians() -> None:
    torch.manual_seed(1)
    actor, _ = squashed(ActorCriticConfig(features=5, action_size=3, hidden=16))
    old, new = ((torch.randn(4, 3), torch.randn(4, 3)) for _ in range(2))
    expected = torch.distributions.kl_divergence(
        Normal(old[0], old[1].exp()), Normal(new[0], new[1].exp())
    ).sum(-1)
    torch.testing.assert_close(SquashedGaussian(actor).kl_divergence(old, new), expected)


def seldom_ending(model: GlobalModel) -> None:
    """About one step in eight is an end, so that environments become due as well."""
    last = model.outcome.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias[model.outcome.config.bins] = -2.0


def test_sees_what_the_decoupled_update_sees(
    make_trainer: Callable[..., FogTrainer],
    make_ppo: Make,
    tiny_config: FogConfig,
    tiny_ppo: PpoConfig,
) -> None:
    """Observations, rewards, ends and starts of six segments, bit for bit; first weights too."""
    fog, ppo = make_trainer(tiny_config), make_ppo(tiny_ppo)
    seldom_ending(fog.env.model)
    seldom_ending(ppo.env.model)
    for left, right in ((fog.actor, ppo.actor), (fog.critic, ppo.critic)):
        assert all(
            torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True)
        )

    def policy(features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise.tanh(), noise.sum(-1)

    ends = due = 0.0
    for number in range(6):
        noise = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(number))
        fog._restart_due()
        with torch.no_grad():
            flow = rollout(policy, fog.env, fog.phase.local, fog.phase.state, noise)
        fog.phase.state = flow.state
        for t in range(3):
            assert torch.equal(ppo.worlds.get_observations()["features"], flow.features[t])
            image, vector = ppo.env.observation
            _, reward, over, extras = ppo.worlds.step(noise[t])
            assert torch.equal(extras["arrived"]["features"], flow.next_features[t])
            assert torch.equal(extras["step"].image, flow.steps[t].image)
            assert torch.equal(reward, flow.rewards[t])
            assert torch.equal(over & ~extras["time_outs"], flow.ends[t] > 0)
            assert image.shape[0] == vector.shape[0] == 4
            ends, due = ends + float(flow.ends[t].sum()), due + float(extras["time_outs"].sum())
    assert ends > 3, "the comparison must have met ends"
    assert due > 3, "and environments that were due"


def test_returns_are_those_of_td_lambda(
    make_ppo: Make, monkeypatch: pytest.MonkeyPatch, tiny_ppo: PpoConfig
) -> None:
    """Also where an episode was left: there the value of where it was left is the rest."""
    made = make_ppo(replace(tiny_ppo, horizon=12))
    seldom_ending(made.env.model)
    critic, step = copy.deepcopy(made.critic), made.worlds.step
    seen: list[dict[str, Tensor]] = []

    def recorded(actions: Tensor) -> Any:
        result = step(actions)
        extras = result[3]
        seen.append({"reward": result[1], "end": extras["step"].end.float(),
                     "left": extras["time_outs"].float(),
                     "value": critic(extras["arrived"]["features"]).detach()})  # fmt: skip
        return result

    monkeypatch.setattr(made.worlds, "step", recorded)
    made.update()
    rewards, ends, left, values = (
        torch.stack([row[name] for row in seen]) for name in ("reward", "end", "left", "value")
    )
    assert float(left.sum()) > 0
    assert float(ends.sum()) > 0
    gamma = tiny_ppo.gamma
    expected = td_lambda(
        rewards + gamma * left * values, ends + left, values,
        gamma=gamma, lambda_=tiny_ppo.lambda_,
    )  # fmt: skip
    torch.testing.assert_close(made.ppo.storage.returns.squeeze(-1), expected)


def test_finds_what_is_best(make_ppo: Make, tiny_ppo: PpoConfig) -> None:
    made = make_ppo(
        replace(tiny_ppo, environments=64, horizon=4, segment=4, gamma=0.5, refresh_steps=0),
        TwoGoals,
    )
    rewards = [made.update()["reward"] for _ in range(30)]
    with torch.no_grad():
        action = made.actor.mode(made.worlds.state.features).mean(0)
    assert rewards[-1] > rewards[0] + 0.15
    assert rewards[-1] > 0.9
    assert abs(float(action[0]) - 0.5) < 0.15
    assert abs(float(action[1]) + 0.3) < 0.15


def test_options_reach_rsl_rl(make_ppo: Make, tiny_ppo: PpoConfig) -> None:
    made = make_ppo(
        replace(tiny_ppo, clip_value=True, schedule="adaptive", target_kl=0.02, clip=0.3)
    )
    ppo = made.ppo
    assert (ppo.use_clipped_value_loss, ppo.schedule, ppo.desired_kl) == (True, "adaptive", 0.02)
    assert (ppo.clip_param, ppo.gamma, ppo.lam) == (0.3, 0.99, 0.95)
    rates = {made.update()["learning_rate"] for _ in range(2)}
    assert rates != {tiny_ppo.learning_rate}


def test_an_update_touches_what_it_should(make_ppo: Make, tiny_ppo: PpoConfig) -> None:
    for steps in (0, 1):
        made = make_ppo(replace(tiny_ppo, refresh_steps=steps))
        parts = {"actor": made.actor, "critic": made.critic, "local": made.local_model,
                 "global": made.env.model}  # fmt: skip
        before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        for _ in range(3):
            log = made.update()
        touched = {
            name
            for name, part in parts.items()
            if any(not torch.equal(before[name][k], v) for k, v in part.state_dict().items())
        }
        assert touched == {"actor", "critic"} | ({"local"} if steps else set())
        assert all(math.isfinite(value) for value in log.values())
        assert made.imagined_steps == made.env.steps == 3 * 4 * 6
        assert ("local_loss" in log) == bool(steps)


def test_a_reward_that_is_not_finite_stops(make_ppo: Make, tiny_ppo: PpoConfig) -> None:
    made = make_ppo(tiny_ppo, NotANumber)
    before = copy.deepcopy(made.actor.state_dict())
    with pytest.raises(
        FogError, match=r"^update 0: the global model's reward is not finite at step 0.* 1 of 4"
    ):
        made.update()
    assert all(torch.equal(before[k], v) for k, v in made.actor.state_dict().items())


def test_a_gradient_that_is_not_finite_stops(make_ppo: Make, tiny_ppo: PpoConfig) -> None:
    """Before it reaches the weights, and the setting that helps is named and exists."""
    made = make_ppo(tiny_ppo)
    first = next(made.critic.parameters())
    first.register_hook(lambda gradient: gradient * float("inf"))
    before = copy.deepcopy(made.actor.state_dict())
    with pytest.raises(
        FogError, match=r"^update 0: the gradient of the critic is not finite.*lower learning_rate"
    ):
        made.update()
    assert all(torch.equal(before[k], v) for k, v in made.actor.state_dict().items())
    assert hasattr(tiny_ppo, "learning_rate")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(FogError, match="horizon is 20 and segment 16; expected whole segments"):
        PpoConfig(horizon=20)
    with pytest.raises(FogError, match="environments is 0"):
        PpoConfig(environments=0)
    with pytest.raises(FogError, match="schedule is 'slow'; expected fixed or adaptive"):
        PpoConfig(schedule="slow")  # type: ignore[arg-type]
    assert PpoConfig().steps("cpu") == 32
    assert PpoConfig().steps("cuda") == 128
    assert PpoConfig(segment=24).steps("cpu") == 24
