"""`make setup`: what it says when the machine does not fit, and what it puts where."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from processes import REPOSITORY


@pytest.fixture
def set_up() -> ModuleType:
    """The script, loaded afresh."""
    path = REPOSITORY / "requirements" / "set_up.py"
    spec = importlib.util.spec_from_file_location("set_up", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 13, 0)])
def test_an_unsupported_python_is_named_with_another(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(set_up.sys, "version_info", version)
    which = {"python3.11": "/usr/bin/python3.11"}.get
    monkeypatch.setattr(set_up.shutil, "which", which)
    with pytest.raises(set_up.SetupError, match=r"make setup PYTHON=python3\.11") as error:
        set_up.check_python()
    assert ".".join(map(str, version)) in str(error.value)


def test_a_python_without_venv_names_the_package(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up.importlib.util, "find_spec", lambda name: None)
    package = f"python3.{sys.version_info[1]}-venv"
    with pytest.raises(set_up.SetupError, match=f"apt install {package}"):
        set_up.check_python()


@pytest.mark.parametrize(
    ("missing", "without_gl", "packages"),
    [
        ({"libGL.so.1"}, False, "libgl1 "),
        ({"libEGL.so.1", "libOSMesa.so.8", "libOSMesa.so.6"}, False, "libegl1 libgl1-mesa-dri "),
        ({"libEGL.so.1", "libOSMesa.so.8", "libOSMesa.so.6"}, True, None),
        ({"libEGL.so.1"}, False, None),
        (set(), False, None),
    ],
)
def test_missing_libraries_name_their_packages(
    set_up: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    missing: set[str],
    without_gl: bool,
    packages: str | None,
) -> None:
    monkeypatch.setattr(set_up, "_loads", lambda library: library not in missing)
    if packages is None:
        set_up.check_libraries(without_gl=without_gl)
        return
    with pytest.raises(set_up.SetupError) as error:
        set_up.check_libraries(without_gl=without_gl)
    assert f"sudo apt install {packages}" in str(error.value)


def test_a_ros_of_another_python_stops_before_anything_is_made(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setattr(set_up, "_runs", lambda command: False)
    with pytest.raises(set_up.SetupError, match="PYTHON=/usr/bin/python3"):
        set_up.sourced_ros()
    monkeypatch.setattr(set_up, "_runs", lambda command: True)
    assert set_up.sourced_ros() == "jazzy"
    monkeypatch.delenv("ROS_DISTRO")
    assert set_up.sourced_ros() == ""


def test_a_step_is_repeated_only_for_other_inputs(set_up: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "stamp.json"
    set_up.Stamp(path).write("requirements", "a")
    stamp = set_up.Stamp(path)
    assert not stamp.differs("requirements", "a")
    assert stamp.differs("requirements", "b")
    assert stamp.differs("packages", "a")
    path.write_text('{"requirements": "a')  # cut off by a full disk
    assert set_up.Stamp(path).differs("requirements", "a")


def test_the_fingerprint_sees_contents_names_and_options(
    set_up: ModuleType, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("x")
    b.write_text("x")
    prints = {set_up.fingerprint([p], m) for p in (a, b) for m in ("wheels", "jazzy")}
    assert len(prints) == 4
    before = set_up.fingerprint([a])
    a.write_text("y")
    assert set_up.fingerprint([a]) != before


def test_shares_are_links_to_the_sources_file_by_file(set_up: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "share" / "fog_bringup" / "config").mkdir(parents=True)
    (tmp_path / "share" / "fog_bringup" / "config" / "removed.yaml").write_text("old")
    set_up.link_shares(tmp_path)
    share = tmp_path / "share" / "fog_bringup"
    source = REPOSITORY / "src" / "fog_bringup"
    assert (share / "config" / "fastdds.xml").resolve() == source / "config" / "fastdds.xml"
    assert not (share / "config" / "removed.yaml").exists()
    # A folder that is a link would let `pip uninstall` reach into the sources.
    assert not any(path.is_symlink() for path in share.rglob("*") if path.is_dir())
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    assert {path.name for path in index.iterdir()} == set(set_up.PACKAGES)


def test_what_setup_links_is_what_the_packages_declare(set_up: ModuleType) -> None:
    for package in set_up.PACKAGES:
        code = (
            "import json, setuptools; setuptools.setup = lambda **k: print(json.dumps("
            "[[folder, files] for folder, files in k['data_files']])); "
            "exec(open('setup.py').read())"
        )
        folder = REPOSITORY / "src" / package
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )
        declared = {
            Path(target, Path(file).name)
            for target, files in json.loads(run.stdout)
            for file in files
            if target.startswith(f"share/{package}")
        }
        linked = {Path("share", p) for p in set_up.shared_files() if p.parts[0] == package}
        assert linked == declared


def test_a_failing_pip_shows_the_end_of_its_output(set_up: ModuleType) -> None:
    with pytest.raises(set_up.SetupError, match="no such option"):
        set_up.pip(Path(sys.prefix), ["--no-such-option"], "nothing")


def test_a_folder_that_is_no_environment_is_left_alone(set_up: ModuleType, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "thesis.tex").write_text("ten years of work")
    stamp = set_up.Stamp(venv / "stamp.json")
    with pytest.raises(set_up.SetupError, match="move it away"):
        set_up.make_environment(venv, stamp, ros="", fingerprint="x")
    assert (venv / "thesis.tex").exists()
