"""Faults injected while a robot walks: does it stop, in time, for the right reason, and go on?

A stop counts as safe when all of this holds: a zero command was seen on the command's topic within
the limit that the task sets for the stream, a message on /diagnostics names what is wrong, and no
command but zero was sent from then on until the fault was over. (A robot that stops for something
else before the fault can be known may go on until it is.) When the policy node itself is killed,
nobody is left to send a zero: then the robot has to say that it stands for want of commands.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fog_bringup.benchmarks.benchmark_policy import camera_rate, make_policy, robot_task
from fog_bringup.benchmarks.fault_chain import FaultChain
from fog_bringup.benchmarks.fault_conductor import ALLOWANCE_S, COMMAND_TIMEOUT_S, FaultConductor
from fog_bringup.benchmarks.fault_kinds import KINDS, plan, possible
from fog_bringup.benchmarks.faults_picture import draw_faults
from fog_bringup.progress import progress_bar
from fog_bringup.report_theme import LIGHT, png
from fog_world_model.errors import FogError


def measure(
    bundle: Path | None,
    *,
    faults: int,
    seed: int,
    robot: str = "task",
    kinds: Sequence[str] = (),
    picture: Path | None = None,
) -> dict[str, Any]:
    """Inject faults, one after the other.

    Args:
        bundle: A bundle's folder; None: an untrained policy that walks in circles.
        faults: How many.
        seed: Of their order, their details and their moments.
        robot: ``task`` (the simulated robot of the policy's task) or ``synthetic``.
        kinds: Some of :data:`.fault_kinds.KINDS`; empty: all that the task allows.
        picture: PNG to write; None: no picture.

    Returns:
        ``policy`` and ``robot``; ``faults``:

        - ``injected``, ``safe_stops`` (see above), ``late`` (stopped for the right reason, but
          later than the limit and ``allowance_s``), ``out_of_bounds`` (commands that were not
          finite, outside the bounds or beyond the slew rate, out of ``commands``;
          ``commands_unseen`` did not arrive where that is judged),
          ``left_behind`` (processes that were still there after the end), ``recovered`` (the robot
          was driven again without a restart of the policy node; where that was what was killed,
          after its start);
        - ``kinds``: for each ``injected``, ``safe_stops``, ``late``, ``recovered``, ``limit_s``
          (the largest), ``worst_s`` and ``median_s`` (from the fault to the stop; None: never) and
          ``recovered_by`` (``itself``, ``reset``, ``activate``, ``configure``, ``start``: how
          often);
        - ``findings``: every fault without a safe stop and every one not recovered from, in words;
        - ``wrong_commands``: the first few of them.

        ``each``: every fault; its ``said`` is all that the status said meanwhile, its
        ``robot_lost_s`` how much of its own time the robot's node gave up around it, because it
        got no processor, its ``unasked_stops`` what was said at every stop before it that nobody
        had asked for. ``picture``; ``interrupted``, whether Ctrl-C came before the end, and
        ``error``, what else did, in words.

    Raises:
        FogError: An option is impossible, or the robot is not driven at all.
    """
    if faults < 1:
        raise FogError(f"--faults {faults}: expected at least 1")
    if picture is not None and picture.is_dir():
        raise FogError(f"--picture {picture}: is a folder, expected the path of a PNG to write")
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="fog_faults_") as scratch, progress_bar() as report:
        folder = Path(scratch)
        policy = make_policy(bundle, folder / "bundle")
        walking = robot_task(policy.task, robot)
        order = plan(tuple(kinds) or possible(policy.task), faults, random)
        camera_hz = camera_rate(policy.task.control_hz)
        parameters = {"command_timeout_s": COMMAND_TIMEOUT_S, "camera_hz": camera_hz}
        chain = FaultChain(folder, policy.path, policy.task, walking, parameters)
        conductor = FaultConductor(chain, camera_hz, random)
        interrupted, trouble = False, ""
        try:
            with chain.running():
                try:
                    conductor.run(order, report)
                except KeyboardInterrupt:
                    interrupted = True
        except FogError as error:
            if not conductor.each:
                raise
            trouble = str(error)  # what was found until then is worth telling
        found = summary(conductor.each, conductor.tally)
        found["left_behind"] = len(chain.end_left_behind())
        found["wrong_commands"] = conductor.wrong()[:10]
    result: dict[str, Any] = {
        "policy": policy.about,
        "robot": walking.robot,
        "seed": seed,
        "faults": found,
        "each": conductor.each,
        "interrupted": interrupted,
        "error": trouble,
    }
    if picture is not None and conductor.each:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(
            png(lambda theme: draw_faults(result, theme), LIGHT, background="white")
        )
        result["picture"] = str(picture)
    return result


def summary(each: Sequence[dict[str, Any]], tally: dict[str, Any]) -> dict[str, Any]:
    """Count what came of every fault; see :func:`measure`."""
    kinds: dict[str, Any] = {}
    for kind in (k for k in KINDS if any(one["kind"] == k for one in each)):
        of_kind = [one for one in each if one["kind"] == kind]
        times = [one["stopped_after_s"] for one in of_kind if one["stopped_after_s"] is not None]
        kinds[kind] = {
            "injected": len(of_kind),
            "safe_stops": sum(one["safe"] for one in of_kind),
            "late": sum(one["late"] for one in of_kind),
            "recovered": sum(one["recovered"] for one in of_kind),
            "limit_s": max(one["limit_s"] for one in of_kind),
            "worst_s": max(times) if len(times) == len(of_kind) else None,
            "median_s": float(np.median(times)) if times else None,
            "recovered_by": dict(Counter(one["recovered_by"] for one in of_kind)),
        }
    return {
        "injected": len(each),
        "safe_stops": sum(one["safe"] for one in each),
        "late": sum(one["late"] for one in each),
        "out_of_bounds": tally["out_of_bounds"],
        "commands": tally["commands"],
        "commands_unseen": tally["unseen"],
        "left_behind": 0,
        "recovered": sum(one["recovered"] for one in each),
        "allowance_s": ALLOWANCE_S,
        "unasked_stops": sum(len(one["unasked_stops"]) for one in each),
        "falls": sum(one["falls"] for one in each),
        "kinds": kinds,
        "findings": [one["finding"] for one in each if one["finding"]],
    }
