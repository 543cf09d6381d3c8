"""The workspace itself: what is installed where, which package may import which."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from processes import REPOSITORY, ros_environment

from fog_world_model.ros_environment import PROFILE_VARIABLES

LAYERS = ("fog_world_model", "fog_policy", "fog_bringup")
"""From the bottom to the top; a package imports those before it only."""

EXECUTABLES = {
    "fog_world_model": set[str](),
    "fog_policy": {"policy_node"},
    "fog_bringup": {
        *("fog", "robot_node", "recorder_node", "driver_node"),
        *("replay_node", "go2_bridge_node", "odometry_frame_node", "dashboard_node"),
    },
}
ROS_MODULES = {
    "launch",
    "launch_ros",
    "rclpy",
    "diagnostic_msgs",
    "geometry_msgs",
    "lifecycle_msgs",
    "nav_msgs",
    "rcl_interfaces",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
}
DISTRIBUTIONS = {
    "cv2": "opencv-python",
    "PIL": "pillow",
    "rsl_rl": "rsl-rl-lib",
    "yaml": "pyyaml",
}
"""Where the name to install differs from the name to import."""

OPTIONAL_MODULES = {"cv_bridge", "ament_index_python"}
"""Brought by a ROS installation; looked for, never required."""


def sources(package: str) -> list[Path]:
    found = sorted((REPOSITORY / "src" / package / package).rglob("*.py"))
    assert found
    return found


def imported_modules(path: Path) -> Iterator[str]:
    """Full names of the modules that a source file imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""


def calls(path: Path) -> Iterator[str]:
    """Dotted names of everything that a source file calls."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_downwards(package: str) -> None:
    above = LAYERS[LAYERS.index(package) + 1 :]
    wrong = [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in sources(package)
        for module in imported_modules(path)
        if module.split(".")[0] in above
    ]
    assert not wrong


@pytest.mark.parametrize("package", LAYERS)
def test_only_nodes_import_ros(package: str) -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in sources(package)
        if package == "fog_world_model" or not path.name.endswith("_node.py")
        for module in imported_modules(path)
        if module.split(".")[0] in ROS_MODULES
    ]
    assert not wrong


@pytest.mark.parametrize("package", LAYERS)
def test_nothing_is_unpickled(package: str) -> None:
    modules = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    functions = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
    for path in sources(package):
        assert not {m.split(".")[0] for m in imported_modules(path)} & modules, path
        assert not set(calls(path)) & functions, path
        assert "allow_pickle=True" not in path.read_text(), path


@pytest.mark.parametrize("package", LAYERS)
def test_every_import_is_a_pinned_requirement(package: str) -> None:
    lines = (REPOSITORY / "requirements" / "runtime.txt").read_text().splitlines()
    pinned = {re.split(r"==", line)[0] for line in lines if "==" in line}
    known = {*sys.stdlib_module_names, *LAYERS, *ROS_MODULES, *OPTIONAL_MODULES}
    imported = {
        module.split(".")[0] for path in sources(package) for module in imported_modules(path)
    }
    names = {DISTRIBUTIONS.get(m, m.replace("_", "-")) for m in imported - known}
    assert names <= pinned


def test_installed_versions_are_the_pinned_ones() -> None:
    files = ["installer.txt", "runtime.txt", "development.txt", "go2.txt"]
    if not os.environ.get("ROS_DISTRO"):
        files.append("ros.txt")
    checked = 0
    for file in files:
        for line in (REPOSITORY / "requirements" / file).read_text().splitlines():
            if not line or line.startswith(("#", "-c")):
                continue
            pin = re.fullmatch(
                r"([\w.-]+)(?:\[\w+\])?==([\w.]+)(?:; python_version (<|>=) \"3\.11\")?", line
            )
            assert pin, f"{file}: {line!r} is no exact pin"
            name, version, comparison = pin.groups()
            if comparison is None or (comparison == "<") == (sys.version_info < (3, 11)):
                assert importlib.metadata.version(name).split("+")[0] == version, name
                checked += 1
    assert checked > 30


@pytest.mark.parametrize("package", LAYERS)
def test_every_folder_with_modules_is_a_package(package: str) -> None:
    """find_packages leaves a folder without __init__.py out of what colcon installs."""
    assert {p.parent for p in sources(package) if not (p.parent / "__init__.py").exists()} == set()


@pytest.mark.parametrize("package", LAYERS)
def test_manifest_and_setup_agree(package: str) -> None:
    folder = REPOSITORY / "src" / package
    manifest = ElementTree.parse(folder / "package.xml").getroot()
    assert manifest.attrib["format"] == "3"
    assert manifest.findtext("name") == package
    assert manifest.findtext("export/build_type") == "ament_python"
    installed = importlib.metadata.metadata(package)
    assert manifest.findtext("version") == installed["Version"]
    assert manifest.findtext("license") == installed["License"] == "Apache-2.0"
    config = configparser.ConfigParser()
    config.read(folder / "setup.cfg")
    assert config["install"]["install_scripts"] == f"$base/lib/{package}"
    assert (folder / "resource" / package).is_file()
    declared = {e.text for e in manifest.iter("exec_depend")}
    used = {m.split(".")[0] for path in sources(package) for m in imported_modules(path)}
    assert (used & {*ROS_MODULES, *LAYERS}) - {package} <= declared


def shares(package: str) -> set[Path]:
    """What a package has to have in its share, relative to it."""
    folder = REPOSITORY / "src" / package
    found = [folder / "package.xml", *folder.glob("launch/*.py")]
    for room in ("config", "urdf", "worlds", "policies"):
        found += [path for path in folder.glob(f"{room}/**/*") if path.is_file()]
    return {path.relative_to(folder) for path in found}


def ament_share(package: str, env: dict[str, str]) -> Path:
    """Where the ament index of an environment finds a package, asked in a process of its own."""
    code = (
        "import sys; from ament_index_python.packages import get_package_share_directory;"
        "print(get_package_share_directory(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, package]
    run = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return Path(run.stdout.strip())


def is_in(prefix: Path, path: Path) -> bool:
    return prefix.resolve() in path.resolve().parents


@pytest.mark.parametrize("package", LAYERS)
def test_ament_index_of_the_virtual_environment(package: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "AMENT_PREFIX_PATH"}
    share = ament_share(package, {**env, "AMENT_PREFIX_PATH": sys.prefix})
    assert share == Path(sys.prefix) / "share" / package
    for path in shares(package):
        installed = (share / path).read_bytes()
        assert installed == (REPOSITORY / "src" / package / path).read_bytes(), path


@pytest.mark.parametrize("package", LAYERS)
def test_executables_of_the_virtual_environment(package: str) -> None:
    for name in EXECUTABLES[package]:
        # Where `ros2 run` and launch files look, and on PATH under a name of our own.
        for path in (
            Path(sys.prefix, "lib", package, name),
            Path(sys.prefix, "bin", name if name == "fog" else f"fog_{name}"),
        ):
            assert os.access(path, os.X_OK), path


@pytest.fixture(scope="module")
def colcon_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An install space that colcon has built from this source tree."""
    folder = tmp_path_factory.mktemp("colcon")
    command = [sys.executable, "-m", "colcon", "--log-base", str(folder / "log"), "build"]
    command += ["--base-paths", str(REPOSITORY / "src"), "--executor", "sequential"]
    command += ["--build-base", str(folder / "build"), "--install-base", str(folder / "install")]
    run = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 packages finished" in run.stdout
    return folder / "install"


