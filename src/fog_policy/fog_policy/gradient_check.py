"""How far the decoupled gradient points where the objective really rises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor
from fog_policy.decoupled_gradient import LocalWorld, objective, rollout
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.local_model.rssm import LatentState


def gradient_cosine(
    actor: Actor,
    env: ImaginedEnv,
    local: LocalWorld,
    state: LatentState,
    value: Callable[[Tensor], Tensor],
    *,
    horizon: int,
    gamma: float,
    directions: int,
    seed: int,
) -> float:
    """Cosine between the decoupled gradient and antithetic finite differences.

    Along random directions v of the actor's parameters, (J(theta + e v) - J(theta - e v)) / 2e is
    compared with g . v. J is the same objective, of values of the global model only, with the same
    noise and the same start; nothing of the environment changes for the caller.

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

    Returns:
        In [-1, 1]; about 1 / sqrt(directions) is what chance gives.
    """
    generator = torch.Generator(device=env.age.device).manual_seed(seed)
    noise = torch.randn(
        horizon,
        env.environments,
        actor.config.action_size,
        generator=generator,
        device=env.age.device,
    )
    parameters = list(actor.parameters())

    def run() -> Tensor:
        with _unchanged(env):
            flow = rollout(actor, env, local, state, noise)
            return objective(flow, value(flow.next_features[-1]), gamma=gamma)

    gradient = torch.autograd.grad(run(), parameters)
    expected, measured = [], []
    with torch.no_grad():
        for _ in range(directions):
            direction = [
                torch.randn(p.shape, generator=generator, device=p.device)
                * p.norm().clamp_min(1e-2)
                / p.numel() ** 0.5
                for p in parameters
            ]
            step = 0.02
            _shift(parameters, direction, step)
            above = run()
            _shift(parameters, direction, -2 * step)
            below = run()
            _shift(parameters, direction, step)
            measured.append((above - below) / (2 * step))
            expected.append(
                sum(
                    ((g * d).sum() for g, d in zip(gradient, direction, strict=True)),
                    torch.zeros((), device=noise.device),
                )
            )
    return float(
        nn.functional.cosine_similarity(torch.stack(expected), torch.stack(measured), dim=0)
    )


def _shift(parameters: list[nn.Parameter], direction: list[Tensor], step: float) -> None:
    for p, d in zip(parameters, direction, strict=True):
        p.add_(d, alpha=step)


@contextmanager
def _unchanged(env: ImaginedEnv) -> Iterator[None]:
    """Put the environment back afterwards, so that every rollout in here starts alike."""
    before = env.snapshot()
    try:
        yield
    finally:
        env.restore(before)
