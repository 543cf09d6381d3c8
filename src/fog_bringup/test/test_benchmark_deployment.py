"""The benchmark of the deployment: what it deploys, what it reports, one JSON object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fog_bringup.benchmarks.benchmark_policy import (
    camera_rate,
    make_policy,
    robot_task,
    step_times,
    write_untrained,
)
from fog_bringup.benchmarks.deployment import measure, phase_spread_s
from fog_bringup.benchmarks.deployment_picture import draw_runs, percentiles_over_time
from fog_bringup.benchmarks.one_core import one_core
from fog_bringup.report_theme import LIGHT, png
from fog_bringup.robots import make_robot
from fog_bringup.tasks import find_task
from fog_policy.bundle import load_bundle
from fog_world_model.errors import FogError
from fog_world_model.task import task_from_dict


@pytest.mark.parametrize(
    ("control_hz", "expected"), [(5, 10), (10, 10), (20, 25), (12, 12.5), (50, 50)]
)
def test_the_camera_is_not_slower_than_the_policy(control_hz: float, expected: float) -> None:
    assert camera_rate(control_hz) == expected
    task = robot_task(find_task("reach_cube"), "synthetic")
    assert make_robot(task, camera_hz=camera_rate(control_hz)).camera_ns == round(1e9 / expected)


def test_no_camera_is_fast_enough_for_more() -> None:
    with pytest.raises(FogError, match="the robot steps at 50 Hz"):
        camera_rate(60)


def test_an_untrained_policy_goes_round_in_a_circle_within_the_arena(tmp_path: Path) -> None:
    task = find_task("reach_cube")
    write_untrained(task, tmp_path / "bundle", "tiny")
    controller = load_bundle(tmp_path / "bundle").controller()
    image = np.zeros((task.image.height, task.image.width, 3), np.uint8)
    action = controller.act(image, np.zeros(task.proprioception_size), np.zeros(3))
    forward, _, turn = task.action.to_physical(action)
    assert forward > 0.05
    assert 0.1 < forward / turn < 1.0, "radius of the circle, m"


def test_a_bundle_runs_at_another_rate_with_its_own_weights(tmp_path: Path) -> None:
    task = find_task("reach_cube")
    bundle = write_untrained(task, tmp_path / "bundle", "tiny")
    same = make_policy(tmp_path / "bundle", tmp_path / "unused", control_hz=5.0)
    assert same.path == tmp_path / "bundle" and not (tmp_path / "unused").exists()
    faster = make_policy(tmp_path / "bundle", tmp_path / "faster", control_hz=20.0)
    assert faster.task.control_hz == 20.0 and faster.task.hash != task.hash
    assert "5 Hz" in faster.about
    image = np.full((task.image.height, task.image.width, 3), 99, np.uint8)
    inputs = (image, np.ones(task.proprioception_size), np.zeros(3))
    actions = [b.controller().act(*inputs) for b in (bundle, load_bundle(faster.path))]
    assert np.array_equal(*actions)


def test_a_task_with_a_switch_that_nobody_holds_is_refused(tmp_path: Path) -> None:
    content = find_task("reach_cube").to_dict()
    content["safety"]["deadman_topic"] = "/joy"
    write_untrained(task_from_dict(content), tmp_path / "bundle", "tiny")
    with pytest.raises(FogError, match=r"asks for safety.deadman_topic, which no simulated"):
        make_policy(tmp_path / "bundle", tmp_path / "other")


def test_both_backends_are_timed(tmp_path: Path) -> None:
    write_untrained(find_task("reach_cube"), tmp_path / "bundle", "tiny")
    times = step_times(tmp_path / "bundle")
    assert set(times) == {"torch", "onnx"}
    for found in times.values():
        assert 0 < found["p50"] <= found["p99"] <= found["max"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_one_core_is_one_core_and_only_for_a_while() -> None:
    before = os.sched_getaffinity(0)
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_percentiles_over_time_are_of_their_own_part() -> None:
    values = np.repeat([1.0, 5.0], 100)
    values[150] = 50.0
    at, p50, p99 = percentiles_over_time(np.arange(200.0), values)
    assert len(at) == 10 and at[0] == pytest.approx(9.5)
    assert p50.tolist() == [1.0] * 5 + [5.0] * 5
    assert p99[:5].tolist() == [1.0] * 5 and p99[7] > 30.0


def test_the_picture_can_do_without_a_single_latency() -> None:
    run = {
        "declared_hz": 5.0, "achieved_hz": None, "missed": 0, "camera_period_ms": 100.0,
        "jitter_ms": {"p99": None}, "rss_mb_start": 400.0, "rss_mb_end": 401.0,
    }  # fmt: skip
    empty = {
        "latency_ms": [],
        "image_age_ms": [],
        "interval_ms": [],
        "memory_s": [0, 1],
        "memory_mb": [400, 401],
    }
    full = {
        **empty,
        "latency_ms": [30.0, 31.0],
        "image_age_ms": [20.0, 21.0],
        "interval_ms": [200.0, 201.0],
    }
    drawn = png(lambda theme: draw_runs([run, run], [empty, full], theme), LIGHT)
    assert drawn.startswith(b"\x89PNG")


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FogError, match="--minutes and --rates"):
        measure(None, minutes=0.0, rates=(5.0,))
    with pytest.raises(FogError, match="no such folder"):
        measure(tmp_path / "none", minutes=0.1, rates=(5.0,))


@pytest.mark.parametrize(
    ("control_hz", "camera_hz", "ages_ms"),
    [
        (5.0, 10.0, [0.0]),
        (20.0, 25.0, [0.0, 10.0, 20.0, 30.0]),
        (12.0, 12.5, [10 * k / 3 for k in range(24)]),
        (20.0, 20.0, [0.0]),
        (25.0, 10.0, [0.0, 20.0, 40.0, 60.0, 80.0]),
    ],
)
def test_the_ages_of_images_at_ticks_by_counting(
    control_hz: float, camera_hz: float, ages_ms: list[float]
) -> None:
    # Of ticks and images that begin together, 0.001 ms after it.
    found = {round((1e3 * k / control_hz + 1e-3) % (1e3 / camera_hz), 2) for k in range(1000)}
    assert sorted(found) == pytest.approx(ages_ms, abs=0.02)
    assert 1e3 * phase_spread_s(control_hz, camera_hz) == pytest.approx(max(ages_ms))


@pytest.mark.slow
def test_one_json_object_with_what_was_measured(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-m", "fog_bringup.cli", "benchmark", "deployment", "--json"]
    command += ["--minutes", "0.1", "--rates", "20", "--robot", "synthetic"]
    result = subprocess.run(
        ["timeout", "-k", "10", "300", *command, "--picture", str(picture)],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert "untrained" in found["policy"]
    (run,) = found["runs"]
    assert run["declared_hz"] == 20.0 and run["image"] == [64, 64]
    assert run["commands"] > 5 and run["achieved_hz"] > 0
    assert set(run["latency_ms"]) == set(run["jitter_ms"]) == {"p50", "p99", "max"}
    assert run["camera_period_ms"] == pytest.approx(40.0)
    assert run["beyond_camera_ms"] == pytest.approx(run["latency_ms"]["p99"] - 40.0)
    assert 50 < run["rss_mb_start"] <= run["rss_mb_max"] < 5000
    assert run["image_age_ms"]["p50"] <= run["latency_ms"]["p50"]
    assert run["phase_spread_ms"] == pytest.approx(30.0)
    assert run["long_intervals"] >= 0 and run["waits"] >= 0
    assert run["missed"] >= 0 and run["rss_mb_end"] > 50
    assert run["robot"]["kind"] == "synthetic" and run["robot"]["camera_hz"] == 25.0
    assert picture.read_bytes().startswith(b"\x89PNG")
