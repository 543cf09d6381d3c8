"""Zero-shot episodes: does the batch do what the deployed control loop does, and count rightly?"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from fog_bringup.robots import make_robot
from fog_bringup.robots.pusht import PushTRobot
from fog_bringup.robots.streams import observation_messages
from fog_bringup.tasks import find_task
from fog_bringup.zero_shot import (
    FIRST_SEED,
    ZeroShot,
    coverage_figures,
    evaluate_baseline,
    evaluate_policy,
)
from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.control_loop import ControlLoop
from fog_policy.recurrent_controller import TorchController
from fog_world_model.data.episodes import Normalisation
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import PRESETS, LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig

torch.set_num_threads(1)
NORMALISATION = Normalisation.from_dict({"mean": [0.25, 0.2], "std": [0.1, 0.15]})


@pytest.fixture(scope="module")
def task() -> TaskConfig:
    """Short episodes, and a slew rate that bites."""
    task = find_task("pusht_easy")
    return dataclasses.replace(
        task,
        episode=dataclasses.replace(task.episode, max_steps=9),
        safety=dataclasses.replace(task.safety, slew_per_s=(0.3, 2.4)),
    )


def networks(task: TaskConfig, seed: int = 0) -> tuple[LocalModel, Actor]:
    """Untrained, but with an actor that answers to what it is shown, and strongly."""
    torch.manual_seed(seed)
    local = LocalModel(LocalModelConfig(**task.sizes, **PRESETS["tiny"]))
    actor = Actor(ActorCriticConfig(features=local.features_size, action_size=2, hidden=32))
    last = actor.body[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.mul_(60.0)
        last.bias.copy_(torch.tensor([0.7, -0.4, 0.0, 0.0]))
    return local, actor


def deployed(task: TaskConfig, local: LocalModel, actor: Actor, seed: int) -> np.ndarray:
    """One episode under the control loop of the policy node: commands and coverage by step."""
    robot = make_robot(task)
    assert isinstance(robot, PushTRobot)
    loop = ControlLoop(task, TorchController(local, actor, NORMALISATION, task))
    robot.reset(seed)
    rows = []
    for _ in range(task.episode.max_steps):
        observation = robot.observe()
        for topic, _, data in observation_messages(robot, observation):
            if topic in loop.topics():
                loop.receive(topic, data, observation.stamp_ns)
        decision = loop.tick(observation.stamp_ns)
        assert not decision.verdict.stops
        for _ in range(task.period_ns // robot.step_ns):
            robot.step(decision.command)
        rows.append([*decision.command, robot.coverage])
    robot.close()
    return np.array(rows)


def test_a_batch_commands_what_the_deployed_loop_commands(
    task: TaskConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a last group that is smaller than the others."""
    local, actor = networks(task)
    seeds = [FIRST_SEED + i for i in (0, 5, 9, 2, 7)]
    commands: list[np.ndarray] = []
    step = PushTRobot.step

    def spy(robot: PushTRobot, command: np.ndarray) -> None:
        commands.append(np.array(command))
        step(robot, command)

    expected = [deployed(task, local, actor, seed) for seed in seeds]
    with monkeypatch.context() as patch:
        patch.setattr(PushTRobot, "step", spy)
        found = evaluate_policy(task, local, actor, NORMALISATION, seeds, robots=3, filmed=2)
    # One after the other: robots of a group within a step; two robot steps to a control step.
    first = np.array(commands[: 9 * 3 * 2]).reshape(9, 3, 2, 2)
    second = np.array(commands[9 * 3 * 2 :]).reshape(9, 2, 2, 2)
    given = [*first.transpose(1, 0, 2, 3), *second.transpose(1, 0, 2, 3)]
    for mine, theirs, coverage in zip(given, expected, found.coverage, strict=True):
        np.testing.assert_array_equal(mine[:, 0], mine[:, 1])
        np.testing.assert_allclose(mine[:, 0], theirs[:, :2], atol=2e-5)
        np.testing.assert_allclose(coverage[1:], theirs[:, 2], atol=1e-4)
    # The comparison is of something: commands differ, and the slew rate has cut the first ones.
    assert np.std([g[:, 0] for g in given], axis=(0, 1)).min() > 0.01
    assert np.abs(np.array(given)[:, 0, 0, 0]).max() == pytest.approx(0.3 / 5.0)
    assert [f.shape for f in found.frames] == [(10, 96, 96, 3)] * 2
    assert [len(c) for c in found.coverage] == [10] * 5


def test_evaluation_leaves_the_learner_alone(task: TaskConfig) -> None:
    local, actor = networks(task)
    local.train()
    before = torch.get_rng_state()
    again = [evaluate_policy(task, local, actor, NORMALISATION, [FIRST_SEED]) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert local.training
    assert again[0].coverage == again[1].coverage


def test_an_end_ends_an_episode(task: TaskConfig) -> None:
    task = dataclasses.replace(task, options={**task.options, "solved_coverage": 0.06})
    local, actor = networks(task)
    found = evaluate_policy(task, local, actor, NORMALISATION, [FIRST_SEED, FIRST_SEED + 1])
    assert [len(c) for c in found.coverage] == [1, 1], "solved from the start"
    assert [len(f) for f in found.frames] == [1, 1]


def test_baselines() -> None:
    task = find_task("pusht_easy")
    seeds = range(FIRST_SEED, FIRST_SEED + 8)
    driver, random, standing = (
        evaluate_baseline(task, name, seeds, filmed=0) for name in ("driver", "random", "standing")
    )
    assert np.mean(driver.max_coverage) > np.mean(random.max_coverage) + 0.2
    assert all(len(set(steps)) == 1 for steps in standing.coverage)
    assert [c[0] for c in driver.coverage] == [c[0] for c in standing.coverage], "same starts"
    assert driver.frames == ()
    again = evaluate_baseline(task, "random", seeds[3:4])
    assert again.coverage[0] == random.coverage[3], "an episode depends on its seed alone"
    assert len(again.frames) == 1


def test_interruption(task: TaskConfig) -> None:
    local, actor = networks(task)
    with pytest.raises(KeyboardInterrupt):
        evaluate_policy(task, local, actor, NORMALISATION, [1], stopped=lambda: True)


def test_other_robots_are_refused() -> None:
    with pytest.raises(FogError, match=r"robot is go2.*coverage of Push-T"):
        evaluate_baseline(find_task("reach_cube"), "standing", [1])


def test_figures_by_hand() -> None:
    found = ZeroShot((1, 2, 3, 4), ((0.1, 0.96, 0.5), (0.2,), (0.8, 0.7), (0.3, 0.4)), ())
    assert found.max_coverage == [0.96, 0.2, 0.8, 0.4]
    figures = found.figures()
    assert figures["success_95"] == 0.25
    assert figures["success_80"] == 0.5
    assert figures["mean_max_coverage"] == pytest.approx(0.59)
    assert 0.2 < figures["low"] < 0.59 < figures["high"] < 0.96
    assert math.isclose(coverage_figures([1.0, 1.0])["success_95_low"], 1 / (1 + 1.959964**2 / 2))
