"""From bags to stores with rewards that no topic carries, against those of the simulators."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fog_bringup.collect import CollectConfig, collect
from fog_bringup.drivers import DriverMix
from fog_bringup.tasks import find_task
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.import_bags import import_bags
from fog_world_model.data.messages import header_stamp_ns
from fog_world_model.task import EpisodeConfig, TaskConfig


def true_rewards(bag_path: Path, task: TaskConfig) -> dict[int, float]:
    """Stamp of a picture -> the simulator's reward, which is recorded just before it."""
    found, newest = {}, np.nan
    with BagReader(bag_path) as bag:
        for message in bag.messages(["/task/reward", task.image.topic]):
            decoded = message.decode()
            if message.topic == task.image.topic:
                found[header_stamp_ns(decoded)] = newest
            else:
                newest = float(decoded.data)
    return found


@pytest.mark.parametrize(
    ("name", "steps", "mean_error"), [("push_cube_markers", 40, 0.02), ("pusht_image", 60, 0.005)]
)
def test_import_labels_what_the_task_has_no_topic_for(
    tmp_path: Path, name: str, steps: int, mean_error: float
) -> None:
    task = dataclasses.replace(find_task(name), episode=EpisodeConfig(max_steps=steps))
    assert task.reward is None and "/task/reward" not in task.topics()
    config = CollectConfig(episodes=2, seed=3, mix=DriverMix(seek=1.0, random=0.0, stand=0.0))
    collect(task, tmp_path / "bag", config)
    store = import_bags([tmp_path / "bag"], task, tmp_path / "store")
    truth = true_rewards(tmp_path / "bag", task)
    assert len(truth) >= 2 * 2 * steps  # two pictures for each control step
    labelled, true = [], []
    for number in range(len(store.lengths)):
        episode = store.episode(number)
        assert np.isfinite(episode.reward).all()
        labelled += episode.reward[:-1].tolist()
        true += [truth[int(stamp)] for stamp in episode.stamp_ns[1:]]
        assert episode.image.shape[1:] == (task.image.height, task.image.width, 3)
    assert len(labelled) > 1.2 * steps  # of the two episodes together, hardly anything is unknown
    error = np.abs(np.array(labelled) - true)
    assert error.mean() < mean_error
    assert np.corrcoef(labelled, true)[0, 1] > 0.98
