"""The recorder over real topics when something goes wrong: each outcome is defined and told."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import NodeProcess
from sensors import (
    BEST_EFFORT,
    CAMERA,
    IMAGE,
    JOINT_STATE,
    JOINTS,
    Bag,
    Sensors,
    joints,
    picture,
    recorder,
    wait_until,
)

from fog_world_model.data import messages
from fog_world_model.data.bag_recover import recover_bag

Environment = dict[str, str]


@pytest.fixture
def sensors(domain: int) -> Iterator[Sensors]:
    made = Sensors(domain)
    yield made
    made.close()


def test_what_the_middleware_drops_is_counted(
    env: Environment, sensors: Sensors, tmp_path: Path
) -> None:
    """The publisher remembers 200 messages for a recorder that does not come to take them."""
    with recorder(env, tmp_path) as process:
        sensors.offer(JOINTS, JOINT_STATE)
        _, path = sensors.call("start")
        sensors.stream(20)
        process.send(signal.SIGSTOP)
        for _ in range(6000):
            now_ns = time.time_ns()
            sensors.send(JOINTS, joints(now_ns), now_ns)
        process.send(signal.SIGCONT)
        time.sleep(1.0)
        sensors.stream(20)
        wait_until(
            lambda: int(sensors.diagnostics[JOINTS][2]["lost_events"]) > 5000,
            "what the middleware itself says of it",
        )
        sensors.call("stop")
    bag, sent = Bag(path), sensors.sent[JOINTS]
    entry = bag.account[JOINTS]
    assert entry["lost"] > 0
    assert entry["received"] == entry["written"] == len(bag.stamps(JOINTS))
    assert entry["written"] + entry["lost"] == len(sent)
    assert sum(loss["count"] for loss in entry["losses"]) == entry["lost"]
    assert {loss["reason"] for loss in entry["losses"]} == {"dropped by the middleware"}
    assert f"{JOINTS}: {entry['lost']} messages were lost" in bag.warnings


def test_publishers_that_come_and_go(env: Environment, sensors: Sensors, tmp_path: Path) -> None:
    with recorder(env, tmp_path):
        sensors.offer(CAMERA, IMAGE)
        sensors.offer(JOINTS, JOINT_STATE)
        sensors.stream(15)
        _, path = sensors.call("start")
        sensors.sent.clear()
        sensors.stream(25)
        sensors.offer(CAMERA, IMAGE, BEST_EFFORT)  # restarts as another kind of publisher
        wait_until(
            lambda: all(
                i.qos_profile.reliability == BEST_EFFORT.reliability
                for i in sensors.node.get_subscriptions_info_by_topic(CAMERA)
            ),
            "the recorder to adapt",
        )
        wait_until(
            lambda: sensors.publishers[CAMERA].get_subscription_count() == 1, "the new subscription"
        )
        time.sleep(0.5)
        sensors.stream(25, width=32, height=24)
        sensors.stream(25, shift_ns=-3600 * 10**9, width=32, height=24)
        sensors.call("stop")
    bag = Bag(path)
    assert bag.stamps(CAMERA) == sensors.sent[CAMERA]
    assert bag.stamps(JOINTS) == sensors.sent[JOINTS]
    camera = bag.account[CAMERA]
    assert len(camera["publishers"]) == 1
    assert camera.get("missing", 0) == 0, "neither a restart nor a jump is a gap"
    assert [s["width"] for s in camera["sizes"]] == [64, 32]
    assert [round(j["by_ns"] / 1e9) for j in camera["jumps"]] == [-3600]
    assert "publisher restarted, or another joined, 1 times" in bag.warnings
    assert "the image changed its size, 64x48 -> 32x24" in bag.warnings
    assert f"{CAMERA}: header stamps jumped 1 times" in bag.warnings


def test_simulated_time_that_begins_anew_begins_a_new_bag(
    env: Environment, sensors: Sensors, tmp_path: Path
) -> None:
    clock_type = "rosgraph_msgs/msg/Clock"

    def tick(stamp_ns: int) -> None:
        now = messages.make(clock_type, clock=messages.stamp(stamp_ns))
        sensors.send("/clock", messages.serialise(now), stamp_ns)
        sensors.send(CAMERA, picture(stamp_ns), stamp_ns)
        time.sleep(0.01)

    with recorder(env, tmp_path, use_sim_time=True):
        sensors.offer("/clock", clock_type)
        sensors.offer(CAMERA, IMAGE)
        wait_until(
            lambda: len(sensors.node.get_subscriptions_info_by_topic("/clock")) == 2, "/clock"
        )
        time.sleep(1.0)
        tick(50 * 10**9)
        time.sleep(0.3)
        _, first = sensors.call("start")
        sensors.sent.clear()
        for k in range(50):
            tick(60 * 10**9 + k * 10**8)
        for k in range(50):
            tick(10**9 + k * 10**8)
        time.sleep(0.3)
        done, second = sensors.call("stop")
        assert done
        assert second != first
        wait_until(Path(first).exists, "the first bag")
    stamps = sensors.sent[CAMERA]
    before, after = Bag(first), Bag(second)
    assert before.stamps(CAMERA) == stamps[:50]
    assert after.stamps(CAMERA) == stamps[50:]
    assert before.episode["reason"] == "the clock jumped back"
    for bag in (before, after):
        log = [ns for ns, _ in bag.messages[CAMERA]]
        assert log == sorted(log)
        differences = np.subtract(log, bag.stamps(CAMERA))
        assert np.abs(differences).max() < 10**8, "what came between two ticks is logged there"


def test_disks_that_fill_and_disks_that_go(
    env: Environment, sensors: Sensors, tmp_path: Path
) -> None:
    far_too_much = 10**9  # MB
    with recorder(env, tmp_path / "a", min_free_mb=far_too_much) as process:
        sensors.offer(CAMERA, IMAGE)
        done, message = sensors.call("start")
        assert not done and f"min_free_mb is {far_too_much}" in message
        assert not (tmp_path / "a").exists()
        sensors.set("min_free_mb", 1)
        done, path = sensors.call("start")
        assert done
        sensors.stream(20)
        sensors.set("min_free_mb", far_too_much)
        process.wait_for(f"the disk is nearly full: .* {path} is closed")
        wait_until(Path(path).exists, "the closed bag")
        bag = Bag(path)
        assert bag.stamps(CAMERA) == sensors.sent[CAMERA]
        assert bag.episode["reason"].startswith("the disk is nearly full")
        wait_until(lambda: sensors.diagnostics["bag"][0] == 2, "an error on /diagnostics")

        sensors.set("min_free_mb", 1)
        done, path = sensors.call("start")
        assert done and path.endswith("_001")
        sensors.stream(20)
        shutil.rmtree(f"{path}.part")  # as an unplugged disk takes it away
        process.wait_for("the folder has disappeared")
        done, message = sensors.call("stop")
        assert not done and "not recording" in message
        assert not sensors.call("success")[0], "the bag before is not marked in its place"
        wait_until(lambda: "disappeared" in sensors.diagnostics["bag"][1], "the cause")
        sensors.set("output", str(tmp_path / "b"))
        done, path = sensors.call("start")
        assert done and path == str(tmp_path / "b" / "reach_cube_000")
        sensors.sent.clear()
        sensors.stream(10)
        assert sensors.call("stop")[0]
        assert Bag(path).stamps(CAMERA) == sensors.sent[CAMERA]
        assert process.stop() == 0
        assert "Traceback" not in process.output()


def test_a_disk_that_is_full_leaves_a_part_that_can_be_recovered(
    env: Environment, sensors: Sensors, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)]
    if (
        not shutil.which("unshare")
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("a small disk can be mounted by root only")
    script = (
        f"mount -t tmpfs -o size=3m none {disk} && exec {sys.executable} -m "
        f"fog_bringup.recorder_node --ros-args -p output:={disk} -p min_free_mb:=0"
    )
    command = [shutil.which("unshare") or "", "--mount", "/bin/sh", "-c", script]
    with NodeProcess(command, env, limit_s=60) as process:
        sensors.offer(CAMERA, IMAGE)
        done, path = sensors.call("start")
        assert done
        sensors.stream(60, width=160, height=120)  # 3.5 MB
        process.wait_for("No space left on device")
        wait_until(lambda: sensors.diagnostics["bag"][0] == 2, "an error on /diagnostics")
        assert process.running(), "another start may go elsewhere"
        part = Path(f"/proc/{process.pid}/root{path}.part")
        recovered = recover_bag(part, tmp_path / "recovered")
        saved = Bag(recovered.path).stamps(CAMERA)
        assert len(saved) > 30
        assert saved == sensors.sent[CAMERA][: len(saved)], "without a gap"
        sensors.set("output", str(tmp_path / "elsewhere"))
        assert sensors.call("start")[0]
        assert process.stop() == 0
