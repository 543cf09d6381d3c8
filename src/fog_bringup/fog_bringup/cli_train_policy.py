"""``fog train policy``: its options, and what it calls."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional

from fog_bringup.training_options import Training, seconds
from fog_bringup.worlds import find_part
from fog_policy.fog_config import FogConfig
from fog_world_model.errors import FogError

_DEFAULT = FogConfig()
_OF_FOG = ("environments", "horizon", "imagined_episode", "contexts", "context_within",
           "sampling_steps", "precision", "gamma", "actor_passes", "entropy_target",
           "sample_prior", "local_share", "refresh_steps", "buffer_steps", "critic_first",
           "check_every")  # fmt: skip
"""Options that set something of the decoupled update."""


def horizons(text: str) -> tuple[int, int]:
    """``16`` or ``16:32`` -> steps per update at the beginning and at the end of a run.

    Raises:
        FogError: It is neither.
    """
    match = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", text.strip())
    if not match:
        raise FogError(f"--horizon {text}: expected steps, such as 16, or a schedule such as 16:32")
    return int(match[1]), int(match[2] or match[1])


@dataclass
class TrainPolicy(Training):
    """Train a policy inside the world models by decoupled first-order gradients, or by a baseline.

    Curves go to OUTPUT.tensorboard. What the checks of health find out is part of them; a local
    model that is no guide, and a policy that exploits the global model, are said in words.
    """

    store: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Episode store: contexts to start from; or, as below, the name of a shipped world."""
    output: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Checkpoint folder; the bundle is written to OUTPUT.bundle."""
    global_model: Path | None = None
    """Checkpoint of the global model, or the name of a shipped world; fog and ppo learn in it, the
    other methods do without."""
    local_model: Path | None = None
    """Checkpoint of the local model, or the name of a shipped world; not given: the one that the
    policy in --start-from was learned with, as it is in its checkpoint."""
    method: Literal["fog", "ppo", "local", "bc"] = "fog"
    """How it learns: fog; or a baseline: PPO, the local model alone, behaviour cloning. The
    settings from --environments to --check-every are fog's."""
    start_from: Path | None = None
    """Bundle, or checkpoint of a policy, whose actor learning begins with (not for bc). It goes
    with the local model that it was trained on: for a bundle of bc that is the one that bc was
    given."""
    options: tuple[str, ...] = ()
    """Settings of the method that have no option of their own, METHOD.SETTING=VALUE each, such as
    fog.actor_rate=1e-4 or ppo.horizon=64, as in 'fog experiment'."""
    environments: int = _DEFAULT.environments
    """Imagined environments (N)."""
    horizon: str = str(_DEFAULT.horizon)
    """Steps per update (H), or a schedule over the run, FIRST:LAST."""
    imagined_episode: int = _DEFAULT.imagined_episode
    """Imagined steps after which an environment starts from another recorded context."""
    contexts: int = _DEFAULT.contexts
    """Most recorded contexts that are kept to start from."""
    context_within: int = _DEFAULT.context_within
    """Contexts end within the first so many steps of their episodes; 0: anywhere in them."""
    sampling_steps: int = _DEFAULT.sampling_steps
    """Denoising steps per frame; 0: as the model was made."""
    precision: Literal["auto", "float32", "bfloat16"] = _DEFAULT.precision
    """Of the global model; auto: bfloat16 where the device has instructions for it."""
    gamma: float = _DEFAULT.gamma
    """Discount per step."""
    actor_passes: int = _DEFAULT.actor_passes
    """Steps of the actor per rollout; after the first the local model says what they change."""
    entropy_target: float = _DEFAULT.entropy_target
    """Entropy per action field, nats, that the weight of the entropy is learned for; negative."""
    sample_prior: bool = _DEFAULT.sample_prior
    """Send the gradient through a sample of the local model's prior instead of its mean."""
    local_share: float = _DEFAULT.local_share
    """Share of the run that is spent first in the local model alone; 1: all of it, the baseline
    without diffusion."""
    refresh_steps: int = _DEFAULT.refresh_steps
    """Updates of the local model per update of the policy; 0: it stays as it is."""
    buffer_steps: int = _DEFAULT.buffer_steps
    """Imagined steps that are kept for those; they are part of the checkpoint (100,000 steps of
    64x64 take 1.2 GB)."""
    critic_first: int | None = None
    """Updates at the beginning in which only the critic learns; not given: 0, and 20 with
    --start-from."""
    check_every: int = _DEFAULT.check_every
    """Updates between two checks of health; 0: none. A check costs nine rollouts."""
    max_updates: int | None = None
    """Updates after which training ends, if the time does not run out before. Schedules then follow
    the updates and not the time, so that a run on the CPU can be repeated bit for bit."""
    max_imagined_steps: int | None = None
    """The same in imagined steps."""
    checkpoint_every: str = "60s"
    """Time between checkpoints."""

    def run(self) -> int:
        """Train, and export the bundle."""
        from fog_policy.methods import Sources
        from fog_policy.policy_training import PolicyLoopConfig
        from fog_policy.train_policy import train_policy
        from fog_world_model.data.episodes import EpisodeStore

        loop = PolicyLoopConfig(
            time_budget_s=seconds(self.time_budget),
            max_updates=self.max_updates,
            max_imagined_steps=self.max_imagined_steps,
            checkpoint_every_s=seconds(self.checkpoint_every, "--checkpoint-every"),
        )
        bundle = self.output.with_name(self.output.name + ".bundle")
        local_model = self._local_model(bundle)
        config = self._config()
        store = EpisodeStore(find_part(self.store, "episodes"), images=self.images)
        world = None if self.global_model is None else find_part(self.global_model, "global")
        result = train_policy(
            self.method,
            Sources(store, world, local_model),
            config,
            loop,
            self.output,
            bundle,
            start_from=self.start_from,
            resume=self.resume,
        )
        print(f"{bundle}: {result.updates} updates, {result.imagined_steps} imagined steps")
        return 130 if result.interrupted else 0

    def _local_model(self, bundle: Path) -> Path:
        """The local model; what there is to say against --start-from is said now.

        Raises:
            FogError: The policy to start from cannot be, or there is no local model.
        """
        start = self.start_from
        if start is not None:
            if self.method == "bc":
                raise FogError(f"--start-from {start}: behaviour cloning begins anew")
            if start.resolve() in (self.output.resolve(), bundle.resolve()):
                raise FogError(
                    f"--start-from {start}: would be replaced by the result; give another OUTPUT, "
                    "or --resume to go on with the same training"
                )
        if self.local_model is not None:
            return find_part(self.local_model, "local")
        if start is None:
            raise FogError(
                "--local-model: not given; name the local model, or with --start-from the "
                "checkpoint of a policy, to go on with that policy's"
            )
        from fog_policy.warm_start import own_local_model

        return own_local_model(start)

    def _config(self) -> Any:
        """The settings of the method.

        Raises:
            FogError: One cannot be, is given twice, or is of another method.
        """
        from fog_bringup.method_options import configuration

        for option in self.options:
            if not option.startswith(f"{self.method}."):
                raise FogError(
                    f"--options {option}: expected {self.method}.SETTING=VALUE, for that is the "
                    "--method"
                )
        return configuration(
            self.method,
            self.options,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
            started=self.start_from is not None,
            given=self._of_fog(),
        )

    def _of_fog(self) -> dict[str, Any]:
        """The settings of fog that have an option of their own, by field; none of a baseline.

        Raises:
            FogError: One is given twice, or is given and the method is another.
        """
        from fog_bringup.method_options import settings

        if self.method != "fog":
            defaults = {f.name: f.default for f in dataclasses.fields(type(self))}
            for name in _OF_FOG:
                if (value := getattr(self, name)) != defaults[name]:
                    raise FogError(
                        f"--{name.replace('_', '-')} {value}: a setting of fog; --method "
                        f"{self.method} is given its own as --options {self.method}.{name}=VALUE, "
                        "if it has that one"
                    )
            return {}
        if twice := [name for name in settings("fog", self.options) if name in _OF_FOG]:
            name = twice[0]
            raise FogError(
                f"--options fog.{name}: has an option of its own; give --{name.replace('_', '-')}"
            )
        first, last = horizons(self.horizon)
        given = {name: getattr(self, name) for name in _OF_FOG}
        if self.critic_first is None:
            del given["critic_first"]
        return {**given, "horizon": first, "horizon_end": last if last != first else 0}
