"""Train a policy inside the world models by decoupled first-order gradients."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from fog_policy.actor_critic import Actor, ActorCriticConfig, Critic, td_lambda
from fog_policy.decoupled_gradient import Rollout, objective, rollout
from fog_policy.gradient_check import gradient_cosine
from fog_policy.imagined_buffer import ImaginedBuffer, joined
from fog_policy.local_world import LatentWorld, LocalAlone
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState
from fog_world_model.task import TaskConfig, task_from_dict
from fog_world_model.training.checkpoint import open_checkpoint, save_checkpoint
from fog_world_model.training.loop import device_of, progress_bar, stop_on_signal


@dataclass(frozen=True)
class FogConfig:
    """Settings of the policy's training."""

    time_budget_s: float = 300.0
    """Wall-clock seconds after which training ends."""
    max_updates: int = 1_000_000
    """Updates after which training ends, if the time does not run out before."""
    local_share: float = 0.0
    """Share of the time (and of max_updates) that is spent first in the local model alone: cheap
    steps that are only as right as it is, before the global model takes over."""
    environments: int = 32
    """Imagined environments side by side (N)."""
    horizon: int = 16
    """Steps per update (H)."""
    imagined_episode: int = 16
    """Imagined steps after which an environment starts from another recorded context."""
    context: int = 5
    """Recorded observations that an environment starts from."""
    sampling_steps: int = 0
    """Denoising steps per frame; 0 takes the global model's own number."""
    gamma: float = 0.97
    lambda_: float = 0.95
    actor_rate: float = 5e-4
    critic_rate: float = 1e-3
    critic_passes: int = 4
    """Passes over the rollout per update, in 4 minibatches each."""
    target_rate: float = 0.2
    """How far the target critic moves to the critic per update."""
    gradient_clip: float = 1.0
    entropy_target: float = -1.0
    """Entropy per action field below which the temperature rises, nats (as a share: times the
    number of fields)."""
    temperature: float = 3e-2
    """Initial weight of the entropy."""
    sample_prior: bool = False
    """Send the gradient through a sample of the prior instead of its mean."""
    refresh_steps: int = 1
    """Updates of the local model per update of the policy (0: it stays as it is)."""
    refresh_batch: int = 8
    """Imagined trajectories in such an update; as many recorded windows are mixed in."""
    refresh_rate: float = 2e-4
    buffer_steps: int = 100_000
    """Imagined steps that are remembered for it."""
    check_every: int = 75
    """Updates between two checks of the gradient against finite differences (0: never)."""
    check_directions: int = 4
    checkpoint_every_s: float = 60.0
    seed: int = 0
    device: str = "auto"
    threads: int = 0


_RATES = {"actor": "actor_rate", "critic": "critic_rate", "local": "refresh_rate"}
"""Which setting is the learning rate of which network."""


@dataclass
class PolicyResult:
    """What a training run came to."""

    updates: int
    imagined_steps: int
    seconds: float
    curve: list[dict[str, float]]
    interrupted: bool


@dataclass
class _Phase:
    """Where the policy is being trained, and how far its environments have come."""

    world: ImaginedEnv | LocalAlone
    local: LatentWorld
    state: LatentState


