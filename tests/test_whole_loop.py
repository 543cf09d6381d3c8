"""The whole loop on a tiny configuration: real nodes, real topics, real bags, every hand-over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import NodeProcess, executable, ros_environment

from fog_bringup.closed_loop import free_domain_id
from fog_policy.bundle import load_bundle
from fog_world_model.data.episodes import EpisodeStore


def fog(*arguments: str | Path, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run ``fog`` and wait for it."""
    return subprocess.run(
        ["timeout", "-k", "5", str(limit_s), *executable("fog"), *map(str, arguments)],
        env=ros_environment(ROS_DOMAIN_ID=str(free_domain_id())),
        capture_output=True,
        text=True,
        check=False,
    )


def node(name: str, env: dict[str, str], **parameters: Any) -> NodeProcess:
    """Start one of our nodes."""
    command = [sys.executable, "-m", f"fog_bringup.{name}", "--ros-args"]
    for key, value in parameters.items():
        command += ["-p", f"{key}:={json.dumps(value)}"]
    return NodeProcess(command, env, limit_s=90.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes imported from a bag that the nodes recorded over topics."""
    folder = tmp_path_factory.mktemp("loop")
    env = ros_environment(ROS_DOMAIN_ID=str(free_domain_id()))
    bags = folder / "bags"
    sim = {"use_sim_time": True}
    robot = node("robot_node", env, task="reach_cube", speed=3.0, auto_reset=True, seed=3)
    driver = node("driver_node", env, task="reach_cube", mode="explore", seed=3, **sim)
    with robot, driver:
        time.sleep(4.0)
        with node(
            "recorder_node", env, task="reach_cube", output=str(bags), start=True, **sim
        ) as recorder:
            time.sleep(22.0)
            assert recorder.stop() == 0, recorder.output()
        assert driver.stop() == 0, driver.output()
        assert robot.stop() == 0, robot.output()
    output = folder / "episodes"
    imported = fog("import", bags, "--output", output)
    assert imported.returncode == 0, imported.stdout + imported.stderr
    return output


def test_recorded_episodes_are_consistent(store: Path) -> None:
    """What came over topics obeys the conventions of time: commands move the robot *afterwards*."""
    episodes = EpisodeStore(store)
    assert episodes.transitions >= 100
    assert max(episodes.lengths) <= episodes.task.episode.max_steps + 1
    yaw_rate_place = sum(len(s.fields) for s in episodes.task.proprioception[:1]) + 2
    gained, lagged = [], []
    for i in range(len(episodes.lengths)):
        episode = episodes.episode(i)
        steps = np.diff(episode.stamp_ns)
        assert (np.abs(steps - 200_000_000) <= 50_000_000).all()
        command = episode.action[:-1, 2]
        gained += list(zip(command[:-1], episode.proprioception[1:-1, yaw_rate_place], strict=True))
        lagged += list(zip(command[1:], episode.proprioception[1:-1, yaw_rate_place], strict=True))
    after = np.corrcoef(np.array(gained).T)[0, 1]
    before = np.corrcoef(np.array(lagged).T)[0, 1]
    assert after > 0.4, "the commanded turn shows in the yaw rate one step later"
    assert after > before, "and less so in that of the moment it was given"


def test_train_and_deploy_from_recorded_topics(store: Path) -> None:
    """Each command takes what the one before made, up to a bundle that drives over topics."""
    folder = store.parent
    for kind in ("global", "local"):
        result = fog(
            "train", kind, store, folder / kind, "--preset", "tiny", "--time-budget", "4s",
            "--threads", "1",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    result = fog(
        "train", "policy", store, folder / "policy", "--global-model", folder / "global",
        "--local-model", folder / "local", "--environments", "4", "--horizon", "6",
        "--max-updates", "2", "--time-budget", "60s", "--threads", "1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    bundle = load_bundle(folder / "policy.bundle")
    assert bundle.manifest["data_hash"] == EpisodeStore(store).data_hash
    result = fog(
        "evaluate", "policy", folder / "policy.bundle", "--output", folder / "evaluation",
        "--episodes", "2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert all(figures[n]["episodes"] == 2 for n in ("policy", "random", "standing"))
    record = json.loads((folder / "evaluation" / "policy.json").read_text())
    assert all(e["commands"] >= 58 for e in record["episodes"]), "a command for every step"


def test_artefacts_of_another_task_are_refused(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    task = EpisodeStore(store).task
    text = json.dumps({**task.to_dict(), "name": "other", "control_hz": 10.0})
    other.write_text(text)  # JSON is YAML
    imported = fog("import", store.parent / "bags", "--output", tmp_path / "y", "--task", other)
    assert imported.returncode == 0, imported.stderr
    if not (store.parent / "global").exists():
        fog("train", "global", store, store.parent / "global", "--preset", "tiny",
            "--time-budget", "2s")  # fmt: skip
    refused = fog("evaluate", "global", store.parent / "global", tmp_path / "y")
    assert refused.returncode == 2
    assert "other" in refused.stderr
    assert "control_hz" in refused.stderr


def test_demo_tiny_writes_its_report_and_repeats_nothing(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    first = fog("demo", "--preset", "tiny", "--output", output, limit_s=400.0)
    assert first.returncode == 0, first.stderr[-3000:]
    report = json.loads((output / "report.json").read_text())
    for name in ("policy", "random", "standing"):
        row = report["closed_loop"][name]
        assert row["episodes"] == 2
        assert row["low"] <= row["mean"] <= row["high"]
    assert report["open_loop"]["horizon"] == [1, 4, 8, 16]
    assert len(report["open_loop"]["model_psnr"]) == 4
    assert report["control"]["declared_hz"] == 5.0
    assert abs(report["control"]["achieved_hz"] - 5.0) < 0.5
    assert 0 < report["control"]["latency_ms"]["p50"] <= report["control"]["latency_ms"]["p99"]
    assert report["steps"]["real"] >= 600
    assert report["steps"]["imagined"] == 3 * 4 * 8
    html = (output / "report.html").read_text()
    assert html.count("data:image/png;base64,") >= 4

    notes = {p: p.stat().st_mtime_ns for p in (output / "stages").iterdir()}
    begun = time.monotonic()
    second = fog("demo", "--preset", "tiny", "--output", output, limit_s=200.0)
    assert second.returncode == 0, second.stderr[-3000:]
    assert {p: p.stat().st_mtime_ns for p in (output / "stages").iterdir()} == notes
    assert time.monotonic() - begun < 0.7 * sum(report["seconds"].values())

    # A stage whose result is gone is made again, and with it all that follow from it.
    (output / "stages" / "control.json").unlink()
    third = fog("demo", "--preset", "tiny", "--output", output, limit_s=200.0)
    assert third.returncode == 0, third.stderr[-3000:]
    assert (output / "stages" / "control.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["import", "/nowhere/bag", "--output", "x"], "/nowhere/bag"),
        (["train", "global", "/nowhere/store", "x"], "/nowhere/store"),
        (["train", "global", "s", "x", "--time-budget", "soon"], "soon"),
        (["collect", "x", "--task", "no_such_task"], "no_such_task"),
        (["evaluate", "policy", "/nowhere/bundle", "--output", "x"], "/nowhere/bundle"),
        (["deploy", "/nowhere/bundle"], "/nowhere/bundle"),
        (["bag", "info", "/nowhere/bag"], "/nowhere/bag"),
        (["train", "global", "s", "x", "--bogus", "1"], "bogus"),
    ],
)
def test_bad_input_exits_2_and_names_it(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = fog(*arguments)
    assert result.returncode == 2, result.stderr
    assert expected in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == [], "nothing half-written"
