"""Build of the ament_python package fog_bringup (colcon and pip)."""

from pathlib import Path

from setuptools import find_packages, setup

package_name = "fog_bringup"


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """The files below a folder, as data_files entries that keep its structure."""
    entries: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            entries.setdefault(f"share/{package_name}/{path.parent}", []).append(str(path))
    return list(entries.items())


setup(
    name=package_name,
    version="0.1.0",
    description="Robots, recording, launch files, configuration and the fog command",
    packages=find_packages(exclude=["test"]),
    package_data={package_name: ["py.typed", "*/static/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
        *shared("urdf"),
        *shared("worlds"),
        *shared("policies"),
    ],
    install_requires=[
        "setuptools",
        "fastapi",
        "fog_policy",
        "fog_world_model",
        "gym-pusht",
        "gymnasium",
        "matplotlib",
        "mujoco",
        "numpy",
        "onnxruntime",
        "opencv-python",
        "pillow",
        "pyarrow",
        "pydantic",
        "pyyaml",
        "rich",
        "starlette",
        "tyro",
        "uvicorn",
        "websockets",
    ],
    extras_require={"test": ["pytest", "hypothesis", "playwright"]},
    zip_safe=True,
    license="Apache-2.0",
    maintainer="FoG maintainers",
    maintainer_email="maintainers@example.org",
    python_requires=">=3.10",
    entry_points={
        "console_scripts": [
            "fog = fog_bringup.cli:main",
            # `ros2 run fog_bringup robot_node`; the prefixed names are for a PATH shared with
            # others, such as a virtual environment's.
            "robot_node = fog_bringup.robot_node:main",
            "recorder_node = fog_bringup.recorder_node:main",
            "driver_node = fog_bringup.driver_node:main",
            "fog_robot_node = fog_bringup.robot_node:main",
            "fog_recorder_node = fog_bringup.recorder_node:main",
            "replay_node = fog_bringup.replay_node:main",
            "go2_bridge_node = fog_bringup.go2_bridge_node:main",
            "odometry_frame_node = fog_bringup.odometry_frame_node:main",
            "dashboard_node = fog_bringup.dashboard_node:main",
            "fog_driver_node = fog_bringup.driver_node:main",
            "fog_replay_node = fog_bringup.replay_node:main",
            "fog_odometry_frame_node = fog_bringup.odometry_frame_node:main",
            "fog_dashboard_node = fog_bringup.dashboard_node:main",
            "fog_go2_bridge_node = fog_bringup.go2_bridge_node:main",
        ],
    },
)
