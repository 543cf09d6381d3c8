"""Imports over time: again, with more bags, in processes, killed, interrupted, of large bags."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from recorded_drive import MS, Drive, check_drive, drive_task, write_with_rosbags

from fog_world_model.data import import_workers
from fog_world_model.data.bag_identity import fingerprint
from fog_world_model.data.bag_metadata import amend_custom
from fog_world_model.data.bag_writer import BagWriter
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.import_bags import import_bags
from fog_world_model.data.messages import header, make, serialise
from fog_world_model.errors import FogError

DRIVES = [Drive(80 - 3 * i, first=i, start_ms=1000 * i) for i in range(3)]


def write(path: Path, drive: Drive) -> Path:
    path.parent.mkdir(exist_ok=True)
    with BagWriter(path) as bag:
        for log_ns, topic, typename, data in drive.messages():
            bag.write(topic, typename, data, log_ns)
    return path


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bags")
    return [write(folder / f"bag_{i}", drive) for i, drive in enumerate(DRIVES)]


def content(store: EpisodeStore) -> list[dict[str, Any]]:
    return list(store.attributes["episodes"])


def shard_times(store: EpisodeStore) -> dict[str, int]:
    return {
        name: (store.path / "shards" / name / "shard.json").stat().st_mtime_ns
        for name in store.shards
    }


def test_again_skips_and_more_is_added(bags: list[Path], tmp_path: Path) -> None:
    task, told = drive_task(), list[str]()
    first = import_bags(bags[:2], task, tmp_path / "store", seed=5)
    before, times = content(first), shard_times(first)
    again = import_bags(bags[:2], task, tmp_path / "store", tell=told.append)
    assert told == [f"bag {b}: skipped, imported already and unchanged" for b in bags[:2]]
    assert (content(again), shard_times(again)) == (before, times)
    assert again.data_hash == first.data_hash
    copy = shutil.copytree(bags[1], tmp_path / "elsewhere" / "bag_1")
    more = import_bags([bags[2], copy], task, tmp_path / "store")
    for index, drive in enumerate(DRIVES):
        check_drive(more, index, drive, drive.first, drive.first + drive.steps)
    assert content(more)[:2] == before
    assert {n: t for n, t in shard_times(more).items() if n in times} == times
    assert more.index.split.seed == 5
    assert more.attributes["report"]["transitions"] == more.transitions == 231
    assert len(more.attributes["report"]["bags"]) == 3


def test_a_bag_that_has_changed_replaces_what_it_gave(bags: list[Path], tmp_path: Path) -> None:
    local = [shutil.copytree(b, tmp_path / b.name) for b in bags]
    import_bags(local, drive_task(), tmp_path / "store")
    shutil.rmtree(local[1])
    changed = Drive(5, first=2)
    write(local[1], changed)
    store = import_bags(local, drive_task(), tmp_path / "store")
    assert [e.source for e in store.episodes] == ["bag_0#0", "bag_1#0", "bag_2#0"]
    check_drive(store, 1, changed, 2, 7)
    assert sorted(p.name for p in (store.path / "shards").iterdir()) == sorted(store.shards)
    # Marking the outcome afterwards is a change too.
    amend_custom(local[2], {"fog_episode": json.dumps({"outcome": "failure"})})
    store = import_bags(local[2:], drive_task(), tmp_path / "store")
    assert [e.outcome for e in store.episodes] == ["", "", "failure"]


def test_the_same_recording_twice_comes_once(bags: list[Path], tmp_path: Path) -> None:
    told: list[str] = []
    copy = shutil.copytree(bags[0], tmp_path / "copy")
    store = import_bags([bags[0], copy], drive_task(), tmp_path / "store", tell=told.append)
    assert len(store.lengths) == 1
    assert told[0] == f"bag {copy}: skipped, the same recording as {bags[0]}"
    assert told[1].startswith(f"{bags[0]}: 1 episodes, 80 transitions\n")
    assert len(told) == 2


def test_two_bags_of_one_name(bags: list[Path], tmp_path: Path) -> None:
    other = write(tmp_path / "monday" / "bag_0", Drive(6))
    store = import_bags([bags[0], other], drive_task(), tmp_path / "store")
    assert [e.source for e in store.episodes] == ["bag_0#0", "monday/bag_0#0"]


def test_fingerprints(bags: list[Path], tmp_path: Path) -> None:
    marks = {fingerprint(b) for b in bags}
    assert len(marks) == 3
    copy = shutil.copytree(bags[0], tmp_path / "another_name")
    assert fingerprint(copy) == fingerprint(bags[0])
    file = next(copy.glob("*.mcap"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert fingerprint(copy) != fingerprint(bags[0])


def test_options_of_a_store_that_is_there(bags: list[Path], tmp_path: Path) -> None:
    task = drive_task()
    import_bags(bags[:1], task, tmp_path / "store", validation_fraction=0.3)
    import_bags(bags[:2], task, tmp_path / "store", validation_fraction=0.3)
    with pytest.raises(FogError, match=r"holds out 0.3 of its episodes with seed 0; .*fog data"):
        import_bags(bags, task, tmp_path / "store", validation_fraction=0.2)
    with pytest.raises(FogError, match="was made for task 'drive'"):
        import_bags(bags, replace(task, control_hz=10.0), tmp_path / "store")
    assert len(EpisodeStore(tmp_path / "store").lengths) == 2


def test_one_import_at_a_time(bags: list[Path], tmp_path: Path) -> None:
    import_bags(bags[:1], drive_task(), tmp_path / "store")
    folder = os.open(tmp_path / "store", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(FogError, match="another import is at work on it"):
        import_bags(bags, drive_task(), tmp_path / "store")
    os.close(folder)
    assert len(import_bags(bags, drive_task(), tmp_path / "store").lengths) == 3


def test_a_damaged_shard_is_made_again(bags: list[Path], tmp_path: Path) -> None:
    before = import_bags(bags, drive_task(), tmp_path / "store")
    shutil.rmtree(before.path / "shards" / before.episodes[1].shard / "reward")
    with pytest.raises(FogError, match="'reward' is missing; make the store again"):
        EpisodeStore(before.path)
    after = import_bags(bags, drive_task(), before.path)
    assert content(after) == content(before)


def test_processes_make_what_threads_make(
    bags: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    alone = import_bags(bags, drive_task(), tmp_path / "alone", workers=1)
    monkeypatch.setattr(import_workers, "_WORTH_PROCESSES", 0)
    store = import_bags(
        bags, drive_task(), tmp_path / "store", workers=2, progress=lambda *a: told.append(a)
    )
    assert content(store) == content(alone)
    assert store.data_hash == alone.data_hash
    assert {d[0] for d in told if d[1] == d[2]} == {f"importing bag_{i}" for i in range(3)}


def test_a_bag_that_fails_in_a_process(
    bags: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good ones stay finished, and are not imported again."""
    monkeypatch.setattr(import_workers, "_WORTH_PROCESSES", 0)
    bad = shutil.copytree(bags[2], tmp_path / "bad")
    file = next(bad.glob("*.mcap"))
    good = file.read_bytes()
    middle = len(good) // 2
    file.write_bytes(good[:middle] + bytes(2000) + good[middle + 2000 :])
    task = drive_task()
    with pytest.raises(FogError, match=rf"^bag {bad}: damaged or cut: .*fog bag recover"):
        import_bags([*bags[:2], bad], task, tmp_path / "store", workers=2)
    assert not list((tmp_path / "store" / "shards").glob("*.part"))
    file.write_bytes(good)
    store = import_bags([*bags[:2], bad], task, tmp_path / "store", workers=2)
    assert len(store.lengths) == 3


