"""``fog evaluate zero-shot``: a bundle on Push-T itself, without ROS."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass
class EvaluateZeroShot:
    """Coverage that a bundle reaches on Push-T, beside its baselines, as JSON; without ROS.

    The robot is driven as the deployed control loop drives it, many side by side. The figures are
    those of ``fog experiment``.
    """

    bundle: Positional[Path]
    """Bundle folder, or the name of a shipped policy."""
    episodes: int = 100
    """Episodes; the same start states for all."""
    seed: int = 1_000_000
    """Seed of the first start state; the default is that of fog experiment."""
    film: Path | None = None
    """Write the first ten episodes there, as an animated WebP."""

    def run(self) -> int:
        """Evaluate, and print JSON."""
        from fog_bringup.film import film_of
        from fog_bringup.progress import progress_bar
        from fog_bringup.zero_shot import BASELINES, evaluate_baseline, evaluate_policy
        from fog_policy.bundle import load_bundle
        from fog_policy.shipped_policies import find_bundle
        from fog_world_model.errors import FogError

        if self.episodes < 1:
            raise FogError(f"--episodes {self.episodes}: expected at least 1")
        bundle = load_bundle(find_bundle(self.bundle))
        local, actor = bundle.networks()
        task, seeds = bundle.task, range(self.seed, self.seed + self.episodes)
        figures = {}
        with progress_bar() as report:
            shot = evaluate_policy(
                task,
                local,
                actor,
                bundle.checkpoint.normalisation,
                seeds,
                report=functools.partial(report, "policy"),
            )
            figures["policy"] = {**shot.figures(), "max_coverage": shot.max_coverage}
            for name in BASELINES:
                tell = functools.partial(report, name)
                figures[name] = evaluate_baseline(
                    task, name, seeds, filmed=0, report=tell
                ).figures()
        if self.film is not None:
            self.film.write_bytes(film_of(shot.frames, task.control_hz))
        print(json.dumps(figures, indent=1))
        return 0
