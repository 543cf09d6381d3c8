"""The baseline that needs no derivative of the world: PPO, from rsl_rl, on the same features.

Everything but the update is that of :class:`.fog_trainer.FogTrainer`: the imagined environments
and where they start, the features (posterior of the local model, given the global model's
frames), actor and critic and their first weights, and how often the local model is refreshed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import Tensor

from fog_policy.actor_average import ActorAverage
from fog_policy.actor_critic import Actor
from fog_policy.decoupled_gradient import Rollout
from fog_policy.imagined_buffer import ImaginedBuffer
from fog_policy.imagined_features import ImaginedFeatures
from fog_policy.imagined_setup import set_up
from fog_policy.learner_state import (
    contexts_state,
    environment_tensors,
    fitting_state,
    load_contexts,
    load_environment,
    load_optimiser,
    optimiser_tensors,
    require_precision,
)
from fog_policy.local_refresh import LocalRefresh
from fog_policy.local_world import LatentWorld
from fog_policy.ppo_config import PpoConfig
from fog_policy.ppo_networks import FEATURES, FeatureModel
from fog_policy.rollout_faults import require_finite
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.imagination import Contexts
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState
from fog_world_model.training import random_state


class PpoLearner:
    """rsl_rl's PPO on imagined environments; a :class:`.learner.Learner`."""

    def __init__(
        self,
        global_model: GlobalModel,
        local_model: LocalModel,
        contexts: Contexts,
        recordings: WindowSampler,
        config: PpoConfig,
    ) -> None:
        """Set everything up.

        Args:
            global_model: Frozen.
            local_model: Copied, because it is refreshed on the way.
            contexts: Draws windows of ``config.context`` observations.
            recordings: Draws windows of ``config.segment + 1`` observations.
            config: Settings.
        """
        self.config, self.contexts = config, contexts
        setup = set_up(global_model, local_model, contexts, config)
        self.device, self.precision, self.env = setup.device, setup.precision, setup.env
        self.actor, self.critic, self.local_model = setup.actor, setup.critic, setup.local_model
        self.average = ActorAverage(self.actor, config.actor_average)
        self.refresh = LocalRefresh(
            self.local_model,
            recordings,
            ImaginedBuffer(config.buffer_steps // config.segment, config.segment, seed=config.seed),
            batch=config.refresh_batch,
            rate=config.refresh_rate,
            gradient_clip=config.gradient_clip,
        )
        self.worlds = ImaginedFeatures(
            self.env, LatentWorld(self.local_model), segment=config.segment
        )
        self.horizon, self.updates = config.steps(self.device.type), 0
        self.ppo = self._ppo()

    def _ppo(self) -> PPO:
        config = self.config
        storage = RolloutStorage(
            "rl",
            config.environments,
            self.horizon,
            self.worlds.get_observations(),
            [self.worlds.num_actions],
            str(self.device),
        )
        ppo = PPO(
            FeatureModel(self.actor),
            FeatureModel(self.critic),
            storage,
            num_learning_epochs=config.passes,
            num_mini_batches=config.minibatches,
            clip_param=config.clip,
            use_clipped_value_loss=config.clip_value,
            gamma=config.gamma,
            lam=config.lambda_,
            entropy_coef=config.entropy,
            learning_rate=config.learning_rate,
            max_grad_norm=config.gradient_clip,
            schedule=config.schedule,
            desired_kl=config.target_kl,
            device=str(self.device),
        )
        # rsl_rl clips and steps without a look; weights that are not finite could not be told from
        # where they came from.
        ppo.optimizer.register_step_pre_hook(lambda *_: self._require_finite_gradients())
        return ppo

    @property
    def policy(self) -> Actor:
        """See :class:`.learner.Learner`."""
        return self.average.policy

    @property
    def imagined_steps(self) -> int:
        """Steps in the global model."""
        return self.env.steps

    @property
    def features(self) -> Tensor:
        """``[env, feature]``: what the actor sees now."""
        return self.worlds.state.features

    def update(self) -> dict[str, float]:
        """One rollout, PPO's passes over it, and the refresh of the local model.

        Returns:
            What happened, for the log.

        Raises:
            FogError: Something is not finite; what, and where, is said.
        """
        config, segments = self.config, self.horizon // self.config.segment
        observed = self.worlds.get_observations()
        flows, over = [], 0.0
        with torch.no_grad():
            for _ in range(segments):
                first = self.env.observation
                observed, flow, time_outs = self._segment(observed)
                require_finite(flow, self.updates, actor_rate="learning_rate")
                if config.refresh_steps:
                    self.refresh.buffer.add(*first, flow)
                flows.append(flow)
                over += time_outs
            self.ppo.compute_returns(observed)
        learning = self.updates >= config.critic_first
        losses = self._learn(actor_too=learning)
        actions = torch.stack([flow.actions for flow in flows])
        log = {
            "reward": float(torch.stack([flow.rewards for flow in flows]).mean()),
            "entropy": losses["entropy"],
            "critic_loss": losses["value"],
            "surrogate": losses["surrogate"],
            "learning_rate": float(self.ppo.learning_rate),
            "saturation": float((actions.abs() > 0.97).float().mean()),
            "ends": float(sum(flow.ends.sum() for flow in flows)),
            "time_outs": over,
            "horizon": float(self.horizon),
        }
        if learning:
            self.average.update()
            log |= self.refresh.fit(config.refresh_steps * segments, update=self.updates)
        self.updates += 1
        return log | {"imagined_steps": self.env.steps}

    def _learn(self, *, actor_too: bool) -> dict[str, float]:
        """PPO's passes over the rollout, with an actor that stays as it is unless it learns too."""
        rate = self.ppo.learning_rate
        self.actor.requires_grad_(actor_too)
        losses: dict[str, float] = self.ppo.update()
        self.actor.requires_grad_(True)
        if not actor_too:  # rounding alone makes the policies differ, by too little for a schedule
            self.ppo.learning_rate = rate
            for group in self.ppo.optimizer.param_groups:
                group["lr"] = rate
        return losses

    def _segment(self, observed: TensorDict) -> tuple[TensorDict, Rollout, float]:
        """Act through a segment and hand it to PPO.

        Returns:
            The last observations, what happened, and how many environments timed out.
        """
        features, arrived, actions, log_probs, steps, left = [], [], [], [], [], []
        for _ in range(self.config.segment):
            raw = self.ppo.act(observed)
            features.append(observed[FEATURES])
            actions.append(raw.tanh())
            log_probs.append(self.ppo.transition.actions_log_prob)
            observed, reward, over, extras = self.worlds.step(raw)
            # rsl_rl would stand in V(s_t) for the value of where an episode was left; episodes are
            # short here and it matters, so V(s_{t+1}) is added before it looks.
            time_out = extras["time_outs"].float()
            value = self.ppo.critic(extras["arrived"]).squeeze(-1)
            bootstrapped = reward + self.config.gamma * time_out * value
            self.ppo.process_env_step(observed, bootstrapped, over, {})
            arrived.append(extras["arrived"][FEATURES])
            steps.append(extras["step"])
            left.append(time_out.sum())
        flow = Rollout(
            torch.stack(features),
            torch.stack(arrived),
            torch.stack(actions),
            torch.stack(log_probs),
            torch.stack([step.reward for step in steps]),
            torch.stack([step.end.float() for step in steps]),
            steps,
            self.worlds.state,
        )
        return observed, flow, float(torch.stack(left).sum())

    def _require_finite_gradients(self) -> None:
        for name, module in (("actor", self.actor), ("critic", self.critic)):
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if not gradients:
                continue  # the actor, while only the critic learns
            norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
            if not bool(norm.isfinite()):
                raise FogError(
                    f"update {self.updates}: the gradient of the {name} is not finite (norm "
                    f"{float(norm)}); lower learning_rate"
                )

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """See :class:`.learner.Learner`."""
        world, counts = environment_tensors(self.env)
        drawn, order = contexts_state(self.contexts)
        state = self.worlds.state
        files: dict[str, Mapping[str, Tensor]] = {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "local": self.local_model.state_dict(),
            "training": {
                "state.deterministic": state.deterministic,
                "state.stochastic": state.stochastic,
                **world,
                **drawn,
                **optimiser_tensors(self.ppo.optimizer, "ppo"),
                **random_state.capture(self.device),
            },
        }
        values = {
            "updates": self.updates,
            "precision": self.precision,
            "env": counts,
            "contexts": order,
            "learning_rate": self.ppo.learning_rate,
            "refresh": self.refresh.values(),
        }
        averaged, count = self.average.state()
        return files | averaged | self.refresh.tensors(), values | count

    def load_state(
        self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
    ) -> None:
        """See :class:`.learner.Learner`.

        Raises:
            FogError: It is not the state of such a learner.
        """
        require_precision(values, self.precision)
        with fitting_state():
            rest = dict(tensors["training"])
            for name, module in (
                ("actor", self.actor), ("critic", self.critic), ("local", self.local_model),
            ):  # fmt: skip
                module.load_state_dict(tensors[name])
            self.average.load(tensors, values)
            load_optimiser(self.ppo.optimizer, "ppo", rest)
            self.ppo.learning_rate = float(values["learning_rate"])
            for group in self.ppo.optimizer.param_groups:
                group["lr"] = self.ppo.learning_rate
            self.refresh.load(tensors, values["refresh"])
            load_environment(self.env, self.contexts, rest, values["env"])
            load_contexts(self.contexts, rest, values["contexts"])
            self.worlds.state = LatentState(
                rest["state.deterministic"].to(self.device),
                rest["state.stochastic"].to(self.device),
            )
            self.updates = int(values["updates"])
            random_state.restore(rest, self.device)  # last: what came before may have drawn
