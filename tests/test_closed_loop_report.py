"""``fog evaluate policy`` with real nodes: side by side, varied, interrupted, and gone on with."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import NodeProcess, ros_environment
from toy_bundle import write_toy_bundle

from fog_bringup.closed_loop import evaluate_over_ros, free_domain_id
from fog_bringup.closed_loop_takes import Take
from fog_world_model.task import TaskConfig

INTERRUPTED = 128 - 130
"""Exit status 130, as NodeProcess tells it."""
FOG = [sys.executable, "-m", "fog_bringup.cli"]


@pytest.fixture(scope="module")
def bundle(task: TaskConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Walks ahead and turns to the left."""
    path = tmp_path_factory.mktemp("toy") / "ahead.bundle"
    return write_toy_bundle(task, path, (0.5, 0.0, 0.5))


def evaluate(*arguments: object) -> NodeProcess:
    command = [*FOG, "evaluate", "policy", *map(str, arguments)]
    return NodeProcess(command, ros_environment(), limit_s=1800.0)


@pytest.mark.slow
def test_side_by_side_interrupted_and_gone_on_with(
    task: TaskConfig, bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report"
    arguments = (bundle, "--output", output, "--driver", "--limit", "3", "--speed", "8")
    arguments = (*arguments, "--vary", "lost-frames", "--episodes")
    with evaluate(*arguments, 40, "--jobs", 2) as run:
        deadline = time.monotonic() + 1500.0
        while not (output / "ahead.now.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
            assert run.running(), run.output()
        run.send(signal.SIGINT)
        assert run.wait(300.0) == INTERRUPTED, run.output()
    page = (output / "evaluation.html").read_text()
    assert "Not complete" in page
    before = json.loads((output / "ahead.json").read_text())["episodes"]
    assert 1 <= len(before) < 40
    assert (output / "driver.now_logs").is_dir(), "the next row ran at the same time"

    with evaluate(*arguments, 2, "--films", 2) as run:
        assert run.wait(1800.0) == 0, run.output()
    figures = json.loads((output / "evaluation.json").read_text())
    assert figures["episodes"] == {"done": 12, "planned": 12}
    assert set(figures["rows"]) == {
        "ahead", "driver", "random", "standing", "ahead.lost-frames", "driver.lost-frames",
    }  # fmt: skip
    page = (output / "evaluation.html").read_text()
    assert "Not complete" not in page
    assert page.count("data:image/webp") == 2 * 2, "of the bundle and of the driver"
    after = json.loads((output / "ahead.json").read_text())["episodes"]
    assert after[: len(before)] == before, "what was finished is not measured again"
    records = {key: json.loads((output / f"{key}.json").read_text()) for key in figures["rows"]}
    for key, record in records.items():
        assert record["max_steps"] == 15
        for episode in record["episodes"]:
            assert len(episode["base"]) == len(episode["cube"]) <= 16, key
            # The same start states for all; side by side, some had more of them behind them than
            # others when they were interrupted.
            if same := next((e for e in after if e["seed"] == episode["seed"]), None):
                assert episode["base"][0] == pytest.approx(same["base"][0], abs=0.03)
    size = task.image.height, task.image.width
    for name in ("ahead", "driver"):
        for episode in records[name]["episodes"][:2]:
            take = Take.load(output / f"{name}_films" / f"{episode['seed']}.npz")
            assert take.frames.shape == (len(episode["base"]), *size, 3)
            changed = np.abs(take.frames[-1].astype(float) - take.frames[0]).mean()
            assert changed > 2.0, "it has moved"
            if name == "ahead":
                np.testing.assert_allclose(take.commands[-1], (0.5, 0.0, 0.5), atol=0.05)
        assert len(records[f"{name}.lost-frames"]["episodes"]) >= 2
        for episode in records[f"{name}.lost-frames"]["episodes"]:
            assert episode["conditions"] == {"image_loss": 0.05}
            assert 20 <= episode["images"] <= episode["pictures"] <= 30
    # It sees the cube's position and walks there, in time or nearly so.
    assert (
        figures["rows"]["driver"]["final_distance_m"]["mean"]
        < figures["rows"]["standing"]["final_distance_m"]["mean"] - 0.3
    )
    assert figures["rows"]["driver"]["fell"] == 0


@pytest.mark.slow
def test_conditions_of_the_scene_reach_the_record(
    task: TaskConfig, bundle: Path, tmp_path: Path
) -> None:
    record = evaluate_over_ros(
        task,
        bundle,
        [5, 6],
        output=tmp_path / "varied.json",
        max_steps=5,
        vary=["mass", "pitch", "latency"],
        speed=8.0,
        domain_id=free_domain_id(),
    )
    for episode in record["episodes"]:
        found = episode["conditions"]
        assert 0.5 <= found["cube_mass_factor"] <= 2.0
        assert abs(found["camera_pitch_change_deg"]) == 5.0
        assert found["image_delay_s"] == 0.05
        assert len(episode["rewards"]) == 5
        assert episode["images"] >= 1, "late images arrive all the same"
    masses = {e["conditions"]["cube_mass_factor"] for e in record["episodes"]}
    assert len(masses) == 2


def test_options_that_cannot_be_are_named(bundle: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((bundle, "--vary", "mass,colour"), "no variation colour"),
        ((bundle, bundle), "taken twice"),
        ((bundle, "--episodes", "0"), "expected at least 1"),
    ):
        with evaluate(*arguments, "--output", tmp_path / "x") as run:
            assert run.wait(600.0) == 2, run.output()
            assert message in " ".join(run.output().split())
    assert not (tmp_path / "x").exists()
