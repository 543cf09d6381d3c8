"""Settings of PPO. No torch in here: the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fog_policy.fog_config import require_average
from fog_world_model.errors import FogError


@dataclass(frozen=True)
class PpoConfig:
    """Settings; those of the update itself are rsl_rl's own where nothing is said."""

    environments: int = 32
    """Imagined environments side by side."""
    horizon: int = 0
    """Steps per update; 0: 128 on a GPU, 32 on a processor, which would otherwise see only a
    handful of updates."""
    segment: int = 16
    """Steps between two looks at which environments have been imagined long enough, and length of
    the trajectories that the local model is refreshed on: the horizon of the decoupled update."""
    imagined_episode: int = 16
    """Imagined steps after which an environment starts from another recorded context. The value
    of where it was left takes the place of what would have followed."""
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
    gamma: float = 0.99
    lambda_: float = 0.95
    learning_rate: float = 1e-3
    """Of both networks."""
    schedule: Literal["fixed", "adaptive"] = "fixed"
    """Whether the learning rate follows the KL between successive policies to ``target_kl``, as
    rsl_rl has it by default. One rate serves both networks: with the few environments of a small
    machine it soon falls so low that the critic no longer follows the policy."""
    target_kl: float = 0.01
    actor_average: float = 0.0
    """As :class:`.fog_config.FogConfig` has it; none, for rsl_rl has none."""
    critic_first: int = 0
    """Updates at the beginning in which only the critic learns, for an actor that is no beginner
    (:mod:`.warm_start`)."""
    passes: int = 5
    minibatches: int = 4
    clip: float = 0.2
    """Of the ratio of probabilities."""
    clip_value: bool = False
    """Whether the value may move no further than ``clip`` per update either, as rsl_rl has it by
    default for rewards that are scaled to be small. Here a step's reward is up to about 1 and
    values are tens: the critic would still be on its way when a small machine has finished."""
    entropy: float = 0.005
    """Weight of the entropy."""
    gradient_clip: float = 1.0
    refresh_steps: int = 1
    """Updates of the local model per segment, between two updates of the policy: as many per
    imagined step as the decoupled update makes (which needs them for its derivatives). PPO only
    reads features; but a filter that is never refreshed sees frames unlike those it was fitted
    to, and a policy that fails for that is no fair comparison. 0: the local model stays as it is,
    and PPO is spared the time."""
    refresh_batch: int = 8
    """Imagined trajectories in such an update; as many recorded windows are mixed in."""
    refresh_rate: float = 2e-4
    buffer_steps: int = 100_000
    """Imagined steps that are remembered for it; they are part of the checkpoint."""
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            FogError: One cannot be.
        """
        for name in ("environments", "segment", "imagined_episode", "context", "contexts", "gamma",
                     "learning_rate", "target_kl", "passes", "minibatches", "clip",
                     "gradient_clip", "refresh_batch", "refresh_rate"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise FogError(f"{name} is {getattr(self, name)}; expected more than 0")
        for name in ("horizon", "context_within", "sampling_steps", "entropy", "refresh_steps",
                     "buffer_steps", "critic_first"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise FogError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.schedule not in ("fixed", "adaptive"):
            raise FogError(f"schedule is {self.schedule!r}; expected fixed or adaptive")
        require_average(self.actor_average)
        for name in ("gamma", "lambda_"):
            if not 0 <= getattr(self, name) <= 1:
                raise FogError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if self.horizon % self.segment:
            raise FogError(
                f"horizon is {self.horizon} and segment {self.segment}; expected whole segments"
            )

    def steps(self, device: str) -> int:
        """Steps per update on a kind of device (``cpu``, ``cuda``), in whole segments."""
        wanted = self.horizon or (32 if device == "cpu" else 128)
        return max(1, wanted // self.segment) * self.segment
