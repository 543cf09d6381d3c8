"""What an experiment compares and at what expense, and whether a folder holds that experiment."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fog_world_model.data.durable import replace_file
from fog_world_model.errors import FogError
from fog_world_model.training.resume import differences_between

MAY_CHANGE = (
    "methods", "seeds", "device", "threads", "jobs", "workers", "store", "global_model",
    "local_model",
)  # fmt: skip
"""Settings with which an experiment may be continued differently: more methods or more seeds are
more runs, what is learned depends on the others only by rounding, and of what is given the content
has to be the same."""
LATER: dict[str, dict[str, Any]] = {"settings": {"global_options": [], "local_options": []}}
"""What notes say since later, and what older ones meant."""


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
    global_options: tuple[str, ...] = ()
    """Further options of 'fog train global' for a model that is not given."""
    local_options: tuple[str, ...] = ()
    """The same of 'fog train local'."""
    local_preset: str = "small"
    device: str = "auto"
    threads: int = 0
    jobs: int = 1
    """Runs side by side, each in a process of its own."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            FogError: One cannot be.
        """
        for name in ("seeds", "time_budget_s", "evaluations", "episodes", "episodes_along",
                     "steps", "workers", "world_model_s", "jobs"):  # fmt: skip
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return content


def require_same(folder: Path, name: str, wanted: dict[str, Any]) -> None:
    """Note what an experiment depends on, or check that it is what was noted before.

    Args:
        folder: Of the experiment.
        name: Of the note, a JSON file.
        wanted: What it should say; :data:`MAY_CHANGE` may differ.

    Raises:
        FogError: The folder holds another experiment; the differences are named.
    """
    path = folder / f"{name}.json"
    if path.exists():
        found = {**LATER.get(name, {}), **json.loads(path.read_text(encoding="utf-8"))}
        lines = [
            line
            for line in differences_between(name, found, wanted)
            if line.split(" ")[0].removeprefix(f"{name}.") not in MAY_CHANGE
        ]
        if lines:
            raise FogError(
                f"{folder}: holds another experiment: {'; '.join(lines[:6])}. Give the settings it "
                "was begun with, or another output folder"
            )
    replace_file(path, json.dumps(wanted, indent=1) + "\n")
