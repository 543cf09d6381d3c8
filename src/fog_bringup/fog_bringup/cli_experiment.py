"""``fog experiment``: its options, and what it calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from fog_bringup.cli_training import LocalPreset, Preset
from fog_bringup.training_options import seconds

# Everything heavy (torch, the simulator) is imported by run(), so that --help is immediate.


@dataclass
class Experiment:
    """Ways of learning a policy side by side in the same imagined world, then on the real game.

    A finished run is not repeated, an interrupted one goes on; with more methods or more seeds the
    same command adds runs. Without a store and checkpoints they are made first.
    """

    task: Positional[str] = field(kw_only=False, default="pusht")
    """Task name or file; its robot is Push-T: pusht, pusht_easy."""
    output: Path | None = None
    """Folder of the experiment; not given: runs/experiment_TASK."""
    methods: str = "fog,ppo,local,bc"
    """What to compare: fog (decoupled gradients), ppo, local (no diffusion), bc (cloning)."""
    seeds: int = 3
    """Training seeds of every method."""
    time_budget: str = "10m"
    """Wall-clock time of learning of every method and seed; evaluations are not counted."""
    imagined_steps: int | None = None
    """Imagined samples after which a run ends, if the time does not run out before."""
    evaluations: int = 8
    """Evaluations of every run, at equal shares of it, beside one at its beginning."""
    episodes: int = 100
    """Episodes at the end of every run, from fixed start states."""
    episodes_along: int = 50
    """Episodes of the evaluations on the way."""
    options: tuple[str, ...] = ()
    """Settings of methods, as fog.horizon=32 ppo.learning_rate=3e-4. fog.start_from=bc (and so for
    ppo and local): begin with the cloned policy of the same seed. What was found good for a task,
    see docs/pusht.md, is set unless it is set here."""
    store: Path | None = None
    """Episode store; not given: one is recorded and imported in OUTPUT."""
    global_model: Path | None = None
    """Checkpoint of a global model; not given: one is trained."""
    local_model: Path | None = None
    """Checkpoint of a local model; not given: one is trained."""
    steps: int | None = None
    """Control steps to record where no store is given; not given: 20,000, or as many as were found
    good for the task."""
    workers: int = 2
    """Processes that record."""
    world_model_time: str | None = None
    """Time for each world model that is not given, side by side; not given either: 15m, or what was
    found good for the task."""
    global_preset: Preset | None = None
    """Size of a global model that is not given; not given either: small, or what was found good for
    the task."""
    local_preset: LocalPreset = "small"
    """Size of a local model that is not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to learn."""
    threads: int = 0
    """CPU threads; 0: torch's own choice."""
    jobs: int = 1
    """Runs side by side, which then share the cores: without a GPU done sooner than one by one."""

    def run(self) -> int:
        """Run what is not finished, and write the page."""
        from fog_bringup.experiment import experiment
        from fog_bringup.experiment_defaults import found_good
        from fog_bringup.experiment_settings import ExperimentSettings
        from fog_bringup.tasks import find_task

        found = found_good(find_task(self.task))
        settings = ExperimentSettings(
            task=self.task,
            methods=tuple(name.strip() for name in self.methods.split(",") if name.strip()),
            seeds=self.seeds,
            time_budget_s=seconds(self.time_budget),
            imagined_steps=self.imagined_steps,
            evaluations=self.evaluations,
            episodes=self.episodes,
            episodes_along=min(self.episodes_along, self.episodes),
            options=(*found.options, *self.options),
            store=self.store,
            global_model=self.global_model,
            local_model=self.local_model,
            steps=found.steps if self.steps is None else self.steps,
            workers=self.workers,
            world_model_s=seconds(
                self.world_model_time or found.world_model_time, "--world-model-time"
            ),
            global_preset=self.global_preset or found.global_preset,
            global_options=found.global_options,
            local_options=found.local_options,
            local_preset=self.local_preset,
            device=self.device,
            threads=self.threads,
            jobs=self.jobs,
        )
        output = self.output or Path("runs") / f"experiment_{Path(self.task).stem}"
        return experiment(output, settings)
