"""Hold a policy to the one that it began with, where imagination does not say what is better.

A world model imagines little of what was hardly recorded: where no action seems to pay more than
another (no cube in sight, and none that will come into view), updates let go of what the policy was
given to begin with. A divergence from that policy, weighed against the rewards, keeps it there and
gives way where rewards differ (as a prior policy does in Galashov et al. 2019, "Information
asymmetry in KL-regularized RL").
"""

from __future__ import annotations

import torch
from torch import Tensor

from fog_policy.actor_critic import Actor


def divergence(anchor: Actor, actor: Actor, features: Tensor) -> Tensor:
    """Kullback-Leibler divergence of an actor from the anchor, KL(anchor || actor).

    The squashing cancels out: it is that of the two diagonal Gaussians before it.

    Args:
        anchor: Where it began; no gradient.
        actor: As it is.
        features: ``[..., feature]``: states.

    Returns:
        Mean over states of the sum over fields, nats; its gradient is the actor's.
    """
    with torch.no_grad():
        wanted, wanted_log_std = anchor.gaussian(anchor.body(features))
    mean, log_std = actor.gaussian(actor.body(features))
    variance = (2 * (wanted_log_std - log_std)).exp()
    off = ((wanted - mean) * (-log_std).exp()).square()
    return (log_std - wanted_log_std + 0.5 * (variance + off - 1.0)).sum(-1).mean()
