"""The recordings in datasets/, made over ROS topics, and what the stack makes of them."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from processes import REPOSITORY

from fog_bringup.live_scene import yaw_of
from fog_bringup.tasks import find_task
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_recover import recover_bag
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.import_bags import import_bags
from fog_world_model.data.messages import header_stamp_ns

DATASETS = REPOSITORY / "datasets"
NAMES = ("reach_cube", "push_cube", "pusht", "push_cube_markers")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EpisodeStore]:
    folder = tmp_path_factory.mktemp("datasets")
    return {name: import_bags([DATASETS / name], find_task(name), folder / name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_was_lost(name: str) -> None:
    """What the recorder counted is what a reader finds, topic by topic."""
    task = find_task(name)
    with BagReader(DATASETS / name) as bag:
        account, counts = bag.account, bag.counts
        kinds = bag.topics
    assert account is not None
    image = f"{task.image.topic}/compressed"
    expected = {image: "sensor_msgs/msg/CompressedImage", **task.topics()}
    del expected[task.image.topic]
    assert {topic: kinds[topic] for topic in expected} == expected
    for topic, entry in account.items():
        assert entry["received"] == entry["written"] == counts[topic] > 0
        assert entry["lost"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_step_becomes_part_of_an_episode(name: str, stores: dict[str, EpisodeStore]) -> None:
    """Commands answer pictures at the control rate, so each gives a transition, but for a few.

    Those are the first ones, before driver and recorder have met, and those around a reset.
    """
    store, task = stores[name], find_task(name)
    with BagReader(DATASETS / name) as bag:
        commands = bag.counts[task.action.topic]
    assert 0.9 * commands <= store.transitions <= commands
    assert (np.diff(store.column("stamp_ns"))[:20] == task.period_ns).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "pusht"])
def test_robot_turns_as_it_is_told(name: str, stores: dict[str, EpisodeStore]) -> None:
    """The rate of turn at the end of a step correlates with the command that led to it."""
    store, task = stores[name], find_task(name)
    fields = [f for stream in task.proprioception for f in stream.fields]
    column = fields.index("angular_velocity.z")
    command, turn = [], []
    for number in range(len(store.lengths)):
        episode = store.episode(number)
        command += episode.action[:-1, 2].tolist()
        turn += episode.proprioception[1:, column].tolist()
    assert np.corrcoef(command, turn)[0, 1] > 0.5


def test_rewards_of_reach_cube_belong_to_the_recorded_poses(
    stores: dict[str, EpisodeStore],
) -> None:
    """There is a place for the cube at which every reward of the first two seconds is right.

    The recording does not say where the cube is; its place is searched for on a grid of 2 cm. With
    the rewards of the step before or after, no place fits nearly as well.
    """
    with BagReader(DATASETS / "reach_cube") as bag:
        odometry = {}
        for message in bag.messages(["/odom"]):
            decoded = message.decode()
            odometry[header_stamp_ns(decoded)] = decoded.pose.pose
    store = stores["reach_cube"]
    # A whole episode, which begins before the robot can touch the cube.
    episode = store.episode(int(np.argmax(store.lengths)))
    poses = [odometry[int(stamp)] for stamp in episode.stamp_ns[:12]]
    x = np.array([p.position.x for p in poses])
    y = np.array([p.position.y for p in poses])
    yaw = np.array([yaw_of(*(getattr(p.orientation, k) for k in "xyzw")) for p in poses])
    axis = np.arange(-3.0, 3.0, 0.02)
    cube_x, cube_y = (grid[..., None] for grid in np.meshgrid(axis, axis))
    distance = np.hypot(cube_x - x, cube_y - y)
    bearing = np.arctan2(cube_y - y, cube_x - x) - yaw
    expected = np.exp(-np.maximum(distance - 0.5, 0)) * (1 + np.cos(bearing)) / 2

    def misfit(shift: int) -> float:
        """Largest error at the best place, with r_t compared at step t + 1 + shift."""
        rewards = episode.reward[:10]
        return float(np.abs(expected[..., 1 + shift : 11 + shift] - rewards).max(axis=-1).min())

    assert misfit(0) < 0.01
    assert misfit(0) < 0.4 * min(misfit(-1), misfit(1))


def test_labels_of_markers_have_the_size_of_the_rewards_by_the_simulator(
    stores: dict[str, EpisodeStore],
) -> None:
    """Both recordings show a robot that pushes the same cube to the same post."""
    labelled = stores["push_cube_markers"].column("reward")
    told = stores["push_cube"].column("reward")
    assert np.isfinite(labelled).all() and len(labelled) > 60
    assert 0.3 < labelled.std() / told.std() < 3.0


def test_a_cut_recording_is_recovered(tmp_path: Path) -> None:
    """As after a crash: no metadata.yaml, and the file ends in the middle of a message."""
    source, cut = DATASETS / "reach_cube", tmp_path / "cut"
    shutil.copytree(source, cut)
    (cut / "metadata.yaml").unlink()
    (file,) = cut.glob("*.mcap")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 6 // 10])
    recover_bag(cut, tmp_path / "saved")
    with BagReader(source) as bag:
        whole = [(m.topic, m.log_ns, m.data) for m in bag.messages()]
    with BagReader(tmp_path / "saved") as bag:
        saved = [(m.topic, m.log_ns, m.data) for m in bag.messages()]
    assert 0.5 * len(whole) < len(saved) < len(whole)
    assert saved == whole[: len(saved)], "what came first is what is left"
    task = dataclasses.replace(find_task("reach_cube"))
    store = import_bags([tmp_path / "saved"], task, tmp_path / "store")
    assert store.transitions > 50


def test_pictures_and_states_are_of_one_time(stores: dict[str, EpisodeStore]) -> None:
    """Stamps of steps are stamps of pictures in the bag, in order."""
    with BagReader(DATASETS / "pusht") as bag:
        stamps = {
            header_stamp_ns(m.decode()) for m in bag.messages(["/camera/image_raw/compressed"])
        }
    store = stores["pusht"]
    for number in range(len(store.lengths)):
        mine = store.episode(number).stamp_ns.tolist()
        assert set(mine) <= stamps
        assert all(a < b for a, b in itertools.pairwise(mine))
