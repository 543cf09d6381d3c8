"""Imagined environments as rsl_rl sees them: what is observed is the local model's state."""

from __future__ import annotations

from typing import Any

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor

from fog_policy.local_world import LatentWorld
from fog_policy.ppo_networks import FEATURES
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.local_model.rssm import LatentState


class ImaginedFeatures(VecEnv):
    """Environments in the global model, seen through the local model's encoder and posterior.

    The observation is the state that the decoupled update has at the same place: the mean of the
    posterior, given the frame of the global model. Environments start again at the same places as
    well: at an end at once, and those that have been imagined long enough between two segments
    (which is what the rollouts of the decoupled update are). Both therefore see the same, to the
    bit, as long as they act the same.
    """

    def __init__(self, env: ImaginedEnv, local: LatentWorld, *, segment: int) -> None:
        """Start all environments.

        Args:
            env: The worlds.
            local: Filters what they show.
            segment: Steps in a segment.
        """
        self.env, self.local, self._segment = env, local, segment
        self.num_envs = env.environments
        self.num_actions = env.model.config.action_size
        self.max_episode_length = env.max_steps
        self.device = env.age.device
        self.cfg: dict[str, Any] = {}
        self._taken = 0
        with torch.no_grad():
            self.state = local.start(env.restart())

    @property
    def episode_length_buf(self) -> Tensor:
        """``[env]``: steps since each environment was started."""
        return self.env.age

    def get_observations(self) -> TensorDict:
        """``features``: ``[env, feature]``."""
        return self._observed(self.state)

    @torch.no_grad()
    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Imagine one step of every environment.

        Args:
            actions: ``[env, field]``, before the tanh that brings them to (-1, 1).

        Returns:
            Observations (of environments that are over, those of their next start), rewards
            ``[env]``, whether each is over ``[env]``, and

            - ``time_outs``: ``[env]``, bool: over because it was imagined long enough;
            - ``arrived``: the observations before any start;
            - ``step``: what the global model showed (:class:`.imagination.ImaginedStep`).
        """
        squashed = actions.tanh()
        step = self.env.step(squashed)
        arrived = self.local.correct(self.local.predict(self.state, squashed), step)
        self.state = arrived
        self._taken = (self._taken + 1) % self._segment
        if bool(step.end.any()):
            self._restart(step.end)
        time_outs = torch.zeros_like(step.end)
        if self._taken == 0 and bool((due := self.env.due).any()):
            time_outs = due
            self._restart(due)
        extras = {"time_outs": time_outs, "arrived": self._observed(arrived), "step": step}
        return self.get_observations(), step.reward, step.end | time_outs, extras

    def _restart(self, which: Tensor) -> None:
        fresh = self.local.start(self.env.restart(which))
        self.state = self.state.where(which, fresh)

    def _observed(self, state: LatentState) -> TensorDict:
        return TensorDict({FEATURES: state.features}, batch_size=[self.num_envs])
