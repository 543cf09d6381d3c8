"""The part of the ``fog`` command that looks after episode stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, subcommand


@dataclass
class Check:
    """Check that a store is whole."""

    store: Positional[Path]
    """Episode store."""

    def run(self) -> int:
        """Open it."""
        from fog_world_model.data.episodes import EpisodeStore

        store = EpisodeStore(self.store)
        print(f"{store.path}: {len(store.lengths)} episodes, {store.transitions} transitions")
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
class Data:
    """Look after episode stores."""

    what: Annotated[Check, subcommand("check")] | Annotated[Export, subcommand("export")]

    def run(self) -> int:
        """Do it."""
        return self.what.run()
