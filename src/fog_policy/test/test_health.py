"""Figures of health against cases worked out by hand, and what is said about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.decoupled_gradient import rollout
from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.gradient_check import check_gradient
from fog_policy.health import CHECKS, HealthMonitor, prediction_errors, reward_uncertainty
from fog_policy.local_world import LatentWorld
from fog_world_model.data.windows import Windows
from fog_world_model.imagination import ImaginedEnv, ImaginedStep
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState

Make = Callable[..., FogTrainer]
ENVIRONMENTS = 6


class Line:
    """x' = x + a and the reward -x'^2 in the global world; what the local one believes differs."""

    def __init__(self, *, offset: float = 0.0, slope: float = 1.0) -> None:
        self.offset, self.slope = offset, slope
        self.environments, self.age = ENVIRONMENTS, torch.zeros(ENVIRONMENTS)
        self.x = torch.linspace(0.5, 1.5, ENVIRONMENTS)[:, None]

    def step(self, action: Tensor) -> ImaginedStep:
        self.x = self.x + action
        end = torch.zeros(len(self.x), dtype=torch.bool)
        return ImaginedStep(self.x[..., None, None], self.x, -(self.x[:, 0] ** 2), end)

    def restart(self, which: Tensor | None = None) -> Windows:
        raise AssertionError("there are no ends")

    def snapshot(self) -> Tensor:
        return self.x

    def restore(self, snapshot: Tensor) -> None:
        self.x = snapshot

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        return LatentState(
            state.deterministic, state.stochastic + self.slope * action + self.offset
        )

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        return LatentState(predicted.deterministic, step.proprioception)

    def reward(self, state: LatentState) -> Tensor:
        return -(state.stochastic[:, 0] ** 2)

    def start(self, contexts: Windows) -> LatentState:
        raise AssertionError("there are no ends")

    @property
    def state(self) -> LatentState:
        return LatentState(torch.zeros(len(self.x), 0), self.x)


def cosines(line: Line) -> tuple[float, float]:
    torch.manual_seed(3)
    actor = Actor(ActorCriticConfig(1, 1, hidden=16))
    env = cast("ImaginedEnv", line)
    before = [p.detach().clone() for p in actor.parameters()]
    generator = torch.get_rng_state()
    found = check_gradient(
        actor, env, line, line.state, lambda features: 0 * features.sum(-1),
        horizon=4, gamma=0.9, directions=16, seed=0,
    )  # fmt: skip
    assert all(torch.equal(b, p) for b, p in zip(before, actor.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), generator)
    return found.decoupled, found.local


def test_both_gradients_agree_with_the_reference_where_the_local_model_is_right() -> None:
    decoupled, local = cosines(Line())
    assert decoupled > 0.99
    assert local == pytest.approx(decoupled, abs=1e-3)


def test_a_biased_local_model_misleads_alone_but_not_coupled() -> None:
    """It believes that everything drifts by -2 a step: alone it wants to go up, where it is down.

    Its derivatives are right, and the global model's values are what they are taken at.
    """
    decoupled, local = cosines(Line(offset=-2.0))
    assert decoupled > 0.99
    assert local < -0.5


def test_a_local_model_with_wrong_derivatives_misleads_in_both_ways() -> None:
    decoupled, local = cosines(Line(slope=-1.0))
    assert decoupled < -0.9
    assert local < 0


def test_prediction_errors_worked_out_by_hand() -> None:
    """Two environments, three steps, actions of 1; the local model believes in 0.8 of each.

    Truth from (0, 2): 1 2 3 and 3 4 5. One step ahead each is 0.2 too low, so that rewards are off
    by x^2 - (x - 0.2)^2 = 0.4 x - 0.04; three steps ahead, 0.6 too low: 1.2 x - 0.36.
    """
    line = Line(slope=0.8)
    line.x = torch.tensor([[0.0], [2.0]])

    def one(features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(2, 1), torch.zeros(2)

    flow = rollout(one, line, line, line.state, torch.zeros(3, 2, 1))
    x = np.array([1.0, 2, 3, 3, 4, 5])
    spread = np.sqrt(np.var(x, ddof=1))
    found = prediction_errors(line, flow, stochastic=1)
    assert found["local_latent_error_1"] == pytest.approx(0.2 / spread)
    assert found["local_reward_error_1"] == pytest.approx(np.sqrt(np.mean((0.4 * x - 0.04) ** 2)))
    last = np.array([3.0, 5.0])
    assert found["local_latent_error_h"] == pytest.approx(0.6 / spread)
    assert found["local_reward_error_h"] == pytest.approx(
        np.sqrt(np.mean((1.2 * last - 0.36) ** 2))
    )
    # An environment that ended on the way says nothing about three steps ahead.
    ended = replace(flow, ends=torch.tensor([[0.0, 0], [0, 1], [0, 0]]))
    found = prediction_errors(line, ended, stochastic=1)
    assert found["local_reward_error_h"] == pytest.approx(1.2 * 3 - 0.36)
    ended = replace(flow, ends=torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
    assert "local_reward_error_h" not in prediction_errors(line, ended, stochastic=1)


@pytest.mark.parametrize(("sharp", "expected"), [(0.0, math.log(63)), (50.0, 0.0)])
def test_uncertainty_is_the_entropy_of_the_reward(
    tiny_env: ImaginedEnv, tiny_local: LocalModel, sharp: float, expected: float
) -> None:
    outcome = tiny_env.model.outcome
    last = outcome.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight[: outcome.config.bins] = 0.0
        last.bias[: outcome.config.bins] = 0.0
        last.bias[7] = sharp
    local = LatentWorld(tiny_local)
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3, hidden=16))
    with torch.no_grad():
        state = local.start(tiny_env.restart())
        start = tiny_env.worlds.state
        flow = rollout(actor, tiny_env, local, state, torch.zeros(4, 4, 3))
    assert outcome.config.bins == 63
    assert reward_uncertainty(tiny_env.model, start, flow) == pytest.approx(expected, abs=1e-5)


def test_the_outcome_head_is_asked_as_the_environment_asked_it(
    tiny_env: ImaginedEnv, tiny_local: LocalModel
) -> None:
    """The same recurrent states as along the rollout: its mean reward is the environment's."""
    local = LatentWorld(tiny_local)
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3, hidden=16))
    outcome, asked = tiny_env.model.outcome, []
    step = outcome.step
    with torch.no_grad():
        state = local.start(tiny_env.restart())
        start = tiny_env.worlds.state
        flow = rollout(actor, tiny_env, local, state, torch.zeros(4, 4, 3))

    def remember(*arguments: Tensor) -> Any:
        answer = step(*arguments)
        asked.append(answer[0].reward)
        return answer

    outcome.step = remember  # type: ignore[method-assign]
    reward_uncertainty(tiny_env.model, start, flow)
    alive = torch.ones(4, dtype=torch.bool)
    for found, seen, end in zip(asked, flow.steps, flow.ends, strict=True):
        torch.testing.assert_close(found[alive], seen.reward[alive], rtol=1e-4, atol=1e-5)
        alive = alive & (end == 0)


