"""How far a gradient points where the objective really rises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor
from fog_policy.decoupled_gradient import LocalWorld, Policy, Rollout, objective, rollout
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.local_model.rssm import LatentState

Value = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GradientCheck:
    """Cosines in [-1, 1] with the reference; about 1 / sqrt(directions) is what chance gives."""

    decoupled: float
    """Of the decoupled gradient."""
    local: float
    """Of the gradient in the local model alone, from the same states with the same noise."""
    flow: Rollout
    """The rollout that was differentiated."""


@dataclass
class _Slopes:
    """Slopes of the objective along each direction: measured, and as each gradient foretells."""

    measured: list[Tensor]
    decoupled: list[Tensor]
    local: list[Tensor]

    def cosine(self, foretold: list[Tensor]) -> float:
        left, right = torch.stack(foretold), torch.stack(self.measured)
        return float(nn.functional.cosine_similarity(left, right, dim=0))


def check_gradient(
    actor: Actor,
    env: ImaginedEnv,
    local: LocalWorld,
    state: LatentState,
    value: Value,
    *,
    horizon: int,
    gamma: float,
    directions: int,
    seed: int,
) -> GradientCheck:
    """Compare two gradients with antithetic finite differences through the global model.

    Along random directions v of the actor's parameters, (J(theta + e v) - J(theta - e v)) / 2e is
    compared with g . v. J is the objective without entropy, of values of the global model only,
    with the same noise and the same start. Nothing of the environment, of the actor or of torch's
    generators changes for the caller.

    Args:
        actor: The policy; its parameters are put back.
        env: The global world.
        local: The local world.
        state: Where the rollouts start.
        value: Bootstrap, ``[env, feature] -> [env]``.
        horizon: Steps.
        gamma: Discount.
        directions: Number of random directions; 2 rollouts each.
        seed: Seed of the noise and of the directions.
    """
    device = env.age.device
    generator = torch.Generator(device=device).manual_seed(seed)
    shape = (horizon, env.environments, actor.config.action_size)
    noise = torch.randn(shape, generator=generator, device=device)
    parameters = list(actor.parameters())
    kept = [p.detach().clone() for p in parameters]

    def run() -> tuple[Tensor, Rollout]:
        with unchanged(env):
            flow = rollout(actor, env, local, state, noise)
            return objective(flow, value(flow.next_features[-1]), gamma=gamma), flow

    slopes = _Slopes([], [], [])
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        target, flow = run()
        decoupled = torch.autograd.grad(target, parameters)
        alone = local_objective(actor, local, state, noise, value, gamma=gamma)
        foretold = torch.autograd.grad(alone, parameters)
        with torch.no_grad():
            for _ in range(directions):
                direction = [
                    torch.randn(p.shape, generator=generator, device=device)
                    * p.norm().clamp_min(1e-2)
                    / p.numel() ** 0.5
                    for p in parameters
                ]
                step = 0.02
                _place(parameters, kept, direction, step)
                above, _ = run()
                _place(parameters, kept, direction, -step)
                below, _ = run()
                _place(parameters, kept, direction, 0.0)
                slopes.measured.append((above - below) / (2 * step))
                slopes.decoupled.append(_along(decoupled, direction))
                slopes.local.append(_along(foretold, direction))
    return GradientCheck(slopes.cosine(slopes.decoupled), slopes.cosine(slopes.local), flow)


def local_objective(
    policy: Policy,
    local: LocalWorld,
    state: LatentState,
    noise: Tensor,
    value: Value,
    *,
    gamma: float,
) -> Tensor:
    """The objective in the local model alone ("no diffusion"): it predicts every state and reward.

    Args:
        policy: The actor.
        local: The local world; it foretells no ends.
        state: s_0; its gradient is cut.
        noise: ``[time, env, field]`` standard normal.
        value: Bootstrap, ``[env, feature] -> [env]``.
        gamma: Discount.

    Returns:
        Scalar, as :func:`.decoupled_gradient.objective`.
    """
    rewards, state = local_rewards(policy, local, state, noise)
    total = torch.zeros((), device=noise.device)
    for t, reward in enumerate(rewards):
        total = total + gamma**t * reward.mean()
    return (total + gamma ** len(noise) * value(state.features).mean()) / len(noise)


def local_rewards(
    policy: Policy, local: LocalWorld, state: LatentState, noise: Tensor
) -> tuple[Tensor, LatentState]:
    """What the local model alone foretells.

    Args:
        policy: The actor.
        local: The local world; it foretells no ends.
        state: s_0; its gradient is cut.
        noise: ``[time, env, field]`` standard normal.

    Returns:
        Rewards ``[time, env]`` and the last state, with their gradients.
    """
    state, rewards = state.detach(), []
    for step_noise in noise:
        action, _ = policy(state.features, step_noise)
        state = local.predict(state, action)
        rewards.append(local.reward(state))
    return torch.stack(rewards), state


def _along(gradient: tuple[Tensor, ...], direction: list[Tensor]) -> Tensor:
    products = [(g * d).sum() for g, d in zip(gradient, direction, strict=True)]
    return torch.stack(products).sum()


def _place(
    parameters: list[nn.Parameter], kept: list[Tensor], direction: list[Tensor], step: float
) -> None:
    """Put the parameters at ``kept + step * direction``; exactly there for a step of 0."""
    for p, k, d in zip(parameters, kept, direction, strict=True):
        p.copy_(k + step * d if step else k)


@contextmanager
def unchanged(env: ImaginedEnv) -> Iterator[None]:
    """Put the environment back afterwards, so that every rollout in here starts alike."""
    before = env.snapshot()
    try:
        yield
    finally:
        env.restore(before)
