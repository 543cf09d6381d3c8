"""Closed-loop episodes over real topics, compared with the same commands given without ROS."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_bundle import write_toy_bundle

from fog_bringup.closed_loop import episode_record, evaluate_over_ros, evaluate_without_ros
from fog_bringup.robots import Observation
from fog_bringup.success import criterion_of, judge
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError
from fog_world_model.task import EpisodeConfig, TaskConfig

SEEDS = [11, 12]
STEPS = 15


@pytest.fixture(scope="module")
def short(task: TaskConfig) -> TaskConfig:
    """The demo's task with episodes of three seconds."""
    return replace(task, episode=EpisodeConfig(max_steps=STEPS))


def children() -> list[str]:
    """Nodes that this process has started and that still run."""
    command = ["ps", "--ppid", str(os.getpid()), "-o", "args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line for line in listed.splitlines() if "--ros-args" in line]


def test_the_policy_s_episodes_are_those_of_the_same_commands_without_ros(
    short: TaskConfig, tmp_path: Path
) -> None:
    action = (0.5, 0.0, 0.8)
    bundle = write_toy_bundle(short, tmp_path / "bundle", action)
    reports: list[tuple[str, int, int]] = []
    record = evaluate_over_ros(
        short,
        bundle,
        SEEDS,
        output=tmp_path / "out" / "policy.json",
        progress=lambda text, done, total: reports.append((text, done, total)),
        policy_report=tmp_path / "control.json",
    )
    assert not children(), "every node has ended"
    assert json.loads((tmp_path / "out" / "policy.json").read_text()) == record
    assert [done for _, done, _ in reports][-1] == len(SEEDS)
    assert (tmp_path / "control.json").exists()
    assert record["task_hash"] == short.hash

    command = short.action.to_physical(action)
    direct = evaluate_without_ros(short, lambda observation: command, SEEDS)
    for live, told in zip(record["episodes"], direct["episodes"], strict=True):
        assert live["seed"] == told["seed"]
        assert len(live["rewards"]) == len(told["rewards"]) == STEPS
        assert len(live["base"]) == len(live["cube"]) == STEPS + 1
        assert live["base"][0] == pytest.approx(told["base"][0], abs=0.03), "the same start"
        assert live["cube"][0] == pytest.approx(told["cube"][0], abs=0.01)
        assert live["commands"] >= 0.7 * STEPS
        # Commands reach the robot some 50 ms later over topics: a tenth of a turn in all.
        turned = np.unwrap([pose[2] for pose in live["base"]])
        expected = np.unwrap([pose[2] for pose in told["base"]])
        assert turned[-1] - turned[0] > 1.2
        assert np.abs(turned - expected).max() < 0.6
        assert live["return"] == pytest.approx(sum(live["rewards"]))
        assert live["stopped"]["steps"] <= 3, "at most until the first pictures after the reset"


def test_steps_in_which_the_safety_filter_holds_the_robot_are_counted(
    short: TaskConfig, tmp_path: Path
) -> None:
    """A walking robot always tilts a little: by more than this task allows."""
    strict = replace(short, safety=replace(short.safety, max_tilt_rad=1e-5, fall_tilt_rad=0.0))
    bundle = write_toy_bundle(strict, tmp_path / "bundle", (0.5, 0.0, 0.0))
    record = evaluate_over_ros(strict, bundle, SEEDS[:1], output=tmp_path / "policy.json")
    (episode,) = record["episodes"]
    assert episode["stopped"]["steps"] >= STEPS - 2
    assert episode["stopped"]["causes"]["tilt"] == episode["stopped"]["steps"]


def test_real_time_needs_no_simulated_clock(short: TaskConfig, tmp_path: Path) -> None:
    bundle = write_toy_bundle(short, tmp_path / "bundle", (0.5, 0.0, 0.0))
    begin = time.time()
    record = evaluate_over_ros(
        short,
        bundle,
        SEEDS[:1],
        output=tmp_path / "policy.json",
        real_time=True,
        policy_report=tmp_path / "control.json",
    )
    assert time.time() - begin > STEPS / short.control_hz
    (episode,) = record["episodes"]
    assert len(episode["base"]) == STEPS + 1 or episode["end"]
    control = json.loads((tmp_path / "control.json").read_text())
    assert 0 < control["latency_ms"]["p50"] < 1000, "both stamps come from the wall clock"


def test_a_bundle_that_does_not_load_is_named_and_nothing_is_left_running(
    short: TaskConfig, tmp_path: Path
) -> None:
    bundle, output = tmp_path / "bundle", tmp_path / "policy.json"
    with pytest.raises(FogError, match="no such folder"):
        evaluate_over_ros(short, bundle, [1], output=output)
    bundle.mkdir()
    with pytest.raises(FogError, match="refuses to configure") as failure:
        evaluate_over_ros(short, bundle, [1], output=output)
    assert str(bundle) in str(failure.value), "what policy_node said is passed on"
    assert not children()
    assert not output.exists()


def test_baselines_repeat_and_start_from_the_same_states(short: TaskConfig) -> None:
    random = evaluate_without_ros(short, "random", SEEDS)
    again = evaluate_without_ros(short, "random", SEEDS[::-1])
    standing = evaluate_without_ros(short, "standing", SEEDS)
    for episode, other, still in zip(
        random["episodes"], again["episodes"][::-1], standing["episodes"], strict=True
    ):
        assert episode["rewards"] == pytest.approx(other["rewards"], abs=0.05)
        assert episode["base"][0] == pytest.approx(still["base"][0], abs=1e-6)
        travelled = np.linalg.norm(np.diff(np.array(episode["base"])[:, :2], axis=0), axis=1).sum()
        stood = np.linalg.norm(np.diff(np.array(still["base"])[:, :2], axis=0), axis=1).sum()
        assert travelled > 3 * stood


def test_an_unknown_controller_is_refused(short: TaskConfig) -> None:
    with pytest.raises(FogError, match="random, standing, operator or a function"):
        evaluate_without_ros(short, "clever", [1])


def test_the_operator_begins_every_episode_anew() -> None:
    task = find_task("reach_cube")
    both = evaluate_without_ros(task, "operator", [1, 2])["episodes"]
    alone = evaluate_without_ros(task, "operator", [2])["episodes"][0]
    criterion = criterion_of(task)
    assert criterion is not None
    assert all(judge(criterion, episode, task.control_hz).success for episode in both)
    # A noise drawn otherwise would take the robot elsewhere within two seconds.
    np.testing.assert_allclose(alone["base"][:10], both[1]["base"][:10], atol=0.02)


def observed(reward: float, *, end: bool = False) -> Observation:
    zero = np.zeros(3)
    return Observation(
        stamp_ns=1,
        image=None,
        position=np.array([1.0, 2.0, 0.3]),
        orientation=np.array([0.0, 0.0, np.sin(0.25), np.cos(0.25)]),
        linear_velocity=zero,
        angular_velocity=zero,
        linear_acceleration=zero,
        reward=reward,
        end=end,
        episode=0,
        objects={"goal": (2.0, 0.0, 0.0), "block": (0.5, 0.25, 0.125)},
    )


def test_rewards_belong_to_transitions_and_are_zero_after_an_end(short: TaskConfig) -> None:
    seen = [observed(9.0), observed(0.5), observed(0.25, end=True)]
    record = episode_record(short, 5, seen, commands=2)
    assert record["rewards"] == [0.5, 0.25, *[0.0] * (STEPS - 2)]
    assert record["return"] == 0.75
    assert record["end"] is True
    assert record["base"] == [pytest.approx([1.0, 2.0, 0.5])] * 3
    assert record["cube"] == [[0.5, 0.25, 0.125]] * 3
    assert record["goal"] == [2.0, 0.0, 0.0]
