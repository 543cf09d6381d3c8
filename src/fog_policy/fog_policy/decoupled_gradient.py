"""The decoupled first-order gradient: forward through the global model, backward through the local.

The idea of "First Order Model-Based RL through Decoupled Backpropagation" (DMO, arXiv 2509.00215)
in image space ("Coupled Local and Global World Models for Efficient First Order RL", arXiv
2602.06219). With actor pi, global model G, and local model with prior p, posterior q and reward r:

    a_t       = pi(s_t)                                        attached
    o_{t+1}, R_t, d_t = G(a_t)                                 no gradient
    s_hat     = mean of p(s_t, a_t)                            attached
    s_post    = mean of q(s_hat, encoder(o_{t+1}))             no gradient
    s_{t+1}   = s_post + (s_hat - stop(s_hat))                 value of s_post, gradient of s_hat
    reward_t  = R_t + (r(s_{t+1}) - stop(r(s_{t+1})))          value of R_t, gradient of r

The mean of the prior is a safe path for the gradient: it is the best guess of where the posterior
will be. A sample of it (``LatentWorld.sample_prior``) also sends a gradient through the spread of
the prior, which has no counterpart in the value.

The deterministic part of the state is the same function of (s_t, a_t) in prior and posterior, so
there value and gradient agree. An end cuts the chain: what follows starts from a new context that
does not depend on the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fog_world_model.data.windows import Windows
from fog_world_model.imagination import ImaginedStep
from fog_world_model.local_model.rssm import LatentState


class GlobalWorld(Protocol):
    """Forward only: :class:`~fog_world_model.imagination.ImaginedEnv`, or a known system."""

    def step(self, action: Tensor) -> ImaginedStep:
        """Step all environments."""

    def restart(self, which: Tensor | None = None) -> Windows:
        """Start some environments again and give their contexts."""


class LocalWorld(Protocol):
    """Differentiable: :class:`fog_policy.local_world.LatentWorld`, or a known system in tests."""

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """s_hat."""

    def correct(self, predicted: LatentState, step: ImaginedStep) -> LatentState:
        """s_post, given the observation of the global model."""

    def reward(self, state: LatentState) -> Tensor:
        """Reward of the transition that led to the state, ``[env]``."""

    def start(self, contexts: Windows) -> LatentState:
        """State after a context."""


class Policy(Protocol):
    """A reparameterised actor."""

    def __call__(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-probabilities."""


def swap(value: Tensor, gradient: Tensor) -> Tensor:
    """A tensor with the value of one and the gradient of another.

    ``gradient - gradient.detach()`` is exactly zero for finite numbers, so the forward value is
    that of ``value``, bit for bit.
    """
    return value.detach() + (gradient - gradient.detach())


def swap_state(value: LatentState, gradient: LatentState) -> LatentState:
    """:func:`swap` on both parts of a state."""
    return LatentState(
        swap(value.deterministic, gradient.deterministic),
        swap(value.stochastic, gradient.stochastic),
    )


@dataclass(frozen=True)
class Trace:
    """What happened in one step of a rollout, as values: where :mod:`.retraced` begins."""

    predicted: LatentState
    """s_hat."""
    arrived: LatentState
    """s_{t+1} before any restart."""
    foretold: Tensor
    """``[env]``: r(s_{t+1}), the local model's reward."""
    restarted: LatentState | None
    """States of new contexts; they count where an environment ended. None: none did."""


@dataclass(frozen=True)
class Rollout:
    """H steps of N environments; index t is the transition s_t, a_t -> s_{t+1}."""

    features: Tensor
    """``[time, env, feature]``: of s_t, without gradient (for the critic)."""
    next_features: Tensor
    """``[time, env, feature]``: of s_{t+1} before any restart, with gradient."""
    actions: Tensor
    """``[time, env, field]``, with gradient."""
    log_probs: Tensor
    """``[time, env]``, with gradient."""
    rewards: Tensor
    """``[time, env]``: value of the global model's reward, gradient of the local one's."""
    ends: Tensor
    """``[time, env]``, 0 or 1."""
    steps: list[ImaginedStep]
    """What the global model showed."""
    state: LatentState
    """State to go on from, without gradient."""
    start: LatentState | None = None
    """s_0."""
    trace: Sequence[Trace] = ()


