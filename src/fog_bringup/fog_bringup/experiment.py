"""``fog experiment``: ways of learning a policy in the same imagined world, side by side.

Each method is trained with several seeds inside the world models and meets the real game on the
way and at the end. Everything lies in one folder: what was made or given, a folder for each run,
``results.json`` and a page. A run that is finished is not repeated, an interrupted one goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fog_bringup.benchmarks.device_name import device_name
from fog_bringup.demo import Stages, run_side_by_side
from fog_bringup.episode_recording import episode_seed
from fog_bringup.experiment_methods import (
    METHODS,
    Sources,
    configuration,
    make_learner,
    require_methods,
)
from fog_bringup.experiment_page import write_page
from fog_bringup.experiment_run import FILM, ExperimentRun, RunPlan
from fog_bringup.experiment_verdict import comparisons, pooled, pooled_curve
from fog_bringup.film import film_of
from fog_bringup.progress import progress_bar as bars
from fog_bringup.report_page import require_writable
from fog_bringup.tasks import find_task
from fog_bringup.zero_shot import BASELINES, FIRST_SEED, Baseline, evaluate_baseline
from fog_world_model.data.durable import replace_file
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig
from fog_world_model.training.checkpoint import (
    open_checkpoint,
    source_commit,
    source_dirty,
    versions,
)
from fog_world_model.training.interruption import stop_on_signal
from fog_world_model.training.processes import device_of
from fog_world_model.training.progress import progress_bar
from fog_world_model.training.resume import differences_between

SETTINGS = "settings.json"
MAY_CHANGE = (
    "methods", "seeds", "device", "threads", "workers", "store", "global_model", "local_model"
)  # fmt: skip
"""Settings with which an experiment may be continued differently: more methods or more seeds are
more runs, what is learned depends on the others only by rounding, and of what is given the content
has to be the same."""

_WRITE_EVERY_S = 60.0
"""Least time between two pages while there is more to learn."""


@dataclass(frozen=True)
class ExperimentSettings:
    """What is compared, and at what expense."""

    task: str = "pusht"
    methods: tuple[str, ...] = ("fog", "ppo", "local", "bc")
    seeds: int = 3
    """Training seeds of every method."""
    time_budget_s: float = 600.0
    """Wall-clock seconds of learning for every method and seed."""
    imagined_steps: int | None = None
    """Imagined samples after which a run ends, if the time does not run out before."""
    evaluations: int = 8
    episodes: int = 100
    episodes_along: int = 50
    options: tuple[str, ...] = ()
    """``METHOD.SETTING=VALUE``."""
    store: Path | None = None
    """Episode store; None: one is recorded and imported."""
    global_model: Path | None = None
    """Checkpoint; None: one is trained."""
    local_model: Path | None = None
    """Checkpoint; None: one is trained."""
    steps: int = 20_000
    """Control steps to record where no store is given."""
    workers: int = 2
    world_model_s: float = 900.0
    """Seconds for each world model that is not given; they are trained side by side."""
    global_preset: str = "small"
    local_preset: str = "small"
    device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            FogError: One cannot be.
        """
        for name in ("seeds", "time_budget_s", "evaluations", "episodes", "episodes_along",
                     "steps", "workers", "world_model_s"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise FogError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.imagined_steps is not None and self.imagined_steps <= 0:
            raise FogError(f"imagined_steps is {self.imagined_steps}; expected more than 0")
        if self.episodes_along > self.episodes:
            raise FogError(
                f"episodes_along is {self.episodes_along} and episodes {self.episodes}; along the "
                "way there may be no more episodes than at the end"
            )
        if self.store is None and (self.global_model or self.local_model):
            raise FogError("world models are given without their episode store; give --store too")


class Experiment:
    """Makes what is missing, runs what is not finished, and writes results and page."""

    def __init__(self, output: Path, settings: ExperimentSettings) -> None:
        """Check the settings; nothing is made yet.

        Raises:
            FogError: A method, a setting or the task is not known.
        """
        self.output, self.settings = output, settings
        require_methods(settings.methods)
        for name in settings.methods:
            configuration(name, settings.options, seed=0)
        self.task = find_task(settings.task)
        if self.task.robot != "pusht":
            raise FogError(
                f"task '{self.task.name}': an experiment is scored by the coverage of Push-T; "
                "give a task whose robot is pusht"
            )
        self.seeds = range(FIRST_SEED, FIRST_SEED + settings.episodes)
        self.plan = RunPlan(
            settings.time_budget_s,
            settings.imagined_steps,
            settings.evaluations,
            settings.episodes,
            settings.episodes_along,
        )
        self.console = Console(stderr=True)
        require_writable(output)

    def run(self) -> dict[str, Any]:
        """Run what is not finished.

        Returns:
            The content of ``results.json``.

        Raises:
            FogError: Something does not fit, or a run failed; the others were finished first.
            KeyboardInterrupt: Ctrl-C; everything is saved, and the same command goes on.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        self._require_same_settings()
        sources = self._sources()
        self._require_same_sources(sources)
        self._baselines()
        failures = self._learn(sources)
        results = self.write(sources)
        if failures:
            raise FogError("; ".join(failures) + f". The others are in {self.output}")
        return results

    def runs(self) -> Iterator[tuple[str, int, ExperimentRun]]:
        """All runs: every method with the first seed, then every method with the second."""
        for seed in range(self.settings.seeds):
            for name in self.settings.methods:
                folder = self.output / "runs" / f"{name}_{seed}"
                yield name, seed, ExperimentRun(folder, self.task, self.plan, self.seeds)

    def write(self, sources: Sources) -> dict[str, Any]:
        """Write ``results.json`` and the page about what is finished."""
        results = self.results(sources)
        films = {
            name: self.output / "runs" / f"{name}_{method['seeds'][0]['seed']}" / FILM
            for name, method in results["methods"].items()
            if method["seeds"]
        }
        films |= {name: self.output / "baselines" / f"{name}.webp" for name in BASELINES}
        write_page(self.output, results, {k: v.read_bytes() for k, v in films.items()})
        return results

    def results(self, sources: Sources) -> dict[str, Any]:
        """The content of ``results.json``."""
        methods: dict[str, Any] = {
            name: {"title": METHODS[name].title, "words": METHODS[name].words, "seeds": []}
            for name in self.settings.methods
        }
        for name, seed, run in self.runs():
            if (found := run.finished()) is not None:
                methods[name]["seeds"].append(_of_run(seed, found))
        for method in methods.values():
            ends = method["seeds"]
            method["pooled"] = pooled(ends) if ends else None
            method["curve"] = pooled_curve(ends)
        device = device_of(self.settings.device)
        return {
            "format": 1,
            "task": {
                "name": self.task.name,
                "hash": self.task.hash,
                "description": self.task.description,
                "max_steps": self.task.episode.max_steps,
                "control_hz": self.task.control_hz,
                "success_percent": _success_percent(self.task),
            },
            "settings": _plain(self.settings),
            "evaluation": {
                "first_seed": self.seeds[0],
                "episodes": len(self.seeds),
                "episodes_along": self.settings.episodes_along,
            },
            "machine": {
                "device": device_name(device),
                "cores": os.cpu_count(),
                "threads": self.settings.threads or torch.get_num_threads(),
            },
            "commit": source_commit(),
            "dirty": source_dirty(),
            "versions": versions(),
            "world_models": self._world_models(sources),
            "baselines": {
                name: json.loads((self.output / "baselines" / f"{name}.json").read_text())
                for name in BASELINES
            },
            "methods": methods,
            "comparisons": comparisons(methods),
        }

    def _learn(self, sources: Sources) -> list[str]:
        """Train what is not trained; returns what failed, in words."""
        runs = list(self.runs())
        over = sum(run.finished() is not None for _, _, run in runs)
        failures: list[str] = []
        written = time.monotonic()
        with stop_on_signal() as stopped, progress_bar("experiment") as show:
            for name, seed, run in runs:
                if run.finished() is not None:
                    continue

                def tell(share: float, text: str, done: int = over, what: str = name,
                         number: int = seed) -> None:  # fmt: skip
                    show((done + share) / len(runs), f"{what}, seed {number}: {share:.0%}, {text}")

                config = configuration(
                    name, self.settings.options, seed=seed, device=self.settings.device,
                    threads=self.settings.threads,
                )  # fmt: skip
                try:
                    learner, manifest = make_learner(name, sources, config)
                    found = run.go(learner, manifest, show=tell, stopped=stopped)
                except FogError as error:
                    failures.append(f"{name}, seed {seed}: {error}")
                    self.console.print(f"[red]✗[/] {failures[-1]}", soft_wrap=True)
                    continue
                over += 1
                last = found["evaluations"][-1]
                self.console.print(
                    f"[green]✓[/] {name}, seed {seed}: {found['imagined_steps']:,} imagined steps "
                    f"in {found['seconds']:.0f} s, coverage {last['mean_max_coverage']:.2f} "
                    rf"\[{last['low']:.2f}, {last['high']:.2f}]",
                    soft_wrap=True,
                )
                if time.monotonic() - written > _WRITE_EVERY_S:
                    self.write(sources)  # so that there is something to look at on the way
                    written = time.monotonic()
        return failures

    def _baselines(self) -> None:
        """What needs no learning, on the same start states."""
        folder = self.output / "baselines"
        folder.mkdir(exist_ok=True)
        missing: list[Baseline] = [n for n in BASELINES if not (folder / f"{n}.json").exists()]
        if not missing:
            return
        with bars(self.console) as report:
            for name in missing:

                def tell(done: int, total: int, what: str = name) -> None:
                    report(f"baseline: {what}", done, total)

                shot = evaluate_baseline(self.task, name, self.seeds, report=tell)
                (folder / f"{name}.webp").write_bytes(film_of(shot.frames, self.task.control_hz))
                figures = {**shot.figures(), "max_coverage": shot.max_coverage}
                replace_file(folder / f"{name}.json", json.dumps(figures, indent=1) + "\n")

    def _sources(self) -> Sources:
        """The store and the world models, given or made here."""
        s, models = self.settings, self.output / "world_models"
        stages = Stages(models / "stages", self.console)
        store = s.store or models / "episodes"
        bags = models / "bags"
        if s.store is None:
            recording = {"task": self.task.hash, "steps": s.steps, "workers": s.workers}
            stages.run("record", recording, [bags], lambda: self._record(bags))
            stages.run("import", {}, [store], lambda: self._import(bags, store))
        opened = EpisodeStore(store, self.task)
        given = {"global": s.global_model, "local": s.local_model}
        presets = {"global": s.global_preset, "local": s.local_preset}
        commands = {
            f"{kind} model": [
                "train", kind, str(store), str(models / kind), "--preset", presets[kind],
                "--time-budget", f"{s.world_model_s:g}s", "--device", s.device,
                "--threads", str(self._threads(sum(p is None for p in given.values()))),
            ]
            for kind, path in given.items()
            if path is None
        }  # fmt: skip
        if commands:
            stages.run(
                "world_models",
                {"data": opened.data_hash, "seconds": s.world_model_s,
                 "presets": {k: presets[k] for k, p in given.items() if p is None}},
                [models / kind for kind, path in given.items() if path is None],
                lambda: run_side_by_side(commands, models / "logs"),
            )  # fmt: skip
        return Sources(
            opened, s.global_model or models / "global", s.local_model or models / "local"
        )

    def _threads(self, processes: int) -> int:
        return self.settings.threads or max(1, (os.cpu_count() or 2) // max(1, processes))

    def _record(self, bags: Path) -> dict[str, int]:
        from fog_bringup.collect import CollectConfig, collect

        config = CollectConfig(steps=self.settings.steps, workers=self.settings.workers)
        with bars(self.console) as report:
            result = collect(self.task, bags, config, progress=report)
        if result.interrupted:
            raise KeyboardInterrupt
        recorded = {episode_seed(config.seed, i) for i in range(result.episodes)}
        if not recorded.isdisjoint(self.seeds):
            raise FogError("a recorded episode starts like one of the evaluation")
        return {"steps": result.steps, "episodes": result.episodes}

    def _import(self, bags: Path, store: Path) -> dict[str, int]:
        from fog_world_model.data.import_bags import find_bags, import_bags

        with bars(self.console) as report:
            made = import_bags(find_bags(bags), self.task, store, progress=report)
        return {"transitions": made.transitions}

    def _world_models(self, sources: Sources) -> dict[str, Any]:
        """What the world models cost: it is shown beside what the policies cost."""
        found: dict[str, Any] = {
            "data": {"transitions": sources.store.transitions, "hash": sources.store.data_hash}
        }
        for kind, path in (("global", sources.global_model), ("local", sources.local_model)):
            manifest = open_checkpoint(path, kind, self.task).manifest
            keys = ("preset", "step", "seconds", "commit", "dirty")
            found[kind] = {key: manifest.get(key) for key in keys}
        return found

    def _require_same_settings(self) -> None:
        wanted = {"task_hash": self.task.hash, **_plain(self.settings)}
        self._compare("settings", wanted, self.output / SETTINGS)

    def _require_same_sources(self, sources: Sources) -> None:
        """The models of the runs that are there have to be those that are used now."""

        def digest(path: Path) -> str:
            return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()[:16]

        wanted = {
            "data_hash": sources.store.data_hash,
            "global": digest(sources.global_model),
            "local": digest(sources.local_model),
        }
        self._compare("sources", wanted, self.output / "sources.json")

    def _compare(self, name: str, wanted: dict[str, Any], path: Path) -> None:
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            lines = [
                line
                for line in differences_between(name, found, wanted)
                if line.split(" ")[0].removeprefix(f"{name}.") not in MAY_CHANGE
            ]
            if lines:
                raise FogError(
                    f"{self.output}: holds another experiment: {'; '.join(lines[:6])}. Give the "
                    "settings it was begun with, or another output folder"
                )
        replace_file(path, json.dumps(wanted, indent=1) + "\n")


def experiment(output: Path, settings: ExperimentSettings) -> int:
    """Run an experiment and say what it came to.

    Raises:
        FogError: Something does not fit, or a run failed.
    """
    results = Experiment(output, settings).run()
    for line in summary(results):
        print(line)
    print(output / "experiment.html")
    return 0


def summary(results: dict[str, Any]) -> list[str]:
    """A line for each method and baseline."""
    lines = []
    everyone = {n: m["pooled"] for n, m in results["methods"].items()} | results["baselines"]
    for name, figures in everyone.items():
        if figures is not None:
            lines.append(
                f"{name:9} coverage {figures['mean_max_coverage']:.3f} "
                f"[{figures['low']:.3f}, {figures['high']:.3f}], "
                f"0.95 in {figures['success_95']:.0%}, 0.80 in {figures['success_80']:.0%} of "
                f"{figures['episodes']} episodes"
            )
    return lines


def _of_run(seed: int, found: dict[str, Any]) -> dict[str, Any]:
    """A finished run as ``results.json`` has it."""
    curve: Sequence[dict[str, Any]] = found["evaluations"]
    return {
        "seed": seed,
        "updates": found["updates"],
        **{k: v for k, v in curve[-1].items() if k != "share"},
        "imagined_steps": found["imagined_steps"],
        "seconds": found["seconds"],
        "curve": curve,
        "config": found["config"],
        "log": found["log"],
    }


def _success_percent(task: TaskConfig) -> int:
    """The coverage that is aimed at: 95 % as gym-pusht, 80 % where a task is not that exact."""
    return 95 if 0.9 <= float(task.options.get("solved_coverage", 0.95)) <= 1.0 else 80


def _plain(settings: ExperimentSettings) -> dict[str, Any]:
    """As JSON values."""
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return content
