"""Train a policy from checkpoints and an episode store, and export it."""

from __future__ import annotations

import dataclasses
import os

from fog_policy.bundle import export_bundle
from fog_policy.fog_trainer import FogConfig, FogTrainer, PolicyResult
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.training.train_world_models import load_global, load_local

Path = str | os.PathLike[str]


def train_policy(
    store: EpisodeStore,
    global_checkpoint: Path,
    local_checkpoint: Path,
    output: Path,
    bundle: Path,
    config: FogConfig,
    *,
    resume: bool = False,
) -> PolicyResult:
    """Train in imagination only and write a bundle.

    Args:
        store: Contexts to start from, and recordings to keep the local model honest.
        global_checkpoint: The global model.
        local_checkpoint: The local model.
        output: Folder of the policy's checkpoint.
        bundle: Folder of the bundle.
        config: Settings.
        resume: Go on from the checkpoint in ``output``.

    Raises:
        FogError: An artefact does not fit, or training cannot go on.
    """
    global_model, world = load_global(global_checkpoint, store.task)
    local_model, local = load_local(local_checkpoint, store.task)
    trainer = FogTrainer(
        global_model,
        local_model,
        WindowSampler(
            store, length=max(config.context, global_model.context_frames), seed=config.seed
        ),
        WindowSampler(store, length=config.horizon + 1, seed=config.seed + 1),
        config,
    )
    result = trainer.train(
        output,
        {
            "kind": "policy",
            "task": store.task.to_dict(),
            "task_hash": store.task.hash,
            "data_hash": store.data_hash,
            "normalisation": local.manifest["normalisation"],
            "config": dataclasses.asdict(config),
            "made_from": {
                "global": _origin(world.manifest),
                "local": _origin(local.manifest),
                "transitions": store.transitions,
            },
        },
        resume=resume,
    )
    export_bundle(output, bundle)
    return result


def _origin(manifest: dict[str, object]) -> dict[str, object]:
    kept = ("preset", "step", "seconds", "data_hash", "task_hash", "commit", "versions")
    return {key: manifest[key] for key in kept}
