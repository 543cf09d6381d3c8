"""``fog train`` as a command: several processes, signals, times, export, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fog_bringup.cli import main
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.training.checkpoint import open_checkpoint

FOG = ["-m", "fog_bringup.cli", "train", "global"]
FEW = ["--preset", "tiny", "--batch-size", "4", "--device", "cpu", "--max-steps", "8"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_by_accelerate_launch(store: EpisodeStore, tmp_path: Path) -> None:
    """One prints and writes; the result is that of one process."""
    launch = [
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ]  # fmt: skip
    outcome = subprocess.run(
        [sys.executable, "-m", *launch, *FOG, str(store.path), str(tmp_path / "two"), *FEW],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=ENVIRONMENT,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count(f"{tmp_path / 'two'}: 8 steps") == 1
    assert len(list((tmp_path / "two.tensorboard").iterdir())) == 1
    assert len(list((tmp_path / "two.pictures").iterdir())) == 1
    assert main(["train", "global", str(store.path), str(tmp_path / "one"), *FEW]) == 0
    one, two = (open_checkpoint(tmp_path / n, "global", store.task) for n in ("one", "two"))
    assert two.manifest["averages"] == pytest.approx(one.manifest["averages"], rel=1e-4)
    assert [c.manifest["processes"] for c in (one, two)] == [1, 2]


def test_the_weight_of_the_reward_is_an_option_and_part_of_the_run(
    long_store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "local"
    few = ["--preset", "tiny", "--batch-size", "2", "--device", "cpu", "--max-steps"]
    command = ["train", "local", str(long_store.path), str(path), *few]
    assert main([*command, "1", "--reward-std", "0.03"]) == 0
    assert open_checkpoint(path, "local").manifest["config"]["reward_std"] == 0.03
    assert main([*command, "2", "--resume"]) == 2
    assert "reward_std was 0.03, is 0.1" in capsys.readouterr().err
    assert main([*command, "2", "--resume", "--reward-std", "0.03"]) == 0
    assert main([*command, "1", "--reward-std", "0"]) == 2
    assert "--reward-std 0.0: expected more than 0" in capsys.readouterr().err


def test_the_scale_of_another_world_model_is_an_option_and_part_of_the_run(
    store: EpisodeStore,
    long_store: EpisodeStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = str(tmp_path / "local")
    few = ["--preset", "tiny", "--batch-size", "2", "--device", "cpu", "--max-steps"]
    assert main(["train", "local", str(long_store.path), other, *few, "1"]) == 0
    scale = open_checkpoint(tmp_path / "local", "local").normalisation.to_dict()
    assert scale != store.normalisation.to_dict()
    command = ["train", "global", str(store.path), str(tmp_path / "global"), *few]
    assert main([*command, "1", "--scale-from", other]) == 0
    assert open_checkpoint(tmp_path / "global", "global").normalisation.to_dict() == scale
    assert main([*command, "2", "--resume"]) == 2
    assert "on another scale; give --scale-from as it was given" in capsys.readouterr().err
    assert main([*command, "2", "--scale-from", other, "--start-from", other]) == 2
    assert "of no use with --start-from, which brings its own scale" in capsys.readouterr().err
    assert main([*command, "2", "--scale-from", "no_such_world"]) == 2
    assert "no_such_world: no such folder, and no shipped world" in capsys.readouterr().err


def test_the_length_of_windows_is_an_option_and_part_of_the_run(
    long_store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "local"
    few = ["--preset", "tiny", "--batch-size", "2", "--device", "cpu", "--max-steps"]
    command = ["train", "local", str(long_store.path), str(path), *few]
    assert main([*command, "1", "--window", "7"]) == 0
    assert open_checkpoint(path, "local").manifest["window"] == 7
    assert main([*command, "2", "--resume"]) == 2
    assert "window was 7, is 16" in capsys.readouterr().err
    assert main([*command, "1", "--window", "1"]) == 2
    assert "--window 1: expected at least 2 observations" in capsys.readouterr().err
    assert main([*command, "1", "--window", "100000"]) == 2
    assert "100000" in capsys.readouterr().err


def test_time_runs_out_then_a_signal_then_the_end(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "global"
    often = ["--checkpoint-every", "0.1s", "--pictures-every", "0"]
    common = ["train", "global", str(store.path), str(path), *FEW[:-2], *often]
    assert main([*common, "--time-budget", "0.5s"]) == 0
    first = open_checkpoint(path, "global").manifest
    assert first["seconds"] >= 0.5
    assert f"{path}: {first['step']} steps" in capsys.readouterr().out

    command = [sys.executable, "-m", "fog_bringup.cli", *common, "--resume"]
    running = subprocess.Popen(
        [*command, "--time-budget", "2h"], stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
    )
    try:
        end = time.monotonic() + 90
        while open_checkpoint(path, "global").manifest["step"] == first["step"]:
            assert time.monotonic() < end
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130, said
    assert "Traceback" not in said
    second = open_checkpoint(path, "global").manifest
    assert second["step"] > first["step"]
    assert second["seconds"] > first["seconds"]
    assert not path.with_name("global.pictures").exists()


def test_export(store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only weights and the manifest; a second export replaces the first."""
    path, small = tmp_path / "global", tmp_path / "small"
    assert main(["train", "global", str(store.path), str(path), *FEW]) == 0
    capsys.readouterr()
    assert main(["train", "export", str(path), str(small)]) == 0
    assert capsys.readouterr().out.startswith(f"{small / 'ema.safetensors'}: 0.")
    assert sorted(p.name for p in small.iterdir()) == ["ema.safetensors", "manifest.json"]
    assert json.loads((small / "manifest.json").read_text())["exported"]["precision"] == "float16"
    assert main(["train", "export", str(path), str(small), "--precision", "bfloat16"]) == 0
    assert json.loads((small / "manifest.json").read_text())["exported"]["precision"] == "bfloat16"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--pictures-every", "often"], "--pictures-every often: expected a duration such as 90s"),
        (["--checkpoint-every", "1d"], "--checkpoint-every 1d: expected a duration"),
        (
            ["--accumulate", "3"],
            "--batch-size 4: cannot be divided evenly over 1 process(es) and 3",
        ),
        (["--accumulate", "0"], "--batch-size 4: cannot be divided"),
        (["--resume"], "has no manifest.json"),
    ],
)
def test_what_is_refused(
    options: list[str],
    expected: str,
    store: EpisodeStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["train", "global", str(store.path), str(tmp_path / "x"), *FEW, *options]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("fog: ")
    assert expected in said
    assert list(tmp_path.iterdir()) == []
