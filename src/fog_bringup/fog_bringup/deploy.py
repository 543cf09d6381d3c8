"""``fog deploy``: run a bundle on the robot whose topics are here, until Ctrl-C.

The policy node is a process of its own; it configures and activates itself, and its log is shown
as it comes. Nothing of ROS is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fog_policy import exit_signals
from fog_policy.shipped_policies import find_bundle
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare

_PATIENCE_S = 5.0
"""How long the node may take to end; its zero command comes first."""
_INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)
"""Exit status where Ctrl-C struck before the node could take charge of signals."""


def deploy(
    bundle: str | os.PathLike[str], *, report: Path | None, sim_time: bool, device: str
) -> int:
    """Start policy_node, let it drive, and end it with SIGINT when a signal comes.

    SIGINT, SIGTERM and the loss of the terminal (SIGHUP) all end in a zero command.

    Args:
        bundle: The bundle's folder, or the name of a shipped policy.
        report: JSON file for rates, latencies and stops.
        sim_time: Follow /clock.
        device: Where the policy runs.

    Returns:
        The node's exit status: 0 after a signal, 2 when it could not be configured; 130 when the
        signal came before the node was there.

    Raises:
        FogError: The bundle or an option cannot work; nothing has been started.
    """
    folder = find_bundle(bundle).resolve()
    _check(folder, report, device)
    parameters = {
        "bundle": str(folder),
        "device": device,
        "report_path": "" if report is None else str(report.resolve()),
        "autostart": True,
        "use_sim_time": sim_time,
    }
    command = [sys.executable, "-m", "fog_policy.policy_node", "--ros-args"]
    for name, value in parameters.items():
        # JSON is YAML, which is how ROS reads a parameter's value.
        command += ["-p", f"{name}:={json.dumps(value)}"]
    with exit_signals.raised():
        return _run(command)


def _check(bundle: Path, report: Path | None, device: str) -> None:
    """Find out here what would end the node as soon as it is configured."""
    import torch

    from fog_policy.bundle import load_bundle

    load_bundle(bundle).controller()
    # A GPU is only asked for here: this process would keep the memory that it takes there.
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise FogError(f"--device {device}: expected cpu, cuda or cuda:NUMBER") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise FogError(f"--device {device}: there is no GPU that PyTorch can use; give cpu")
    if report is not None and report.is_dir():
        raise FogError(f"--report {report}: is a folder, expected the path of a JSON file to write")


def _run(command: Sequence[str]) -> int:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    prepare(environment)
    # Should this process be killed, the node gets SIGINT from the kernel, stops the robot and ends.
    keeper = shutil.which("setpriv")
    if keeper is not None:
        command = [keeper, "--pdeathsig", "INT", *command]
    # It is in this process group, so that Ctrl-C and the loss of the terminal reach it too.
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    try:
        return _status(process.wait())
    except KeyboardInterrupt:
        with exit_signals.ignored():
            status = _end(process)
        return 130 if status in _INTERRUPTED else _status(status)


def _end(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_PATIENCE_S)
    process.kill()
    return process.wait()


def _status(code: int) -> int:
    """As a shell tells of a process that a signal ended."""
    return code if code >= 0 else 128 - code
