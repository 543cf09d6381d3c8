"""A policy as a driver: is what is recorded what it commands, and does it know of the noise?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from fog_bringup import policy_driver
from fog_bringup.benchmarks.benchmark_policy import write_untrained
from fog_bringup.collect import CollectConfig, collect
from fog_bringup.drivers import DriverMix, make_driver
from fog_bringup.episode_recording import episode_messages
from fog_bringup.robots import make_robot
from fog_bringup.tasks import find_task
from fog_policy.batched_controller import BatchedController
from fog_policy.bundle import load_bundle
from fog_policy.command_limits import Command
from fog_policy.recurrent_controller import TorchController
from fog_world_model.data.import_bags import import_bags
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


@pytest.fixture(scope="module")
def task() -> TaskConfig:
    task = find_task("pusht_easy")
    return dataclasses.replace(task, episode=dataclasses.replace(task.episode, max_steps=8))


@pytest.fixture(scope="module")
def bundle(task: TaskConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "bundle"
    write_untrained(task, folder, "tiny")
    return folder


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_it_answers_to_what_the_robot_was_really_told(
    task: TaskConfig, bundle: Path, level: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_driver, "NOISE_LEVELS", (level, level))
    proposed = []
    tick = BatchedController.tick

    def spy(batch: BatchedController) -> list[Command]:
        proposed.append(task.action.to_normalised(tick(batch)[0]))
        return [task.action.to_physical(proposed[-1])]

    monkeypatch.setattr(BatchedController, "tick", spy)
    mix = DriverMix(0.0, 0.0, 0.0, policy=1.0, bundle=str(bundle))
    collected = collect(task, tmp_path / "bag", CollectConfig(episodes=2, seed=4, mix=mix))
    store = import_bags(list(collected.bags), task, tmp_path / "episodes")
    loaded = load_bundle(bundle, task)
    local, actor = loaded.networks()
    controller = TorchController(local, actor, loaded.checkpoint.normalisation, task)
    off, unaware = [], []
    for index in range(2):
        episode = store.episode(index)
        controller.reset()
        before = alone = np.zeros(2, np.float32)
        other = TorchController(local, actor, loaded.checkpoint.normalisation, task)
        for step in range(8):
            seen = episode.image[step], episode.proprioception[step]
            answer = controller.act(*seen, before)
            np.testing.assert_allclose(proposed[8 * index + step], answer, atol=2e-5)
            alone = other.act(*seen, alone)
            off.append(episode.action[step] - answer)
            unaware.append(np.abs(alone - answer).max())
            before = episode.action[step]
    if level == 0.0:
        np.testing.assert_allclose(off, 0.0, atol=2e-5)
    else:
        # Half the range is 1 in these units: noise of that standard deviation, rarely cut off.
        assert 0.15 < np.std(off) < 0.6
        assert max(unaware) > 1e-4, "what it was told makes no difference here"


def test_equal_seeds_give_equal_episodes(task: TaskConfig, bundle: Path) -> None:
    robot = make_robot(task)
    mix = DriverMix(0.5, 0.0, 0.0, policy=0.5, bundle=str(bundle))
    driver = make_driver(task, mix, robot)
    modes, first = set(), {}
    for seed in (1, 2, 3, 4, 5, 6, 1, 2):
        messages = episode_messages(robot, driver, task, seed, threading.Event())
        assert messages is not None
        commands = [data for _, (topic, _, data) in messages if topic == task.action.topic]
        modes.add(driver.mode)
        assert first.setdefault(seed, commands) == commands
    robot.close()
    assert modes == {"seek", "policy"}


def test_what_the_user_can_put_right(task: TaskConfig, bundle: Path) -> None:
    with pytest.raises(FogError, match=r"a share of 0\.5 for a policy, but no bundle"):
        DriverMix(policy=0.5).probabilities()
    robot = make_robot(task)
    mix = DriverMix(policy=0.5, bundle="/no/bundle")
    with pytest.raises(FogError, match="bundle /no/bundle: no such folder"):
        make_driver(task, mix, robot)
    other = dataclasses.replace(task, name="another")
    with pytest.raises(FogError, match="another"):
        make_driver(other, dataclasses.replace(mix, bundle=str(bundle)), robot)
    robot.close()
    with pytest.raises(FogError, match=r"a share of 0\.5 for a policy, but no robot whose pict"):
        make_driver(task, dataclasses.replace(mix, bundle=str(bundle)))


def test_the_bag_names_the_bundle_by_its_weights(
    task: TaskConfig, bundle: Path, tmp_path: Path
) -> None:
    """The same wherever it lies, and nothing of where that is."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(bundle, moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    (moved / "manifest.json").write_text(json.dumps({**manifest, "method": "fog"}))
    mix = DriverMix(0.0, 0.0, 0.0, policy=1.0, bundle=str(moved))
    for name, chosen in (("bag", mix), ("plain", DriverMix())):
        collect(task, tmp_path / name, CollectConfig(episodes=1, mix=chosen))
    texts = [(tmp_path / name / "metadata.yaml").read_text() for name in ("bag", "plain")]
    information = [yaml.safe_load(text)["rosbag2_bagfile_information"] for text in texts]
    found, other = (json.loads(i["custom_data"]["fog_collect"])["mix"] for i in information)
    sha256 = hashlib.sha256((bundle / "weights.safetensors").read_bytes()).hexdigest()
    assert found["bundle"] == {"method": "fog", "weights_sha256": sha256}
    assert (found["policy"], other["policy"], other["bundle"]) == (1.0, 0.0, {})
    assert str(tmp_path) not in texts[0]
