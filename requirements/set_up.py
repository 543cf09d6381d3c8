"""Make the virtual environment of this workspace: `make setup` calls this, `--help` says how.

Every step is done again only when something that it depends on has changed, and can be interrupted
at any moment: what was not finished is done by the next call. Standard library only, because
nothing else is there yet.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
PACKAGES = ("fog_world_model", "fog_policy", "fog_bringup")
OLDEST, NEWEST = (3, 10), (3, 12)

LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libEGL.so.1": "libegl1 libgl1-mesa-dri",
}
"""What OpenCV and MuJoCo load, and the Debian/Ubuntu packages that bring it."""


class SetupError(Exception):
    """Something that the user has to change; the message says what and how."""


def main() -> int:
    """Check the machine, then bring the environment up to date."""
    parser = argparse.ArgumentParser(description="Make or update the virtual environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where (default: .venv)")
    parser.add_argument(
        "--without-gl", action="store_true", help="go on without libEGL (no simulated Go2)"
    )
    arguments = parser.parse_args()
    try:
        check_python()
        check_libraries(without_gl=arguments.without_gl)
        set_up(arguments.venv.absolute())
    except SetupError as error:
        print(f"make setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make setup: interrupted; the next call goes on from here", file=sys.stderr)
        return 130
    return 0


def check_python() -> None:
    """Stop unless this Python can make the environment."""
    version = ".".join(map(str, sys.version_info[:3]))
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = [f"python3.{minor}" for minor in (12, 11, 10) if shutil.which(f"python3.{minor}")]
        advice = (
            f"use one that is here: make setup PYTHON={found[0]}"
            if found
            else "install one (apt install python3.11 python3.11-venv) and name it: "
            "make setup PYTHON=python3.11"
        )
        raise SetupError(f"{sys.executable} is Python {version}, 3.10 to 3.12 is needed; {advice}")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SetupError(
            f"{sys.executable} cannot make virtual environments: sudo apt install {package}"
        )


def check_libraries(*, without_gl: bool) -> None:
    """Stop when a system library is missing, before minutes go into the installation."""
    missing = [package for library, package in LIBRARIES.items() if not _loads(library)]
    egl = LIBRARIES["libEGL.so.1"]
    if egl in missing and (without_gl or _loads("libOSMesa.so.8") or _loads("libOSMesa.so.6")):
        missing.remove(egl)
    if missing:
        hint = "; without the simulated Go2 it also goes: make setup WITHOUT_GL=1"
        raise SetupError(
            "the camera and the images need system libraries that are not here: "
            f"sudo apt install {' '.join(missing)} (from Ubuntu 24.04 and Debian 13 on, "
            f"libglib2.0-0 is called libglib2.0-0t64){hint if missing == [egl] else ''}"
        )


def _runs(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def sourced_ros() -> str:
    """Name of the sourced ROS distribution; empty when none is sourced.

    Raises:
        SetupError: One is sourced, but it belongs to another Python.
    """
    distro = os.environ.get("ROS_DISTRO", "")
    if not distro:
        return ""
    # The base interpreter: inside an active virtual environment, rclpy may be that of the wheels.
    python = getattr(sys, "_base_executable", sys.executable)
    if not _runs([python, "-c", "import rclpy"]):
        raise SetupError(
            f"ROS 2 {distro} is sourced, but {python} cannot import rclpy. Take the Python that it "
            "was built for (make setup PYTHON=/usr/bin/python3), or do not source it: then rclpy "
            "comes from wheels"
        )
    return distro


def set_up(venv: Path) -> None:
    """Do the steps whose inputs have changed since they were last completed."""
    ros = sourced_ros()
    with one_at_a_time():
        stamp = Stamp(venv / ".fog_setup.json")
        # Commands in an environment hold its absolute path: one that was moved is made again.
        interpreter = f"ROS 2 {ros or 'from wheels'} in {venv}"
        make_environment(venv, stamp, ros=ros, fingerprint=interpreter)

        files = [REQUIREMENTS / f"{name}.txt" for name in ("runtime", "development")]
        if not ros:
            files.append(REQUIREMENTS / "ros.txt")
        installer = REQUIREMENTS / "installer.txt"
        inputs = fingerprint([*files, installer, REQUIREMENTS / "constraints.txt"], interpreter)
        if stamp.differs("requirements", inputs):
            options = [option for path in files for option in ("-r", str(path))]
            pip(venv, ["-r", str(installer)], "pip")
            pip(venv, ["--prefer-binary", *options], "the pinned requirements (some minutes)")
            compile_modules(venv)
            stamp.write("requirements", inputs)

        go2 = REQUIREMENTS / "go2.txt"
        inputs = fingerprint([go2], interpreter)
        if stamp.differs("go2", inputs):
            pip(venv, ["--no-deps", "-r", str(go2)], "the Go2 model and its walking policy")
            stamp.write("go2", inputs)

        names = ("setup.py", "setup.cfg", "pyproject.toml", "package.xml")
        files = [ROOT / "src" / package / name for package in PACKAGES for name in names]
        inputs = fingerprint(
            [*files, Path(__file__)], interpreter, str(ROOT), *map(str, shared_files())
        )
        if stamp.differs("packages", inputs):
            folders = [str(ROOT / "src" / package) for package in PACKAGES]
            editable = [option for folder in folders for option in ("--editable", folder)]
            pip(venv, ["--no-deps", "--no-build-isolation", *editable], ", ".join(PACKAGES))
            link_shares(venv)
            link_executables(venv)
            if ros:
                write_ros2(venv)
            check_imports(venv)
            stamp.write("packages", inputs)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait for another `make setup` of the same workspace."""
    name = hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"fog_setup_{os.getuid()}_{name}.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("make setup: waiting for another one that is under way", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Stamp:
    """Which steps are complete, and for which inputs."""

    def __init__(self, path: Path) -> None:
        """Read the stamp; a missing or damaged one means that nothing is complete."""
        self.path = path
        try:
            self.steps: dict[str, str] = json.loads(path.read_text())
        except (OSError, ValueError):
            self.steps = {}

    def differs(self, step: str, inputs: str) -> bool:
        """Whether a step has to be done (again)."""
        return self.steps.get(step) != inputs

    def write(self, step: str, inputs: str) -> None:
        """Note that a step is complete."""
        self.steps[step] = inputs
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(self.steps, indent=1) + "\n")
        aside.replace(self.path)


