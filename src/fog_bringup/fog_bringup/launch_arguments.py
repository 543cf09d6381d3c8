"""What the launch files check and look up before they start anything. No ROS here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from fog_bringup.tasks import find_task
from fog_policy.shipped_policies import find_bundle
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict

NOT_IN_A_TASK = ("/joy", "/battery_state")
"""Topics of one robot that its task does not name: the joystick belongs to its operator, and the
battery is shown to the operator whatever the task says of it."""


def positive(name: str, text: str) -> float:
    """A positive number.

    Raises:
        FogError: The text is none; the message names the argument.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise FogError(f"{name}:={text}: expected a positive number")
    return value


def number(name: str, text: str) -> float:
    """A finite number.

    Raises:
        FogError: The text is none; the message names the argument.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise FogError(f"{name}:={text}: expected a number")
    return value


def yes(name: str, text: str) -> bool:
    """Truth of ``true`` or ``false``.

    Raises:
        FogError: The text is neither.
    """
    if text.lower() not in ("true", "false"):
        raise FogError(f"{name}:={text}: expected true or false")
    return text.lower() == "true"


def check_bundle(bundle: str, task_name: str) -> Path:
    """Refuse a policy of another task before anything starts: its node knows only the bundle's.

    Args:
        bundle: The argument ``bundle``, a folder or the name of a shipped policy.
        task_name: The argument ``task``; empty: any task.

    Returns:
        The bundle's folder, absolute: the node need not have this process's working directory.

    Raises:
        FogError: There is no bundle, it cannot be read, or it belongs to another task.
    """
    task = bundle_task(bundle)
    if task_name:
        find_task(task_name).require_same(task, f"bundle {bundle}")
    return find_bundle(bundle).resolve()


def bundle_task(bundle: str) -> TaskConfig:
    """The task that a bundle, or the shipped policy of that name, was trained for.

    Raises:
        FogError: There is no bundle, or its manifest cannot be read.
    """
    if not bundle:
        raise FogError("a policy needs bundle:=FOLDER; 'fog train policy' writes one")
    manifest = find_bundle(bundle) / "manifest.json"
    try:
        content = json.loads(manifest.read_text())["task"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FogError(f"bundle {bundle}: {manifest} cannot be read ({error})") from error
    return task_from_dict(content, source=f"bundle {bundle}")


def node_parameters(path: str, node: str) -> dict[str, Any]:
    """A node's section of a parameter file, together with the section ``/**`` of all nodes.

    A launch file reads the section itself, because rcl matches a section's name against the
    node's full name: under a namespace the section of a plain name would not be found, and nothing
    would say so.

    Args:
        path: YAML file in the form that ``--params-file`` takes.
        node: The node's name without a namespace.

    Raises:
        FogError: The file cannot be read or does not have that form.
    """
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise FogError(f"parameters:={path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise FogError(f"parameters:={path}: is not YAML: {error}") from error
    found: dict[str, Any] = {}
    for section in ("/**", f"/{node}", node):
        parameters = content.get(section, {}) if isinstance(content, dict) else None
        if section in (content or {}) and isinstance(parameters, dict):
            parameters = parameters.get("ros__parameters")
        if not isinstance(parameters, dict):
            raise FogError(
                f"parameters:={path}: expected {section}: {{ros__parameters: {{NAME: VALUE}}}}"
            )
        found |= parameters
    return found


def remappings(path: str, task: TaskConfig, namespace: str) -> list[tuple[str, str]]:
    """A node's remappings: those of a file, which come first and so hold, and into a namespace.

    Args:
        path: See :func:`extra_remappings`.
        task: See :func:`topic_remappings`.
        namespace: See :func:`topic_remappings`.

    Raises:
        FogError: The file cannot be read or is not such a mapping.
    """
    return [*extra_remappings(path), *topic_remappings(task, namespace)]


def topic_remappings(task: TaskConfig, namespace: str) -> list[tuple[str, str]]:
    """Take a robot's topics into its namespace.

    Tasks name topics absolutely, so that a namespace alone would move a node's services only.
    /clock, /diagnostics and /tf stay where all robots share them.

    Args:
        task: Its topics are moved.
        namespace: For example ``go2_a``; empty: nothing is moved.

    Returns:
        Pairs of a topic and what it becomes.
    """
    prefix = "/" + namespace.strip("/")
    if prefix == "/":
        return []
    topics = sorted({*task.topics(), *_scene_topics(task), *NOT_IN_A_TASK})
    return [(topic, prefix + topic) for topic in topics if topic.startswith("/")]


def _scene_topics(task: TaskConfig) -> tuple[str, ...]:
    """What the simulated robot and the safety filter use beside the task's recording."""
    safety = task.safety
    watches = (safety.temperature, safety.battery, safety.geofence)
    watched = (safety.tilt_topic, safety.deadman_topic, *(w.topic for w in watches if w))
    return ("/odom", "/sim/cube_pose", "/sim/goal_pose", *(topic for topic in watched if topic))


def extra_remappings(path: str) -> list[tuple[str, str]]:
    """Remappings of a YAML file: a mapping from the task's topic to the robot's.

    Args:
        path: The file; empty: none.

    Raises:
        FogError: The file cannot be read or is not such a mapping.
    """
    if not path:
        return []
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise FogError(f"remappings:={path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise FogError(f"remappings:={path}: is not YAML: {error}") from error
    pairs = content.items() if isinstance(content, dict) else [("", None)]
    for topic, other in pairs:
        if not (isinstance(topic, str) and topic and isinstance(other, str) and other):
            raise FogError(f"remappings:={path}: expected lines TOPIC: OTHER_TOPIC")
    return list(pairs)


def process_environment() -> dict[str, str]:
    """What our nodes would set for themselves, for other processes of the launch as well."""
    from fog_world_model.ros_environment import prepare

    prepared = dict(os.environ)
    prepare(prepared)
    return {name: value for name, value in prepared.items() if os.environ.get(name) != value}
