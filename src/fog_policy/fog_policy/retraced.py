"""A rollout once more under a changed policy, without the global model: several steps per rollout.

The global model's forward is nearly all that an update costs, and a step of the actor that is small
enough for its gradient to be true leaves most of the rollout as it was. So the trajectory is kept,
and what the new actions change about it is left to the local model. With what happened in the
rollout marked by a bar, s_hat = p(s_t, a_t) and a_t = pi(s_t) of the actor as it is now:

    s_{t+1}  = bar s_{t+1} + (s_hat - bar s_hat)
    reward_t = bar R_t + (r(s_{t+1}) - r(bar s_{t+1}))

This is the swap of :mod:`.decoupled_gradient` with the prediction that was made in the rollout in
the place of "stop": as long as the policy is that of the rollout, both brackets are zero and the
value and the gradient are those of the rollout, bit for bit. Afterwards the states move by what the
local model says that the new actions move them, around a trajectory of the global model; its errors
matter in proportion to how far the policy has gone since. Where the local model is right there is
none, and this is the rollout of the new policy.

Like the other passes of methods that use a rollout more than once (PPO, arXiv 1707.06347), it is
meant for a few steps. Ends stay where they were.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fog_policy.decoupled_gradient import LocalWorld, Policy, Rollout
from fog_world_model.local_model.rssm import LatentState


def retrace(policy: Policy, local: LocalWorld, flow: Rollout, noise: Tensor) -> Rollout:
    """Go through a rollout again.

    Args:
        policy: The actor as it is now.
        local: Where the derivatives come from; it must predict as it did in the rollout, without
            drawing random numbers.
        flow: The rollout.
        noise: ``[time, env, field]``, that of the rollout.

    Returns:
        A rollout with the gradient of the new policy; what the global model showed, and where it
        goes on from, are the rollout's.

    Raises:
        ValueError: The rollout has no trace.
    """
    if flow.start is None or len(flow.trace) != len(noise):
        raise ValueError("a rollout without a trace cannot be gone through again")
    state = flow.start
    features, next_features, actions, log_probs, rewards = [], [], [], [], []
    for step_noise, before, step, end in zip(noise, flow.trace, flow.steps, flow.ends, strict=True):
        action, log_prob = policy(state.features, step_noise)
        arrived = _moved(before.arrived, local.predict(state, action), before.predicted)
        features.append(state.features.detach())
        next_features.append(arrived.features)
        actions.append(action)
        log_probs.append(log_prob)
        rewards.append(step.reward + (local.reward(arrived) - before.foretold))
        state = arrived
        if before.restarted is not None:
            state = arrived.where(end > 0, before.restarted)
    return Rollout(
        torch.stack(features),
        torch.stack(next_features),
        torch.stack(actions),
        torch.stack(log_probs),
        torch.stack(rewards),
        flow.ends,
        flow.steps,
        flow.state,
    )


def _moved(value: LatentState, to: LatentState, away_from: LatentState) -> LatentState:
    return LatentState(
        value.deterministic + (to.deterministic - away_from.deterministic),
        value.stochastic + (to.stochastic - away_from.stochastic),
    )
