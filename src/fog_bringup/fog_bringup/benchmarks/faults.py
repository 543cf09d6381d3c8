"""Faults injected while a robot walks: does it stop, in time, for the right reason, and go on?

A stop counts as safe when all of this holds: a zero command was seen on the command's topic within
the limit that the task sets for the stream, a message on /diagnostics names what is wrong, and no
command but zero was sent until the fault was over. When the policy node itself is killed, nobody is
left to send a zero: then the robot has to say that it stands for want of commands.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fog_bringup.benchmarks.benchmark_policy import camera_rate, make_policy, robot_task
from fog_bringup.benchmarks.fault_chain import POLICY, FaultChain
from fog_bringup.benchmarks.fault_kinds import KINDS, Injection, draw, plan, possible
from fog_bringup.benchmarks.faults_picture import draw_faults
from fog_bringup.progress import Report, progress_bar
from fog_bringup.report_theme import LIGHT, png
from fog_world_model.errors import FogError

ALLOWANCE_S: Final = 0.05
"""Beyond the limit: one command period until it is looked at, one step of the robot, the way."""
COMMAND_TIMEOUT_S: Final = 0.5
"""After which the robot no longer obeys a command: robot_node's own default."""
_STEADY_S: Final = (0.5, 1.5)
"""The robot has walked for so long when a fault comes, so that it comes at any phase."""
_LASTS_S: Final = (0.3, 1.0)
"""A fault goes on for so long after the stop, in which no other command than zero may come."""
_PATIENCE_S: Final = 5.0
"""Beyond its limit a stop is waited for so long, to know by how much it is too late."""
_REASON_S: Final = 2.0
_ITSELF_S, _SERVICE_S, _START_S = 6.0, 10.0, 120.0
_DRIVE_S: Final = 180.0
"""The first time, the policy node loads for some seconds."""
_STATUS: Final = "policy_node: control"


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

        ``each``: every fault; its ``robot_lost_s`` is how much of its own time the robot's node
        gave up around it, because it got no processor. ``picture``; ``interrupted``, whether
        Ctrl-C came before the end, and ``error``, what else did, in words.

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
        conductor = _Conductor(chain, camera_hz, random)
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
        "unasked_stops": sum(one["unasked_stops"] for one in each),
        "falls": sum(one["falls"] for one in each),
        "kinds": kinds,
        "findings": [one["finding"] for one in each if one["finding"]],
    }


