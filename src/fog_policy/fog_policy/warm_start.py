"""Begin to learn with the actor of a policy that there is already, not with random weights.

An actor's input is the state of the local model that it was trained on, so that it is of use only
with that one. Behaviour cloning leaves the local model as it was: its bundle goes with the
checkpoint that it was given. The other methods refresh it on the way; who goes on from one of their
policies has to take over the local model too, and that is whole (with the reward that the gradient
needs) only in the policy's checkpoint, not in the bundle.

Nothing else is taken over: critic, temperature and optimisers begin anew.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fog_policy.actor_critic import Actor
from fog_policy.bundle import load_bundle, policy_networks
from fog_policy.learner import Learner
from fog_policy.shipped_policies import find_bundle
from fog_world_model.data.episodes import Normalisation
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.task import TaskConfig
from fog_world_model.training.checkpoint import open_checkpoint

_ORIGIN = (
    "kind", "method", "updates", "imagined_steps", "seconds", "data_hash", "task_hash", "commit",
    "made_from",
)  # fmt: skip
"""What a manifest keeps of the policy that it was started from."""
_EDGE = 0.02
"""A standard deviation within this share of its range of a bound is as good as at it."""


class ImaginingLearner(Learner, Protocol):
    """A learner that acts in imagination."""

    @property
    def features(self) -> Tensor:
        """``[env, feature]``: what its actor sees now."""


@dataclass(frozen=True)
class StartPolicy:
    """The policy that learning begins with."""

    path: Path
    """Bundle, or checkpoint of a policy."""
    actor: Actor
    local: LocalModel
    """What the actor acts on; encoder and RSSM count."""
    normalisation: Normalisation
    """Of the proprioception that the local model reads."""
    manifest: dict[str, Any]

    def origin(self) -> dict[str, Any]:
        """What the new policy's manifest says of it; ``actor_sha256`` tells it from others."""
        kept = {key: self.manifest.get(key) for key in _ORIGIN}
        return {**kept, "actor_sha256": _digest(self.actor.state_dict())}

    def require_local(
        self, local: LocalModel, normalisation: Normalisation, path: str | os.PathLike[str]
    ) -> None:
        """Check that a local model is the one whose states the actor was trained on.

        Args:
            local: The local model that would be learned with.
            normalisation: Of the proprioception that it reads.
            path: Where it came from, for the message.

        Raises:
            FogError: It is another one; what to do is said.
        """
        if _same(local, self.local) and normalisation.to_dict() == self.normalisation.to_dict():
            return
        kind, whole = self.manifest["kind"], self.path
        if kind == "bundle" and whole.suffix == ".bundle":
            whole = whole.with_suffix("")
        raise FogError(
            f"{kind} {self.path}: its actor reads the states of another local model than {path} "
            f"(method {self.manifest.get('method', 'unknown')}; all but bc refresh the local model "
            "while they learn). Give the --local-model that it was trained with; or go on with "
            "its own: leave --local-model out and start from the policy's checkpoint instead of "
            f"its bundle (as --start-from {whole})"
        )

    def place(self, learner: ImaginingLearner) -> None:
        """Give a learner that has not learned yet the weights of the actor.

        A standard deviation that is stuck at its bound is warned of on standard error.

        Raises:
            FogError: Its actor is of another architecture.
        """
        found, wanted = asdict(self.actor.config), asdict(learner.actor.config)
        if differing := [key for key in wanted if found[key] != wanted[key]]:
            said = ", ".join(f"{key} is {found[key]}, not {wanted[key]}" for key in differing)
            raise FogError(
                f"{self.manifest['kind']} {self.path}: its actor is of another architecture: "
                f"{said}; start from one that was trained with this version and local model"
            )
        learner.actor.load_state_dict(self.actor.state_dict())
        if words := stuck_spread(learner.actor, learner.features):
            print(f"fog: warning: {self.manifest['kind']} {self.path}: {words}", file=sys.stderr)


def open_start(path: str | os.PathLike[str], task: TaskConfig) -> StartPolicy:
    """Open a bundle or a policy's checkpoint to start from.

    Args:
        path: Its folder, or the name of a shipped policy.
        task: What it has to belong to.

    Raises:
        FogError: It is missing, damaged, something else, or of another task.
    """
    path = find_bundle(path)
    checkpoint = open_checkpoint(path, ("bundle", "policy"), task)
    if checkpoint.manifest["kind"] == "bundle":
        local, actor = load_bundle(path, task).networks()
    else:
        local, actor = policy_networks(checkpoint)
    return StartPolicy(path, actor, local, checkpoint.normalisation, checkpoint.manifest)


def own_local_model(path: str | os.PathLike[str]) -> Path:
    """Where the local model of a policy to start from is, when no other one was given.

    Args:
        path: As for :func:`open_start`.

    Raises:
        FogError: It is a bundle, which holds only the half of it that runs on the robot, or there
            is no policy.
    """
    found = find_bundle(path)
    if open_checkpoint(found, ("policy", "bundle")).manifest["kind"] == "bundle":
        raise FogError(
            f"--start-from {path}: a bundle holds what runs on the robot, of the local model that "
            "is not all (the reward is missing). Give the --local-model that it was trained with, "
            "or start from the policy's checkpoint, which holds it whole"
        )
    return found


@torch.no_grad()
def stuck_spread(actor: Actor, features: Tensor) -> str:
    """Say so when a policy's noise is at a bound, where its standard deviation hardly learns.

    Args:
        actor: The policy; its noise is within bounds whatever its weights are.
        features: ``[env, feature]``: where it begins.

    Returns:
        Words; none where it is well within the bounds in most states.
    """
    config = actor.config
    _, log_std = actor.gaussian(actor.body(features))
    share = (log_std - config.log_std_min) / (config.log_std_max - config.log_std_min)
    for which, at, bound in (
        ("lower", share < _EDGE, config.log_std_min),
        ("upper", share > 1 - _EDGE, config.log_std_max),
    ):
        if (part := float(at.float().mean())) > 0.5:
            return (
                f"the standard deviation of its actions is at its {which} bound "
                f"({math.exp(bound):.2f} before squashing) in {part:.0%} of the states where "
                "learning begins, and will hardly change; start from a policy that was trained "
                "for less long, or on more varied actions"
            )
    return ""


def _same(one: LocalModel, other: LocalModel) -> bool:
    """Whether two local models turn the same observations into the same states, to the bit."""
    return _equal(one.encoder, other.encoder) and _equal(one.rssm, other.rssm)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(value.cpu(), right[name].cpu()) for name, value in left.items()
    )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
