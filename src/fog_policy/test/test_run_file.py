"""What a restarted node finds of the one before."""

from __future__ import annotations

from pathlib import Path

import pytest

from fog_policy.run_file import RunFile, RunState
from fog_world_model.errors import FogError


def test_the_first_start_finds_nothing_and_the_next_one_what_was_noted(tmp_path: Path) -> None:
    path = str(tmp_path / "run.json")
    first = RunFile(path)
    assert first.found is None
    assert RunFile(path).found == RunState(active=False, emergency_stop=None), "killed at once"
    state = RunState(active=True, emergency_stop="fall: fallen: tilted by 1.3 rad")
    assert first.note(state) == ""
    second = RunFile(path)
    assert second.found == state
    # A restart alone changes nothing: who dies again before anything happens is found the same.
    assert RunFile(path).found == state
    assert second.note(RunState()) == ""
    assert RunFile(path).found == RunState()
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"], "nothing half-written"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"active": 1, "emergency_stop": null}', '{"active": true}']
)
def test_a_file_that_says_nothing_is_a_restart_that_stays_inactive(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    assert RunFile(str(path)).found == RunState(active=False)


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(FogError, match=r"run_file .*/run/file: cannot be written \(No such folder"):
        RunFile(str(folder / "file"))
    folder.mkdir()
    file = RunFile(str(folder / "file"))
    (folder / "file").unlink()
    folder.rmdir()
    assert "not written (No such folder)" in file.note(RunState(active=True))
    assert not folder.exists()
