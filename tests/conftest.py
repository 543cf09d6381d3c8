from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import REPOSITORY, ros_domain, ros_environment

from fog_bringup.closed_loop import free_domain_id
from fog_world_model.ros_environment import prepare
from fog_world_model.task import TaskConfig, load_task

# Before any test module can import rclpy: the middleware reads these once.
os.environ.update(ROS_DOMAIN_ID=str(ros_domain()), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
prepare()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Top of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def task_path() -> Path:
    """Task file of the demo."""
    return REPOSITORY / "src" / "fog_bringup" / "config" / "tasks" / "reach_cube.yaml"


@pytest.fixture(scope="session")
def task(task_path: Path) -> TaskConfig:
    """Task of the demo."""
    return load_task(task_path)


@pytest.fixture(scope="session")
def node_environment() -> dict[str, str]:
    """Environment for node processes that share this test process's ROS domain."""
    return ros_environment()


@pytest.fixture(scope="session")
def toy_world(task: TaskConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An episode store and a global model of the demo's task; do not change them."""
    from toy_world import write_toy_world

    return write_toy_world(task, tmp_path_factory.mktemp("toy_world"))


@pytest.fixture(scope="module")
def domain() -> int:
    """A ROS domain of the test module's own."""
    return free_domain_id()


@pytest.fixture(scope="module")
def env(domain: int) -> dict[str, str]:
    """Environment for node processes in that domain."""
    return ros_environment(ROS_DOMAIN_ID=str(domain))
