"""The policy's update by decoupled first-order gradients, and all that the next one depends on."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fog_policy import fog_state
from fog_policy.actor_average import ActorAverage
from fog_policy.actor_critic import Actor, td_lambda
from fog_policy.anchor import divergence
from fog_policy.decoupled_gradient import Rollout, objective, rollout, soft_bonus
from fog_policy.fog_config import FogConfig
from fog_policy.gradient_check import GradientCheck, check_gradient
from fog_policy.health import HealthMonitor, prediction_errors, reward_uncertainty
from fog_policy.imagined_buffer import ImaginedBuffer
from fog_policy.imagined_setup import set_up
from fog_policy.local_refresh import LocalRefresh
from fog_policy.local_world import LatentWorld, LocalAlone
from fog_policy.retraced import retrace
from fog_policy.rollout_faults import require_finite
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.imagination import Contexts, ImaginedEnv
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState

__all__ = ["FogConfig", "FogTrainer"]

_RATES = {"actor": "actor_rate", "critic": "critic_rate"}
"""Which setting is the learning rate of which network."""


@dataclass
class Phase:
    """Where the policy is being trained, and how far its environments have come."""

    world: ImaginedEnv | LocalAlone
    local: LatentWorld
    state: LatentState


class FogTrainer:
    """Worlds, networks and optimisers of the method; a :class:`.learner.Learner`.

    Short-horizon actor-critic (SHAC, arXiv 2204.07137) on the decoupled gradient (see
    :mod:`.decoupled_gradient`), with the entropy in rewards and value targets and a temperature
    that is learned, as in SAPO (arXiv 2412.12089). Features are those of the local model, which is
    frozen during a rollout; nothing else is normalised.
    """

    def __init__(
        self,
        global_model: GlobalModel,
        local_model: LocalModel,
        contexts: Contexts,
        recordings: WindowSampler,
        config: FogConfig,
    ) -> None:
        """Set everything up.

        Args:
            global_model: Frozen.
            local_model: Copied, because it is refreshed on the way.
            contexts: Draws windows of ``config.context`` observations; a
                :class:`~fog_world_model.context_bank.ContextBank` does so on the device.
            recordings: Draws windows of ``config.refresh_window + 1`` observations.
            config: Settings.
        """
        self.config, self.contexts = config, contexts
        setup = set_up(global_model, local_model, contexts, config)
        self.device, self.precision, self.env = setup.device, setup.precision, setup.env
        self.actor, self.critic = setup.actor, setup.critic
        # The path of the gradient; it is only learned itself while it is refreshed.
        self.local_model = setup.local_model
        self.alone = LocalAlone(
            self.local_model,
            contexts,
            environments=config.environments,
            max_steps=config.imagined_episode,
            seed=config.seed,
            device=self.device,
        )
        self.average = ActorAverage(self.actor, config.actor_average)
        self.anchor: Actor | None = None  # the actor as it was before the first update
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_temperature = torch.tensor(
            math.log(config.temperature), device=self.device, requires_grad=True
        )
        self.optimisers = {
            "actor": torch.optim.Adam(self.actor.parameters(), lr=config.actor_rate),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=config.critic_rate),
            "temperature": torch.optim.Adam([self.log_temperature], lr=config.temperature_rate),
        }
        window = config.refresh_window
        self.buffer = ImaginedBuffer(config.buffer_steps // window, window, seed=config.seed)
        self.refresh = LocalRefresh(
            self.local_model,
            recordings,
            self.buffer,
            batch=config.refresh_batch,
            rate=config.refresh_rate,
            gradient_clip=config.gradient_clip,
        )
        self.noise = torch.Generator(device=self.device).manual_seed(config.seed)
        self.health = HealthMonitor()
        self.updates, self.progress = 0, 0.0
        """Updates so far, and the share of the run that is over, which whoever drives this sets
        (:mod:`.policy_training`): the horizon, the actor's rate and the first phase follow it."""
        self.clipped = [0, 0]  # how many, of how many gradients of the actor since the last check
        self.coupled: Phase | None = None
        self.phase = self._begin(alone=config.local_share > 0)

    @property
    def policy(self) -> Actor:
        """See :class:`.learner.Learner`."""
        return self.average.policy

    @property
    def imagined_steps(self) -> int:
        """Steps in the global model and in the local model alone; checks are not counted."""
        return self.env.steps + self.alone.steps

    @property
    def features(self) -> Tensor:
        """``[env, feature]``: what the actor sees now."""
        return self.phase.state.features

    @property
    def in_global(self) -> bool:
        """Whether the first phase, in the local model alone, is over."""
        return self.phase is self.coupled

    @property
    def entropy_target(self) -> float:
        """Of all action fields together, nats."""
        return self.config.entropy_target * self.actor.config.action_size

    def _begin(self, *, alone: bool) -> Phase:
        """Start all environments of a phase."""
        local: LatentWorld
        if alone:
            local = self.alone
            contexts = self.alone.restart()
        else:
            local = LatentWorld(self.local_model, sample_prior=self.config.sample_prior)
            contexts = self.env.restart()
        with torch.no_grad():
            state = local.start(contexts)
        phase = Phase(self.alone if alone else self.env, local, state)
        if not alone:
            self.coupled = phase
        return phase

    def enter_global(self) -> None:
        """End the phase in the local model alone."""
        if not self.in_global:
            self.phase = self._begin(alone=False)

    def update(self) -> dict[str, float]:
        """One rollout, a step of the actor or more, several of the critic and of the local model.

        Returns:
            What happened, for the log (``clipped`` as a share of the actor's steps, nothing of its
            gradient while only the critic learns); every ``config.check_every`` updates also the
            figures of :mod:`.health`.

        Raises:
            FogError: Something is not finite; what, and where, is said.
        """
        config = self.config
        if config.anchor and self.anchor is None:
            self.anchor = copy.deepcopy(self.actor).requires_grad_(False)
        if config.local_share < 1 and self.progress >= config.local_share:
            self.enter_global()
        self._restart_due()
        phase = self.phase
        first = self.env.observation if self.in_global else None
        shape = (config.horizon_at(self.progress), config.environments,
                 self.actor.config.action_size)  # fmt: skip
        noise = torch.randn(shape, generator=self.noise, device=self.device)
        learning = self.updates >= config.critic_first  # or else only the critic does
        with torch.set_grad_enabled(learning):
            flow = rollout(self.actor, phase.world, phase.local, phase.state, noise)
            require_finite(flow, self.updates)
            temperature = self.log_temperature.exp().detach()
            target, bonus = self._objective(flow, temperature)
        norms = []
        if learning:
            self.optimisers["actor"].param_groups[0]["lr"] = config.actor_rate_at(self.progress)
            norms.append(self._descend("actor", self.actor, -target))
            # The local model alone is as cheap, and on-policy.
            for _ in range(config.actor_passes - 1 if self.in_global else 0):
                again = retrace(self.actor, phase.local, flow, noise)
                improved, _ = self._objective(again, temperature)
                norms.append(self._descend("actor", self.actor, -improved))
        entropy = float(-flow.log_probs.detach().mean())
        if learning:
            self._adapt_temperature(entropy)
            self.average.update()
        critic_loss = self._fit_critic(flow, bonus.detach())
        log = {
            "reward": float(torch.stack([s.reward for s in flow.steps]).mean()),
            "objective": float(target.detach()),
            "entropy": entropy,
            "temperature": float(temperature),
            "critic_loss": critic_loss,
            "saturation": float((flow.actions.detach().abs() > 0.97).float().mean()),
            "local_reward_error": self._reward_error(flow),
            "ends": float(flow.ends.sum()),
            "horizon": float(len(noise)),
        }
        if norms:
            clipped = sum(norm > config.gradient_clip for norm in norms)
            self.clipped = [self.clipped[0] + clipped, self.clipped[1] + len(norms)]
            log |= {"gradient_norm": norms[0], "clipped": clipped / len(norms)}
        if self.anchor is not None:
            with torch.no_grad():
                log["divergence"] = float(divergence(self.anchor, self.actor, flow.features))
        phase.state = flow.state
        if first is not None and config.refresh_steps:
            self.buffer.add(*first, flow)
            if learning:
                log |= self.refresh.fit(config.refresh_steps, update=self.updates)
        self.updates += 1
        if self.in_global and config.check_every and self.updates % config.check_every == 0:
            log |= self._check_health(log["reward"])
        return log | {"imagined_steps": self.env.steps, "local_steps": self.alone.steps}

    def _objective(self, flow: Rollout, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """What the actor is to raise, and the entropy's part of the rewards ``[time, env]``."""
        bootstrap = self.target(flow.next_features[-1])
        self._require_finite_values(bootstrap, temperature)
        bonus = soft_bonus(flow.log_probs, temperature, target=self.entropy_target)
        target = objective(flow, bootstrap, gamma=self.config.gamma, bonus=bonus)
        if self.anchor is not None:
            away = divergence(self.anchor, self.actor, flow.features)
            target = target - self.config.anchor * away
        return target, bonus

    def check_gradient(self) -> GradientCheck:
        """Compare with finite differences through the global model; nothing changes.

        Raises:
            RuntimeError: The first phase is not over.
        """
        if self.coupled is None:
            raise RuntimeError("FogTrainer.check_gradient before FogTrainer.enter_global")
        return check_gradient(
            self.actor,
            self.env,
            self.coupled.local,
            self.coupled.state,
            self.target,
            horizon=self.config.horizon_at(self.progress),
            gamma=self.config.gamma,
            directions=self.config.check_directions,
            seed=self.updates,
        )

    def _check_health(self, reward: float) -> dict[str, float]:
        """Figures of health; what they mean, if it is bad, is said on standard error."""
        assert self.coupled is not None
        begun, start = time.monotonic(), self.env.worlds.state
        check = self.check_gradient()
        foretold = LatentWorld(self.local_model)  # by its means, whichever way the gradient takes
        errors = prediction_errors(
            foretold, check.flow, stochastic=self.local_model.config.stochastic
        )
        figures = {
            "gradient_cosine": check.decoupled,
            "gradient_cosine_local": check.local,
            "reward_uncertainty": reward_uncertainty(self.env.model, start, check.flow),
        }
        for words in self.health.add(figures | {"reward": reward}, update=self.updates):
            print(f"fog: warning: {words}", file=sys.stderr)
        clipped, self.clipped = self.clipped[0] / max(self.clipped[1], 1), [0, 0]
        seconds = time.monotonic() - begun
        return figures | errors | {"clipped_share": clipped, "check_seconds": seconds}

    def _restart_due(self) -> None:
        phase = self.phase
        due = phase.world.due
        if not bool(due.any()):
            return
        contexts = phase.world.restart(due)
        with torch.no_grad():
            phase.state = phase.state.where(due, phase.local.start(contexts))

    def _require_finite_values(self, bootstrap: Tensor, temperature: Tensor) -> None:
        for what, values, rate in (
            ("the critic's value of the last states", bootstrap, "critic_rate"),
            ("the temperature of the entropy", temperature, "temperature_rate"),
        ):
            if not bool(values.isfinite().all()):
                raise FogError(f"update {self.updates}: {what} is not finite; lower {rate}")

    def _descend(self, name: str, module: nn.Module, loss: Tensor) -> float:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(module.parameters(), self.config.gradient_clip))
        if not math.isfinite(norm):
            raise FogError(
                f"update {self.updates}: the gradient of the {name} is not finite (norm {norm}, "
                f"loss {float(loss.detach())}); lower {_RATES[name]} or horizon"
            )
        optimiser.step()
        return norm

    def _adapt_temperature(self, entropy: float) -> None:
        """Raise the temperature while the entropy is below its target (SAC, eq. 18)."""
        loss = self.log_temperature.exp() * (entropy - self.entropy_target)
        self.optimisers["temperature"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers["temperature"].step()

    def _fit_critic(self, flow: Rollout, bonus: Tensor) -> float:
        config = self.config
        with torch.no_grad():
            targets = td_lambda(
                flow.rewards + bonus,
                flow.ends,
                self.target(flow.next_features),
                gamma=config.gamma,
                lambda_=config.lambda_,
            ).flatten()
        features = flow.features.flatten(0, 1)
        losses = []
        for _ in range(config.critic_passes):
            order = torch.randperm(len(features), device=self.device)
            for rows in order.chunk(4):
                loss = (self.critic(features[rows]) - targets[rows]).square().mean()
                self._descend("critic", self.critic, loss)
                losses.append(float(loss.detach()))
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                old.lerp_(new, config.target_rate)
        return sum(losses) / len(losses)

    @torch.no_grad()
    def _reward_error(self, flow: Rollout) -> float:
        """Root mean square difference between the local and the global reward on hybrid states."""
        features = flow.next_features.detach()
        predicted = self.local_model.reward_head(features).squeeze(-1)
        return float((predicted - flow.rewards.detach()).square().mean().sqrt())

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """See :class:`.learner.Learner`."""
        return fog_state.capture(self)

    def load_state(
        self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
    ) -> None:
        """See :class:`.learner.Learner`.

        Raises:
            FogError: It is not the state of such a trainer.
        """
        fog_state.restore(self, tensors, values)
