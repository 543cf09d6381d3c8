"""Collected bags: what was observed, byte for byte, in whole episodes, however it ended."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from fog_bringup.collect import CollectConfig, Collected, collect
from fog_bringup.drivers import DriverMix, make_driver
from fog_bringup.episode_recording import episode_messages, episode_seed
from fog_bringup.robots import make_robot
from fog_bringup.tasks import find_task
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.import_bags import import_bags
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, load_task

STEPS, EPISODES = 6, 3
MIX = DriverMix(seek=0.0, random=1.0, stand=0.0)


def short(name: str, steps: int = STEPS) -> TaskConfig:
    task = find_task(name)
    return dataclasses.replace(task, episode=dataclasses.replace(task.episode, max_steps=steps))


@pytest.fixture(scope="module")
def task() -> TaskConfig:
    return short("reach_cube")


@pytest.fixture(scope="module")
def collected(task: TaskConfig, tmp_path_factory: pytest.TempPathFactory) -> Collected:
    output = tmp_path_factory.mktemp("collect") / "bag"
    return collect(task, output, CollectConfig(episodes=EPISODES, seed=5, mix=MIX))


def images(bags: tuple[Path, ...]) -> Counter[bytes]:
    """The pictures of some bags, without their stamps."""
    store = get_typestore(Stores.ROS2_KILTED)
    found: Counter[bytes] = Counter()
    for bag in bags:
        with AnyReader([bag], default_typestore=store) as reader:
            wanted = [c for c in reader.connections if c.topic == "/camera/image_raw"]
            for connection, _, data in reader.messages(wanted):
                found[reader.deserialize(data, connection.msgtype).data.tobytes()] += 1
    return found


def test_the_bag_holds_what_was_observed(task: TaskConfig, collected: Collected) -> None:
    assert (collected.episodes, collected.steps) == (EPISODES, EPISODES * STEPS)
    assert not collected.interrupted
    robot, driver = make_robot(task), make_driver(task, MIX)
    expected = defaultdict(list)
    for index in range(EPISODES):
        messages = episode_messages(robot, driver, task, episode_seed(5, index), threading.Event())
        assert messages is not None
        for log_ns, (topic, _, data) in messages:
            expected[topic].append((log_ns, data))
    robot.close()
    found = defaultdict(list)
    with Reader(collected.bags[0]) as reader:
        for connection, log_ns, data in reader.messages():
            found[connection.topic].append((log_ns, bytes(data)))
    assert found == expected


def test_counts(task: TaskConfig, collected: Collected) -> None:
    with BagReader(collected.bags[0]) as bag:
        counts = bag.counts
        bag.require(task.topics())
    pictures = EPISODES * (2 * STEPS + 1)  # 10 Hz under 5 Hz control, and the last observation
    assert counts["/camera/image_raw"] == counts["/camera/camera_info"] == pictures
    assert counts["/task/reward"] == counts["/task/end"] == counts["/task/episode"] == pictures
    assert counts["/joint_states"] == counts["/imu/data"] == EPISODES * (10 * STEPS + 1)
    assert counts["/cmd_vel"] == EPISODES * STEPS


def test_bag_carries_its_task(task: TaskConfig, collected: Collected) -> None:
    metadata = yaml.safe_load((collected.bags[0] / "metadata.yaml").read_text())
    custom = metadata["rosbag2_bagfile_information"]["custom_data"]
    path = collected.bags[0].parent / "task.yaml"
    path.write_text(custom["fog_task"])
    assert load_task(path).hash == custom["fog_task_hash"] == task.hash
    assert json.loads(custom["fog_collect"])["seed"] == 5
    assert not list(collected.bags[0].parent.glob("*.part"))


def test_episodes_come_out_as_they_were_driven(task: TaskConfig, collected: Collected) -> None:
    """Actions lie in the step that they were commanded in, rewards in the one that earned them."""
    store = import_bags(list(collected.bags), task, collected.bags[0].parent / "episodes")
    robot, driver = make_robot(task), make_driver(task, MIX)
    assert len(store.lengths) == EPISODES
    for index in range(EPISODES):
        seed = episode_seed(5, index)
        robot.reset(seed)
        driver.reset(seed)
        episode = store.episode(index)
        assert len(episode.reward) == STEPS + 1
        for step in range(STEPS):
            command = driver.command(robot.observe(image=False))
            np.testing.assert_allclose(
                episode.action[step], task.action.to_normalised(command), atol=1e-6
            )
            for _ in range(10):
                robot.step(command)
            after = robot.observe(image=False)
            assert episode.reward[step] == pytest.approx(after.reward, rel=1e-5)
            assert not episode.end[step]
            np.testing.assert_allclose(
                episode.proprioception[step + 1, :12], after.joint_position, atol=1e-5
            )
    robot.close()


def test_two_workers_record_the_same_episodes(
    task: TaskConfig, collected: Collected, tmp_path: Path
) -> None:
    config = CollectConfig(episodes=EPISODES, seed=5, mix=MIX, workers=2)
    reports: list[int] = []
    both = collect(
        task, tmp_path / "bags", config, progress=lambda _, done, total: reports.append(done)
    )
    assert [bag.name for bag in both.bags] == ["bag_0", "bag_1"]
    assert (both.episodes, both.steps) == (EPISODES, EPISODES * STEPS)
    assert sorted(reports) == [STEPS, 2 * STEPS, 3 * STEPS]
    assert images(both.bags) == images(collected.bags)
    assert [p.name for p in tmp_path.iterdir()] == ["bags"]


def test_what_is_varied_is_drawn_for_every_episode(
    task: TaskConfig, collected: Collected, tmp_path: Path
) -> None:
    """As an evaluation draws it: from the episode's seed, and the start stays where it was."""
    config = CollectConfig(episodes=EPISODES, seed=5, mix=MIX, vary=("light", "friction"))
    varied = collect(task, tmp_path / "bag", config)
    assert not images(varied.bags).keys() & images(collected.bags).keys()
    robot = make_robot(task, vary=config.vary, camera_hz=10.0)
    conditions = []
    for index in range(EPISODES):
        robot.reset(episode_seed(5, index))
        conditions.append(dict(robot.conditions))
        first = robot.observe().image
        assert first is not None and images(varied.bags)[first.tobytes()]
    robot.close()
    assert len({c["light_factor"] for c in conditions}) == EPISODES
    with BagReader(varied.bags[0]) as reader, BagReader(collected.bags[0]) as plain:
        assert json.loads(reader.custom["fog_collect"])["vary"] == ["light", "friction"]
        topic = "/sim/cube_pose"
        starts = [next(iter(bag.messages([topic]))).data[12:] for bag in (reader, plain)]
    assert starts[0] == starts[1]


