"""``fog demo``: the whole loop once, from a robot's topics to a policy driving it.

Every stage leaves its result in the output folder and a note that it is complete, with the
settings it was run with; a stage whose note is there is not repeated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fog_bringup.progress import progress_bar
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError


@dataclass(frozen=True)
class DemoSettings:
    """How much of everything; the defaults fit two CPU cores and 25 minutes."""

    task: str = "reach_cube"
    steps: int = 17_000
    """Real control steps to record."""
    workers: int = 2
    world_model_seconds: int = 420
    """Global and local model are trained side by side, each for this long."""
    global_preset: str = "small"
    local_preset: str = "small"
    policy_seconds: int = 420
    policy_updates: int = 1_000_000
    """Updates after which the policy's training ends, if the time does not run out before."""
    environments: int = 32
    horizon: int = 16
    windows: int = 128
    """Held-out windows of the open-loop evaluation."""
    episodes: int = 40
    """Closed-loop episodes of the policy and of each baseline, on the same start states."""
    speed: float = 8.0
    """Robot seconds per second in the closed-loop evaluation."""
    real_time_episodes: int = 6
    """Episodes at the robot's own pace, from which rate and latency are taken."""
    seed: int = 0


PRESETS = {
    "demo": DemoSettings(),
    "tiny": DemoSettings(
        steps=600,
        world_model_seconds=8,
        global_preset="tiny",
        local_preset="tiny",
        policy_seconds=8,
        policy_updates=3,
        environments=4,
        horizon=8,
        windows=4,
        episodes=2,
        real_time_episodes=1,
    ),
}
EVALUATION_SEED = 1_000_000
"""First seed of the evaluation's start states; no recorded episode starts from these."""


class Stages:
    """Runs stages in order, and remembers on disk which are complete."""

    def __init__(self, folder: Path, console: Console) -> None:
        """Keep the notes in ``folder``."""
        self.folder, self._console = folder, console
        self._chain = ""
        self.seconds: dict[str, float] = {}

    def run(
        self, name: str, settings: dict[str, Any], outputs: Sequence[Path], work: Callable[[], Any]
    ) -> Any:
        """Run a stage unless it is complete with the same settings, and those before it too.

        Args:
            name: Of the stage.
            settings: What its result depends on, beside the stages before it.
            outputs: Files and folders it makes; leftovers of an interrupted run are removed.
            work: Does it; what it returns (JSON values) is kept in the note.

        Returns:
            What ``work`` returned, now or when the stage was completed.
        """
        text = json.dumps([self._chain, name, settings], sort_keys=True, default=str)
        self._chain = hashlib.sha256(text.encode()).hexdigest()
        note = self.folder / f"{name}.json"
        if note.exists():
            known = json.loads(note.read_text())
            if known["chain"] == self._chain and all(p.exists() for p in outputs):
                self._console.print(f"[green]✓[/] {name}: complete ({known['seconds']:.0f} s)")
                self.seconds[name] = known["seconds"]
                return known["result"]
            note.unlink()
        for path in outputs:
            for leftover in (path, path.with_name(path.name + ".part")):
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink(missing_ok=True)
        self._console.print(f"[bold]▶ {name}[/]")
        begun = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - begun, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = note.with_name(note.name + ".part")
        part.write_text(
            json.dumps({"chain": self._chain, "seconds": self.seconds[name], "result": result})
        )
        part.rename(note)
        self._console.print(f"[green]✓[/] {name}: {self.seconds[name]:.0f} s")
        return result


def run_side_by_side(commands: Mapping[str, Sequence[str]], logs: Path) -> None:
    """Run ``fog`` commands as processes at the same time, with one progress bar each.

    Args:
        commands: Description -> arguments of ``fog``.
        logs: Folder for what they print.

    Raises:
        FogError: One failed; the message ends with what it said last. The others are stopped.
        KeyboardInterrupt: Ctrl-C; all are stopped, with their checkpoints written.
    """
    logs.mkdir(parents=True, exist_ok=True)
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "fog_bringup.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        for name, arguments in commands.items()
    }
    said: dict[str, list[str]] = {name: [] for name in processes}
    try:
        with progress_bar() as report:

            def follow(name: str) -> None:
                stream = processes[name].stdout
                assert stream is not None
                with (logs / f"{name.replace(' ', '_')}.log").open("w") as log:
                    for line in stream:
                        log.write(line)
                        said[name].append(line.rstrip())
                        if match := re.search(r": +(\d+)%,", line):
                            report(name, min(int(match[1]), 100), 100)

            readers = [threading.Thread(target=follow, args=(n,), daemon=True) for n in processes]
            for reader in readers:
                reader.start()
            while any(p.poll() is None for p in processes.values()):
                failed = [n for n, p in processes.items() if p.poll() not in (None, 0)]
                if failed:
                    break
                time.sleep(0.2)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes.values():
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
    for reader in readers:
        reader.join(timeout=5)
    for name, process in processes.items():
        if process.returncode == 130:
            raise KeyboardInterrupt
        if process.returncode:
            tail = "\n  ".join(said[name][-8:])
            raise FogError(
                f"fog {' '.join(commands[name])} ended with status {process.returncode}:\n  {tail}"
            )


