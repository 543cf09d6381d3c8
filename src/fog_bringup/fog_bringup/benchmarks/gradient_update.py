"""One update of the policy in three ways, on the same networks, horizon and environments."""

from __future__ import annotations

import contextlib
import inspect
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor, ActorCriticConfig, Critic
from fog_policy.decoupled_gradient import Rollout, objective, rollout, soft_bonus
from fog_policy.local_world import LatentWorld
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.windows import Windows
from fog_world_model.global_model.global_model import GlobalModel, preset
from fog_world_model.global_model.sampler import Sampler
from fog_world_model.global_model.worlds import Precision
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.local_model import local_model
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.local_model.rssm import LatentState

ACTION, PROPRIOCEPTION = 2, 2
GAMMA, TEMPERATURE = 0.97, 3e-2
_CONTEXTS = 8
_LOCAL = {"tiny": "tiny", "large": "large"}
"""Size of the local model beside a global one; ``small`` unless named here."""


@dataclass(frozen=True)
class Setting:
    """What an update is made of."""

    preset: str
    """Of the global model."""
    environments: int
    horizon: int
    steps: int
    """Denoising steps per frame; 0 takes the preset's own."""
    side: int = 64
    """Pixels."""
    precision: Precision = "auto"
    """Of the global model."""
    device: str = "cpu"


class Update:
    """The untrained networks of one update, and three ways to do it.

    No environment ever ends, so that all three have the same to do.
    """

    def __init__(self, setting: Setting) -> None:
        """Build everything and start the environments."""
        torch.manual_seed(0)
        self.setting, device = setting, torch.device(setting.device)
        sizes = {
            "height": setting.side,
            "width": setting.side,
            "action_size": ACTION,
            "proprioception_size": PROPRIOCEPTION,
        }
        self.model = GlobalModel(preset(setting.preset, **sizes)).to(device)
        self.model.eval().requires_grad_(False)
        if setting.steps:
            self.model.with_sampling_steps(setting.steps)
        self.model.sampler = _DifferentiableSampler(
            self.model.sampler.config, self.model.config.denoiser.sigma_data
        )
        _never_end(self.model)
        local = local_model.PRESETS[_LOCAL.get(setting.preset, "small")]
        self.local = LocalModel(LocalModelConfig(**sizes, **local)).to(device)
        self.local.requires_grad_(False)
        config = ActorCriticConfig(self.local.features_size, ACTION)
        self.actor = Actor(config).to(device)
        self.critic = Critic(config).to(device).requires_grad_(False)
        self.env = ImaginedEnv(
            self.model,
            ContextBank(_contexts(self.model.context_frames, setting.side, device), seed=0),
            environments=setting.environments,
            max_steps=10**9,
            seed=0,
            device=device,
            precision=setting.precision,
        )
        self.latent = LatentWorld(self.local)
        with torch.no_grad():
            self.state = self.latent.start(self.env.restart())
        self.start = self.env.worlds.state
        shape = (setting.horizon, setting.environments, ACTION)
        self.noise = torch.randn(shape, device=device)

    def global_forward(self) -> None:
        """Imagine the horizon, and nothing else."""
        for action in self.noise.tanh():
            self.env.step(action)

    def decoupled(self) -> list[Tensor]:
        """Decoupled gradient of the actor's parameters."""
        return self.gradient(rollout(self.actor, self.env, self.latent, self.state, self.noise))

    def full_backprop(self) -> list[Tensor]:
        """Gradient of the actor's parameters through everything."""
        return self.gradient(self.attached_rollout())

    def attached_rollout(self, seed: int = 0) -> Rollout:
        """Roll out with gradients through encoder, posterior, outcome head and denoising steps.

        Args:
            seed: Of the sampler's noise.
        """
        step = inspect.unwrap(GlobalModel.step)  # what is beneath its no_grad
        generator = torch.Generator(device=self.noise.device).manual_seed(seed)
        world, state = self.start, self.state
        features, next_features, actions, log_probs, rewards = [], [], [], [], []
        for noise in self.noise:
            action, log_prob = self.actor(state.features, noise)
            with self._autocast():
                world, outcome = step(self.model, world, action, generator)
            embedding = self.local.encoder(world.frames[:, -1], world.proprioception)
            deterministic = self.local.rssm.advance(state, action)
            posterior = self.local.rssm.posterior(deterministic, embedding)
            features.append(state.features.detach())
            state = LatentState(deterministic, posterior.mean)
            next_features.append(state.features)
            actions.append(action)
            log_probs.append(log_prob)
            rewards.append(outcome.reward)
        reward = torch.stack(rewards)
        return Rollout(
            torch.stack(features),
            torch.stack(next_features),
            torch.stack(actions),
            torch.stack(log_probs),
            reward,
            torch.zeros_like(reward),
            [],
            state.detach(),
        )

    def value(self, flow: Rollout) -> Tensor:
        """What the actor is to raise, a scalar: discounted rewards, bootstrap and entropy."""
        temperature = flow.log_probs.new_tensor(TEMPERATURE)
        bonus = soft_bonus(flow.log_probs, temperature, target=-ACTION)
        bootstrap = self.critic(flow.next_features[-1])
        return objective(flow, bootstrap, gamma=GAMMA, bonus=bonus)

    def gradient(self, flow: Rollout) -> list[Tensor]:
        """Gradient of :meth:`value` with respect to the actor's parameters."""
        return list(torch.autograd.grad(self.value(flow), list(self.actor.parameters())))

    def _autocast(self) -> AbstractContextManager[Any]:
        """The precision that the global model has in the two other ways."""
        dtype = getattr(self.env.worlds, "dtype", torch.float32)
        if dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.noise.device.type, dtype)


class _DifferentiableSampler(Sampler):
    """The same integration, without the decorator that switches the gradient off."""

    sample = inspect.unwrap(Sampler.sample)


def _never_end(model: GlobalModel) -> None:
    last = model.outcome.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias[model.outcome.config.bins] = -100.0


def _contexts(length: int, side: int, device: torch.device) -> Windows:
    return Windows(
        torch.rand(_CONTEXTS, length, 3, side, side, device=device) * 2 - 1,
        torch.randn(_CONTEXTS, length, PROPRIOCEPTION, device=device),
        torch.rand(_CONTEXTS, length, ACTION, device=device) * 2 - 1,
        torch.zeros(_CONTEXTS, length, device=device),
        torch.zeros(_CONTEXTS, length, device=device),
    )
