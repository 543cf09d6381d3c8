"""What a policy's checkpoint and bundle say about where the policy came from."""

from __future__ import annotations

import dataclasses
from typing import Any

from fog_policy.warm_start import StartPolicy
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.training.checkpoint import Checkpoint

_MODEL = ("preset", "step", "seconds", "data_hash", "task_hash", "commit", "versions")
_OF_POLICY = ("kind", "method", "updates", "imagined_steps", "made_from")
"""Of a local model that was taken over from a policy, in addition."""


def policy_manifest(
    method: str,
    store: EpisodeStore,
    config: Any,
    world: Checkpoint | None,
    local: Checkpoint,
    start: StartPolicy | None = None,
) -> dict[str, Any]:
    """The manifest of a policy; :class:`.policy_training.LearnerCheckpoint` adds the rest.

    Args:
        method: How it learns.
        store: The recordings.
        config: Settings, a dataclass.
        world: The global model; None: there was none.
        local: The local model.
        start: The policy that it began with; None: random weights.
    """
    made_from = {
        "global": None if world is None else _origin(world.manifest),
        "local": _origin(local.manifest),
        "transitions": store.transitions,
    }
    if start is not None:
        made_from["started_from"] = start.origin()
    return {
        "kind": "policy",
        "method": method,
        "task": store.task.to_dict(),
        "task_hash": store.task.hash,
        "data_hash": store.data_hash,
        "normalisation": local.manifest["normalisation"],
        "config": dataclasses.asdict(config),
        "made_from": made_from,
    }


def _origin(manifest: dict[str, Any]) -> dict[str, Any]:
    keys = _MODEL + (_OF_POLICY if manifest["kind"] == "policy" else ())
    return {key: manifest.get(key) for key in keys}
