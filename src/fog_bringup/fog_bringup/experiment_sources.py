"""The recordings and world models of an experiment: given, or made in its folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from rich.console import Console

from fog_bringup.episode_recording import episode_seed
from fog_bringup.experiment_settings import ExperimentSettings
from fog_bringup.progress import progress_bar
from fog_bringup.stages import Stages, run_side_by_side
from fog_bringup.zero_shot import FIRST_SEED
from fog_policy.methods import Sources
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


def make_sources(
    task: TaskConfig, settings: ExperimentSettings, folder: Path, console: Console
) -> Sources:
    """Record, import and train what is not given; what is complete is not repeated.

    Args:
        task: Of all of them.
        settings: What is given, and how much of the rest.
        folder: For what is made.
        console: Told about it.

    Raises:
        FogError: Something given does not fit, or a stage failed.
        KeyboardInterrupt: Ctrl-C; stages that are complete stay.
    """
    stages = Stages(folder / "stages", console)
    store, bags = settings.store or folder / "episodes", folder / "bags"
    if settings.store is None:
        recording = {"task": task.hash, "steps": settings.steps}
        stages.run("record", recording, [bags], lambda: _record(task, settings, bags, console))
        stages.run("import", {}, [store], lambda: _import(task, bags, store, console))
    opened = EpisodeStore(store, task)
    given = {"global": settings.global_model, "local": settings.local_model}
    options = {"global": list(settings.global_options), "local": list(settings.local_options)}
    presets = {"global": settings.global_preset, "local": settings.local_preset}
    missing = [kind for kind, path in given.items() if path is None]
    if missing:
        threads = settings.threads or max(1, (os.cpu_count() or 2) // len(missing))
        commands = {
            f"{kind} model": [
                "train", kind, str(store), str(folder / kind), "--preset", presets[kind],
                "--time-budget", f"{settings.world_model_s:g}s", "--device", settings.device,
                "--threads", str(threads), *options[kind],
            ]
            for kind in missing
        }  # fmt: skip
        stages.run(
            "world_models",
            {
                "data": opened.data_hash,
                "seconds": settings.world_model_s,
                "presets": {kind: presets[kind] for kind in missing},
                **{k: v for k, v in options.items() if k in missing and v},
            },
            [folder / kind for kind in missing],
            lambda: run_side_by_side(commands, folder / "logs"),
        )
    return Sources(
        opened, settings.global_model or folder / "global", settings.local_model or folder / "local"
    )


def fingerprints(sources: Sources) -> dict[str, str]:
    """What tells these recordings and models from others."""

    def digest(path: Path) -> str:
        return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()[:16]

    return {
        "data_hash": sources.store.data_hash,
        "global": digest(sources.world),
        "local": digest(sources.local_model),
    }


def _record(
    task: TaskConfig, settings: ExperimentSettings, bags: Path, console: Console
) -> dict[str, int]:
    from fog_bringup.collect import CollectConfig, collect

    config = CollectConfig(steps=settings.steps, workers=settings.workers)
    with progress_bar(console) as report:
        result = collect(task, bags, config, progress=report)
    if result.interrupted:
        raise KeyboardInterrupt
    recorded = {episode_seed(config.seed, i) for i in range(result.episodes)}
    if not recorded.isdisjoint(range(FIRST_SEED, FIRST_SEED + settings.episodes)):
        raise FogError("a recorded episode starts like one of the evaluation; record other steps")
    return {"steps": result.steps, "episodes": result.episodes}


def _import(task: TaskConfig, bags: Path, store: Path, console: Console) -> dict[str, int]:
    from fog_world_model.data.import_bags import find_bags, import_bags

    with progress_bar(console) as report:
        made = import_bags(find_bags(bags), task, store, progress=report)
    return {"transitions": made.transitions}
