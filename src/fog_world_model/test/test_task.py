"""Task files: what they hold, what is refused and how, and when two tasks are the same."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, load_task, task_from_dict

Content = dict[str, Any]


def written(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def reversed_order(value: Any) -> Any:
    """The same content with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {k: reversed_order(v) for k, v in reversed(value.items())}
    if isinstance(value, list):
        return [reversed_order(v) for v in value]
    return value


def test_round_trip_over_a_file(tmp_path: Path, tiny_task: TaskConfig) -> None:
    tiny_task.save(tmp_path / "task.yaml")
    again = load_task(tmp_path / "task.yaml")
    assert again == tiny_task
    assert again.hash == tiny_task.hash
    assert isinstance(again.action.low, tuple)


def test_round_trip_over_json(tiny_task: TaskConfig) -> None:
    """The way a task travels inside checkpoints, bundles and stores."""
    assert task_from_dict(json.loads(json.dumps(tiny_task.to_dict()))) == tiny_task


def test_hash_does_not_depend_on_writing(tmp_path: Path, content: Content) -> None:
    content["options"] = {"arena_m": 6.0, "cube_size_m": 0.3}
    expected = load_task(written(tmp_path / "a.yaml", content)).hash
    assert len(expected) == 64
    assert load_task(written(tmp_path / "b.yaml", reversed_order(content))).hash == expected
    loose = yaml.safe_dump(content, default_flow_style=True, indent=7)
    (tmp_path / "c.yaml").write_text(f"# a comment\n\n{loose}\n\n")
    assert load_task(tmp_path / "c.yaml").hash == expected
    content["control_hz"] = 5  # an integer in the file
    content["description"] = ""  # a default spelled out
    assert load_task(written(tmp_path / "d.yaml", content)).hash == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(control_hz=10.0),
        lambda c: c["image"].update(topic="/other"),
        lambda c: c["proprioception"][0]["fields"].reverse(),
        lambda c: c["safety"].update(max_tilt_rad=0.5),
        lambda c: c.update(options={"arena_m": 5.0}),
        lambda c: c.pop("marker"),
    ],
)
def test_hash_changes_with_the_content(
    content: Content, tiny_task: TaskConfig, change: Callable[[Content], None]
) -> None:
    change(content)
    assert task_from_dict(content).hash != tiny_task.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # unknown
        (lambda c: c.update(controlhz=5), "unknown field controlhz; known are name, control_hz"),
        (lambda c: c["image"].update(heigth=16), "unknown field image.heigth"),
        (lambda c: c.update({1: 2, "x": 3}), "unknown field 1, x"),
        # missing
        (lambda c: c.pop("control_hz"), "control_hz is missing"),
        (lambda c: c["image"].pop("topic"), "image.topic is missing"),
        (lambda c: c["action"].pop("low"), "action.low is missing"),
        (lambda c: c["marker"].pop("type"), "marker.type is missing"),
        # of the wrong type
        (lambda c: c.update(control_hz="fast"), "control_hz must be float, not 'fast'"),
        (lambda c: c.update(control_hz=float("nan")), "control_hz must be finite"),
        (lambda c: c["image"].update(height=16.5), "image.height must be int, not 16.5"),
        (lambda c: c["image"].update(height=True), "image.height must be int, not True"),
        (lambda c: c["image"].update(topic=7), "image.topic must be str, not 7"),
        (lambda c: c.update(image=None), "image must be a mapping"),
        (lambda c: c.update(proprioception={}), "proprioception must be a list"),
        (lambda c: c["proprioception"][0].update(fields="x"), "proprioception[0].fields must be"),
        (lambda c: c["action"]["low"].__setitem__(1, "a"), "action.low[1] must be float, not 'a'"),
        (lambda c: c.update(options=[1]), "options must be a mapping"),
        (lambda c: c.update(options={"a": "b"}), "options.a must be float"),
        # impossible
        (lambda c: c["action"].update(low=[-1.0]), "action.fields, action.low and action.high"),
        (lambda c: c["action"].update(low=[1.0, 0.0]), "action.low must lie below action.high"),
        (lambda c: c["safety"].update(slew_per_s=[1.0]), "safety.slew_per_s needs one value"),
        (lambda c: c["safety"].update(slew_per_s=[1.0, 0.0]), "safety.slew_per_s must be positive"),
        (lambda c: c["safety"].update(jerk_per_s2=[1.0]), "safety.jerk_per_s2 needs one value"),
        (lambda c: c["safety"].update(jerk_per_s2=[1.0, -1.0]), "jerk_per_s2 must not be negative"),
        (lambda c: c["safety"].update(surprise_margin=-1.0), "surprise_margin must not be neg"),
        (lambda c: c["safety"].update(frozen_image_s=-1.0), "frozen_image_s must not be negative"),
        (lambda c: c["safety"].update(deadman_button=-2), "safety.deadman_button must be an"),
        (lambda c: c["safety"].update(timeouts_s={"/imu": 1.0}), "/imu is no topic of the camera"),
        (lambda c: c["safety"].update(timeouts_s={"/odom": 0.0}), "/odom must be positive"),
        (lambda c: c["safety"].update(battery={"topic": "/b"}), "safety.battery.min_v is missing"),
        (
            lambda c: c["safety"].update(geofence={"topic": "/o", "x_m": [1, 0], "y_m": [0, 1]}),
            "safety.geofence.x_m must be [lowest, highest]",
        ),
        (lambda c: c.update(control_hz=0), "control_hz must be in (0, 1000]"),
        (lambda c: c["episode"].update(max_steps=1), "episode.max_steps must be at least 2"),
        (lambda c: c["image"].update(width=20), "image.width must be a multiple of 8"),
        (lambda c: c["image"].update(height=8), "image.height must be a multiple of 8, >= 16"),
        (
            lambda c: c["proprioception"].append(c["proprioception"][0]),
            "topic /odom is listed twice",
        ),
        # One topic cannot serve two streams: its messages are looked up by the topic.
        (lambda c: c["reward"].update(topic="/odom"), "topic /odom is listed twice"),
        (lambda c: c["end"].update(topic="/camera/image_raw"), "/camera/image_raw is listed twice"),
    ],
)
def test_bad_field_is_named_with_its_file(
    tmp_path: Path, content: Content, change: Callable[[Content], None], message: str
) -> None:
    change(content)
    path = written(tmp_path / "task.yaml", content)
    with pytest.raises(
        FogError, match=f"^task file {re.escape(str(path))}: .*{re.escape(message)}"
    ):
        load_task(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"name: [", "not valid YAML"),
        (b"", "the file must be a mapping"),
        (b"- a\n- b\n", "the file must be a mapping"),
        (b"\x89PNG\r\n\xff\xfe", "not a text file in UTF-8"),
    ],
)
def test_file_that_is_no_task(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "task.yaml").write_bytes(data)
    with pytest.raises(FogError, match=rf"task\.yaml: .*{message}"):
        load_task(tmp_path / "task.yaml")