def test_steps_and_seconds_finish_their_episodes(tmp_path: Path) -> None:
    task = short("pusht")
    by_steps = collect(task, tmp_path / "a", CollectConfig(steps=STEPS + 1))
    assert (by_steps.episodes, by_steps.steps) == (2, 2 * STEPS)
    by_seconds = collect(task, tmp_path / "b", CollectConfig(seconds=STEPS / 5))
    assert (by_seconds.episodes, by_seconds.steps) == (1, STEPS)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CollectConfig(), "one of episodes, steps and seconds"),
        (CollectConfig(episodes=1, steps=1), "one of episodes, steps and seconds"),
        (CollectConfig(steps=0), "greater than zero"),
        (CollectConfig(steps=5, workers=0), "workers"),
        (CollectConfig(steps=5, camera_hz=3.0), "camera_hz"),
        (
            CollectConfig(steps=5, vary=("latency",)),
            r"latency cannot be varied here.*parameter vary",
        ),
        (CollectConfig(steps=5, vary=("light",)), r"scene .* cannot be varied"),
        (CollectConfig(steps=5, workers=2, camera_hz=3.0), "camera_hz"),
    ],
)
def test_impossible_options(config: CollectConfig, message: str, tmp_path: Path) -> None:
    with pytest.raises(FogError, match=message):
        collect(short("pusht"), tmp_path / "bag", config)
    assert not (tmp_path / "bag").exists()


def test_control_rate_must_fit_the_robot(tmp_path: Path) -> None:
    task = dataclasses.replace(short("pusht"), control_hz=4.0)
    with pytest.raises(FogError, match=r"control_hz 4\.0 does not divide"):
        collect(task, tmp_path / "bag", CollectConfig(episodes=1))


def test_existing_output_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "precious").write_text("data")
    with pytest.raises(FogError, match="exists already"):
        collect(short("pusht"), tmp_path / "bag", CollectConfig(episodes=1))
    assert (tmp_path / "bag" / "precious").read_text() == "data"


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_it_keeps_whole_episodes(workers: int, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import dataclasses, sys\n"
        "from fog_bringup.collect import CollectConfig, collect\n"
        "from fog_bringup.tasks import find_task\n"
        "if __name__ == '__main__':\n"
        "    task = find_task('pusht')\n"
        "    episode = dataclasses.replace(task.episode, max_steps=15)\n"
        "    task = dataclasses.replace(task, episode=episode)\n"
        "    config = CollectConfig(steps=10**6, workers=int(sys.argv[2]))\n"
        "    report = lambda _, done, total: print('done', done, flush=True)\n"
        "    result = collect(task, sys.argv[1], config, progress=report)\n"
        "    print('result', result.interrupted, result.episodes, result.steps, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "bag"), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]  # three episodes are written
    assert all(line.startswith("done") for line in lines)
    time.sleep(0.3)  # somewhere in the middle of the next
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    interrupted, episodes, steps = rest.strip().splitlines()[-1].split()[1:]
    assert interrupted == "True"
    assert int(episodes) >= 3
    task = find_task("pusht")
    bags = sorted((tmp_path / "bag").glob("bag_*")) if workers == 2 else [tmp_path / "bag"]
    counted = 0
    for path in bags:
        with BagReader(path) as bag:
            bag.require(task.topics())
            counted += bag.counts["/cmd_vel"]
            # each episode ends with an observation that has no command
            last = list(bag.messages(["/camera/image_raw", "/cmd_vel"]))[-1]
            assert last.topic == "/camera/image_raw"
    assert counted == int(steps)
    assert not list(tmp_path.rglob("*.part"))


def test_stopped_before_the_first_episode_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    stopped.set()
    monkeypatch.setattr("fog_bringup.collect.threading.Event", lambda: stopped)
    with pytest.raises(KeyboardInterrupt):
        collect(short("pusht"), tmp_path / "bag", CollectConfig(episodes=2))
    assert not list(tmp_path.iterdir())
