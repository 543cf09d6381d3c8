"""Where in a rollout something is not finite, and whose fault it is."""

from __future__ import annotations

import torch
from torch import Tensor

from fog_policy.decoupled_gradient import Rollout
from fog_world_model.errors import FogError

_GLOBAL = "its weights or the contexts are at fault: look at them with 'fog evaluate global'"
_LOCAL = "lower refresh_rate, or train the local model anew"


def require_finite(flow: Rollout, update: int, *, actor_rate: str = "actor_rate") -> None:
    """Check everything that a rollout went through, in the order in which it came about.

    Args:
        flow: The rollout.
        update: Its number, for the message.
        actor_rate: Name of the setting that is the actor's learning rate, for the message.

    Raises:
        FogError: Something is not finite; the first such thing is named, with step and
            environments.
    """
    steps = flow.steps
    parts: list[tuple[str, Tensor, str]] = [
        ("the local model's state", flow.features, _LOCAL),
        ("the actor's action", flow.actions, f"lower {actor_rate}"),
        ("the global model's frame", torch.stack([s.image for s in steps]), _GLOBAL),
        (
            "the global model's proprioception",
            torch.stack([s.proprioception for s in steps]),
            _GLOBAL,
        ),
        ("the global model's reward", torch.stack([s.reward for s in steps]), _GLOBAL),
        ("the local model's next state", flow.next_features, _LOCAL),
        ("the local model's reward", flow.rewards, _LOCAL),
        ("the log-probability of the actor's action", flow.log_probs, f"lower {actor_rate}"),
    ]
    # ``[part, time, env]``; one question to the device in the usual case.
    bad = torch.stack([~_finite(values.detach()) for _, values, _ in parts])
    if not bool(bad.any()):
        return
    step = int(bad.any(-1).any(0).nonzero()[0])
    part = int(bad[:, step].any(-1).nonzero()[0])
    what, _, advice = parts[part]
    count, environments = int(bad[part, step].sum()), bad.shape[-1]
    raise FogError(
        f"update {update}: {what} is not finite at step {step} of the rollout, in {count} of "
        f"{environments} environments; {advice}"
    )


def _finite(values: Tensor) -> Tensor:
    """``[time, env, ...]`` -> ``[time, env]``."""
    return values.isfinite().flatten(2).all(-1) if values.dim() > 2 else values.isfinite()
