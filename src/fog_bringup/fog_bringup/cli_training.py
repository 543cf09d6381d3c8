"""``fog train`` and ``fog evaluate``: their options, and what they call."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from fog_bringup.cli_evaluate_policy import EvaluatePolicy
from fog_bringup.cli_train_policy import TrainPolicy
from fog_bringup.cli_zero_shot import EvaluateZeroShot
from fog_bringup.training_options import Training, seconds
from fog_world_model.errors import FogError

if TYPE_CHECKING:
    from fog_world_model.data.episodes import EpisodeStore
    from fog_world_model.training.loop import FitResult, LoopConfig

__all__ = ["Evaluate", "Train", "seconds"]

# Everything heavy (torch, MuJoCo) is imported by the command that needs it, so that --help is
# immediate.

Preset = Literal["tiny", "small", "medium", "diamond", "large"]
LocalPreset = Literal["tiny", "small", "large"]


@dataclass
class _WorldModelTraining(Training):
    """What training a world model has besides."""

    max_steps: int | None = None
    """Optimiser steps after which training ends, if the time does not run out before. The learning
    rate then follows the steps, and a run on the CPU can be repeated bit for bit."""
    accumulate: int = 1
    """Parts a batch is computed in, one after the other: less memory, the same result."""
    precision: Literal["auto", "bf16", "no"] = "auto"
    """Mixed precision; auto: bf16 on a GPU that has it."""
    checkpoint_every: str = "60s"
    """Time between checkpoints."""
    start_from: Path | None = None
    """Checkpoint, or the name of a shipped world, whose weights training starts from."""
    scale_from: Path | None = None
    """Checkpoint, or the name of a shipped world, that this model is to be used with, and that was
    trained on other episodes: proprioception is put on its scale. --start-from brings its own."""

    def open_store(self, path: Path) -> EpisodeStore:
        """The recordings, on the scale that is asked for."""
        from fog_bringup.worlds import find_part
        from fog_world_model.data.episodes import EpisodeStore
        from fog_world_model.training.train_world_models import on_scale_of

        store = EpisodeStore(path, images=self.images)
        if self.scale_from is None:
            return store
        if self.start_from is not None:
            raise FogError("--scale-from: of no use with --start-from, which brings its own scale")
        return on_scale_of(find_part(self.scale_from, "local"), store)

    def loop(self, batch_size: int, learning_rate: float, pictures_every: str = "0") -> LoopConfig:
        """Settings of the training loop."""
        from fog_world_model.training.loop import LoopConfig

        return LoopConfig(
            time_budget_s=seconds(self.time_budget),
            max_steps=self.max_steps,
            batch_size=batch_size,
            accumulate=self.accumulate,
            learning_rate=learning_rate,
            checkpoint_every_s=seconds(self.checkpoint_every, "--checkpoint-every"),
            pictures_every_s=seconds(pictures_every, "--pictures-every"),
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
        )

    def parent(self, part: Literal["global", "local"]) -> Path | None:
        """Where the checkpoint to start from is."""
        from fog_bringup.worlds import find_part

        return None if self.start_from is None else find_part(self.start_from, part)


def _finish(output: Path, result: FitResult) -> int:
    """Say what a world model's training came to, and give the exit status."""
    if result.main:
        print(f"{output}: {result.step} steps, {result.losses}")
    return 130 if result.interrupted else 0


@dataclass
class TrainGlobal(_WorldModelTraining):
    """Fit the global world model: the next frame by diffusion, reward, end and proprioception.

    On several GPUs or nodes: ``accelerate launch -m fog_bringup.cli train global ...``.
    """

    store: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Episode store."""
    output: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Checkpoint folder."""
    preset: Preset | None = None
    """Size of the model; not given: that of --start-from, or small."""
    batch_size: int = 12
    """Windows per step, of all processes together."""
    learning_rate: float = 1e-3
    """Largest learning rate."""
    pictures_every: str = "10m"
    """Time between pictures of recorded frames above imagined ones, in OUTPUT.pictures and in
    TensorBoard, and one at the end; 0: none."""
    target: Literal["preset", "residual", "direct"] = "preset"
    """Predict the difference to the last frame, or the frame itself."""
    autoregressive_steps: int | None = None
    """Steps in a row that are trained on the model's own frames; the preset's unless given."""
    context_noise: float | None = None
    """Largest level of noise on past frames in training; the preset's unless given."""
    moving_windows: float = 0.0
    """Share of the windows that are drawn by how much moves in them, not evenly."""

    def run(self) -> int:
        """Train."""
        from fog_world_model.global_model.global_model import GlobalChanges
        from fog_world_model.training.train_world_models import train_global

        loop = self.loop(self.batch_size, self.learning_rate, self.pictures_every)
        store = self.open_store(self.store)
        changes = GlobalChanges(
            residual=None if self.target == "preset" else self.target == "residual",
            autoregressive_steps=self.autoregressive_steps,
            context_noise=self.context_noise,
        )
        result = train_global(
            store,
            self.output,
            loop,
            preset=self.preset,
            changes=changes,
            moving=self.moving_windows,
            start_from=self.parent("global"),
            resume=self.resume,
        )
        return _finish(self.output, result)


