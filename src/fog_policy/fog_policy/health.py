"""Figures that say whether training in imagination is on the right way, and warnings in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fog_policy.decoupled_gradient import LocalWorld, Rollout
from fog_world_model.global_model.global_model import GlobalModel, WorldState
from fog_world_model.local_model.rssm import LatentState

CHECKS = 8
"""Checks that a warning looks back on."""
NO_GUIDE = 0.1
"""A mean cosine below this is near zero: eight checks of four directions scatter by 0.18."""


@torch.no_grad()
def prediction_errors(local: LocalWorld, flow: Rollout, *, stochastic: int) -> dict[str, float]:
    """How well the local model foretells what the policy goes through in the global model.

    Args:
        local: The local model.
        flow: A rollout on hybrid states.
        stochastic: Width of the stochastic part of the state.

    Returns:
        Root mean square errors one step ahead (``_1``) and at the end of the horizon (``_h``),
        where the same actions are foretold without a look at the frames:
        ``local_latent_error`` of the posterior's mean, in units of its spread over environments
        and steps (1 is no better than a constant), and ``local_reward_error`` of the global
        model's reward. Environments that end on the way are left out from there on.
    """
    sizes = [flow.features.shape[-1] - stochastic, stochastic]

    def state(features: Tensor) -> LatentState:
        return LatentState(*features.split(sizes, dim=-1))

    actions, arrived = flow.actions.detach(), flow.next_features.detach()
    truth = arrived[..., sizes[0] :]
    spread = truth.flatten(0, 1).var(0).mean().sqrt().clamp_min(1e-6)

    def errors(foretold: LatentState, t: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        latent = (foretold.stochastic - truth[t])[rows].square()
        reward = (local.reward(foretold) - flow.steps[t].reward)[rows].square()
        return latent, reward

    everyone = torch.ones_like(flow.ends[0], dtype=torch.bool)
    one = [
        errors(local.predict(state(flow.features[t]), actions[t]), t, everyone)
        for t in range(len(actions))
    ]
    latents, rewards = (torch.cat(parts) for parts in zip(*one, strict=True))
    found = {
        "local_latent_error_1": latents.mean().sqrt() / spread,
        "local_reward_error_1": rewards.mean().sqrt(),
    }
    alive, now = everyone, state(flow.features[0])
    for t in range(len(actions)):
        now = local.predict(now, actions[t])
        if t + 1 < len(actions):
            alive = alive & (flow.ends[t] == 0)
    if bool(alive.any()):
        latent, reward = errors(now, len(actions) - 1, alive)
        found["local_latent_error_h"] = latent.mean().sqrt() / spread
        found["local_reward_error_h"] = reward.mean().sqrt()
    return {name: float(value) for name, value in found.items()}


@torch.no_grad()
def reward_uncertainty(model: GlobalModel, start: WorldState, flow: Rollout) -> float:
    """Mean entropy of the outcome head's distribution of the reward along a rollout, nats.

    Args:
        model: The global model.
        start: Where the rollout started.
        flow: The rollout; environments that end are left out from there on.
    """
    frame, proprio, recurrent = start.frames[:, -1], start.proprioception, start.recurrent
    alive, total, count = torch.ones_like(flow.ends[0]), 0.0, 0.0
    for step, action, end in zip(flow.steps, flow.actions.detach(), flow.ends, strict=True):
        outcome, recurrent = model.outcome.step(frame, proprio, action, step.image, recurrent)
        assert outcome.reward_logits is not None
        log = outcome.reward_logits.log_softmax(-1)
        entropy = -(log.exp() * log).sum(-1)
        total, count = total + float((entropy * alive).sum()), count + float(alive.sum())
        alive = alive * (1 - end)
        frame, proprio = step.image, step.proprioception
    return total / count


class HealthMonitor:
    """Remembers the last checks; says each thing once."""

    def __init__(self) -> None:
        """Begin without a check."""
        self.checks: list[dict[str, float]] = []
        """The last :data:`CHECKS`, oldest first."""
        self.warnings: dict[str, str] = {}
        """Cause -> what was said."""

    def add(self, figures: Mapping[str, float], *, update: int) -> list[str]:
        """Take in a check.

        Args:
            figures: ``gradient_cosine``, ``gradient_cosine_local``, ``reward`` (imagined, per
                step) and ``reward_uncertainty``.
            update: Its number, for the words.

        Returns:
            Warnings that were not given before.
        """
        self.checks = [*self.checks, dict(figures)][-CHECKS:]
        if len(self.checks) < CHECKS:
            return []
        causes = {"no guide": self._no_guide(), "exploitation": self._exploitation()}
        new = {
            cause: f"update {update}: {words}"
            for cause, words in causes.items()
            if words and cause not in self.warnings
        }
        self.warnings |= new
        return list(new.values())

    def _no_guide(self) -> str:
        mean = float(self._column("gradient_cosine").mean())
        if mean >= NO_GUIDE:
            return ""
        alone = float(self._column("gradient_cosine_local").mean())
        return (
            f"the cosine between the decoupled gradient and finite differences is {mean:.2f} over "
            f"the last {CHECKS} checks ({alone:.2f} in the local model alone): the local model is "
            "no guide to where the reward rises. Train it longer or on more data, refresh it more "
            "(--refresh-steps), or shorten the horizon"
        )

    def _exploitation(self) -> str:
        reward, unsure = self._column("reward"), self._column("reward_uncertainty")
        if not (_rises(reward) and _rises(unsure)):
            return ""
        half = CHECKS // 2
        return (
            f"the imagined reward rises ({reward[:half].mean():.3f} to {reward[half:].mean():.3f}) "
            f"while the outcome head grows less sure of it (entropy {unsure[:half].mean():.2f} to "
            f"{unsure[half:].mean():.2f} nats): the policy may be exploiting the global model. "
            "Record what the policy does and train the models on it, or shorten --imagined-episode"
        )

    def _column(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([check[name] for check in self.checks], np.float64)

    def state(self) -> dict[str, Any]:
        """JSON values."""
        return {"checks": self.checks, "warnings": self.warnings}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self.checks, self.warnings = list(state["checks"]), dict(state["warnings"])


def _rises(values: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    """Whether the later half lies above the earlier by three standard errors."""
    half = len(values) // 2
    early, late = values[:half], values[half:]
    error = np.sqrt(early.var(ddof=1) / len(early) + late.var(ddof=1) / len(late))
    return bool(late.mean() - early.mean() > max(3 * error, 1e-6))