class Demo:
    """The stages, in order."""

    def __init__(self, output: Path, settings: DemoSettings) -> None:
        """Lay out the folder."""
        self.output, self.settings = output, settings
        self.task = find_task(settings.task)
        self.bags, self.store = output / "bags", output / "episodes"
        self.global_model, self.local_model = output / "global", output / "local"
        self.policy, self.bundle = output / "policy", output / "policy.bundle"
        self.closed_loop = output / "closed_loop"
        self.seeds = range(EVALUATION_SEED, EVALUATION_SEED + settings.episodes)
        self.console = Console(stderr=True)
        self.stages = Stages(output / "stages", self.console)

    def run(self) -> Path:
        """Run what is not complete yet.

        Returns:
            The report.

        Raises:
            FogError: A stage failed.
        """
        s = self.settings
        threads = max(1, (os.cpu_count() or 2) // 2)
        self.task.save(_made(self.output) / "task.yaml")
        real = self.stages.run(
            "record",
            {"task": self.task.hash, "steps": s.steps, "seed": s.seed, "workers": s.workers},
            [self.bags],
            self._record,
        )
        self.stages.run("import", {}, [self.store], self._import)
        common = ["--seed", str(s.seed)]
        budget = ["--time-budget", f"{s.world_model_seconds}s", "--threads", str(threads)]
        train = {
            "global model": ["train", "global", str(self.store), str(self.global_model),
                             "--preset", s.global_preset, *budget, *common],
            "local model": ["train", "local", str(self.store), str(self.local_model),
                            "--preset", s.local_preset, *budget, *common],
        }  # fmt: skip
        self.stages.run(
            "world_models",
            {"seconds": s.world_model_seconds, "presets": [s.global_preset, s.local_preset]},
            [self.global_model, self.local_model],
            lambda: run_side_by_side(train, self.output / "logs"),
        )
        policy = ["train", "policy", str(self.store), str(self.policy),
                  "--global-model", str(self.global_model), "--local-model", str(self.local_model),
                  "--environments", str(s.environments), "--horizon", str(s.horizon),
                  "--max-updates", str(s.policy_updates),
                  "--time-budget", f"{s.policy_seconds}s", *common]  # fmt: skip
        self.stages.run(
            "policy",
            {"seconds": s.policy_seconds, "environments": s.environments, "horizon": s.horizon},
            [self.policy, self.bundle],
            lambda: run_side_by_side({"policy": policy}, self.output / "logs"),
        )
        open_loop = self._open_loop()  # pictures are not kept in a note, so it runs each time
        self.stages.run(
            "closed_loop",
            {"episodes": s.episodes, "speed": s.speed},
            [self.closed_loop / "policy.json"],
            self._closed_loop,
        )
        self.stages.run(
            "baselines",
            {"episodes": s.episodes},
            [self.closed_loop / f"{n}.json" for n in ("random", "standing")],
            self._baselines,
        )
        control = self.stages.run(
            "control",
            {"episodes": s.real_time_episodes},
            [self.closed_loop / "control.json"],
            self._control,
        )
        return self._report(real["steps"], open_loop, control)

    def _record(self) -> dict[str, int]:
        from fog_bringup.collect import CollectConfig, collect

        s = self.settings
        config = CollectConfig(steps=s.steps, seed=s.seed, workers=s.workers)
        with progress_bar() as report:
            result = collect(self.task, self.bags, config, progress=report)
        if result.interrupted:
            raise KeyboardInterrupt
        return {"steps": result.steps, "episodes": result.episodes}

    def _import(self) -> dict[str, Any]:
        from fog_world_model.data.import_bags import find_bags, import_bags

        with progress_bar() as report:
            store = import_bags(find_bags(self.bags), self.task, self.store, progress=report)
        return {"transitions": store.transitions, "breaks": store.attributes["report"]["breaks"]}

    def _open_loop(self) -> Any:
        from fog_world_model.data.episodes import EpisodeStore
        from fog_world_model.evaluation.open_loop import evaluate_open_loop
        from fog_world_model.training.train_world_models import load_global, load_local

        begun = time.monotonic()
        self.console.print("[bold]▶ open_loop[/]")
        result = evaluate_open_loop(
            load_global(self.global_model, self.task)[0],
            EpisodeStore(self.store, self.task),
            local=load_local(self.local_model, self.task)[0],
            windows=self.settings.windows,
        )
        self.stages.seconds["open_loop"] = round(time.monotonic() - begun, 1)
        self.console.print(f"[green]✓[/] open_loop: {self.stages.seconds['open_loop']:.0f} s")
        return result

    def _closed_loop(self) -> None:
        from fog_bringup.closed_loop import evaluate_over_ros

        with progress_bar() as report:
            evaluate_over_ros(
                self.task,
                self.bundle,
                self.seeds,
                output=self.closed_loop / "policy.json",
                speed=self.settings.speed,
                progress=report,
            )

    def _baselines(self) -> None:
        from fog_bringup.closed_loop import evaluate_without_ros
        from fog_policy.control_report import write_json

        with progress_bar() as report:
            for name in ("random", "standing"):
                record = evaluate_without_ros(self.task, name, self.seeds, progress=report)
                write_json(self.closed_loop / f"{name}.json", record)

    def _control(self) -> dict[str, Any]:
        from fog_bringup.closed_loop import evaluate_over_ros

        path = self.closed_loop / "control.json"
        with progress_bar() as report:
            evaluate_over_ros(
                self.task,
                self.bundle,
                self.seeds[: self.settings.real_time_episodes],
                output=self.closed_loop / "real_time.json",
                speed=1.0,
                real_time=True,
                progress=report,
                policy_report=path,
            )
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def _report(self, real_steps: int, open_loop: Any, control: dict[str, Any]) -> Path:
        from fog_bringup.report import write_report
        from fog_policy.evaluation import summarise_returns
        from fog_world_model.data.episodes import EpisodeStore
        from fog_world_model.training.checkpoint import versions

        store = EpisodeStore(self.store, self.task)
        manifests = {
            name: json.loads((path / "manifest.json").read_text())
            for name, path in (
                ("global", self.global_model),
                ("local", self.local_model),
                ("policy", self.policy),
            )
        }
        names = ("policy", "random", "standing")
        records = {n: json.loads((self.closed_loop / f"{n}.json").read_text()) for n in names}
        seconds = dict(self.stages.seconds)
        content = {
            "json": {
                "task": {"name": self.task.name, "hash": self.task.hash},
                "closed_loop": {n: summarise_returns(r) for n, r in records.items()},
                "open_loop": open_loop.figures(),
                "control": control,
                "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
                "steps": {
                    "real": real_steps,
                    "imagined": manifests["policy"]["imagined_steps"],
                    "imagined_local": manifests["policy"]["local_steps"],
                    "policy_updates": manifests["policy"]["updates"],
                },
                "data": {"hash": store.data_hash, **store.attributes["report"]},
                "settings": dataclasses.asdict(self.settings),
                "versions": versions(),
            },
            "frames": [store.episode(int(i)).image for i in store.split("validation")[:4]],
            "open_loop": open_loop,
            "curves": {name: m["curve"] for name, m in manifests.items()},
            "closed_loop": records,
            "arena_m": self.task.options.get("arena_m", 6.0),
        }
        write_report(self.output, content)
        return self.output / "report.html"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def demo(output: Path, preset: str) -> int:
    """Run the demo and say where the report is.

    Raises:
        FogError: A stage failed.
    """
    report = Demo(output, PRESETS[preset]).run()
    figures = json.loads((output / "report.json").read_text())
    for name, value in figures["closed_loop"].items():
        print(
            f"{name:9} return {value['mean']:6.2f} [{value['low']:.2f}, {value['high']:.2f}] "
            f"over {value['episodes']} episodes"
        )
    print(f"report: {report}")
    return 0