def rollout(
    policy: Policy,
    world: GlobalWorld,
    local: LocalWorld,
    state: LatentState,
    noise: Tensor,
) -> Rollout:
    """Roll the policy out in the global world with the local world's derivatives.

    Under ``torch.no_grad()`` the same function gives the same values and no gradient.

    Args:
        policy: The actor.
        world: Where the values come from.
        local: Where the derivatives come from.
        state: s_0 of all environments; its gradient is cut.
        noise: ``[time, env, field]`` standard normal, one row for each step of the horizon.
    """
    state = start = state.detach()
    features, next_features, actions, log_probs, rewards, ends, steps = [], [], [], [], [], [], []
    trace = []
    for step_noise in noise:
        action, log_prob = policy(state.features, step_noise)
        step = world.step(action.detach())
        predicted = local.predict(state, action)
        with torch.no_grad():
            corrected = local.correct(predicted.detach(), step)
        arrived = swap_state(corrected, predicted)
        features.append(state.features.detach())
        next_features.append(arrived.features)
        actions.append(action)
        log_probs.append(log_prob)
        foretold = local.reward(arrived)
        rewards.append(swap(step.reward, foretold))
        ends.append(step.end.float())
        steps.append(step)
        state, fresh = arrived, None
        if bool(step.end.any()):
            with torch.no_grad():
                fresh = local.start(world.restart(step.end))
            state = arrived.where(step.end, fresh)  # the fresh state has no past: the chain is cut
        trace.append(Trace(predicted.detach(), arrived.detach(), foretold.detach(), fresh))
    return Rollout(
        torch.stack(features),
        torch.stack(next_features),
        torch.stack(actions),
        torch.stack(log_probs),
        torch.stack(rewards),
        torch.stack(ends),
        steps,
        state.detach(),
        start,
        trace,
    )


def soft_bonus(log_probs: Tensor, temperature: Tensor, *, target: float) -> Tensor:
    """What the entropy adds to each reward, as in SAPO (arXiv 2412.12089, section 4).

    The entropy -log pi(a_t | s_t) is moved and scaled so that it is 0 at its target H < 0 and 1 at
    |H|, whatever the number of action fields: temperature * (-log pi + |H|) / (2 |H|).

    Args:
        log_probs: ``[time, env]``, nats.
        temperature: Scalar, without gradient.
        target: H, nats, negative.

    Returns:
        ``[time, env]``.
    """
    return temperature * (abs(target) - log_probs) / (2 * abs(target))


def objective(
    rollout: Rollout, bootstrap: Tensor, *, gamma: float, bonus: Tensor | None = None
) -> Tensor:
    """Mean over environments of the discounted rewards of all chains, per step of the horizon.

    Each chain of an environment starts with discount 1, ends at an end or at the horizon, and only
    in the latter case adds the discounted bootstrap (SHAC, arXiv 2204.07137, equation 5).

    Args:
        rollout: The rollout.
        bootstrap: ``[env]``: value of the last state, with its gradient.
        gamma: Discount.
        bonus: ``[time, env]``: added to the rewards, with its gradient (:func:`soft_bonus`).

    Returns:
        Scalar; its gradient with respect to the actor's parameters is the decoupled gradient.
    """
    discount = torch.ones_like(bootstrap)
    total = torch.zeros_like(bootstrap)
    rewards = rollout.rewards if bonus is None else rollout.rewards + bonus
    for reward, end in zip(rewards, rollout.ends, strict=True):
        total = total + discount * reward
        discount = torch.where(end > 0, torch.ones_like(discount), discount * gamma)
    alive = 1 - rollout.ends[-1]
    total = total + alive * discount * bootstrap
    return total.mean() / len(rollout.rewards)