def monitor(columns: dict[str, list[float]]) -> tuple[HealthMonitor, list[str]]:
    """Told of checks one after the other; what it said, in all."""
    made, said = HealthMonitor(), []
    for i in range(len(next(iter(columns.values())))):
        said += made.add({k: v[i] for k, v in columns.items()}, update=75 * (i + 1))
    return made, said


def figures(**changes: list[float]) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    fine = {
        "gradient_cosine": rng.uniform(0.2, 0.9, 24).tolist(),
        "gradient_cosine_local": rng.uniform(-0.2, 0.6, 24).tolist(),
        "reward": (0.3 + 0.02 * np.arange(24) + 0.01 * rng.normal(size=24)).tolist(),
        "reward_uncertainty": (1.0 + 0.05 * rng.normal(size=24)).tolist(),
    }
    return fine | changes


def test_nothing_is_said_while_all_is_well() -> None:
    assert monitor(figures())[1] == []
    falling = (0.9 - 0.02 * np.arange(24)).tolist()
    rising = (1.0 + 0.1 * np.arange(24)).tolist()
    assert monitor(figures(reward=falling, reward_uncertainty=rising))[1] == []


def test_a_cosine_near_zero_is_said_once() -> None:
    near = np.random.default_rng(1).uniform(-0.5, 0.5, 24).tolist()
    made, said = monitor(figures(gradient_cosine=near))
    assert len(said) == 1
    assert said[0].startswith(f"update {75 * CHECKS}: the cosine between the decoupled gradient")
    assert "the local model is no guide" in said[0]
    assert made.warnings == {"no guide": said[0]}
    # One or two bad checks are chance.
    once = [0.5] * 24
    once[9] = once[10] = -0.6
    assert monitor(figures(gradient_cosine=once))[1] == []


def test_exploitation_is_said_once_and_survives_a_checkpoint() -> None:
    rising = (1.0 + 0.1 * np.arange(24)).tolist()
    made, said = monitor(figures(reward_uncertainty=rising))
    assert len(said) == 1
    assert "the imagined reward rises" in said[0]
    assert "may be exploiting the global model" in said[0]
    again = HealthMonitor()
    again.load(made.state())
    more = {k: v[-1] for k, v in figures(reward_uncertainty=rising).items()}
    assert again.add(more, update=9999) == []
    assert again.warnings == made.warnings


def test_checks_are_logged_and_change_nothing(
    make_trainer: Make, tiny_config: FogConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training with checks is training without them, also where the prior draws."""
    config = replace(tiny_config, sample_prior=True, check_directions=2)
    plain, checked = make_trainer(config), make_trainer(replace(config, check_every=2))
    torch.manual_seed(0)
    logs = [plain.update() for _ in range(4)]
    torch.manual_seed(0)
    more = [checked.update() for _ in range(4)]
    names = {
        "gradient_cosine", "gradient_cosine_local", "local_latent_error_1", "local_reward_error_1",
        "reward_uncertainty", "clipped_share", "check_seconds",
    }  # fmt: skip
    assert [names <= set(row) for row in more] == [False, True, False, True]
    assert [{k: row[k] for k in log} for log, row in zip(logs, more, strict=True)] == logs
    assert more[1]["clipped_share"] == (more[0]["clipped"] + more[1]["clipped"]) / 2
    assert plain.env.steps == checked.env.steps
    checked.health.checks = [dict.fromkeys(checked.health.checks[-1], 0.0)] * CHECKS
    for _ in range(2):
        checked.update()
    assert capsys.readouterr().err.count("fog: warning: update 6: the cosine") == 1
