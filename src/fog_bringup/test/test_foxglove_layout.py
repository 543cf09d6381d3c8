"""The layout for Foxglove: whole, and about the topics and fields that the tasks record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

from fog_world_model.task import load_task

CONFIG = Path(__file__).parent.parent / "config"
PATH = re.compile(r"(?P<topic>(?:/\w+)+)\.(?P<fields>.+)")
PANELS = {"Image", "3D", "Plot", "StateTransitions", "DiagnosticSummary"}
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"


@pytest.fixture(scope="module")
def layout() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIG / "foxglove_layout.json").read_text())
    return found


@pytest.fixture(scope="module")
def topics() -> dict[str, str]:
    """Topic -> type of everything that a task names, and where nodes report their state."""
    found = {"/diagnostics": DIAGNOSTICS}
    for path in (CONFIG / "tasks").glob("*.yaml"):
        found |= load_task(path).topics()
    return found


def panels(layout: Any) -> Iterator[str]:
    """Panels in the tree of the layout."""
    if isinstance(layout, str):
        yield layout
        return
    assert layout["direction"] in ("row", "column")
    assert 0 < layout["splitPercentage"] < 100
    yield from panels(layout["first"])
    yield from panels(layout["second"])


def test_every_panel_has_a_place_and_a_configuration(layout: dict[str, Any]) -> None:
    placed = list(panels(layout["layout"]))
    assert sorted(placed) == sorted(layout["configById"])
    assert {name.split("!")[0] for name in placed} == PANELS
    assert {"globalVariables", "userNodes", "playbackConfig"} <= set(layout)


def test_topics_are_those_of_the_tasks(layout: dict[str, Any], topics: dict[str, str]) -> None:
    panels = layout["configById"]
    modes = panels["Image!camera"]["imageMode"]
    assert topics[modes["imageTopic"]] == "sensor_msgs/msg/Image"
    assert topics[modes["calibrationTopic"]] == "sensor_msgs/msg/CameraInfo"
    assert {topics[t] for t in panels["3D!odometry"]["topics"]} == {"nav_msgs/msg/Odometry"}
    assert topics[panels["DiagnosticSummary!nodes"]["topicToRender"]] == DIAGNOSTICS


def test_fields_are_those_of_the_messages(layout: dict[str, Any], topics: dict[str, str]) -> None:
    """Followed through the definitions that the bag library ships."""
    types = get_typestore(Stores.ROS2_HUMBLE).fielddefs
    paths = [p for c in layout["configById"].values() for p in c.get("paths", ())]
    assert len(paths) > 20
    for path in paths:
        assert path["enabled"]
        match = PATH.fullmatch(path["value"])
        assert match is not None, path
        kind: Any = topics[match["topic"]]
        stamped = any(name == "header" for name, _ in types[kind][1])
        assert (path["timestampMethod"] == "headerStamp") == stamped, path
        for part in match["fields"].split("."):
            name, _, index = part.partition("[")
            node, detail = dict(types[kind][1])[name]
            assert bool(index) == (node in (Nodetype.ARRAY, Nodetype.SEQUENCE)), path
            if index:
                node, detail = detail[0]
            kind = detail if node == Nodetype.NAME else detail[0]
        assert kind in ("float64", "float32", "int32", "bool"), path
