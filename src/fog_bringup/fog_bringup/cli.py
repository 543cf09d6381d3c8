"""The ``fog`` command: one typed command line for the whole way from topics to a policy."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from fog_bringup.cli_benchmark import Benchmark
from fog_bringup.cli_data import Bag, Import, Record
from fog_bringup.cli_experiment import Experiment
from fog_bringup.cli_play import Play
from fog_bringup.cli_store import Data
from fog_bringup.cli_training import Evaluate, Train
from fog_world_model.errors import FogError

# Everything heavy (torch, MuJoCo) is imported by the command that needs it, so that --help is
# immediate.


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
    """Share of episodes with random commands; what is left of 1 stands."""
    operator: float = 0.0
    """Share of episodes driven as a person does who sees the camera's picture alone and remembers
    it: what a policy can imitate. Give --seek and --random smaller shares with it."""
    policy: Path | None = None
    """Bundle that drives in a share of the episodes, noisily: what it does is what the next world
    has to know."""
    policy_share: float = 0.5
    """That share; the other ways of driving share the rest."""
    vary: str = ""
    """What differs from episode to episode, so that a policy learns to bear it: mass, friction,
    light, pitch, or several, separated by commas (of the Go2's tasks)."""

    def run(self) -> int:
        """Record."""
        from fog_bringup.collect import CollectConfig, collect
        from fog_bringup.drivers import DriverMix
        from fog_bringup.progress import progress_bar
        from fog_bringup.robots.variations import parse_variations
        from fog_bringup.tasks import find_task

        share = 0.0 if self.policy is None else self.policy_share
        if not 0.0 <= share <= 1.0:
            raise FogError(f"--policy-share {share:g}: expected a share, between 0 and 1")
        stand = max(0.0, 1.0 - self.seek - self.random - self.operator)
        mix = DriverMix(
            seek=self.seek * (1.0 - share),
            random=self.random * (1.0 - share),
            stand=stand * (1.0 - share),
            operator=self.operator * (1.0 - share),
            policy=share,
            bundle=str(self.policy or ""),
        )
        config = CollectConfig(
            steps=self.steps,
            seed=self.seed,
            mix=mix,
            workers=self.workers,
            vary=parse_variations(self.vary, "--vary"),
        )
        with progress_bar() as report:
            result = collect(find_task(self.task), self.output, config, progress=report)
        for bag in result.bags:
            print(bag)
        print(f"{result.episodes} episodes, {result.steps} steps in {result.seconds:.0f} s")
        return 130 if result.interrupted else 0


@dataclass
class Deploy:
    """Run a bundle on the robot whose topics are here: start policy_node and activate it."""

    bundle: Positional[Path]
    """Bundle folder, or the name of a shipped policy."""
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

    free_shared_memory: bool = False
    """Remove from /dev/shm what nodes that were killed have left there."""

    def run(self) -> int:
        """Examine this machine."""
        from fog_bringup.doctor import doctor

        return doctor(free_shared_memory=self.free_shared_memory)


Command = (
    Annotated[Collect, subcommand("collect")]
    | Annotated[Record, subcommand("record")]
    | Annotated[Import, subcommand("import")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Experiment, subcommand("experiment")]
    | Annotated[Bag, subcommand("bag")]
    | Annotated[Play, subcommand("play")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Benchmark, subcommand("benchmark")]
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
