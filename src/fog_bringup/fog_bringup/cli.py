"""The ``fog`` command: one typed command line for the whole way from topics to a policy."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from fog_world_model.errors import FogError

# Everything heavy (torch, MuJoCo) is imported by the command that needs it, so that --help is
# immediate.

Preset = Literal["tiny", "small", "diamond"]
LocalPreset = Literal["tiny", "small", "large"]


def seconds(text: str) -> float:
    """``90``, ``90s``, ``10m`` or ``2h`` -> seconds.

    Raises:
        FogError: It is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match:
        raise FogError(f"--time-budget {text}: expected a duration such as 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@dataclass
class Collect:
    """Record a simulated robot as fast as the machine allows, without ROS, into a rosbag2 bag."""

    output: Positional[Path]
    """Bag folder to write."""
    task: str = "reach_cube"
    """Task name or file."""
    steps: int = 17_000
    """Control steps to record."""
    seed: int = 0
    """Seed of start poses and driving."""
    workers: int = 1
    """Processes; each writes a bag of its own into OUTPUT."""
    seek: float = 0.7
    """Share of episodes driven noisily towards the object."""
    random: float = 0.25
    """Share of episodes with random commands; the rest stands."""

    def run(self) -> int:
        """Record."""
        from fog_bringup.collect import CollectConfig, collect
        from fog_bringup.drivers import DriverMix
        from fog_bringup.progress import progress_bar
        from fog_bringup.tasks import find_task

        mix = DriverMix(self.seek, self.random, max(0.0, 1.0 - self.seek - self.random))
        config = CollectConfig(steps=self.steps, seed=self.seed, mix=mix, workers=self.workers)
        with progress_bar() as report:
            result = collect(find_task(self.task), self.output, config, progress=report)
        for bag in result.bags:
            print(bag)
        print(f"{result.episodes} episodes, {result.steps} steps in {result.seconds:.0f} s")
        return 130 if result.interrupted else 0


@dataclass
class Import:
    """Turn rosbag2 bags into an episode store for training."""

    bags: Positional[tuple[Path, ...]]
    """Bag folders (those with metadata.yaml), or folders of bags."""
    output: Path
    """Episode store to write."""
    task: str = "reach_cube"
    """Task name or file."""
    validation_fraction: float = 0.1
    """Share of the episodes that is held out."""

    def run(self) -> int:
        """Import, and print the account of every topic."""
        from fog_bringup.progress import progress_bar
        from fog_bringup.tasks import find_task
        from fog_world_model.data.import_bags import find_bags, import_bags

        bags = [bag for path in self.bags for bag in find_bags(path)]
        with progress_bar() as report:
            store = import_bags(
                bags,
                find_task(self.task),
                self.output,
                validation_fraction=self.validation_fraction,
                progress=report,
            )
        summary = store.attributes["report"]
        for bag in summary["bags"]:
            print(f"{bag['bag']}: {bag['episodes']} episodes, {bag['transitions']} transitions")
            for topic, account in bag["topics"].items():
                print(
                    f"  {topic}: {account['received']} received, {account['used']} used, "
                    f"{account['superseded']} superseded, {account['reordered']} reordered, "
                    f"{account['dropped']} dropped"
                )
            for reason, count in bag["breaks"].items():
                print(f"  {count} x episode border: {reason}")
        print(f"{store.path}: {summary['episodes']} episodes, {summary['transitions']} transitions")
        return 0


@dataclass
class _Training:
    """Options that all training commands share."""

    time_budget: str = "6m"
    """Wall-clock time after which training ends with a checkpoint: 90s, 10m, 2h."""
    seed: int = 0
    """Seed of weights and data order."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda."""
    threads: int = 0
    """CPU threads; 0: torch's own choice."""
    resume: bool = False
    """Go on from the checkpoint in OUTPUT."""


@dataclass
class TrainGlobal(_Training):
    """Fit the global world model: the next frame by diffusion, reward, end and proprioception."""

    store: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Episode store."""
    output: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Checkpoint folder."""
    preset: Preset = "small"
    """Size of the model."""
    batch_size: int = 12
    """Windows per step."""
    learning_rate: float = 1e-3
    """Largest learning rate."""

    def run(self) -> int:
        """Train."""
        from fog_world_model.data.episodes import EpisodeStore
        from fog_world_model.training.loop import LoopConfig
        from fog_world_model.training.train_world_models import train_global

        loop = LoopConfig(
            time_budget_s=seconds(self.time_budget),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
        )
        result = train_global(
            EpisodeStore(self.store), self.output, loop, preset=self.preset, resume=self.resume
        )
        print(f"{self.output}: {result.step} steps, {result.losses}")
        return 130 if result.interrupted else 0


@dataclass
class TrainLocal(_Training):
    """Fit the local world model: a differentiable recurrent state-space model."""

    store: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Episode store."""
    output: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Checkpoint folder."""
    preset: LocalPreset = "small"
    """Size of the model."""
    batch_size: int = 8
    """Windows per step."""
    learning_rate: float = 8e-4
    """Largest learning rate."""

    def run(self) -> int:
        """Train."""
        from fog_world_model.data.episodes import EpisodeStore
        from fog_world_model.training.loop import LoopConfig
        from fog_world_model.training.train_world_models import train_local

        loop = LoopConfig(
            time_budget_s=seconds(self.time_budget),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
        )
        result = train_local(
            EpisodeStore(self.store), self.output, loop, preset=self.preset, resume=self.resume
        )
        print(f"{self.output}: {result.step} steps, {result.losses}")
        return 130 if result.interrupted else 0


@dataclass
class TrainPolicy(_Training):
    """Train a policy inside the world models by decoupled first-order gradients."""

    store: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Episode store: contexts to start from."""
    output: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Checkpoint folder; the bundle is written to OUTPUT.bundle."""
    global_model: Path = tyro.MISSING
    """Checkpoint of the global model."""
    local_model: Path = tyro.MISSING
    """Checkpoint of the local model."""
    environments: int = 32
    """Imagined environments (N)."""
    horizon: int = 16
    """Steps per update (H)."""
    sampling_steps: int = 0
    """Denoising steps per frame; 0: as the model was made."""
    max_updates: int = 1_000_000
    """Updates after which training ends."""

    def run(self) -> int:
        """Train, and export the bundle."""
        from fog_policy.fog_trainer import FogConfig
        from fog_policy.train_policy import train_policy
        from fog_world_model.data.episodes import EpisodeStore

        bundle = self.output.with_name(self.output.name + ".bundle")
        result = train_policy(
            EpisodeStore(self.store),
            self.global_model,
            self.local_model,
            self.output,
            bundle,
            FogConfig(
                time_budget_s=seconds(self.time_budget),
                max_updates=self.max_updates,
                environments=self.environments,
                horizon=self.horizon,
                sampling_steps=self.sampling_steps,
                seed=self.seed,
                device=self.device,
                threads=self.threads,
            ),
            resume=self.resume,
        )
        print(f"{bundle}: {result.updates} updates, {result.imagined_steps} imagined steps")
        return 130 if result.interrupted else 0


@dataclass
class Train:
    """Train a world model or a policy."""

    what: (
        Annotated[TrainGlobal, subcommand("global")]
        | Annotated[TrainLocal, subcommand("local")]
        | Annotated[TrainPolicy, subcommand("policy")]
    )

    def run(self) -> int:
        """Train."""
        return self.what.run()


@dataclass
class EvaluateGlobal:
    """Open-loop error of a global model by horizon, on held-out episodes."""

    checkpoint: Positional[Path]
    """Checkpoint of the global model."""
    store: Positional[Path]
    """Episode store; its held-out episodes are used."""
    local_model: Path | None = None
    """Checkpoint of a local model to compare with."""
    windows: int = 64
    """Held-out windows."""

    def run(self) -> int:
        """Evaluate, and print JSON."""
        from fog_world_model.data.episodes import EpisodeStore
        from fog_world_model.evaluation.open_loop import evaluate_open_loop
        from fog_world_model.training.train_world_models import load_global, load_local

        store = EpisodeStore(self.store)
        model, _ = load_global(self.checkpoint, store.task)
        local = load_local(self.local_model, store.task)[0] if self.local_model else None
        result = evaluate_open_loop(model, store, local=local, windows=self.windows)
        print(json.dumps(result.figures(), indent=1))
        return 0


@dataclass
class EvaluatePolicy:
    """Closed-loop returns of a bundle over ROS topics, beside random commands and standing."""

    bundle: Positional[Path]
    """Bundle folder."""
    output: Path
    """Folder for the records."""
    episodes: int = 20
    """Episodes; the same start states for all."""
    seed: int = 1_000_000
    """Seed of the first start state."""
    speed: float = 4.0
    """Robot seconds per second; 0: as fast as possible."""

    def run(self) -> int:
        """Evaluate, and print JSON."""
        from fog_bringup.closed_loop import evaluate_over_ros, evaluate_without_ros
        from fog_bringup.progress import progress_bar
        from fog_policy.bundle import load_bundle
        from fog_policy.evaluation import summarise_returns

        task = load_bundle(self.bundle).task
        seeds = range(self.seed, self.seed + self.episodes)
        with progress_bar() as report:
            records = {
                "policy": evaluate_over_ros(
                    task,
                    self.bundle,
                    seeds,
                    output=self.output / "policy.json",
                    speed=self.speed,
                    progress=report,
                )
            }
            for name in ("random", "standing"):
                records[name] = evaluate_without_ros(task, name, seeds, progress=report)
        print(json.dumps({k: summarise_returns(v) for k, v in records.items()}, indent=1))
        return 0


@dataclass
class Evaluate:
    """Measure a world model or a policy."""

    what: (
        Annotated[EvaluateGlobal, subcommand("global")]
        | Annotated[EvaluatePolicy, subcommand("policy")]
    )

    def run(self) -> int:
        """Evaluate."""
        return self.what.run()


@dataclass
class BagInfo:
    """Say what a bag holds, and whether it fits a task."""

    bag: Positional[Path]
    """Bag folder."""
    task: str = ""
    """Task name or file to check the bag against."""

    def run(self) -> int:
        """Print topics, types and counts."""
        from fog_bringup.tasks import find_task
        from fog_world_model.data.bag_reader import BagReader

        with BagReader(self.bag) as bag:
            print(f"{bag.path}: {bag.duration_s:.1f} s, {sum(bag.counts.values())} messages")
            for topic, count in sorted(bag.counts.items()):
                rate = f"{count / bag.duration_s:8.2f} Hz" if bag.duration_s else ""
                print(f"  {topic:28} {bag.topics[topic]:32} {count:8} {rate}")
            if self.task:
                bag.require(find_task(self.task).topics())
                print(f"holds every topic of task '{self.task}'")
        return 0


@dataclass
class Bag:
    """Look at bags."""

    what: Annotated[BagInfo, subcommand("info")] | Annotated[None, tyro.conf.Suppress]

    def run(self) -> int:
        """Look."""
        assert self.what is not None
        return self.what.run()


@dataclass
class Deploy:
    """Run a bundle on the robot whose topics are here: start policy_node and activate it."""

    bundle: Positional[Path]
    """Bundle folder."""
    report: Path | None = None
    """JSON file for rates, latencies and stops."""
    sim_time: bool = False
    """Follow /clock."""
    device: str = "cpu"
    """Where the policy runs."""

    def run(self) -> int:
        """Deploy until Ctrl-C."""
        from fog_bringup.deploy import deploy

        return deploy(self.bundle, report=self.report, sim_time=self.sim_time, device=self.device)


@dataclass
class Demo:
    """The whole loop once: record, import, train, deploy, report. Finished stages are kept."""

    output: Path = Path("runs/demo")
    """Folder for everything the demo makes."""
    preset: Literal["demo", "tiny"] = "demo"
    """``tiny`` goes through every stage in about a minute, and learns nothing."""

    def run(self) -> int:
        """Run all stages."""
        from fog_bringup.demo import demo

        return demo(self.output, self.preset)


@dataclass
class Doctor:
    """Say what of ROS, GL, GPU and the simulators was found, and what to do about the rest."""

    def run(self) -> int:
        """Examine this machine."""
        from fog_bringup.doctor import doctor

        return doctor()


Command = (
    Annotated[Collect, subcommand("collect")]
    | Annotated[Import, subcommand("import")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Bag, subcommand("bag")]
    | Annotated[Deploy, subcommand("deploy")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Doctor, subcommand("doctor")]
)


def main(args: Sequence[str] | None = None) -> int:
    """Run ``fog``; return the exit status: 0 done, 2 bad input, 130 interrupted."""
    command = tyro.cli(
        Command,
        prog="fog",
        description="Train a robot's policy in world models of its own recordings, and run it.",
        args=args,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    try:
        return int(command.run())
    except FogError as error:
        print(f"fog: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"fog: {error.filename or 'disk'}: no space left; free some and run it again",
              file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        print("fog: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
