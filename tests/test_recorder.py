"""The recorder over real topics: what it takes in, and what it says of what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from processes import NodeProcess
from sensor_msgs.msg import Joy
from sensors import (
    BEST_EFFORT,
    CAMERA,
    IMAGE,
    INFO,
    JOINT_STATE,
    JOINTS,
    LATCHED,
    Bag,
    Sensors,
    picture,
    recorder,
    wait_until,
)

from fog_world_model.data import messages

Environment = dict[str, str]


@pytest.fixture
def sensors(domain: int) -> Iterator[Sensors]:
    made = Sensors(domain)
    yield made
    made.close()


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


def test_commands_outcomes_and_buttons(env: Environment, sensors: Sensors, tmp_path: Path) -> None:
    def fog(*arguments: str) -> tuple[int, str]:
        with NodeProcess(["fog", "record", *arguments], env, limit_s=60) as process:
            return process.wait(40.0), process.output().strip()

    with recorder(env, tmp_path, start_button=3, success_button=0):
        sensors.offer(JOINTS, JOINT_STATE)
        status, output = fog("failure")
        assert status == 2 and "no bag has been closed" in output
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


@pytest.mark.parametrize("published", [f"{CAMERA}/compressed", "/front/compressed"])
def test_compressed_images_are_recorded_as_they_come(
    env: Environment, sensors: Sensors, tmp_path: Path, published: str
) -> None:
    topic, typename = f"{CAMERA}/compressed", "sensor_msgs/msg/CompressedImage"
    with recorder(env, tmp_path, f"{topic}:={published}"):
        sensors.offer(published, typename)
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
            sensors.send(published, sent[-1])
            time.sleep(0.02)
        time.sleep(0.2)
        sensors.call("stop")
    recorded = [data for _, data in Bag(path).messages[topic]]
    assert len(recorded) == len(sent)
    for data, original in zip(recorded, sent, strict=True):  # the middleware pads to whole words
        assert data.startswith(original)
