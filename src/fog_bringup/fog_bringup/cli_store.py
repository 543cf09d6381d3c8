"""The part of the ``fog`` command that looks after episode stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, subcommand

if TYPE_CHECKING:
    from fog_world_model.data.store_index import StoreIndex


@dataclass
class Check:
    """Read a store whole and compare it with its index; damage ends with status 2."""

    store: Positional[Path]
    """Episode store."""

    def run(self) -> int:
        """Check."""
        from fog_bringup.progress import progress_bar
        from fog_world_model.data.store_operations import check_store

        with progress_bar() as report:
            index = check_store(self.store, report)
        print(f"{self.store}: whole; {_summary(index)}")
        return 0


@dataclass
class Merge:
    """Put the episodes of several stores of one task into a new one."""

    stores: Positional[tuple[Path, ...]]
    """Episode stores."""
    output: Path
    """Episode store to write."""

    def run(self) -> int:
        """Merge."""
        from fog_world_model.data.store_operations import merge_stores

        print(f"{self.output}: {_summary(merge_stores(self.stores, self.output))}")
        return 0


@dataclass
class Filter:
    """Take some episodes of a store into a new one."""

    store: Positional[Path]
    """Episode store."""
    output: Path
    """Episode store to write."""
    only: Literal["success", "failure", "unmarked"] | None = None
    """Outcome that the episodes must have, as it was marked while recording."""
    min_steps: int = 0
    """Steps that they must have at least."""

    def run(self) -> int:
        """Filter."""
        from fog_world_model.data.store_operations import filter_store

        index = filter_store(self.store, self.output, only=self.only, min_steps=self.min_steps)
        print(f"{self.output}: {_summary(index)}")
        return 0


@dataclass
class SplitStore:
    """Decide anew which episodes of a store are held out for validation."""

    store: Positional[Path]
    """Episode store; its index is changed."""
    validation_fraction: float = 0.1
    """Share of the episodes that is held out."""
    seed: int = 0
    """Seed of the choice."""

    def run(self) -> int:
        """Split."""
        from fog_world_model.data.store_operations import split_store

        fraction = self.validation_fraction
        index = split_store(self.store, validation_fraction=fraction, seed=self.seed)
        print(f"{self.store}: {_summary(index)}")
        return 0


def _summary(index: StoreIndex) -> str:
    held_out = sum(e.held_out for e in index.episodes)
    steps = sum(e.length - 1 for e in index.episodes)
    return f"{len(index.episodes)} episodes ({held_out} held out), {steps} transitions"


@dataclass
class View:
    """Write an HTML page about a store: pictures and time plots of episodes, distributions."""

    store: Positional[Path]
    """Episode store."""
    output: Path | None = None
    """Page to write; STORE.html unless given."""
    episodes: tuple[int, ...] = ()
    """Numbers of the episodes to show; --limit of them, evenly spread, unless given."""
    limit: int = 24
    """How many episodes to show when none are named; the table holds all of them."""

    def run(self) -> int:
        """Write it."""
        from fog_bringup.progress import progress_bar
        from fog_bringup.store_page import write_store_page
        from fog_world_model.data.episodes import EpisodeStore

        store = EpisodeStore(self.store)
        output = self.output or self.store.parent / f"{self.store.resolve().name}.html"
        with progress_bar() as report:
            shown = write_store_page(
                store, output, episodes=self.episodes, limit=self.limit, progress=report
            )
        print(f"{output}: {len(shown)} of {len(store.episodes)} episodes with pictures")
        return 0


@dataclass
class Export:
    """Write a store's episodes as videos, or as a LeRobot data set."""

    store: Positional[Path]
    """Episode store."""
    output: Path
    """Folder to write."""
    format: Literal["mp4", "lerobot"] = "mp4"
    """mp4: a video for each episode; lerobot: a LeRobot v3.0 data set, images lossless."""

    def run(self) -> int:
        """Export."""
        from fog_bringup.progress import progress_bar
        from fog_world_model.data.episodes import EpisodeStore

        store = EpisodeStore(self.store)
        with progress_bar() as report:
            if self.format == "lerobot":
                from fog_bringup.store_export_lerobot import export_lerobot

                print(export_lerobot(store, self.output, report))
                return 0
            from fog_bringup.store_export_mp4 import export_mp4

            videos = export_mp4(store, self.output, report)
        note = "" if videos.in_browsers else "; browsers do not play it, most players do"
        print(
            f"{videos.folder}: {videos.episodes} videos, {videos.codec}{note}; PSNR of the worst "
            f"{videos.worst_psnr_db:.1f} dB"
        )
        return 0


@dataclass
class Markers:
    """Draw a task's fiducial markers to print them: a PDF, or a folder of PNG pictures."""

    output: Path
    """A .pdf file, or a folder to write."""
    task: str = "push_cube_markers"
    """Task name or file; its labeller says which markers, how large."""

    def run(self) -> int:
        """Draw."""
        from fog_bringup.marker_sheets import write_marker_sheets
        from fog_bringup.tasks import find_task

        for caption in write_marker_sheets(find_task(self.task), self.output):
            print(caption)
        print(f"{self.output}: print at 100 % and check the ruler on each page")
        return 0


@dataclass
class Data:
    """Look after episode stores."""

    what: (
        Annotated[Check, subcommand("check")]
        | Annotated[Merge, subcommand("merge")]
        | Annotated[Filter, subcommand("filter")]
        | Annotated[SplitStore, subcommand("split")]
        | Annotated[View, subcommand("view")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Markers, subcommand("markers")]
    )

    def run(self) -> int:
        """Do it."""
        return self.what.run()
