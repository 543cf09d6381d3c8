from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fog_world_model.ros_environment import PROFILE_VARIABLES, find_share, prepare

INDEX = Path("share/ament_index/resource_index/packages")


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A virtual environment with our packages in its ament index."""
    venv = tmp_path / "venv"
    (venv / INDEX).mkdir(parents=True)
    profile = venv / "share" / "fog_bringup" / "config" / "fastdds.xml"
    profile.parent.mkdir(parents=True)
    profile.write_text("<dds/>")
    monkeypatch.setattr(sys, "prefix", str(venv))
    return venv


def test_a_plain_environment_looks_like_a_sourced_installation(
    prefix: Path, tmp_path: Path
) -> None:
    env = {"HOME": str(tmp_path)}
    prepare(env)
    assert env == {
        "HOME": str(tmp_path),
        "AMENT_PREFIX_PATH": str(prefix),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(prefix / "share/fog_bringup/config/fastdds.xml"),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    again = dict(env)
    prepare(again)
    assert again == env


def test_a_sourced_installation_stays_in_front_and_keeps_its_discovery(
    prefix: Path, tmp_path: Path
) -> None:
    env = {"HOME": str(tmp_path), "ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/opt/ros/jazzy"}
    prepare(env)
    assert env["AMENT_PREFIX_PATH"] == f"/opt/ros/jazzy{os.pathsep}{prefix}"
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in env
    # Fast DDS 2, which Jazzy brings, knows the old name only.
    assert {env[variable] for variable in PROFILE_VARIABLES} == {
        str(prefix / "share/fog_bringup/config/fastdds.xml")
    }


@pytest.mark.parametrize("variable", PROFILE_VARIABLES)
def test_the_users_profile_wins(prefix: Path, tmp_path: Path, variable: str) -> None:
    env = {"HOME": str(tmp_path), "ROS_DISTRO": "humble", variable: "mine.xml"}
    prepare(env)
    assert [env.get(v) for v in PROFILE_VARIABLES if v in env] == ["mine.xml"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET"),
        ("ROS_LOCALHOST_ONLY", "0"),
        ("ROS_STATIC_PEERS", "192.168.123.18"),
    ],
)
def test_the_users_discovery_wins(prefix: Path, tmp_path: Path, variable: str, value: str) -> None:
    env = {"HOME": str(tmp_path), variable: value}
    prepare(env)
    assert env[variable] == value
    assert env.get("ROS_AUTOMATIC_DISCOVERY_RANGE", value) == value


def test_logs_go_elsewhere_when_home_cannot_be_written(prefix: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the home folder should be")
    env = {"HOME": str(blocked / "home")}
    prepare(env)
    assert Path(env["ROS_LOG_DIR"]).is_absolute()
    chosen = {"HOME": str(blocked / "home"), "ROS_LOG_DIR": "/var/log/robot"}
    prepare(chosen)
    assert chosen["ROS_LOG_DIR"] == "/var/log/robot"


def test_the_first_prefix_with_the_file_wins(prefix: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    path = overlay / "share" / "fog_bringup" / "config" / "fastdds.xml"
    env = {"AMENT_PREFIX_PATH": f"{tmp_path}/empty{os.pathsep}{overlay}"}
    in_venv = prefix / "share" / "fog_bringup" / "config" / "fastdds.xml"
    assert find_share("fog_bringup", "config/fastdds.xml", env) == in_venv
    path.parent.mkdir(parents=True)
    path.write_text("<dds/>")
    assert find_share("fog_bringup", "config/fastdds.xml", env) == path
    assert find_share("fog_bringup", "config/none.xml", env) is None


def test_the_source_tree_serves_where_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    found = find_share("fog_bringup", "config/fastdds.xml", {})
    assert found == Path(__file__).resolve().parents[2] / "fog_bringup" / "config" / "fastdds.xml"
    env = {"HOME": str(tmp_path)}
    prepare(env)
    assert "AMENT_PREFIX_PATH" not in env
