"""``fog bag info`` and ``fog bag recover``, as they are called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fog_bringup.cli import main
from fog_bringup.tasks import find_task
from fog_world_model.data.bag_writer import BagWriter, task_custom_data
from fog_world_model.data.messages import make, serialise

TWIST = "geometry_msgs/msg/Twist"
SECOND = 10**9
START = 1_700_000_000 * SECOND  # 2023-11-14 22:13:20 UTC


@pytest.fixture
def writer(tmp_path: Path) -> BagWriter:
    """Two topics, of which the recorder has something to tell."""
    bag = BagWriter(tmp_path / "bag", task_custom_data(find_task("reach_cube")))
    for i in range(11):
        bag.write("/cmd_vel", TWIST, serialise(make(TWIST)), START + i * SECOND // 5)
    account = {
        "/cmd_vel": {
            "type": TWIST,
            "received": 12,
            "written": 11,
            "lost": 1,
            "losses": [{"at_ns": START + SECOND, "count": 1, "reason": "the disk was too slow"}],
            "gaps": [{"at_ns": START + SECOND // 2, "missing": 2}],
            "gaps_total": 1,
        },
        "/odom": {"type": "nav_msgs/msg/Odometry", "received": 0, "written": 0, "lost": 0},
    }
    bag.set_custom("fog_account", json.dumps(account))
    bag.set_custom("fog_warnings", json.dumps(["/odom is silent"]))
    bag.set_custom("fog_episode", json.dumps({"outcome": "success", "reason": "stopped"}))
    return bag


def test_info_for_people(writer: BagWriter, capsys: pytest.CaptureFixture[str]) -> None:
    writer.close()
    assert main(["bag", "info", str(writer.path)]) == 0
    text = capsys.readouterr().out
    first, *others = text.splitlines()
    assert "2.0 s, from 2023-11-14T22:13:20 UTC, 11 messages" in first
    assert "in 1 file, not compressed" in first
    lines = [" ".join(line.split()) for line in others]
    assert lines[1:] == [
        "episode: success, ended because: stopped",
        "/cmd_vel geometry_msgs/msg/Twist 11 5.50 Hz",
        "12 received, 11 written, 1 lost, 1 gaps (2 messages missing)",
        "at 0.500 s: gap, 2 messages missing",
        "at 1.000 s: 1 messages lost: the disk was too slow",
        "/odom nav_msgs/msg/Odometry 0",
        "0 received, 0 written, 0 lost, 0 gaps",
        "warning: /odom is silent",
    ]
    assert lines[0].startswith("recorded for task 'reach_cube'")


def test_info_as_json(writer: BagWriter, capsys: pytest.CaptureFixture[str]) -> None:
    writer.close()
    assert main(["bag", "info", str(writer.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == {"bag.mcap": (writer.path / "bag.mcap").stat().st_size}
    assert (found["messages"], found["duration_s"]) == (11, pytest.approx(2.0, abs=1e-6))
    assert found["topics"]["/cmd_vel"]["account"]["lost"] == 1
    assert found["topics"]["/odom"]["messages"] == 0
    assert found["warnings"] == ["/odom is silent"] and found["episode"]["outcome"] == "success"
    assert found["task_hash"] == find_task("reach_cube").hash


def test_info_against_a_task(writer: BagWriter, capsys: pytest.CaptureFixture[str]) -> None:
    writer.close()
    assert main(["bag", "info", str(writer.path), "--task", "reach_cube"]) == 2
    assert "is missing" in capsys.readouterr().err
    with BagWriter(writer.path.with_name("other"), {"fog_account": '{"/a": {"gaps": 3}}'}) as odd:
        odd.write("/a", TWIST, serialise(make(TWIST)), 1)
    assert main(["bag", "info", str(odd.path)]) == 0
    assert "not one of this recorder" in capsys.readouterr().out


def test_recover(writer: BagWriter, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    writer.flush()
    assert main(["bag", "info", str(writer.path)]) == 2
    error = capsys.readouterr().err
    command = error.split("`")[1].split()
    assert command[:3] == ["fog", "bag", "recover"]
    assert main(command[1:]) == 0
    text = capsys.readouterr().out
    assert f"{tmp_path / 'bag_recovered'}: 11 messages saved" in text
    assert "nothing that was in the file is lost" in text
    assert main(["bag", "info", str(tmp_path / "bag_recovered")]) == 0
    text = capsys.readouterr().out
    assert "episode: success" in text and "warning: recovered from bag.part" in text
    assert main(command[1:]) == 2  # nothing is overwritten
    assert "--output" in capsys.readouterr().err
    file = writer.part / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-50])
    assert main([*command[1:], "--output", str(tmp_path / "new"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(tmp_path / "new") and found["saved"] == {"/cmd_vel": 11}
    assert found["losses"]


def test_a_task_that_was_changed_is_still_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = replace(find_task("reach_cube"), name="mine")
    BagWriter(tmp_path / "bag", task_custom_data(task)).close()
    assert main(["bag", "info", str(tmp_path / "bag")]) == 0
    assert "0.0 s, empty, 0 messages" in (text := capsys.readouterr().out)
    assert f"recorded for task 'mine' ({task.hash[:12]})" in text
