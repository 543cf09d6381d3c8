"""The part of the ``fog`` command that looks at bags and imports them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, subcommand


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