@dataclass
class TrainLocal(_WorldModelTraining):
    """Fit the local world model: a differentiable recurrent state-space model."""

    store: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Episode store."""
    output: Positional[Path] = field(kw_only=False, default=tyro.MISSING)
    """Checkpoint folder."""
    preset: LocalPreset = "small"
    """Size of the model."""
    batch_size: int = 8
    """Windows per step, of all processes together."""
    learning_rate: float = 8e-4
    """Largest learning rate."""
    reward_std: float | None = None
    """Standard deviation at which rewards are modelled: the smaller, the more the reward weighs in
    the loss (half of it: four times). Not given: that of --start-from, or the preset's, 0.1."""
    window: int = 16
    """Observations in a window. The state is not learned to remember what lies further back: a task
    in which things leave the picture for longer wants longer ones."""
    light_jitter: float | None = None
    """How much brighter, darker and differently coloured a window may look to the model than it was
    recorded, 0 to 0.8: 0.5 is half to one and a half times as bright. What it has to decode stays
    as recorded. For robots that will work under other lamps than those of the recordings. Not
    given: that of --start-from, or 0."""

    def run(self) -> int:
        """Train."""
        from fog_world_model.training.train_world_models import train_local

        loop = self.loop(self.batch_size, self.learning_rate)
        store = self.open_store(self.store)
        result = train_local(
            store,
            self.output,
            loop,
            preset=self.preset,
            reward_std=self.reward_std,
            window=self.window,
            light_jitter=self.light_jitter,
            start_from=self.parent("local"),
            resume=self.resume,
        )
        return _finish(self.output, result)


@dataclass
class ExportWeights:
    """Write what a repository can take: a world model's averaged weights alone, or a bundle.

    A world model's are in 16 bits, in files of at most 16 MB. A bundle of at most 16 MB is checked
    (its hashes, and that its task is the one that ships under that name) and copied as it is.
    """

    checkpoint: Positional[Path]
    """Checkpoint of a global or local model, or a bundle."""
    output: Positional[Path]
    """Folder to write; it is used wherever a checkpoint, or a bundle, is."""
    precision: Literal["float16", "bfloat16"] | None = None
    """How matrices are rounded; not given: to float16 those of a world model, not at all those of
    a bundle."""

    def run(self) -> int:
        """Export."""
        from fog_world_model.training.checkpoint import open_checkpoint
        from fog_world_model.training.export import export_weights

        if open_checkpoint(self.checkpoint, None).manifest.get("kind") == "bundle":
            return self._export_bundle()
        precision = self.precision or "float16"
        for file in export_weights(self.checkpoint, self.output, precision=precision):
            print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
        return 0

    def _export_bundle(self) -> int:
        """Copy a bundle.

        Raises:
            FogError: It is damaged, too large, or of a task that has changed since.
        """
        from fog_bringup.tasks import find_task, task_names
        from fog_policy.bundle import load_bundle
        from fog_policy.bundle_copy import copy_bundle

        task = load_bundle(self.checkpoint).task
        if task.name in task_names():
            find_task(task.name).require_same(task, f"bundle {self.checkpoint}")
        bundle = copy_bundle(self.checkpoint, self.output, precision=self.precision)
        size = sum(file.stat().st_size for file in self.output.iterdir())
        sha256 = bundle.manifest["weights_sha256"]
        print(f"{self.output}: {size / 1e6:.2f} MB, task '{task.name}', weights {sha256[:12]}")
        return 0


