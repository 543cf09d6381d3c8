from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from fog_bringup import doctor
from fog_bringup.doctor import Finding
from fog_world_model.ros_environment import PROFILE_VARIABLES, prepare

Usage = namedtuple("Usage", "total used free")


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.part: finding.state for finding in findings}


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment that `fog doctor` looks at, restored afterwards."""
    env = {k: v for k, v in os.environ.items() if k not in PROFILE_VARIABLES}
    prepare(env)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_workspace_that_is_set_up_has_ros_and_its_packages(ros: pytest.MonkeyPatch) -> None:
    findings = states(doctor.check_ros())
    assert findings == {"ROS 2": "ok", "Fast DDS profile": "ok", "FoG packages": "ok"}


def test_a_profile_that_is_not_there_is_a_failure(ros: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ros.setenv(PROFILE_VARIABLES[0], str(tmp_path / "none.xml"))
    assert doctor._profile("rmw_fastrtps_cpp").state == "fail"
    (tmp_path / "none.xml").write_text("<dds/>")
    assert doctor._profile("rmw_fastrtps_cpp").state == "warn"


def test_packages_outside_the_ament_index_are_a_failure(
    ros: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ros.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    (finding,) = doctor._shares()
    assert finding.state == "fail"
    assert "fog_bringup" in finding.found


def test_an_unknown_middleware_names_the_variable_to_unset(ros: pytest.MonkeyPatch) -> None:
    ros.setenv("RMW_IMPLEMENTATION", "rmw_nope_cpp")
    (finding,) = doctor.check_ros()
    assert finding.state == "fail"
    assert "RMW_IMPLEMENTATION" in finding.advice


def test_gl_is_judged_by_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    (finding,) = doctor.check_gl()
    assert finding.state == "fail"
    assert "libegl1" in finding.advice


def test_a_port_of_cv_bridge_is_not_taken_for_the_genuine_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.13.0.post0")
    (finding,) = doctor.check_cv_bridge()
    assert (finding.state, finding.advice) == ("warn", "pip uninstall cv-bridge")


@pytest.mark.parametrize(("free", "state"), [(0.5, "fail"), (5, "warn"), (50, "ok")])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    usage = Usage(100 * 2**30, 0, round(free * 2**30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert doctor.check_disk()[0].state == state


def test_a_check_that_breaks_does_not_break_the_table() -> None:
    def check_flux_capacitor() -> list[Finding]:
        raise RuntimeError("1.21 gigawatts")

    (finding,) = doctor.examine(check_flux_capacitor)
    assert finding.part == "flux capacitor"
    assert (finding.state, finding.found) == ("fail", "RuntimeError: 1.21 gigawatts")


@pytest.mark.parametrize(("state", "status"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_exit_status(
    ros: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: doctor.State,
    status: int,
) -> None:
    found = "a [bracketed] text"
    ros.setattr(doctor, "CHECKS", (lambda: [Finding("engine", state, found, "oil it")],))
    assert doctor.doctor() == status
    output = capsys.readouterr().out
    assert found in output
    assert "oil it" in output
