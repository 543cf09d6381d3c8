"""Train a policy by any of the methods, and export it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fog_policy.bundle import export_bundle
from fog_policy.learner import Learner
from fog_policy.methods import Sources, find_method, learner_class
from fog_policy.policy_manifest import policy_manifest
from fog_policy.policy_training import PolicyLoopConfig, PolicyResult, train_learner
from fog_policy.warm_start import open_start
from fog_world_model.errors import FogError
from fog_world_model.training.checkpoint import open_checkpoint
from fog_world_model.training.train_world_models import open_local


def make_learner(
    method: str, sources: Sources, config: Any, start_from: Path | None = None
) -> tuple[Learner, dict[str, Any]]:
    """A learner that has learned nothing yet, and what its checkpoints say about themselves.

    Args:
        method: Name of the method.
        sources: What it is given.
        config: Its configuration.
        start_from: Bundle or checkpoint of the policy that it begins with, or the name of a shipped
            policy; None: random weights.

    Raises:
        FogError: The method is not known, or an artefact is missing, damaged or does not fit.
    """
    store = sources.store
    if sources.global_model is None and find_method(method).needs_global:
        raise FogError(f"--global-model: not given, and --method {method} learns in it")
    weight = getattr(config, "anchor", None)
    if weight and start_from is None:
        raise FogError(
            f"--options {method}.anchor={weight:g}: there is no policy that it begins with; "
            "give one as --start-from (in 'fog experiment': METHOD.start_from=bc)"
        )
    # First, so that the numbers drawn for its networks come before the learner's seed.
    start = None if start_from is None else open_start(start_from, store.task)
    learner: Any = find_method(method).build(learner_class(method), sources, config)
    world = None
    if sources.global_model is not None:
        world = open_checkpoint(sources.global_model, "global", store.task)
    local = open_local(sources.local_model, store.task)
    if start is not None:
        start.require_local(learner.local_model, local.normalisation, sources.local_model)
        start.place(learner)
    if getattr(config, "local_share", 0.0) == 1:  # whatever it was asked for as
        method = "local"
    return learner, policy_manifest(method, store, config, world, local, start)


def train_policy(
    method: str,
    sources: Sources,
    config: Any,
    loop: PolicyLoopConfig,
    output: Path,
    bundle: Path,
    *,
    start_from: Path | None = None,
    resume: bool = False,
) -> PolicyResult:
    """Train in imagination or on recordings only, and write a bundle.

    Args:
        method: Name of the method, see :data:`.methods.METHODS`.
        sources: What it is given.
        config: Its configuration.
        loop: How long to train.
        output: Folder of the policy's checkpoint.
        bundle: Folder of the bundle.
        start_from: Bundle or checkpoint of the policy that it begins with, or the name of a shipped
            policy; None: random weights.
        resume: Go on from the checkpoint in ``output``.

    Raises:
        FogError: The method is not known, an artefact does not fit, or training cannot go on.
    """
    learner, manifest = make_learner(method, sources, config, start_from)
    result = train_learner(learner, loop, output, manifest, resume=resume)
    export_bundle(output, bundle, sources.store)
    return result