@dataclass
class CalibrateEnds:
    """Correct a global model's end probabilities on held-out episodes, where that helps."""

    checkpoint: Positional[Path]
    """Checkpoint of the global model; the correction is written into it."""
    store: Positional[Path]
    """Episode store; its held-out episodes are used."""
    windows: int = 512
    """Most held-out windows."""
    seed: int = 0
    """Seed of the imagination."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda."""

    def run(self) -> int:
        """Calibrate, and show the tables."""
        from fog_world_model.data.episodes import EpisodeStore
        from fog_world_model.training.correct_ends import correct_ends
        from fog_world_model.training.loop import device_of

        report = correct_ends(
            self.checkpoint,
            EpisodeStore(self.store),
            windows=self.windows,
            seed=self.seed,
            device=device_of(self.device),
        )
        print("\n".join(report.lines()))
        if report.correction is None:
            print("ends are left as they are: no correction lowers the loss of other episodes")
        else:
            print(
                f"ends corrected: scale {report.correction.scale:.3f}, bias "
                f"{report.correction.bias:+.3f}; log loss of episodes that it was not fitted on "
                f"{report.log_loss_before:.4f} -> {report.log_loss_after:.4f}"
            )
        return 0


@dataclass
class Train:
    """Train a world model or a policy, or export or calibrate what was trained."""

    what: (
        Annotated[TrainGlobal, subcommand("global")]
        | Annotated[TrainLocal, subcommand("local")]
        | Annotated[TrainPolicy, subcommand("policy")]
        | Annotated[ExportWeights, subcommand("export")]
        | Annotated[CalibrateEnds, subcommand("calibrate")]
    )

    def run(self) -> int:
        """Train."""
        return self.what.run()


@dataclass
class EvaluateGlobal:
    """Errors of global models by steps ahead on held-out episodes: a page with pictures, and JSON.

    Frames, reward and the object's position are set beside the recording, beside repeating the
    last frame and, if there is one, beside the local model alone.
    """

    checkpoint: Positional[Path]
    """Checkpoint of the global model, or the name of a shipped world."""
    store: Positional[Path]
    """Episode store, or the name of a shipped world; its held-out episodes are used."""
    compare: tuple[Path, ...] = ()
    """More checkpoints of global models, measured on the same windows."""
    local_model: Annotated[Path | None, tyro.conf.arg(aliases=["--local"])] = None
    """Checkpoint of a local model, or the name of a shipped world: what it foretells alone is a
    baseline."""
    output: Path | None = None
    """Folder for evaluation.html and evaluation.json; not given: CHECKPOINT.evaluation."""
    horizon: int = 64
    """Largest number of steps ahead, as far as the episodes allow."""
    windows: int = 128
    """Held-out windows, spread evenly over the episodes."""
    batch_size: int = 16
    """Windows imagined side by side."""
    seed: int = 0
    """Seed of the imagination."""
    device: str = "auto"
    """Where the models run: auto, cpu, cuda."""
    threads: int = 0
    """CPU threads; 0: torch's own choice."""

    def run(self) -> int:
        """Evaluate, and write the page."""
        import torch

        from fog_bringup.evaluation_page import summary, write_evaluation
        from fog_bringup.progress import progress_bar
        from fog_bringup.report_page import require_writable
        from fog_bringup.worlds import find_part
        from fog_world_model.data.episodes import EpisodeStore
        from fog_world_model.evaluation.evaluate_global import evaluate_global
        from fog_world_model.evaluation.horizon_errors import EvaluationConfig
        from fog_world_model.training.loop import device_of

        if self.threads:
            torch.set_num_threads(self.threads)
        checkpoints = [find_part(path, "global") for path in (self.checkpoint, *self.compare)]
        store = EpisodeStore(find_part(self.store, "episodes"))
        local = self.local_model and find_part(self.local_model, "local")
        output = self.output or self.checkpoint.with_name(f"{self.checkpoint.name}.evaluation")
        require_writable(output)
        with progress_bar() as report:
            result = evaluate_global(
                checkpoints,
                store,
                EvaluationConfig(
                    horizon=self.horizon,
                    windows=self.windows,
                    batch_size=self.batch_size,
                    seed=self.seed,
                ),
                local=local,
                device=device_of(self.device),
                progress=report,
            )
        write_evaluation(output, result)
        for line in summary(result.figures):
            print(line)
        print(output / "evaluation.html")
        return 0


@dataclass
class Evaluate:
    """Measure a world model or a policy."""

    what: (
        Annotated[EvaluateGlobal, subcommand("global")]
        | Annotated[EvaluatePolicy, subcommand("policy")]
        | Annotated[EvaluateZeroShot, subcommand("zero-shot")]
    )

    def run(self) -> int:
        """Evaluate."""
        return self.what.run()
