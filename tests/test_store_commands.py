"""`fog import` and `fog data`: what they print, and with which status they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recorded_drive import Drive, drive_task

from fog_bringup.cli import main
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.episodes import EpisodeStore


@pytest.fixture
def bags(tmp_path: Path) -> list[Path]:
    """One that was marked a success, one that was not, and the task beside them."""
    found = []
    for i, outcome in enumerate(("success", "failure")):
        custom = {"fog_episode": json.dumps({"outcome": outcome})}
        with BagWriter(tmp_path / "bags" / f"bag_{i}", custom) as bag:
            for log_ns, topic, typename, data in Drive(10 + i, first=i).messages():
                bag.write(topic, typename, data, log_ns)
        found.append(tmp_path / "bags" / f"bag_{i}")
    drive_task().save(tmp_path / "drive.yaml")
    return found


def fog(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_from_bags_to_a_filtered_store(
    bags: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, task = tmp_path / "store", tmp_path / "drive.yaml"
    assert fog("import", bags[0], "--task", task, "--output", store) == 0
    shown = capsys.readouterr().out
    assert f"{bags[0]}: 1 episodes, 10 transitions" in shown
    assert "camera: 10.00 Hz, 32x32 rgb8, jitter 0.00 ms" in shown
    assert "/odom: 41 received, 11 used, 30 superseded, 0 reordered, 0 dropped" in shown
    assert f"all of it in {store / 'report.json'}" in shown
    # The folder of both: one is there, one is new.
    assert fog("import", bags[0].parent, "--task", task, "--output", store) == 0
    assert f"bag {bags[0]}: skipped, imported already and unchanged" in capsys.readouterr().out
    assert fog("data", "check", store) == 0
    assert f"{store}: whole; 2 episodes (1 held out), 21 transitions" in capsys.readouterr().out
    assert fog("data", "filter", store, "--only", "success", "--output", tmp_path / "good") == 0
    assert [e.source for e in EpisodeStore(tmp_path / "good").episodes] == ["bag_0#0"]
    assert fog("data", "filter", store, "--min-steps", 11, "--output", tmp_path / "long") == 0
    merged = tmp_path / "merged"
    assert fog("data", "merge", tmp_path / "good", tmp_path / "long", "--output", merged) == 0
    assert fog("data", "split", merged, "--validation-fraction", "0.5", "--seed", "3") == 0
    assert EpisodeStore(merged).transitions == 21
    assert fog("data", "check", merged) == 0


def test_damage_ends_with_status_2(
    bags: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, task = tmp_path / "store", tmp_path / "drive.yaml"
    assert fog("import", *bags, "--task", task, "--output", store) == 0
    shard = EpisodeStore(store).episodes[1].shard
    files = (store / "shards" / shard / "image").iterdir()
    next(p for p in files if not p.name.startswith((".", "zarr"))).unlink()
    capsys.readouterr()
    assert fog("data", "check", store) == 2
    said = capsys.readouterr().err
    assert f"episode store {store}: damaged" in said
    assert f"shard {shard}: array 'image' is not whole: 0 of its 1 chunks are there" in said


def test_what_cannot_be_ends_with_status_2(
    bags: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, task = tmp_path / "store", tmp_path / "drive.yaml"
    assert fog("import", tmp_path / "nowhere", "--task", task, "--output", store) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert fog("data", "check", store) == 2
    assert fog("data", "merge", store, store, "--output", tmp_path / "merged") == 2
    assert fog("data", "split", store) == 2
    said = capsys.readouterr().err
    assert said.count(f"fog: episode store {store}: ") == 3, said
    assert "Traceback" not in said
