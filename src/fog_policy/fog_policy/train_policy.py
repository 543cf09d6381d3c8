"""Train a policy from checkpoints and an episode store, and export it."""

from __future__ import annotations

import os
from typing import Any

from fog_policy.bundle import export_bundle
from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.imagined_setup import load_contexts
from fog_policy.policy_manifest import policy_manifest
from fog_policy.policy_training import PolicyLoopConfig, PolicyResult, train_learner
from fog_policy.warm_start import open_start
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.training.train_world_models import load_worlds

Path = str | os.PathLike[str]


def fog_trainer(
    store: EpisodeStore,
    global_checkpoint: Path,
    local_checkpoint: Path,
    config: FogConfig,
    *,
    start_from: Path | None = None,
) -> tuple[FogTrainer, dict[str, Any]]:
    """A trainer on checkpoints, and what its checkpoints and bundles say about themselves.

    Args:
        store: Contexts to start from, and recordings to keep the local model honest.
        global_checkpoint: The global model.
        local_checkpoint: The local model, or a policy's checkpoint that holds one.
        config: Settings.
        start_from: Bundle or checkpoint of the policy that it begins with; None: random weights.

    Raises:
        FogError: An artefact is missing, damaged or does not fit.
    """
    (global_model, world), (local_model, local), store = load_worlds(
        global_checkpoint, local_checkpoint, store
    )
    contexts = load_contexts(store, global_model, config)
    recordings = WindowSampler(store, length=config.refresh_window + 1, seed=config.seed + 1)
    trainer = FogTrainer(global_model, local_model, contexts, recordings, config)
    start = None if start_from is None else open_start(start_from, store.task)
    if start is not None:
        start.require_local(local_model, local.normalisation, local_checkpoint)
        start.place(trainer)
    method = "fog" if config.local_share < 1 else "local"
    return trainer, policy_manifest(method, store, config, world, local, start)


def train_policy(
    store: EpisodeStore,
    global_checkpoint: Path,
    local_checkpoint: Path,
    output: Path,
    bundle: Path,
    config: FogConfig,
    loop: PolicyLoopConfig,
    *,
    start_from: Path | None = None,
    resume: bool = False,
) -> PolicyResult:
    """Train in imagination only and write a bundle.

    Args:
        store: Contexts to start from, and recordings to keep the local model honest.
        global_checkpoint: The global model.
        local_checkpoint: The local model, or a policy's checkpoint that holds one.
        output: Folder of the policy's checkpoint.
        bundle: Folder of the bundle.
        config: Settings of the update.
        loop: How long to train.
        start_from: Bundle or checkpoint of the policy that it begins with; None: random weights.
        resume: Go on from the checkpoint in ``output``.

    Raises:
        FogError: An artefact does not fit, or training cannot go on.
    """
    trainer, manifest = fog_trainer(
        store, global_checkpoint, local_checkpoint, config, start_from=start_from
    )
    result = train_learner(trainer, loop, output, manifest, resume=resume)
    export_bundle(output, bundle, store)
    return result