SHIPPED = {
    "push_cube": "46136fd6bb13",
    "push_cube_markers": "d1f915faf90d",
    "push_cube_small": "592f0c4ccdff",
    "pusht": "9df198dabf39",
    "pusht_easy": "fb8f1553278d",
    "pusht_image": "279da4110df6",
    "reach_cube": "07587cfa0d16",
}
"""Task -> first digits of the hash that bags, stores, worlds and bundles out there carry."""


def test_no_new_option_changes_the_hash_of_a_shipped_task() -> None:
    folder = Path(__file__).parents[2] / "fog_bringup" / "config" / "tasks"
    found = {path.stem: load_task(path).hash[:12] for path in folder.glob("*.yaml")}
    assert found == SHIPPED


def test_later_safety_options_count_only_where_they_are_not_at_their_default(
    content: Content, tiny_task: TaskConfig
) -> None:
    defaults = {
        "timeouts_s": {},
        "jerk_per_s2": [],
        "out_of_range": 1,
        "fall_tilt_rad": 1.0,
        "deadman_button": -1,
        "temperature": None,
        "battery": None,
        "geofence": None,
        "surprise_margin": 1.0,
        "frozen_image_s": 1.0,
    }
    content["safety"].update(defaults)
    spelled_out = task_from_dict(content)
    assert spelled_out == tiny_task
    assert spelled_out.hash == tiny_task.hash
    # An older version of the stack, which knows none of them, still reads the task.
    assert not set(defaults) & set(spelled_out.to_dict()["safety"])
    changes: dict[str, Any] = {
        "timeouts_s": {"/odom": 0.1},
        "jerk_per_s2": [1.0, 2.0],
        "out_of_range": 0.0,
        "fall_tilt_rad": 0.0,
        "deadman_button": 4,
        "temperature": {
            "topic": "/motor",
            "type": "sensor_msgs/msg/Temperature",
            "fields": ["temperature"],
            "max_c": 70.0,
        },
        "battery": {"topic": "/battery", "min_v": 25.0},
        "geofence": {"topic": "/odom", "x_m": [-1.0, 2.0], "y_m": [-1.0, 1.0]},
        "surprise_margin": 0.0,
        "frozen_image_s": 0.0,
    }
    hashes = {tiny_task.hash}
    for name, value in changes.items():
        changed = {**content, "safety": {**content["safety"], name: value}}
        task = task_from_dict(changed)
        assert task_from_dict(task.to_dict()) == task
        hashes.add(task.hash)
    assert len(hashes) == 1 + len(changes)


