"""What the launch files look up: parameters under a namespace, remappings, bundles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fog_bringup import launch_arguments
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError
from fog_world_model.task import task_from_dict


def test_a_section_is_found_whatever_the_namespace(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "/**:\n  ros__parameters: {device: cuda, a: 1}\n"
        "policy_node:\n  ros__parameters: {device: cpu}\n"
        "other_node:\n  ros__parameters: {b: 2}\n"
    )
    # A node's own section stands above that of all nodes.
    assert launch_arguments.node_parameters(str(path), "policy_node") == {"device": "cpu", "a": 1}
    assert launch_arguments.node_parameters(str(path), "third_node") == {"device": "cuda", "a": 1}


@pytest.mark.parametrize(
    "text", ["policy_node: 3\n", "policy_node: {device: cpu}\n", "- a\n", "a: [\n"]
)
def test_a_parameter_file_of_another_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(FogError, match=r"parameters:=.*p\.yaml"):
        launch_arguments.node_parameters(str(path), "policy_node")


def test_topics_move_into_the_namespace() -> None:
    task = find_task("push_cube")
    moved = dict(launch_arguments.topic_remappings(task, "/dog/"))
    assert moved["/cmd_vel"] == "/dog/cmd_vel"
    assert moved["/camera/camera_info"] == "/dog/camera/camera_info"
    assert {s.topic for s in task.streams()} <= set(moved)
    assert not {"/clock", "/diagnostics"} & set(moved)
    assert launch_arguments.topic_remappings(task, "") == []
    # What the safety filter watches and the operator sees belongs to one robot too.
    content = task.to_dict()
    content["safety"]["battery"] = {"topic": "/power", "min_v": 21.5}
    content["safety"]["deadman_topic"] = "/held"
    moved = dict(launch_arguments.topic_remappings(task_from_dict(content), "dog"))
    assert moved["/power"] == "/dog/power" and moved["/held"] == "/dog/held"
    assert moved["/battery_state"] == "/dog/battery_state"


def test_remapping_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("/cmd_vel: /cmd_vel_out\n")
    assert launch_arguments.extra_remappings(str(path)) == [("/cmd_vel", "/cmd_vel_out")]
    assert launch_arguments.extra_remappings("") == []
    path.write_text("/cmd_vel:\n")
    with pytest.raises(FogError, match="expected lines TOPIC: OTHER_TOPIC"):
        launch_arguments.extra_remappings(str(path))


def test_numbers_and_truth() -> None:
    assert launch_arguments.positive("speed", "2.5") == 2.5
    for text in ("0", "-1", "inf", "nan", "fast"):
        with pytest.raises(FogError, match=f"speed:={text}: expected a positive number"):
            launch_arguments.positive("speed", text)
    assert launch_arguments.yes("shadow", "True") and not launch_arguments.yes("shadow", "false")
    with pytest.raises(FogError, match="shadow:=maybe"):
        launch_arguments.yes("shadow", "maybe")


def test_a_bundle_of_another_task(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"task": find_task("push_cube").to_dict()}))
    assert launch_arguments.check_bundle(str(tmp_path), "") == tmp_path.resolve()
    assert launch_arguments.check_bundle(str(tmp_path), "push_cube") == tmp_path.resolve()
    with pytest.raises(FogError, match="name"):
        launch_arguments.check_bundle(str(tmp_path), "reach_cube")
    with pytest.raises(FogError, match="a policy needs bundle:=FOLDER"):
        launch_arguments.bundle_task("")