@pytest.mark.parametrize("package", LAYERS)
def test_colcon_installs_shares_and_executables(package: str, colcon_workspace: Path) -> None:
    prefix = colcon_workspace / package
    assert {p.name for p in prefix.glob(f"lib/{package}/*")} >= EXECUTABLES[package]
    for path in shares(package):
        assert (prefix / "share" / package / path).is_file(), path
    installed = {
        path.relative_to(path_of_package(prefix, package))
        for path in path_of_package(prefix, package).rglob("*.py")
    }
    source = REPOSITORY / "src" / package / package
    assert installed == {path.relative_to(source) for path in sources(package)}


def path_of_package(prefix: Path, package: str) -> Path:
    return next(prefix.glob(f"lib/python3*/site-packages/{package}"))


def test_sourced_colcon_workspace_comes_before_the_virtual_environment(
    colcon_workspace: Path,
) -> None:
    env = ros_environment()
    for name in PROFILE_VARIABLES:
        env.pop(name, None)
    prefixes = env["AMENT_PREFIX_PATH"].split(os.pathsep)
    env["AMENT_PREFIX_PATH"] = os.pathsep.join(p for p in prefixes if p != sys.prefix)
    code = (
        "from fog_world_model.ros_environment import prepare, find_share; prepare();"
        "import os, fog_policy;"
        "from ament_index_python.packages import get_package_share_directory as share;"
        "print(fog_policy.__file__, share('fog_bringup'), share('rclpy'),"
        " os.environ['FASTDDS_DEFAULT_PROFILES_FILE'], sep='\\n')"
    )
    script = f'. "{colcon_workspace}/setup.bash" && exec "{sys.executable}" -c "$0"'
    run = subprocess.run(
        ["bash", "-c", script, code], env=env, check=True, capture_output=True, text=True
    )
    module, share, ros, profile = map(Path, run.stdout.split("\n")[:4])
    assert is_in(colcon_workspace / "fog_policy", module)
    assert share == colcon_workspace / "fog_bringup" / "share" / "fog_bringup"
    assert is_in(colcon_workspace, profile)
    assert (ros / "package.xml").is_file()


def test_no_absolute_path_of_a_machine_in_the_sources() -> None:
    """What is tracked works wherever it is cloned."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, check=False, capture_output=True, text=True
    )
    if tracked.returncode != 0:  # an unpacked archive
        return
    pattern = re.compile(r"(?<![\w.])/(home|root|work|Users|mnt)/\w")
    for name in filter(None, tracked.stdout.split("\0")):
        path = REPOSITORY / name
        if path.is_file() and path.suffix in {".py", ".md", ".txt", ".toml", ".yaml", ".xml", ""}:
            text = path.read_text(errors="replace")
            assert not pattern.search(text), f"{name}: {pattern.search(text)}"
