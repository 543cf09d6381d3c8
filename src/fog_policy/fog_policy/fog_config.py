"""Settings of the decoupled first-order update. No torch in here: the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fog_world_model.errors import FogError

CRITIC_FIRST = 20
"""``critic_first`` of a run that starts from a policy, unless it is told otherwise."""


@dataclass(frozen=True)
class FogConfig:
    """Everything that fixes a :class:`.fog_trainer.FogTrainer`, beside its worlds and its data."""

    environments: int = 32
    """Imagined environments side by side (N)."""
    horizon: int = 16
    """Steps per update (H)."""
    horizon_end: int = 0
    """Steps per update at the end of the run, reached in equal steps; 0: as at the beginning."""
    imagined_episode: int = 16
    """Imagined steps after which an environment starts from another recorded context."""
    context: int = 5
    """Recorded observations that an environment starts from."""
    contexts: int = 1024
    """Most contexts that are kept on the device to start from."""
    context_within: int = 0
    """Contexts end within the first so many steps of their episodes, near where the robot starts;
    0: anywhere in them."""
    sampling_steps: int = 0
    """Denoising steps per frame; 0 takes the global model's own number."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the global model's networks; auto: bfloat16 where the device has instructions for it."""
    local_share: float = 0.0
    """Share of the run that is spent first in the local model alone: cheap steps that are only as
    right as it is, before the global model takes over. 1: the whole run ("no diffusion")."""
    gamma: float = 0.97
    lambda_: float = 0.95
    actor_rate: float = 5e-4
    actor_rate_end: float = 1.0
    """Share of the actor's rate that is left at the end of the run, to which it falls in equal
    steps."""
    actor_average: float = 0.97
    """Share that stays, per update, of the average of the actor's weights, which is what is
    evaluated and deployed; 0: no average (:mod:`.actor_average`)."""
    actor_passes: int = 1
    """Steps of the actor per rollout in the global model. From the second on the rollout is gone
    through again with what the local model says that the new actions change (:mod:`.retraced`),
    which costs a few hundredths of a rollout."""
    critic_rate: float = 1e-3
    critic_passes: int = 4
    """Passes over the rollout per update, in 4 minibatches each."""
    critic_first: int = 0
    """Updates at the beginning in which only the critic learns. An actor that is no beginner would
    be spoilt by the derivatives of a critic that is one (:mod:`.warm_start`)."""
    target_rate: float = 0.2
    """How far the target critic moves to the critic per update."""
    gradient_clip: float = 1.0
    """Largest norm of a gradient."""
    anchor: float = 0.0
    """Weight, per nat, of the divergence from the policy that learning began with, in units of the
    reward per step (:mod:`.anchor`); 0: none."""
    temperature: float = 0.2
    """Initial weight of the entropy in the reward, where it is scaled by its target; it is learned.
    With three action fields this is about 0.03 per nat."""
    temperature_rate: float = 3e-2
    entropy_target: float = -1.0
    """Entropy per action field, nats, below which the temperature rises; negative. SAPO has -0.5;
    the less, the nearer to their bounds actions may stay."""
    sample_prior: bool = False
    """Send the gradient through a sample of the prior instead of its mean."""
    refresh_steps: int = 1
    """Updates of the local model per update of the policy (0: it stays as it is)."""
    refresh_batch: int = 8
    """Imagined trajectories in such an update; as many recorded windows are mixed in."""
    refresh_rate: float = 2e-4
    buffer_steps: int = 100_000
    """Imagined steps that are remembered for it; they are part of the checkpoint."""
    check_every: int = 75
    """Updates between two checks of health (0: never)."""
    check_directions: int = 4
    """Random directions of the gradient's check; each costs two rollouts."""
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            FogError: One cannot be.
        """
        positive = ("environments", "horizon", "imagined_episode", "context", "contexts",
                    "actor_passes", "critic_passes", "refresh_batch", "check_directions", "gamma",
                    "actor_rate", "critic_rate", "refresh_rate", "gradient_clip",
                    "temperature")  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise FogError(f"{name} is {getattr(self, name)}; expected more than 0")
        for name in ("horizon_end", "context_within", "sampling_steps", "refresh_steps", "anchor",
                     "buffer_steps", "check_every", "temperature_rate",
                     "critic_first"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise FogError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("gamma", "lambda_", "local_share", "target_rate", "actor_rate_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise FogError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        require_average(self.actor_average)
        if self.sample_prior and self.actor_passes > 1:
            raise FogError(
                f"actor_passes is {self.actor_passes} with sample_prior: a sample of the prior "
                "differs from pass to pass; expected 1, or the mean of the prior"
            )
        if not self.entropy_target < 0:  # the entropy's scale is divided by it
            raise FogError(f"entropy_target is {self.entropy_target}; expected less than 0")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise FogError(f"precision {self.precision}: expected auto, float32 or bfloat16")

    def actor_rate_at(self, progress: float) -> float:
        """The actor's rate at a share of the run in [0, 1]."""
        left = 1.0 + (self.actor_rate_end - 1.0) * min(max(progress, 0.0), 1.0)
        return self.actor_rate * left

    @property
    def refresh_window(self) -> int:
        """Transitions in a trajectory that the local model is refreshed on."""
        return min(self.horizon, self.horizon_end or self.horizon)

    def horizon_at(self, progress: float) -> int:
        """Steps per update at a share of the run in [0, 1]."""
        end = self.horizon_end or self.horizon
        return round(self.horizon + (end - self.horizon) * min(max(progress, 0.0), 1.0))


def require_average(decay: float) -> None:
    """Check the share of an average of weights that stays.

    Raises:
        FogError: It cannot be.
    """
    if not 0 <= decay < 1:
        raise FogError(f"actor_average is {decay}; expected 0 or more, and less than 1")