class FogTrainer:
    """Holds the worlds, the networks and their optimisers; :meth:`train` runs the updates."""

    def __init__(
        self,
        global_model: GlobalModel,
        local_model: LocalModel,
        contexts: WindowSampler,
        recordings: WindowSampler,
        config: FogConfig,
    ) -> None:
        """Set everything up.

        Args:
            global_model: Frozen.
            local_model: Copied, because it is refreshed on the way.
            contexts: Draws windows of ``config.context`` observations.
            recordings: Draws windows of ``config.horizon + 1`` observations.
            config: Settings.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device_of(config.device)
        self.local_model = copy.deepcopy(local_model).to(self.device).requires_grad_(True)
        if config.sampling_steps:
            global_model.with_sampling_steps(config.sampling_steps)
        self.env = ImaginedEnv(
            global_model.to(self.device),
            contexts,
            environments=config.environments,
            max_steps=config.imagined_episode,
            seed=config.seed,
            device=self.device,
        )
        self.recordings = recordings
        sizes = ActorCriticConfig(local_model.features_size, local_model.config.action_size)
        self.actor = Actor(sizes).to(self.device)
        self.critic = Critic(sizes).to(self.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_temperature = torch.tensor(
            math.log(config.temperature), device=self.device, requires_grad=True
        )
        self.optimisers = {
            "actor": torch.optim.Adam(self.actor.parameters(), lr=config.actor_rate),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=config.critic_rate),
            "local": torch.optim.Adam(self.local_model.parameters(), lr=config.refresh_rate),
            "temperature": torch.optim.Adam([self.log_temperature], lr=3e-2),
        }
        self.buffer = ImaginedBuffer(
            max(1, config.buffer_steps // config.horizon), seed=config.seed
        )
        self.noise = torch.Generator(device=self.device).manual_seed(config.seed)
        self.alone = LocalAlone(
            self.local_model,
            contexts,
            environments=config.environments,
            max_steps=config.imagined_episode,
            seed=config.seed,
            device=self.device,
        )
        coupled = LatentWorld(self.local_model, sample_prior=config.sample_prior)
        self.coupled = self._begin(self.env, coupled)
        self.phase = self._begin(self.alone, self.alone) if config.local_share else self.coupled
        self.updates = 0

    def _begin(self, world: ImaginedEnv | LocalAlone, local: LatentWorld) -> _Phase:
        contexts = world.restart()
        with torch.no_grad():
            return _Phase(world, local, local.start(contexts))

    def update(self) -> dict[str, float]:
        """One rollout, one step of the actor, several of the critic and of the local model.

        Returns:
            What happened, for the log.

        Raises:
            FogError: A gradient is not finite.
        """
        config = self.config
        self._restart_due()
        phase, in_global = self.phase, self.phase is self.coupled
        first = self.env.observation
        # The local model is the path of the gradient here, not what is being fitted.
        self.local_model.requires_grad_(False)
        noise = torch.randn(
            config.horizon,
            config.environments,
            self.actor.config.action_size,
            generator=self.noise,
            device=self.device,
        )
        flow = rollout(self.actor, phase.world, phase.local, phase.state, noise)
        bootstrap = self.target(flow.next_features[-1])
        entropy = -flow.log_probs.mean()
        temperature = self.log_temperature.exp().detach()
        target = objective(flow, bootstrap, gamma=config.gamma)
        norm = self._descend("actor", self.actor, -(target + temperature * entropy))
        self._adapt_temperature(float(entropy.detach()))
        critic_loss = self._fit_critic(flow)
        if in_global:
            self.buffer.add(*first, flow)
        log = {
            "reward": float(torch.stack([s.reward for s in flow.steps]).mean()),
            "objective": float(target.detach()),
            "entropy": float(entropy.detach()),
            "temperature": float(temperature),
            "gradient_norm": norm,
            "clipped": float(norm > config.gradient_clip),
            "critic_loss": critic_loss,
            "saturation": float((flow.actions.detach().abs() > 0.97).float().mean()),
            "local_reward_error": self._reward_error(flow),
            "ends": float(flow.ends.sum()),
        }
        phase.state = flow.state
        if in_global:
            self._refresh_local(log)
        self.updates += 1
        return log

    def enter_global(self) -> None:
        """End the phase in the local model alone."""
        self.phase = self.coupled

    def check_gradient(self) -> float:
        """Cosine between the decoupled gradient and finite differences through the global model."""
        return gradient_cosine(
            self.actor,
            self.env,
            self.coupled.local,
            self.coupled.state,
            self.target,
            horizon=self.config.horizon,
            gamma=self.config.gamma,
            directions=self.config.check_directions,
            seed=self.updates,
        )

    def _restart_due(self) -> None:
        phase = self.phase
        due = phase.world.due
        if not bool(due.any()):
            return
        contexts = phase.world.restart(due)
        with torch.no_grad():
            phase.state = phase.state.where(due, phase.local.start(contexts))

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
        goal = self.config.entropy_target * self.actor.config.action_size
        loss = self.log_temperature.exp() * (entropy - goal)
        self.optimisers["temperature"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers["temperature"].step()

    def _fit_critic(self, flow: Rollout) -> float:
        config = self.config
        with torch.no_grad():
            targets = td_lambda(
                flow.rewards,
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

    def _refresh_local(self, log: dict[str, float]) -> None:
        """Fit the local model to what the policy does now, mixed with the recordings."""
        self.local_model.requires_grad_(True)
        for _ in range(self.config.refresh_steps if len(self.buffer) else 0):
            batch = self.config.refresh_batch
            imagined = self.buffer.sample(batch)
            recorded = self.recordings.sample(batch, self.device)
            losses = self.local_model.loss(joined(imagined, recorded))
            self._descend("local", self.local_model, losses["total"])
            log["local_loss"] = float(losses["total"].detach())

    @torch.no_grad()
    def _reward_error(self, flow: Rollout) -> float:
        """Root mean square difference between the local and the global reward on hybrid states."""
        features = flow.next_features.detach()
        predicted = self.local_model.reward_head(features).squeeze(-1)
        return float((predicted - flow.rewards.detach()).square().mean().sqrt())

    def train(
        self, output: str | os.PathLike[str], manifest: dict[str, Any], *, resume: bool = False
    ) -> PolicyResult:
        """Update until the time or the number of updates is used up, with checkpoints.

        Args:
            output: Folder of the checkpoint.
            manifest: What the checkpoint says about itself.
            resume: Go on from the weights and optimiser-free state of the checkpoint there.

        Raises:
            FogError: A gradient is not finite, or the checkpoint cannot be written or read.
        """
        config, before = self.config, 0.0
        curve: list[dict[str, float]] = []
        if resume:
            curve, before = self._load(output, task_from_dict(manifest["task"]))
        begun = saved = time.monotonic()

        def seconds() -> float:
            return before + time.monotonic() - begun

        def done() -> float:
            return max(self.updates / config.max_updates, seconds() / config.time_budget_s)

        writer = SummaryWriter(f"{os.fspath(output)}.tensorboard")
        with stop_on_signal() as stopped, progress_bar("policy") as show:
            while (
                self.updates < config.max_updates
                and seconds() < config.time_budget_s
                and not stopped()
            ):
                if done() >= config.local_share:
                    self.enter_global()
                log = self.update()
                in_global = self.phase is self.coupled
                if in_global and config.check_every and self.updates % config.check_every == 0:
                    log["gradient_cosine"] = self.check_gradient()
                log |= {
                    "update": self.updates,
                    "imagined_steps": self.env.steps,
                    "local_steps": self.alone.steps,
                    "seconds": round(seconds(), 2),
                }
                curve.append(log)
                for key, value in log.items():
                    writer.add_scalar(key, value, self.updates)
                rate = (self.env.steps + self.alone.steps) / max(seconds(), 1e-9)
                show(done(), f"update {self.updates}, {rate:.0f} steps/s, r {log['reward']:.3f}")
                if time.monotonic() - saved > config.checkpoint_every_s:
                    self._save(output, manifest, curve, seconds())
                    saved = time.monotonic()
            interrupted = stopped()
        writer.close()
        self._save(output, manifest, curve, seconds())
        return PolicyResult(self.updates, self.env.steps, seconds(), curve, interrupted)

    def _save(
        self,
        output: str | os.PathLike[str],
        manifest: dict[str, Any],
        curve: list[dict[str, float]],
        seconds: float,
    ) -> None:
        save_checkpoint(
            output,
            {
                "actor": self.actor.state_dict(),
                "critic": self.critic.state_dict(),
                "target": self.target.state_dict(),
                "local": self.local_model.state_dict(),
            },
            {
                **manifest,
                "actor_critic": dataclasses.asdict(self.actor.config),
                "local_config": dataclasses.asdict(self.local_model.config),
                "updates": self.updates,
                "imagined_steps": self.env.steps,
                "local_steps": self.alone.steps,
                "seconds": seconds,
                "log_temperature": float(self.log_temperature.detach()),
                "curve": curve,
            },
        )

    def _load(
        self, output: str | os.PathLike[str], task: TaskConfig
    ) -> tuple[list[dict[str, float]], float]:
        checkpoint = open_checkpoint(output, "policy", task)
        modules = {
            "actor": self.actor,
            "critic": self.critic,
            "target": self.target,
            "local": self.local_model,
        }
        for name, module in modules.items():
            checkpoint.load_into(module, name)
        manifest = checkpoint.manifest
        with torch.no_grad():
            self.log_temperature.fill_(manifest["log_temperature"])
        self.updates, self.env.steps = int(manifest["updates"]), int(manifest["imagined_steps"])
        self.alone.steps = int(manifest["local_steps"])
        # States that another local model has filtered mean nothing to this one.
        for phase in {id(p): p for p in (self.coupled, self.phase)}.values():
            with torch.no_grad():
                phase.state = phase.local.start(phase.world.restart())
        return list(manifest["curve"]), float(manifest["seconds"])
