"""Stages of a long command: what is repeated, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fog_bringup.stages import Stages, run_side_by_side
from fog_world_model.errors import FogError


def both(folder: Path, **settings: Any) -> tuple[list[str], list[Any]]:
    """Run two stages of which the second takes the first one's file; which ran, and their notes."""
    ran = []

    def work(name: str) -> dict[str, int]:
        assert not (folder / name).exists(), "what an interrupted run left is gone"
        (folder / name).write_text(name)
        ran.append(name)
        return {"letters": len(name)}

    stages = Stages(folder / "stages", Console(quiet=True))
    notes = [
        stages.run(name, settings.get(name, {}), [folder / name], lambda name=name: work(name))
        for name in ("one", "three")
    ]
    return ran, notes


def test_only_what_is_not_complete_is_run(tmp_path: Path) -> None:
    """After a change, or when its result is gone, a stage is run anew; those after a change too."""
    notes = [{"letters": 3}, {"letters": 5}]
    assert both(tmp_path) == (["one", "three"], notes)
    assert both(tmp_path) == ([], notes)
    assert both(tmp_path, three={"x": 1}) == (["three"], notes)
    assert both(tmp_path, one={"x": 1}) == (["one", "three"], notes)
    (tmp_path / "three").unlink()
    assert both(tmp_path, one={"x": 1}) == (["three"], notes)


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    commands = {"good one": ["--help"], "bad one": ["train", "policy", "no_store", "out"]}
    with pytest.raises(FogError, match=r"(?s)^fog train policy no_store out ended with status \d"):
        run_side_by_side(commands, tmp_path / "logs")
    assert (tmp_path / "logs" / "bad_one.log").read_text()
