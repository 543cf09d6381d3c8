"""The part of the ``fog`` command that looks after episode stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
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
class Data:
    """Look after episode stores."""

    what: Annotated[Check, subcommand("check")] | Annotated[None, tyro.conf.Suppress]

    def run(self) -> int:
        """Do it."""
        assert self.what is not None
        return self.what.run()