def fingerprint(files: Sequence[Path], *more: str) -> str:
    """SHA-256 over the contents of files and some strings."""
    digest = hashlib.sha256("\0".join(more).encode())
    for path in files:
        digest.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def make_environment(venv: Path, stamp: Stamp, *, ros: str, fingerprint: str) -> None:
    """Make the environment unless a working one for the same ROS is there."""
    python = venv / "bin" / "python"
    before = stamp.steps.get("environment", "")
    if python.exists() and before == fingerprint:
        return
    supported = f"import pip, sys; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    works = python.exists() and _runs([str(python), "-c", supported])
    if works and not before:
        stamp.write("environment", fingerprint)
        return
    if venv.exists():
        if not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            raise SetupError(f"{venv} is there, but is no virtual environment: move it away")
        why = f"it was made for {before}, now {fingerprint}" if works else "it does not work"
        print(f"make setup: making {venv.name} again ({why})", flush=True)
        shutil.rmtree(venv)
    stamp.steps = {}
    base = getattr(sys, "_base_executable", sys.executable)
    print(f"make setup: {venv.name} with {base} (ROS 2: {ros or 'from wheels'})", flush=True)
    options = ["--system-site-packages"] if ros else []
    subprocess.run([base, "-m", "venv", *options, str(venv)], check=True)
    stamp.write("environment", fingerprint)