def test_jerk_bound_by_hand(tiny_task: TaskConfig) -> None:
    """Slew rates of 8 and 12 per second, reached in a tenth of 0.2 s, are 400 and 600 per s^2."""
    assert tiny_task.safety.jerk(5.0) == pytest.approx((400.0, 600.0))
    own = dataclasses.replace(tiny_task.safety, jerk_per_s2=(7.0, 0.0))
    assert own.jerk(5.0) == (7.0, 0.0)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FogError, match=r"nothing\.yaml: cannot be read \(No such file"):
        load_task(tmp_path / "nothing.yaml")


def test_physical_units_by_hand(tiny_task: TaskConfig) -> None:
    """Bounds are [-1, 1] and [0, 4], so the second field is 2 (a + 1)."""
    physical = tiny_task.action.to_physical([[-1.0, -1.0], [0.0, 0.5], [1.0, 1.0]])
    np.testing.assert_array_equal(physical, [[-1.0, 0.0], [0.0, 3.0], [1.0, 4.0]])
    assert physical.dtype == np.float32
    normalised = tiny_task.action.to_normalised([[0.25, 1.0], [-7.0, 9.0]])
    np.testing.assert_array_equal(normalised, [[0.25, -0.5], [-1.0, 1.0]])
    assert normalised.dtype == np.float32


def test_physical_units_and_back(tiny_task: TaskConfig) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    again = tiny_task.action.to_normalised(tiny_task.action.to_physical(actions))
    np.testing.assert_allclose(again, actions, atol=1e-6)


def test_derived_sizes(tiny_task: TaskConfig) -> None:
    assert tiny_task.period_ns == 200_000_000
    assert (tiny_task.action_size, tiny_task.proprioception_size) == (2, 2)
    wide = dataclasses.replace(tiny_task.image, width=24)
    assert dataclasses.replace(tiny_task, image=wide).sizes == {
        "height": 16,
        "width": 24,
        "action_size": 2,
        "proprioception_size": 2,
    }
    assert tiny_task.topics() == {
        "/camera/image_raw": "sensor_msgs/msg/Image",
        "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
        "/odom": "nav_msgs/msg/Odometry",
        "/cmd_vel": "geometry_msgs/msg/Twist",
        "/task/reward": "std_msgs/msg/Float32",
        "/task/end": "std_msgs/msg/Bool",
        "/task/episode": "std_msgs/msg/Int32",
    }


def test_another_task_is_refused_with_the_difference(
    content: Content, tiny_task: TaskConfig
) -> None:
    tiny_task.require_same(task_from_dict(content), "store x")
    content["name"] = "huge"
    content["image"]["height"] = 32
    other = task_from_dict(content)
    with pytest.raises(FogError) as caught:
        tiny_task.require_same(other, "store /data/x")
    message = str(caught.value)
    assert message.startswith("store /data/x was made for task 'huge'")
    assert "image.height: 32 there, 16 here" in message
    assert "name: 'huge' there, 'tiny' here" in message
    assert other.hash[:12] in message
    assert tiny_task.hash[:12] in message
    assert "image.width" not in message


def test_a_labeller_names_the_odometry_that_is_recorded(content: Content) -> None:
    for topic in ("reward", "end"):
        content.pop(topic)
    content["labeller"] = {"name": "any", "odometry_topic": "/legs/odom", "options": {"a": 1}}
    task = task_from_dict(content)
    assert task.topics()["/legs/odom"] == "nav_msgs/msg/Odometry"
    assert task.labeller is not None and task.labeller.options == {"a": 1.0}
    content["labeller"]["odometry_topic"] = "/cmd_vel"
    with pytest.raises(FogError, match="odometry_topic /cmd_vel is also listed, with another type"):
        task_from_dict(content)
    content["labeller"]["odometry_topic"] = "/odom"  # of which it takes other fields as well
    assert task_from_dict(content).topics()["/odom"] == "nav_msgs/msg/Odometry"
    content["reward"] = {"topic": "/r", "type": "std_msgs/msg/Float32", "fields": ["data"]}
    with pytest.raises(FogError, match="labeller and the topics reward and end exclude"):
        task_from_dict(content)