CHILD = """
import signal, sys, time
from recorded_drive import drive_task
from fog_world_model.data import import_workers
from fog_world_model.data.import_bags import import_bags

if __name__ == "__main__":
    # A shell that runs the tests in the background has Ctrl-C ignored in all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import_workers._WORTH_PROCESSES = int(sys.argv[2])

    def progress(what, done, total):
        if what == "importing bag_1" and done < total:
            print("half", flush=True)
            time.sleep(0 if int(sys.argv[2]) == 0 else 600)

    try:
        import_bags(sys.argv[3:], drive_task(), sys.argv[1], workers=2, progress=progress)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start_half(store: Path, bags: list[Path], worth_processes: int) -> subprocess.Popen[str]:
    """An import that has finished the first bag and is in the middle of the second."""
    script = store.with_name("child.py")
    script.write_text(CHILD)
    child = subprocess.Popen(
        [sys.executable, str(script), str(store), str(worth_processes), *map(str, bags)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    return child


def test_killed_half_way(bags: list[Path], tmp_path: Path) -> None:
    """Run again it gives what an import at one go gives; the finished bag is not done again."""
    store = tmp_path / "store"
    child = start_half(store, bags, 10**9)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    left = sorted(p.name for p in (store / "shards").iterdir())
    assert [n.partition("-")[0] for n in left] == ["bag_0", "bag_1"]
    assert left[1].endswith(".part")
    assert not (store / "index.json").exists()
    with pytest.raises(FogError, match="its import was not finished"):
        EpisodeStore(store)
    finished = (store / "shards" / left[0] / "shard.json").stat()
    resumed = import_bags(bags, drive_task(), store)
    whole = import_bags(bags, drive_task(), tmp_path / "whole")
    assert resumed.attributes == whole.attributes
    for index in range(3):
        for name in ("image", "action", "reward", "proprioception"):
            np.testing.assert_array_equal(
                getattr(resumed.episode(index), name), getattr(whole.episode(index), name)
            )
    after = (store / "shards" / left[0] / "shard.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (finished.st_ino, finished.st_mtime_ns)
    assert not list((store / "shards").glob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals, bags: list[Path], tmp_path: Path) -> None:
    child = start_half(tmp_path / "store", bags, 10**9)
    os.killpg(child.pid, number)
    assert child.wait(timeout=30) == 130
    names = [p.name.partition("-")[0] for p in (tmp_path / "store" / "shards").iterdir()]
    assert names == ["bag_0"]
    assert len(import_bags(bags, drive_task(), tmp_path / "store").lengths) == 3


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Bags of the same names that take processes a while."""
    folder = tmp_path_factory.mktemp("large")
    return [write(folder / f"bag_{i}", Drive(60, size=512, first=i)) for i in range(3)]