def pip(venv: Path, arguments: Sequence[str], what: str) -> None:
    """Run pip install with one line of progress.

    Raises:
        SetupError: It failed; the message has the end of its output and where the rest lies.
    """
    log = venv / "pip.log"
    command = [str(venv / "bin" / "python"), "-m", "pip", "install"]
    command += ["--disable-pip-version-check", "--no-input", "--no-compile", *arguments]
    print(f"make setup: installing {what}", flush=True)
    start = time.monotonic()
    live = sys.stdout.isatty()
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if live:
                    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
                    seconds = time.monotonic() - start
                    print(f"\r\033[K  {seconds:4.0f} s  {last.strip()[:60]}", end="", flush=True)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if live:
                print("\r\033[K", end="", flush=True)
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SetupError(f"pip failed ({log} has all of its output):\n{tail}")
    print(f"make setup: done in {time.monotonic() - start:.0f} s", flush=True)


def compile_modules(venv: Path) -> None:
    """Compile the installed modules on all cores, which pip does on one only.

    Without it every process would, where PYTHONDONTWRITEBYTECODE keeps Python from doing it once.
    """
    print("make setup: compiling", flush=True)
    command = [str(venv / "bin" / "python"), "-m", "compileall", "-q", "-q", "-j", "0"]
    # Large and never imported here: tests, ready-made diffusion pipelines, torch's code generators.
    never = r"/(tests?|templates?|pipelines/\w+|codegen)/"
    command += ["-x", never, str(venv / "lib")]
    subprocess.run(command, check=False)


def shared_files() -> list[Path]:
    """What goes to share/, relative to src/: manifests, launch files, settings and so on."""
    source = ROOT / "src"
    found = []
    for package in PACKAGES:
        found.append(Path(package, "package.xml"))
        for folder in ("launch", "config", "urdf", "worlds", "policies"):
            paths = sorted((source / package / folder).rglob("*"))
            found += [p.relative_to(source) for p in paths if p.is_file() and p.suffix != ".pyc"]
    return found


def link_shares(venv: Path) -> None:
    """Put the ament index entries and the shares of the packages into the environment.

    An editable installation leaves them out. Each file is a link of its own, so that edits are
    seen at once, and so that a later ordinary `pip install` replaces links rather than sources.
    """
    markers = venv / "share" / "ament_index" / "resource_index" / "packages"
    markers.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        shutil.rmtree(venv / "share" / package, ignore_errors=True)
        (markers / package).write_text("")
    for path in shared_files():
        target = venv / "share" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(ROOT / "src" / path)


def link_executables(venv: Path) -> None:
    """Offer the nodes as lib/<package>/<node>, where `ros2 run` and launch files look for them."""
    for package in PACKAGES:
        folder = venv / "lib" / package
        shutil.rmtree(folder, ignore_errors=True)
        for name in console_scripts(venv, package):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(Path("..", "..", "bin", name))


def write_ros2(venv: Path) -> None:
    """Offer the sourced `ros2` run by this Python, which has what our launch files import."""
    script = venv / "bin" / "ros2"
    script.write_text(
        f"#!{venv}/bin/python\n"
        "import sys\n"
        "from fog_world_model.ros_environment import prepare\n"
        "prepare()\n"
        "from ros2cli.cli import main\n"
        "sys.exit(main())\n"
    )
    script.chmod(0o755)


def console_scripts(venv: Path, package: str) -> list[str]:
    """Names of the commands that a package installs."""
    code = (
        "import sys; from importlib.metadata import distribution; "
        "print(*(e.name for e in distribution(sys.argv[1]).entry_points"
        " if e.group == 'console_scripts'))"
    )
    command = [str(venv / "bin" / "python"), "-c", code, package]
    run = subprocess.run(command, cwd=venv, capture_output=True, text=True, check=True)
    return run.stdout.split()


def check_imports(venv: Path) -> None:
    """Load the libraries with compiled parts once, so that what is missing shows here."""
    modules = ("torch", "cv2", "onnxruntime", "rclpy", *PACKAGES)
    code = f"import {', '.join(modules)}"
    command = [str(venv / "bin" / "python"), "-c", code]
    run = subprocess.run(command, cwd=venv, check=False, capture_output=True, text=True)
    if run.returncode != 0:
        raise SetupError(f"the installation does not work; `{code}` says:\n{run.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main())
