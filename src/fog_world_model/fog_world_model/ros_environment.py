"""The environment variables that ROS reads, set before ROS is imported.

Every entry point calls :func:`prepare` first. It makes a plain virtual environment with the rclpy
wheels look like a sourced ROS installation, and it leaves alone whatever the user has set. It lives
in the lowest package, because the nodes of both others need it; it imports nothing of ROS.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Where Fast DDS looks for its profile: the first since Fast DDS 3 (Kilted), the second before."""

_BEFORE_FASTDDS_3 = ("humble", "iron", "jazzy")

_DISCOVERY_VARIABLES = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS")
_PACKAGES = Path("share/ament_index/resource_index/packages")


def prepare(environment: MutableMapping[str, str] | None = None) -> None:
    """Set what is missing for ROS 2 to work well in this process and in those that it starts.

    - ``AMENT_PREFIX_PATH`` ends with this virtual environment, so that the ament index finds the
      shares of the FoG packages and, without a ROS installation, those of the rclpy wheels.
    - The Fast DDS profile of ``fog_bringup`` is in force; with the default one, camera images are
      lost.
    - Without a sourced ROS, discovery stays on this machine: robots on the same network do not
      hear a simulation by accident.
    - Logs go to a temporary folder where the home folder cannot be written.

    Args:
        environment: What to change; ``os.environ`` unless given.
    """
    env = os.environ if environment is None else environment
    if (Path(sys.prefix) / _PACKAGES).is_dir():
        prefixes = _prefixes(env)
        if sys.prefix not in prefixes:
            env["AMENT_PREFIX_PATH"] = os.pathsep.join([*prefixes, sys.prefix])

    if not any(env.get(variable) for variable in PROFILE_VARIABLES):
        profile = find_share("fog_bringup", "config/fastdds.xml", env)
        if profile is not None:
            env[PROFILE_VARIABLES[0]] = str(profile)
            # Later releases print a deprecation warning in every process that sees the old name.
            if env.get("ROS_DISTRO") in _BEFORE_FASTDDS_3:
                env[PROFILE_VARIABLES[1]] = str(profile)

    if not env.get("ROS_DISTRO") and not any(env.get(v) for v in _DISCOVERY_VARIABLES):
        env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

    if not env.get("ROS_LOG_DIR") and not env.get("ROS_HOME") and not _home_is_writable(env):
        env["ROS_LOG_DIR"] = str(Path(tempfile.gettempdir()) / f"fog_ros_log_{os.getuid()}")


def find_share(
    package: str, relative: str, environment: MutableMapping[str, str] | None = None
) -> Path | None:
    """Find an installed file of one of our packages without importing ROS.

    Args:
        package: Package name, for example ``fog_bringup``.
        relative: Path below ``share/<package>``, for example ``config/fastdds.xml``.
        environment: Where ``AMENT_PREFIX_PATH`` is read from; ``os.environ`` unless given.

    Returns:
        The file or folder: the first on ``AMENT_PREFIX_PATH``, else this environment's, else the
        one in the source tree that this module lies in; None when there is none.
    """
    env = os.environ if environment is None else environment
    shares = [Path(prefix) / "share" / package for prefix in (*_prefixes(env), sys.prefix)]
    shares.append(Path(__file__).resolve().parents[2] / package)
    for share in shares:
        if (share / relative).exists():
            return share / relative
    return None


def _prefixes(env: MutableMapping[str, str]) -> list[str]:
    return [p for p in env.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]


def _home_is_writable(env: MutableMapping[str, str]) -> bool:
    """Whether ``~/.ros/log`` can be written or made; rcl fails at start-up where it cannot."""
    folder = Path(env.get("HOME", "/nonexistent")) / ".ros" / "log"
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
