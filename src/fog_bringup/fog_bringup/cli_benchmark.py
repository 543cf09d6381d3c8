"""The part of the ``fog`` command that measures this machine: ratios within one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, subcommand


def _show(
    measure: Callable[[], dict[str, Any]],
    as_json: bool,
    text: Callable[[dict[str, Any]], str] = lambda figures: "\n".join(_lines(figures, "")),
) -> int:
    """Measure, and print one JSON object, or the same values for a person."""
    figures = measure()
    if as_json:
        print(json.dumps(figures, indent=1))
    else:
        print(text(figures))
    if error := figures.get("error"):
        print(f"fog: {error}", file=sys.stderr)
        return 2
    return 130 if figures.get("interrupted") else 0


def _lines(value: Any, name: str) -> list[str]:
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in _lines(v, f"{name}.{k}" if name else str(k))]
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return [x for i, v in enumerate(value) for x in _lines(v, f"{name}[{i}]")]
    return [f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"]


@dataclass
class RecordingBenchmark:
    """The recorder against a plain one: messages in the bag, processor time."""

    json: bool = False
    """Print one JSON object."""
    seconds: float = 60.0
    """Length of each run."""
    kills: int = 20
    """Recorders that are killed while they record."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.recording import measure

        return _show(lambda: measure(self.seconds, kills=self.kills), self.json)


@dataclass
class ImportBenchmark:
    """Importing 640x480 images against a plain loop, raw and JPEG."""

    json: bool = False
    """Print one JSON object."""
    frames: int = 1500
    """Images in the bag that is imported."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.import_ import measure

        return _show(lambda: measure(self.frames), self.json)


@dataclass
class LoaderBenchmark:
    """Frames per second that training windows are loaded with, from RAM and from disk."""

    json: bool = False
    """Print one JSON object."""
    seconds: float = 5.0
    """Length of each measurement."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.loader import measure

        return _show(lambda: measure(self.seconds), self.json)


@dataclass
class TrainingBenchmark:
    """Windows per second that world models are trained with, against a bare loop in PyTorch."""

    json: bool = False
    """Print one JSON object."""
    seconds: float = 20.0
    """Length of each measurement."""
    presets: tuple[str, ...] = ("small", "diamond", "large")
    """Of the global model."""
    local_presets: tuple[str, ...] = ("small", "large")
    """Of the local model."""
    batch_sizes: tuple[int, ...] = ()
    """Windows per step; 12 on a processor and 64 on a GPU when none are given."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.training import measure

        return _show(
            lambda: measure(
                self.seconds,
                self.presets,
                self.local_presets,
                device=self.device,
                batch_sizes=self.batch_sizes,
            ),
            self.json,
        )


@dataclass
class ImaginationBenchmark:
    """Frames imagined per second, per preset and batch, against DIAMOND's network."""

    json: bool = False
    """Print one JSON object."""
    seconds: float = 5.0
    """Length of each measurement."""
    presets: tuple[str, ...] = ("small", "diamond", "large")
    """Which sizes of the global model."""
    batches: tuple[int, ...] = (1, 16, 64, 256)
    """Environments side by side."""
    device: str = "auto"
    """``auto`` takes a GPU when there is one."""
    compile_seconds: float = 300.0
    """On a processor no further model is compiled after so long; 0 compiles none."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.imagination import measure

        return _show(
            lambda: measure(
                self.seconds,
                presets=self.presets,
                batches=self.batches,
                device=self.device,
                compile_seconds=self.compile_seconds,
            ),
            self.json,
        )


@dataclass
class GradientBenchmark:
    """One update of the policy: decoupled, the global forward alone, and full back-propagation."""

    json: bool = False
    """Print one JSON object."""
    preset: str = "small"
    """Size of the global model: tiny, small, diamond, large."""
    environments: int = 32
    """Environments side by side."""
    horizon: int = 16
    """Imagined steps of the update."""
    steps: int = 0
    """Denoising steps per frame; 0 takes the preset's own."""
    denoising_steps: tuple[int, ...] = (1, 2, 3)
    """Numbers of denoising steps for which memory is compared."""
    repeats: int = 5
    """Measured updates of each kind."""
    threads: int = 0
    """Of PyTorch on a processor; 0 leaves its own choice."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the global model; ``auto`` is bfloat16 on a GPU and float32 elsewhere."""
    device: str = "auto"
    """``auto`` takes a GPU when there is one."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.gradient import measure
        from fog_bringup.benchmarks.gradient_update import Setting

        setting = Setting(
            preset=self.preset,
            environments=self.environments,
            horizon=self.horizon,
            steps=self.steps,
            precision=self.precision,
            device=self.device,
        )
        return _show(
            lambda: measure(
                setting,
                denoising_steps=self.denoising_steps,
                repeats=self.repeats,
                threads=self.threads,
            ),
            self.json,
        )


@dataclass
class ActionGradientBenchmark:
    """How well derivatives by an action point: decoupled, and the local model alone.

    The derivative of a rollout's rewards by its first action is measured by central differences
    through the global model, in float32, and compared by its cosine with that of the decoupled
    gradient and with that of the local model alone, with 95 % bootstrap intervals.
    """

    store: Path = tyro.MISSING
    """Episode store, or the name of a shipped world: contexts to start from."""
    global_model: Path = tyro.MISSING
    """Checkpoint of the global model, or the name of a shipped world."""
    policy: Path = tyro.MISSING
    """Bundle or checkpoint of a policy; all actions are its own, with its noise."""
    local_model: Path | None = None
    """Checkpoint of the local model that the policy goes with, or the name of a shipped world; not
    given: the one in the policy's checkpoint."""
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    """Steps of the rollouts."""
    contexts: int = 64
    """Recorded contexts to start from, none of them twice."""
    context_within: int = 0
    """Contexts end within the first so many steps of their episodes; 0: anywhere in them."""
    step: float = 0.25
    """Half the difference of the actions that the global model is asked about, in (0, 1)."""
    sampling_steps: int = 0
    """Denoising steps per frame; 0: as the model was made."""
    sample_prior: bool = False
    """Through a sample of the local model's prior instead of its mean."""
    json: bool = False
    """Print one JSON object; otherwise a table."""
    seed: int = 0
    """Of contexts, imagination and the policy's noise."""
    threads: int = 0
    """Of PyTorch on a processor; 0 leaves its own choice."""
    device: str = "auto"
    """``auto`` takes a GPU when there is one."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.action_gradient import ActionSetting, measure, table
        from fog_bringup.worlds import find_part
        from fog_policy.warm_start import own_local_model

        local = self.local_model
        setting = ActionSetting(
            find_part(self.store, "episodes"),
            find_part(self.global_model, "global"),
            own_local_model(self.policy) if local is None else find_part(local, "local"),
            self.policy,
            horizons=self.horizons,
            contexts=self.contexts,
            context_within=self.context_within,
            step=self.step,
            sampling_steps=self.sampling_steps,
            sample_prior=self.sample_prior,
            seed=self.seed,
            threads=self.threads,
            device=self.device,
        )
        return _show(lambda: measure(setting), self.json, table)


@dataclass
class DeploymentBenchmark:
    """The control loop in real time: achieved rate, latency, jitter and memory."""

    bundle: Positional[Path | None] = None
    """Bundle folder, or the name of a shipped policy; an untrained one of the usual size when
    none is given."""
    json: bool = False
    """Print one JSON object."""
    minutes: float = 10.0
    """Length of the run at each rate."""
    rates: tuple[float, ...] = (5.0, 20.0)
    """Control rates, Hz; where they are not the bundle's, its networks run at a rate that they were
    not trained for."""
    robot: Literal["task", "synthetic"] = "task"
    """``task``: the simulated robot of the policy's task; ``synthetic``: one without physics and
    with a drawn picture, on the same topics, which needs less of the processor."""
    camera_hz: float = 0.0
    """Rate of the camera, 50 Hz divided by a whole number; 0: 10 Hz, or the next one that is not
    below the control rate."""
    image_size: int = 64
    """Rows and columns that an untrained policy sees."""
    picture: Path | None = Path("runs/benchmark_deployment.png")
    """PNG of latency, rhythm and memory over time."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.deployment import measure

        return _show(
            lambda: measure(
                self.bundle,
                minutes=self.minutes,
                rates=self.rates,
                robot=self.robot,
                camera_hz=self.camera_hz,
                image_size=self.image_size,
                picture=self.picture,
            ),
            self.json,
        )


