"""``fog evaluate policy``: bundles in closed loop on the simulated robot, side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass
class EvaluatePolicy:
    """Closed-loop success of bundles over ROS topics, beside what they are measured against.

    A page with paths and films of the first episodes (evaluation.html), and JSON. Random
    commands and standing are always measured. Finished episodes are kept: the same command goes on
    after an interruption, and with more --episodes.
    """

    bundles: Positional[tuple[Path, ...]]
    """Bundle folders of one task, or names of shipped policies; none, where --task says which task
    driver, operator, random commands and standing are to be measured on."""
    output: Path
    """Folder for the page and the records."""
    task: str = ""
    """Task name or file; empty: the bundles' own."""
    driver: bool = False
    """Measure the scripted driver too, which sees the ground truth."""
    operator: bool = False
    """Measure the scripted driver too that knows only what the camera has shown: what can be
    expected of a policy that imitates it. Its hand is unsteady, differently per episode."""
    episodes: int = 50
    """Episodes; the same start states for all."""
    seed: int = 1_000_000
    """Seed of the first start state."""
    vary: str = ""
    """Measure again with one thing changed at a time: all, or some of mass, friction, light, pitch,
    latency, lost-frames, separated by commas."""
    limit: float = 0.0
    """Longest episode, s; 0: that of the task (push_cube: 40 s)."""
    speed: float = 4.0
    """Robot seconds per second; 0: as fast as possible."""
    films: int = 4
    """Show films of so many first episodes of each bundle and of the driver; 0: none, and no
    pictures are kept."""
    jobs: int = 1
    """Measure so many bundles and variations side by side, each in nodes and a ROS domain of its
    own. Two cores have enough to do with one."""

    def run(self) -> int:
        """Evaluate, write the page, and print JSON."""
        from fog_bringup.closed_loop_page import PAGE, printed, write_page
        from fog_bringup.closed_loop_plan import Plan, Row, contenders_of
        from fog_bringup.closed_loop_records import ClosedLoopRecords
        from fog_bringup.closed_loop_report import figures_of, films_of, line
        from fog_bringup.progress import progress_bar
        from fog_bringup.report_page import require_writable
        from fog_bringup.robots.variations import parse_variations
        from fog_bringup.tasks import find_task
        from fog_policy import exit_signals

        plan = Plan(
            episodes=self.episodes,
            first_seed=self.seed,
            speed=self.speed,
            limit_s=self.limit,
            vary=parse_variations(self.vary, "--vary"),
            driver=self.driver,
            films=self.films,
        )
        task, contenders = contenders_of(
            self.bundles,
            find_task(self.task) if self.task else None,
            driver=self.driver,
            operator=self.operator,
        )
        require_writable(self.output)
        measured = ClosedLoopRecords(self.output, task, contenders, plan)

        def show(row: Row) -> None:
            text = line(row, figures_of(measured)["rows"][row.key])
            print(text, file=sys.stderr, flush=True)

        with exit_signals.raised():
            try:
                with progress_bar() as progress:
                    measured.measure(progress, show, jobs=self.jobs)
            finally:
                with exit_signals.ignored():
                    figures = figures_of(measured)
                    if figures["episodes"]["done"]:
                        films = films_of(measured, figures)
                        write_page(self.output, figures, measured.records(), films)
                        print(self.output / PAGE, file=sys.stderr)
        print(json.dumps(printed(figures), indent=1))
        return 0
