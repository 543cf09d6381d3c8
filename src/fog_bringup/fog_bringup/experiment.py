"""``fog experiment``: ways of learning a policy in the same imagined world, side by side.

Each method is trained with several seeds inside the world models and meets the real game on the
way and at the end. Everything lies in one folder: what was made or given, a folder for each run,
``results.json`` and a page. A run that is finished is not repeated, an interrupted one goes on.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fog_bringup.benchmarks.device_name import device_name
from fog_bringup.experiment_jobs import Job, carry_out
from fog_bringup.experiment_page import write_page
from fog_bringup.experiment_run import BUNDLE, FILM, ExperimentRun, RunPlan
from fog_bringup.experiment_settings import ExperimentSettings, require_same
from fog_bringup.experiment_sources import fingerprints, make_sources
from fog_bringup.experiment_verdict import comparisons, pooled, pooled_curve
from fog_bringup.film import film_of
from fog_bringup.method_options import configuration, starts
from fog_bringup.progress import progress_bar as bars
from fog_bringup.report_page import require_writable
from fog_bringup.tasks import find_task
from fog_bringup.zero_shot import BASELINES, FIRST_SEED, Baseline, evaluate_baseline
from fog_policy.methods import METHODS, Sources, require_methods
from fog_world_model.data.durable import replace_file
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
from fog_world_model.training.training_cost import training_cost

_WRITE_EVERY_S = 60.0
"""Least time between two pages while there is more to learn."""


class Experiment:
    """Makes what is missing, runs what is not finished, and writes results and page."""

    def __init__(self, output: Path, settings: ExperimentSettings) -> None:
        """Check the settings; nothing is made yet.

        Raises:
            FogError: A method, a setting or the task is not known.
        """
        self.output, self.settings = output, settings
        require_methods(settings.methods)
        wanted, self._options = starts(settings.options)
        self.starts = {name: wanted[name] for name in settings.methods if name in wanted}
        """Method -> method whose policy of the same seed it begins with."""
        for name in {*settings.methods, *self.starts.values()}:
            require_methods([name])
            self._configuration(name, 0, 0)
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
        require_same(
            self.output, "settings", {"task_hash": self.task.hash, **self.settings.to_dict()}
        )
        sources = make_sources(self.task, self.settings, self.output / "world_models", self.console)
        require_same(self.output, "sources", fingerprints(sources))
        self._baselines()
        try:
            failures = self._learn(sources)
        finally:  # after an interruption too there is a page about what is finished
            results = self.write(sources)
        if failures:
            raise FogError("; ".join(failures) + f". The others are in {self.output}")
        return results

    def runs(self) -> Iterator[tuple[str, int, ExperimentRun]]:
        """All runs: every method with the first seed, then every method with the second."""
        for seed in range(self.settings.seeds):
            for name in self.settings.methods:
                yield name, seed, self._run(name, seed)

    def _run(self, name: str, seed: int) -> ExperimentRun:
        folder = self.output / "runs" / f"{name}_{seed}"
        return ExperimentRun(folder, self.task, self.plan, self.seeds)

    def _configuration(self, name: str, seed: int, threads: int) -> Any:
        return configuration(
            name, self._options, seed=seed, device=self.settings.device, threads=threads,
            started=name in self.starts,
        )  # fmt: skip

    def _jobs(self, threads: int) -> tuple[list[Job], list[Job]]:
        """What is not finished: policies that others begin with, and what can be begun then."""
        unfinished = {(name, seed): run for name, seed, run in self.runs() if not run.finished()}
        needed = {
            (self.starts[name], seed): self._run(self.starts[name], seed)
            for name, seed in unfinished
            if name in self.starts
        }

        def job(name: str, seed: int, run: ExperimentRun) -> Job:
            begins = self.starts.get(name)
            start = None if begins is None else self._run(begins, seed).folder / BUNDLE
            return Job(name, self._configuration(name, seed, threads), run, start)

        first = [job(*key, run) for key, run in needed.items() if not run.finished()]
        then = [job(*key, run) for key, run in unfinished.items() if key not in needed]
        return first, then

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
            name: {
                "title": METHODS[name].title,
                "words": self._words(name),
                "start_from": self.starts.get(name),
                "seeds": [],
            }
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
            "settings": self.settings.to_dict(),
            "evaluation": {
                "first_seed": self.seeds[0],
                "episodes": len(self.seeds),
                "episodes_along": self.settings.episodes_along,
            },
            "machine": {
                "device": device_name(device),
                "cores": os.cpu_count(),
                "threads": self.settings.threads or torch.get_num_threads(),
                "jobs": self.settings.jobs,
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

    def _words(self, name: str) -> str:
        """What a method is, in a sentence."""
        if name not in self.starts:
            return METHODS[name].words
        begins = self.starts[name]
        spent = [found["seconds"] for seed in range(self.settings.seeds)
                 if (found := self._run(begins, seed).finished()) is not None]  # fmt: skip
        cost = f" ({sum(spent) / len(spent):.0f} s each, not counted here)" if spent else ""
        title = METHODS[begins].title
        return f"{METHODS[name].words}; begins with the policy of {title} of the same seed{cost}"

    def _learn(self, sources: Sources) -> list[str]:
        """Train what is not trained; returns what failed, in words."""
        settings = self.settings
        threads = settings.threads
        if not threads and settings.jobs > 1:
            threads = max(1, (os.cpu_count() or 1) // settings.jobs)
        first, then = self._jobs(threads)
        shares = dict.fromkeys((job.name for job in first + then), 0.0)
        over = sum(run.finished() is not None for _, _, run in self.runs())
        failures: list[str] = []
        written = time.monotonic()
        with stop_on_signal() as stopped, progress_bar("experiment") as show:

            def tell(job: Job, share: float, text: str) -> None:
                shares[job.name] = share
                total = (over + sum(shares.values())) / (over + len(shares))
                show(total, f"{job.name}: {share:.0%}, {text}")

            outcomes = itertools.chain.from_iterable(
                carry_out(jobs, sources, at_once=settings.jobs, show=tell, stopped=stopped)
                for jobs in (first, then)
            )
            for outcome in outcomes:
                name, found = outcome.job.name, outcome.content
                shares[name] = 1.0
                if found is None:
                    failures.append(f"{name}: {outcome.failure}")
                    self.console.print(f"[red]✗[/] {failures[-1]}", soft_wrap=True)
                    continue
                last = found["evaluations"][-1]
                self.console.print(
                    f"[green]✓[/] {name}: {found['imagined_steps']:,} imagined steps "
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

    def _world_models(self, sources: Sources) -> dict[str, Any]:
        """What the world models cost: it is shown beside what the policies cost.

        A model that started from another's weights has cost what that one did, too.
        """
        found: dict[str, Any] = {
            "data": {"transitions": sources.store.transitions, "hash": sources.store.data_hash}
        }
        for kind, path in (("global", sources.world), ("local", sources.local_model)):
            manifest = open_checkpoint(path, kind, self.task).manifest
            cost = training_cost(manifest)
            found[kind] = {
                **{key: manifest.get(key) for key in ("preset", "commit", "dirty")},
                "step": cost.steps,
                "seconds": cost.seconds,
            }
        return found


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
        "warnings": found["warnings"],
    }


def _success_percent(task: TaskConfig) -> int:
    """The coverage that is aimed at: 95 % as gym-pusht, 80 % where a task is not that exact."""
    return 95 if float(task.options.get("scored_coverage", 0.95)) >= 0.9 else 80
