"""The part of the ``fog`` command that records, looks at bags and imports them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, subcommand


@dataclass
class Import:
    """Turn rosbag2 bags into an episode store for training, or add bags to one."""

    bags: Positional[tuple[Path, ...]]
    """Bag folders (those with metadata.yaml), or folders of bags."""
    output: Path
    """Episode store to write or to add to. Bags that it holds already are skipped, and an import
    that was killed goes on."""
    task: str | None = None
    """Task name or file; not given: the one that the store has, or that the bags were recorded
    for."""
    validation_fraction: float | None = None
    """Share of the episodes that is held out; not given: as in the store, for a new one 0.1."""
    seed: int | None = None
    """Seed of that choice; not given: as in the store, for a new one 0."""
    workers: int = 0
    """Processes and threads; 0: as many as there are cores."""

    def run(self) -> int:
        """Import, and print the account of every topic of every new bag."""
        from fog_bringup.progress import progress_bar
        from fog_bringup.tasks import find_task
        from fog_world_model.data.bag_task import task_for_import
        from fog_world_model.data.import_bags import find_bags, import_bags

        bags = [bag for path in self.bags for bag in find_bags(path)]
        task = task_for_import(bags, self.output) if self.task is None else find_task(self.task)
        told: list[str] = []
        with progress_bar() as report:
            store = import_bags(
                bags,
                task,
                self.output,
                validation_fraction=self.validation_fraction,
                seed=self.seed,
                workers=self.workers,
                progress=report,
                tell=told.append,
            )
        summary = store.attributes["report"]
        print("\n".join(told))
        broken = sum(summary["steps"]["broken"].values())
        print(
            f"{store.path}: {len(store.lengths)} episodes ({len(store.split('validation'))} held "
            f"out), {store.transitions} transitions; {broken} steps broken, "
            f"{summary['warnings']} warnings; all of it in {store.path / 'report.json'}"
        )
        return 0


@dataclass
class BagInfo:
    """Say what a bag holds, what became of the messages, and whether it fits a task."""

    bag: Positional[Path]
    """Bag folder, or an .mcap or .db3 file."""
    task: str = ""
    """Task name or file to check the bag against."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Print topics, counts, the recorder's account and its warnings."""
        from json import dumps

        from fog_bringup.bag_description import bag_text, describe_bag
        from fog_bringup.tasks import find_task
        from fog_world_model.data.bag_reader import BagReader

        with BagReader(self.bag) as bag:
            description = describe_bag(bag)
            print(dumps(description, indent=2) if self.json else bag_text(description))
            if self.task:
                bag.require(find_task(self.task).topics())
                if not self.json:
                    print(f"holds every topic of task '{self.task}'")
        return 0


@dataclass
class BagRecover:
    """Make a new bag of what is whole in one that is cut, damaged or was never closed."""

    source: Positional[Path]
    """The .part folder of a killed recorder, a bag folder, or an .mcap or .db3 file; only read."""
    output: Path | None = None
    """Bag folder to write; SOURCE_recovered unless given."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Recover, and say what was saved and what was not."""
        from json import dumps

        from fog_bringup.progress import progress_bar
        from fog_world_model.data.bag_recover import recover_bag

        with progress_bar() as report:
            recovery = recover_bag(self.source, self.output, progress=report)
        if self.json:
            content = {**asdict(recovery), "path": str(recovery.path)}
            print(dumps(content, indent=2))
            return 0
        print(f"{recovery.path}: {sum(recovery.saved.values())} messages saved")
        for topic, count in sorted(recovery.saved.items()):
            missing = recovery.missing.get(topic)
            print(f"  {topic:28} {count:8}" + (f", {missing} missing in between" * bool(missing)))
        for loss in recovery.losses:
            print(f"lost: {loss}")
        if not recovery.losses and not recovery.missing:
            print("nothing that was in the file is lost")
        return 0


@dataclass
class Bag:
    """Look at bags, and repair them."""

    what: Annotated[BagInfo, subcommand("info")] | Annotated[BagRecover, subcommand("recover")]

    def run(self) -> int:
        """Look or repair."""
        return self.what.run()


@dataclass
class Record:
    """Tell a running recorder what to do: begin and end recordings, mark how they went."""

    what: Positional[Literal["start", "stop", "success", "failure", "status"]]
    """Begin a bag; close it; close it and mark it (or mark the last one); say what is recorded."""
    node: str = "recorder_node"
    """Name of the recorder, with its namespace if it has one."""

    def run(self) -> int:
        """Ask, and print the bag or the state."""
        from fog_bringup.record_control_node import ask

        print(ask(self.node, self.what))
        return 0
