"""``fog demo``: the whole loop once, from a robot's topics to a policy driving it.

Every stage leaves its result in the output folder, and one that is complete is not repeated
(:mod:`.stages`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fog_bringup.progress import progress_bar
from fog_bringup.stages import Stages, run_side_by_side
from fog_bringup.tasks import find_task


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
