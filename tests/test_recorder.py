"""The recorder over real topics: what it takes in, and what it says of what goes wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from processes import NodeProcess, ros_environment
from sensor_msgs.msg import Joy
from sensors import (
    BEST_EFFORT,
    CAMERA,
    IMAGE,
    INFO,
    JOINT_STATE,
    JOINTS,
    LATCHED,
    Sensors,
    joints,
    picture,
    wait_until,
)

from fog_bringup.closed_loop import free_domain_id
from fog_bringup.live_scene import stamp_of
from fog_world_model.data import messages
from fog_world_model.data.bag_reader import BagReader
from fog_world_model.data.bag_recover import recover_bag

Environment = dict[str, str]


@pytest.fixture(scope="module")
def domain() -> int:
    return free_domain_id()


@pytest.fixture(scope="module")
def env(domain: int) -> Environment:
    return ros_environment(ROS_DOMAIN_ID=str(domain))


@pytest.fixture
def sensors(domain: int) -> Iterator[Sensors]:
    made = Sensors(domain)
    yield made
    made.close()


def recorder(env: Environment, output: Path, **parameters: Any) -> NodeProcess:
    """Start a recorder of the task reach_cube."""
    command = [sys.executable, "-m", "fog_bringup.recorder_node", "--ros-args"]
    given = {"min_free_mb": 1, **parameters, "output": str(output)}
    for key, value in given.items():
        command += ["-p", f"{key}:={json.dumps(value)}"]
    return NodeProcess(command, env, limit_s=120)


class Bag:
    """What lies in a closed bag."""

    def __init__(self, path: str | Path) -> None:
        self.messages: dict[str, list[tuple[int, bytes]]] = {}
        with BagReader(path) as reader:
            self.types = reader.topics
            custom = reader.custom
            for message in reader.messages():
                found = self.messages.setdefault(message.topic, [])
                found.append((message.log_ns, message.data))
        self.account = json.loads(custom.get("fog_account", "{}"))
        self.warnings = " | ".join(json.loads(custom.get("fog_warnings", "[]")))
        self.episode = json.loads(custom.get("fog_episode", "{}"))

    def stamps(self, topic: str) -> list[int]:
        """Header stamps in the order of the bag."""
        return [stamp_of(data) for _, data in self.messages.get(topic, [])]


def test_everything_sent_is_in_the_bag_and_in_its_account(
    env: Environment, sensors: Sensors, tmp_path: Path
) -> None:
    with recorder(env, tmp_path) as process:
        sensors.offer(CAMERA, IMAGE, BEST_EFFORT)
        sensors.offer(JOINTS, JOINT_STATE)
        sensors.offer(INFO, "sensor_msgs/msg/CameraInfo", LATCHED)
        info = messages.make("sensor_msgs/msg/CameraInfo", header=messages.header(5, "camera"))
        sensors.send(INFO, messages.serialise(info))  # once, long before
        sensors.stream(20)
        for number in range(2):
            done, path = sensors.call("start")
            assert done
            assert path == str(tmp_path / f"reach_cube_{number:03d}")
            sensors.sent.clear()
            sensors.stream(60, skip={30, 31, 32, 45})
            assert sensors.call("stop") == (True, path)
            bag = Bag(path)
            for topic in (CAMERA, JOINTS):
                assert bag.stamps(topic) == sensors.sent[topic]
                entry = bag.account[topic]
                count = len(sensors.sent[topic])
                assert (entry["received"], entry["written"], entry["lost"]) == (count, count, 0)
                assert entry["bytes"] == sum(len(data) for _, data in bag.messages[topic])
                assert entry["first_ns"] == bag.messages[topic][0][0]
                assert entry["last_ns"] == bag.messages[topic][-1][0]
            camera = bag.account[CAMERA]
            assert (camera["gaps_total"], camera["missing"]) == (2, 4)
            assert [g["missing"] for g in camera["gaps"]] == [3, 1]
            assert camera["gaps"][0]["at_ns"] == bag.messages[CAMERA][30][0]
            assert bag.account[JOINTS]["gaps_total"] == 0
            assert f"{CAMERA}: 2 gaps, 4 messages missing" in bag.warnings
            assert bag.stamps(INFO) == [5], "what was latched is in every bag"
            log = [ns for found in bag.messages.values() for ns, _ in found]
            sent = sensors.sent[JOINTS]
            assert sent[0] - 10**8 < min(log) <= max(log) < sent[-1] + 10**9, "system time"
            assert bag.episode["outcome"] == ""
            assert bag.episode["reason"] == "stopped"
        wait_until(lambda: CAMERA in sensors.diagnostics, "diagnostics")
        assert {"received", "rate_hz", "bytes", "gaps", "lost", "last_stamp_ns", "queue_depth"} <= (
            set(sensors.diagnostics[CAMERA][2])
        )
        assert int(sensors.diagnostics["bag"][2]["free_disk_mb"]) > 0
        assert process.stop() == 0


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
        sensors.call("stop")
    bag, sent = Bag(path), sensors.sent[JOINTS]
    entry = bag.account[JOINTS]
    assert entry["lost"] > 0
    assert entry["received"] == entry["written"] == len(bag.stamps(JOINTS))
    assert entry["written"] + entry["lost"] == len(sent)
    assert sum(loss["count"] for loss in entry["losses"]) == entry["lost"]
    assert {loss["reason"] for loss in entry["losses"]} == {"dropped by the middleware"}
    assert f"{JOINTS}: {entry['lost']} messages were lost" in bag.warnings


def test_commands_outcomes_and_buttons(env: Environment, sensors: Sensors, tmp_path: Path) -> None:
    def fog(*arguments: str) -> tuple[int, str]:
        with NodeProcess(["fog", "record", *arguments], env, limit_s=60) as process:
            return process.wait(40.0), process.output().strip()

    with recorder(env, tmp_path, start_button=3, success_button=0):
        sensors.offer(JOINTS, JOINT_STATE)
        status, output = fog("failure")
        assert status == 2 and "nothing has been recorded yet" in output
        status, path = fog("start")
        assert status == 0
        assert path.endswith("reach_cube_000")
        status, output = fog("start")
        assert status == 2 and "already recording" in output
        sensors.stream(20)
        status, output = fog("status")
        assert status == 0
        assert output.startswith(f"recording {path}")
        assert f"{JOINTS}: 40 messages" in output
        assert fog("success") == (0, path)
        assert Bag(path).episode["outcome"] == "success"
        assert fog("failure") == (0, path), "another look: the last one is marked anew"
        after = Bag(path)
        assert after.episode["outcome"] == "failure"
        assert after.episode["reason"] == "stopped"
        assert len(after.stamps(JOINTS)) == 40
        status, output = fog("stop")
        assert status == 2 and "not recording" in output

        joystick = sensors.node.create_publisher(Joy, "/joy", 1)
        wait_until(lambda: joystick.get_subscription_count() > 0, "the recorder's /joy")

        def hold(*buttons: int) -> None:
            for _ in range(6):
                joystick.publish(Joy(buttons=[int(k in buttons) for k in range(5)]))
                time.sleep(0.05)

        hold()
        hold(3)
        sensors.stream(10)
        hold(3, 0)
        hold()
        second = tmp_path / "reach_cube_001"
        wait_until(second.exists, "the second bag")
        assert Bag(second).episode["outcome"] == "success"
        time.sleep(0.3)
        assert not list(tmp_path.glob("reach_cube_002*")), "a held button acts once"
    status, output = fog("status", "--node", "nobody")
    assert status == 2 and "no recorder answers" in output


def test_what_the_task_lacks_is_a_warning_before_and_in_the_recording(
    env: Environment, sensors: Sensors, tmp_path: Path
) -> None:
    with recorder(env, tmp_path) as process:
        sensors.offer("/odom", "sensor_msgs/msg/Joy", match=False)
        sensors.offer(CAMERA, IMAGE)
        sensors.offer(JOINTS, JOINT_STATE)
        for _ in range(16):  # 2.5 Hz, where the task needs 5
            sensors.stream(1)
            time.sleep(0.18)
        process.wait_for("camera/image_raw is slow: it comes at .* and the task needs 5.0 Hz", 20)
        process.wait_for("/imu/data is silent")
        process.wait_for("/odom is published as sensor_msgs/msg/Joy, but the task expects nav_msgs")
        level, message, _ = sensors.diagnostics["bag"]
        assert level == 1
        assert "not recording" in message and f"{CAMERA} is slow" in message
        assert sensors.diagnostics["/odom"][0] == 2
        done, path = sensors.call("start")
        assert done, "a warning does not keep anybody from recording"
        sensors.stream(5)
        sensors.call("stop")
    bag = Bag(path)
    for sentence in (f"{CAMERA} is slow", "/imu/data is silent", "/odom is published as"):
        assert sentence in bag.warnings
    assert f"{JOINTS} is silent" not in bag.warnings


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


@pytest.mark.parametrize(("image_format", "error"), [("jpeg", 12), ("png", 0)])
def test_images_are_compressed_on_request(
    env: Environment, sensors: Sensors, tmp_path: Path, image_format: str, error: int
) -> None:
    with recorder(env, tmp_path, image_format=image_format):
        sensors.offer(CAMERA, IMAGE)
        sensors.offer(JOINTS, JOINT_STATE)
        _, path = sensors.call("start")
        sensors.stream(40, width=320, height=240)
        sensors.call("stop")
    bag, topic = Bag(path), f"{CAMERA}/compressed"
    assert bag.types[topic] == "sensor_msgs/msg/CompressedImage"
    assert CAMERA not in bag.messages
    assert bag.stamps(topic) == sensors.sent[CAMERA], "each of them, with its own stamp"
    log = [ns for ns, _ in bag.messages[topic]]
    assert log == sorted(log)
    assert bag.account[topic]["written"] == 40
    message = messages.deserialise(bag.messages[topic][7][1], bag.types[topic])
    assert message.format == f"rgb8; {image_format} compressed bgr8"
    shown = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)[:, :, ::-1]
    sent = messages.deserialise(picture(0, 320, 240), IMAGE).data.reshape(240, 320, 3)
    assert np.abs(shown.astype(int) - sent).max() <= error


def test_compressed_images_are_recorded_as_they_come(
    env: Environment, sensors: Sensors, tmp_path: Path
) -> None:
    topic, typename = f"{CAMERA}/compressed", "sensor_msgs/msg/CompressedImage"
    with recorder(env, tmp_path):
        sensors.offer(topic, typename)
        _, path = sensors.call("start")
        sent = []
        for k in range(20):
            image = messages.make(
                typename,
                header=messages.header(10**9 + k, "c"),
                format="jpeg",
                data=np.arange(9, dtype=np.uint8),
            )
            sent.append(messages.serialise(image))
            sensors.send(topic, sent[-1])
            time.sleep(0.02)
        time.sleep(0.2)
        sensors.call("stop")
    recorded = [data for _, data in Bag(path).messages[topic]]
    assert len(recorded) == len(sent)
    for data, original in zip(recorded, sent, strict=True):  # the middleware pads to whole words
        assert data.startswith(original)


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