class _Conductor:
    """Injects one fault after the other, and follows what comes of it."""

    def __init__(self, chain: FaultChain, camera_hz: float, random: np.random.Generator) -> None:
        self.each: list[dict[str, Any]] = []
        self._chain, self._camera_hz, self._random = chain, camera_hz, random
        self._unasked, self._falls = 0, 0
        self.tally: dict[str, Any] = {"commands": 0, "out_of_bounds": 0, "unseen": 0}

    def run(self, order: Sequence[str], report: Report) -> None:
        """Inject faults of these kinds."""
        report("waiting for the robot to walk", 0, 1)
        if not self._walks(0, _DRIVE_S):
            raise FogError(
                f"the robot is not driven: {self._last_said() or self._chain.tail(POLICY)}"
            )
        report("waiting for the robot to walk", 1, 1)
        for number, kind in enumerate(order):
            report("faults", number, len(order))
            self._steady()
            injection = draw(
                kind, self._chain.task, COMMAND_TIMEOUT_S, self._camera_hz, self._random
            )
            while (result := self._inject(injection)) is None:
                self._steady()
            self.each.append(result)
            self.tally = self._chain.tally()
        report("faults", len(order), len(order))

    def wrong(self) -> list[list[str]]:
        """What was wrong with every command that should not have been sent."""
        return [e["problems"] for e in self._chain.events() if e["event"] == "wrong"]

    def _inject(self, injection: Injection) -> dict[str, Any] | None:
        """What came of a fault; None when the robot had stopped by itself just before."""
        chain, first = self._chain, len(self._chain.events())
        at_ns = chain.kill(injection.kill) if injection.kill else chain.spoil(injection.topics)
        limit_s = injection.limit_s + ALLOWANCE_S
        stop = self._stop(injection, first, at_ns, limit_s + _PATIENCE_S)
        after_s = None if stop is None else (stop["ns"] - at_ns) / 1e9
        said = self._reason(injection, first, at_ns)
        time.sleep(self._random.uniform(*_LASTS_S))
        moved = stop is not None and self._moved_after(stop)
        over = len(chain.events())
        over_ns = self._end(injection)
        recovered_by, recovery_s = self._recover(injection, over, over_ns, stop is not None)
        # The robot's node tells every second.
        lost_s = sum(e["seconds"] for e in chain.events()[first:] if e["event"] == "lost")
        if stop is None and not injection.by_robot and not self._walked_at(at_ns):
            self._unasked += 1
            return None
        stopped = stop is not None and said is not None and not moved
        late = stopped and after_s is not None and after_s > limit_s
        result = {
            "kind": injection.kind,
            "detail": injection.detail,
            "limit_s": injection.limit_s,
            "stopped_after_s": after_s,
            "reason": said,
            "stayed": not moved,
            "safe": stopped and not late,
            "late": late,
            # What was killed is started again; everything else goes on without a restart.
            "recovered": recovered_by not in ("", "restart"),
            "recovered_by": recovered_by or "nothing",
            "recovery_s": recovery_s,
            "robot_lost_s": lost_s,
            "unasked_stops": self._unasked,
            "falls": self._falls,
        }
        self._unasked, self._falls = 0, 0
        result["finding"] = self._finding(result, stop is not None, limit_s)
        return result

    def _stop(
        self, injection: Injection, first: int, at_ns: int, limit_s: float
    ) -> dict[str, Any] | None:
        """The first sign that the robot has been stopped."""

        def by_command(line: dict[str, Any]) -> bool:
            return line["event"] == "command" and not line["moving"] and line["ns"] >= at_ns

        def by_robot(line: dict[str, Any]) -> bool:
            return _said(line, injection.status, injection.reasons) and line["ns"] >= at_ns

        return self._chain.wait(
            "watch", by_robot if injection.by_robot else by_command, first, limit_s
        )

    def _reason(self, injection: Injection, first: int, at_ns: int) -> str | None:
        """What was said on /diagnostics that fits the fault; None when nothing did."""
        found = self._chain.wait(
            "watch",
            lambda line: (
                _said(line, injection.status, injection.reasons)
                and line["level"] > 0
                and line["ns"] >= at_ns
            ),
            first,
            _REASON_S,
        )
        return None if found is None else str(found["text"])

    def _moved_after(self, stop: dict[str, Any]) -> bool:
        return any(
            e["event"] == "command" and e["moving"] and e["ns"] > stop["ns"]
            for e in self._chain.events()
        )

    def _end(self, injection: Injection) -> int:
        """Let the fault be over; when, ns."""
        chain = self._chain
        if not injection.kill:
            return chain.spoil({})
        at_ns = time.time_ns()
        chain.start(injection.kill)
        return at_ns

    def _recover(
        self, injection: Injection, first: int, over_ns: int, stopped: bool
    ) -> tuple[str, float | None]:
        """Get the robot to walk again by the least that does it: how, and how long it took, s."""
        chain, policy = self._chain, f"/{POLICY}"
        if not stopped and not injection.kill and self._walking():
            return "itself", 0.0  # it has walked on all the while
        patience_s = _START_S if injection.kill else _ITSELF_S
        if self._walks(first, patience_s):
            how = "start" if injection.kill else "itself"
            return how, self._since(first, over_ns)
        if "fall" in self._last_said():
            self._falls += 1
            chain.request(trigger="/robot_node/reset")
        chain.request(trigger=f"{policy}/reset_emergency_stop")
        if self._walks(first, _SERVICE_S):
            return "reset", self._since(first, over_ns)
        for how, transitions in (
            ("activate", ("deactivate", "activate")),
            ("configure", ("deactivate", "cleanup", "configure", "activate")),
        ):
            for transition in transitions:
                chain.request(node=policy, transition=transition)
            if self._walks(first, _SERVICE_S):
                return how, self._since(first, over_ns)
        chain.kill(POLICY)
        chain.start(POLICY)
        return ("restart" if self._walks(first, _START_S) else ""), None

    def _since(self, first: int, over_ns: int) -> float | None:
        times = [
            e["ns"] for e in self._chain.events()[first:] if e["event"] == "command" and e["moving"]
        ]
        # It may go on a little before the answer is here that the fault is over.
        return max(0.0, (times[0] - over_ns) / 1e9) if times else None

    def _steady(self) -> None:
        """Wait until the robot has walked for a while; a stop that nobody asked for is counted."""
        wanted_s = self._random.uniform(*_STEADY_S)
        deadline = time.monotonic() + _DRIVE_S
        while True:
            self._chain.check()
            newest = self._newest_command()
            moving = self._walking()
            if newest is not None and moving and time.time_ns() - newest["ns"] >= 1e9 * wanted_s:
                return
            if not moving:
                self._unasked += 1
                index = len(self._chain.events())
                if not self._walks(index, _ITSELF_S):
                    self._help()
            if time.monotonic() > deadline:
                raise FogError(f"the robot does not walk between two faults: {self._last_said()}")
            time.sleep(0.02)

    def _help(self) -> None:
        """Put the robot back on its feet where it fell, and release what latched."""
        if "fall" in self._last_said():
            self._falls += 1
            self._chain.request(trigger="/robot_node/reset")
        self._chain.request(trigger=f"/{POLICY}/reset_emergency_stop")

    def _walks(self, first: int, limit_s: float) -> bool:
        """Whether the robot is driven, or comes to be."""

        def moving(line: dict[str, Any]) -> bool:
            return line["event"] == "command" and bool(line["moving"])

        return self._chain.wait("watch", moving, first, limit_s) is not None

    def _walking(self) -> bool:
        newest = self._newest_command()
        return newest is not None and bool(newest["moving"])

    def _walked_at(self, ns: int) -> bool:
        """Whether the robot was driven at that moment."""
        before = [e for e in self._chain.events() if e["event"] == "command" and e["ns"] <= ns]
        return bool(before) and bool(before[-1]["moving"])

    def _newest_command(self) -> dict[str, Any] | None:
        return next((e for e in reversed(self._chain.events()) if e["event"] == "command"), None)

    def _last_said(self) -> str:
        """What the policy node said last."""
        for event in reversed(self._chain.events()):
            if event["event"] == "diagnostics" and event["name"] == _STATUS:
                return str(event["text"])
        return ""

    def _finding(self, result: dict[str, Any], stopped: bool, limit_s: float) -> str:
        what = f"{result['kind']} ({result['detail']})"
        found = []
        if not stopped:
            found.append(f"no stop within {limit_s + _PATIENCE_S:.2f} s")
        elif result["reason"] is None:
            found.append(f"no reason that fits; it was: {self._last_said()}")
        elif not result["stayed"]:
            found.append("driven again while the fault went on")
        elif result["late"]:
            found.append(f"stopped after {result['stopped_after_s']:.3f} s, limit {limit_s:.3f} s")
            if result["robot_lost_s"] > 0:
                found.append(
                    f"the robot's node got no processor meanwhile and gave up "
                    f"{result['robot_lost_s']:.1f} s of its time"
                )
        if not result["recovered"]:
            found.append("did not go on without a restart of the policy node")
        return f"{what}: {'; '.join(found)}" if found else ""


def _said(line: dict[str, Any], status: str, pattern: str) -> bool:
    return (
        line["event"] == "diagnostics"
        and line["name"] == status
        and re.search(pattern, line["text"]) is not None
    )
