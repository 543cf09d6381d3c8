"""Two derivatives of a rollout's rewards by its first action, beside the one that is measured.

Of the actor's parameters there are so many that a few random directions
(:mod:`.gradient_check`) say little. An action has two or three fields, so that here the whole
derivative of every environment can be measured, at every horizon: how far the local model's
Jacobians point where the global model goes, whatever the policy's network makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fog_policy.decoupled_gradient import LocalWorld, Policy, Rollout, rollout
from fog_policy.gradient_check import local_rewards, unchanged
from fog_world_model.evaluation.episode_bootstrap import (
    Array,
    EpisodeSums,
    Estimate,
    Figure,
    Statistic,
    Sums,
)
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.local_model.rssm import LatentState

_WAYS = ("measured", "decoupled", "local")


@dataclass(frozen=True)
class ActionGradients:
    """Derivatives ``[horizon, env, field]`` of the rewards' sum over so many steps."""

    horizons: tuple[int, ...]
    """Steps."""
    measured: Tensor
    """Central differences through the global model."""
    decoupled: Tensor
    """Of :mod:`.decoupled_gradient`."""
    local: Tensor
    """Of the local model alone, from the same states with the same noise."""
    whole: Tensor
    """``[horizon, env]``, bool: no rollout ended before its last step. After an end the rewards are
    those of another context, and depend on nothing that was done before."""


@dataclass(frozen=True)
class Agreement:
    """Cosines in [-1, 1] with what was measured, over all environments and fields, by horizon."""

    decoupled: Estimate
    local: Estimate
    gain: Estimate
    """``decoupled - local``, on the same contexts."""
    contexts: list[int]
    """How many were counted."""
    sizes: dict[str, list[float | None]]
    """Root mean square of each derivative (``measured``, ``decoupled``, ``local``), per context."""


class _Beginning:
    """A policy whose first action is given."""

    def __init__(self, first: Tensor, policy: Policy) -> None:
        self._first: Tensor | None = first
        self._policy = policy

    def __call__(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        first, self._first = self._first, None
        if first is None:
            return self._policy(features, noise)
        return first, torch.zeros_like(first[:, 0])


def action_gradients(
    policy: Policy,
    env: ImaginedEnv,
    local: LocalWorld,
    state: LatentState,
    noise: Tensor,
    *,
    horizons: tuple[int, ...],
    step: float = 0.25,
) -> ActionGradients:
    """Differentiate the sum of the rewards by the first action, in three ways.

    The first action is the policy's, brought within ``step`` of the bounds, so that both sides of
    the difference are actions that can be given. Those after it follow the states, with the same
    noise in every rollout. Nothing of the environment or of torch's generators changes.

    Args:
        policy: The actor.
        env: The global world.
        local: The local world.
        state: Where the rollouts start.
        noise: ``[time, env, field]`` standard normal, as long as the longest horizon.
        horizons: Steps, ascending, each at least 1.
        step: Half the difference of the actions that the global model is asked about, in (0, 1). A
            picture with noise wants a large one, a curved world a small one.
    """
    device = noise.device
    with torch.no_grad():
        first = policy(state.features, noise[0])[0].clamp(step - 1, 1 - step)

    def sums(rewards: Tensor) -> Tensor:
        """``[time, env]`` -> ``[horizon, env]``."""
        return torch.stack([rewards[:h].sum(0) for h in horizons])

    def run(action: Tensor) -> Rollout:
        with unchanged(env):
            return rollout(_Beginning(action, policy), env, local, state, noise)

    def derivative(rewards: Tensor, action: Tensor) -> Tensor:
        # Environments do not see each other: the sum has the derivative of each.
        totals = sums(rewards).sum(1)
        return torch.stack(
            [torch.autograd.grad(total, action, retain_graph=True)[0] for total in totals]
        )

    def ended(flow: Rollout) -> Tensor:
        return torch.stack([(flow.ends[: h - 1] > 0).any(0) for h in horizons])

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        action = first.clone().requires_grad_(True)
        flow = run(action)
        decoupled, broken = derivative(flow.rewards, action), ended(flow)
        action = first.clone().requires_grad_(True)
        foretold, _ = local_rewards(_Beginning(action, policy), local, state, noise)
        alone = derivative(foretold, action)
        slopes = []
        with torch.no_grad():
            for field in range(first.shape[1]):
                aside = torch.zeros_like(first)
                aside[:, field] = step
                above, below = run(first + aside), run(first - aside)
                slopes.append((sums(above.rewards) - sums(below.rewards)) / (2 * step))
                broken = broken | ended(above) | ended(below)
    return ActionGradients(tuple(horizons), torch.stack(slopes, -1), decoupled, alone, ~broken)


def agreement(
    gradients: ActionGradients,
    *,
    episodes: Tensor | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Cosines with the measured derivative, and bootstrap intervals over contexts.

    Args:
        gradients: The derivatives; environments whose rollouts ended are left out.
        episodes: ``[env]``: the episode that each context is from: contexts of one resemble each
            other, and are drawn together. None: each stands for itself.
        level: Coverage of the intervals.
        resamples: Bootstrap samples.
        seed: Of the resampling.
    """
    environments = gradients.measured.shape[1]
    given = torch.arange(environments) if episodes is None else episodes.cpu()
    kinds, everyone = np.unique(given.numpy(), return_inverse=True)
    sums = EpisodeSums(len(kinds), len(gradients.horizons))
    ways = {name: getattr(gradients, name).double().cpu() for name in _WAYS}
    for place, whole in enumerate(gradients.whole.cpu().double()):
        sums.add("contexts", everyone, place, whole)
        for name, found in ways.items():
            sums.add(f"{name} squared", everyone, place, whole * found[place].square().sum(-1))
            product = (found[place] * ways["measured"][place]).sum(-1)
            sums.add(f"{name} measured", everyone, place, whole * product)
    figures = {name: Figure("contexts", _cosine(name)) for name in ("decoupled", "local")}
    figures["gain"] = Figure("contexts", lambda s: _cosine("decoupled")(s) - _cosine("local")(s))
    for name in _WAYS:
        figures[f"{name} size"] = Figure("contexts", _size(name))
    found = sums.estimates(figures, level=level, resamples=resamples, seed=seed)
    return Agreement(
        found["decoupled"],
        found["local"],
        found["gain"],
        [int(n) for n in sums.totals("contexts")],
        {name: found[f"{name} size"].rounded()["value"] for name in _WAYS},
    )


def _cosine(name: str) -> Statistic:
    def cosine(sums: Sums) -> Array:
        squares = sums[f"{name} squared"] * sums["measured squared"]
        return np.asarray(sums[f"{name} measured"] / np.sqrt(squares))

    return cosine


def _size(name: str) -> Statistic:
    return lambda sums: np.asarray(np.sqrt(sums[f"{name} squared"] / sums["contexts"]))