@dataclass
class FaultsBenchmark:
    """Faults while a robot walks: does it stop, in time, for the right reason, and go on?"""

    bundle: Positional[Path | None] = None
    """Bundle folder, or the name of a shipped policy; an untrained one that walks in circles when
    none is given."""
    json: bool = False
    """Print one JSON object; otherwise a table."""
    faults: int = 200
    """How many."""
    seed: int = 0
    """Of their order, details and moments."""
    kinds: tuple[str, ...] = ()
    """Only these: killed_camera, frozen_camera, delayed_stream, corrupt_image, nan_joints,
    restarted_robot, killed_policy, clock_jump; all when none are given."""
    robot: Literal["task", "synthetic"] = "task"
    """``task``: the simulated robot of the policy's task; ``synthetic``: one without physics and
    with a drawn picture, on the same topics, which needs less of the processor."""
    picture: Path | None = Path("runs/benchmark_faults.png")
    """PNG of every fault's time to the stop and to recovery."""

    def run(self) -> int:
        """Measure."""
        from fog_bringup.benchmarks.faults import measure
        from fog_bringup.benchmarks.faults_table import table

        return _show(
            lambda: measure(
                self.bundle,
                faults=self.faults,
                seed=self.seed,
                robot=self.robot,
                kinds=self.kinds,
                picture=self.picture,
            ),
            self.json,
            table,
        )


@dataclass
class Benchmark:
    """Measure rates and ratios on this machine."""

    what: (
        Annotated[RecordingBenchmark, subcommand("recording")]
        | Annotated[ImportBenchmark, subcommand("import")]
        | Annotated[LoaderBenchmark, subcommand("loader")]
        | Annotated[TrainingBenchmark, subcommand("training")]
        | Annotated[ImaginationBenchmark, subcommand("imagination")]
        | Annotated[GradientBenchmark, subcommand("gradient")]
        | Annotated[ActionGradientBenchmark, subcommand("action-gradient")]
        | Annotated[DeploymentBenchmark, subcommand("deployment")]
        | Annotated[FaultsBenchmark, subcommand("faults")]
    )

    def run(self) -> int:
        """Measure."""
        return self.what.run()