def test_interrupted_in_processes(large: list[Path], tmp_path: Path) -> None:
    """Ctrl-C goes to the whole group; no process and no half shard stays."""
    child = start_half(tmp_path / "store", large, 0)
    processes = psutil.Process(child.pid).children(recursive=True)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=30) in (0, 130)  # 0: it was just done
    psutil.wait_procs(processes, timeout=10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    assert not list((tmp_path / "store").glob("shards/*.part"))


def test_workers_of_a_killed_import_end(large: list[Path], tmp_path: Path) -> None:
    child = start_half(tmp_path / "store", large, 0)
    processes = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 30
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(import_bags(large, drive_task(), tmp_path / "store").lengths) == 3


def frames(path: Path, count: int, storage: str) -> Path:
    """Images of 640x480 and what else an episode needs, one of each at 5 Hz."""

    def messages() -> Any:
        pixels = np.zeros(640 * 480 * 3, np.uint8)
        for k in range(count):
            now = 1000 * MS + 200 * k * MS
            joints = make(
                "sensor_msgs/msg/JointState",
                header=header(now, ""),
                name=["hip", "knee"],
                position=np.zeros(2),
                velocity=np.zeros(2),
            )
            pixels[:] = k % 256
            image = make(
                "sensor_msgs/msg/Image",
                header=header(now, "camera"),
                height=480,
                width=640,
                encoding="rgb8",
                step=1920,
                data=pixels,
            )
            for topic, message in (
                ("/joint_states", joints),
                ("/odom", make("nav_msgs/msg/Odometry", header=header(now, "odom"))),
                ("/reward", make("std_msgs/msg/Float32")),
                ("/camera/image_raw", image),
                ("/cmd_vel", make("geometry_msgs/msg/Twist")),
            ):
                yield now, topic, message.__msgtype__, serialise(message)

    if storage == "mcap":
        with BagWriter(path) as bag:
            for log_ns, topic, typename, data in messages():
                bag.write(topic, typename, data, log_ns)
        return path
    return write_with_rosbags(path, messages(), storage=storage)


MEASURE = """
import resource, sys
from recorded_drive import drive_task
from fog_world_model.data.import_bags import import_bags

task = drive_task(episode={"max_steps": 50})
store = import_bags(sys.argv[2:], task, sys.argv[1], workers=2)
print(store.transitions, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_memory_does_not_grow_with_the_bag(storage: str, tmp_path: Path) -> None:
    """28 MB and 415 MB of images; all of the larger one would show as 400 MB more."""
    peak = {}
    for count in (31, 451):
        bag = frames(tmp_path / f"bag_{count}", count, storage)
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / f"store_{count}"), str(bag)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        transitions, peak[count] = map(int, result.stdout.split())
        assert transitions == count - 1
        shutil.rmtree(bag)
    assert peak[451] - peak[31] < 80, peak
