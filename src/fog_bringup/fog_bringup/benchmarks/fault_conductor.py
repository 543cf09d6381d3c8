"""Leads a robot that walks from one fault to the next, and judges what comes of each."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from fog_bringup.benchmarks.fault_chain import POLICY, FaultChain
from fog_bringup.benchmarks.fault_kinds import Injection, draw
from fog_bringup.progress import Report
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
_DECIDED_S: Final = 0.5
"""A reason is said on /diagnostics at most so long before its zero command is seen."""
_STATUS: Final = "policy_node: control"


class FaultConductor:
    """Injects one fault after the other, and follows what comes of it.

    Args:
        chain: The robot, the policy's node, what lies between them, and the watch.
        camera_hz: Rate of the camera.
        random: Draws the details of faults and their moments.
    """

    def __init__(self, chain: FaultChain, camera_hz: float, random: np.random.Generator) -> None:
        self.each: list[dict[str, Any]] = []
        self._chain, self._camera_hz, self._random = chain, camera_hz, random
        self._unasked: list[str] = []
        self._falls = 0
        self.tally: dict[str, Any] = {"commands": 0, "out_of_bounds": 0, "unseen": 0}

    def run(self, order: Sequence[str], report: Report) -> None:
        """Inject faults of these kinds.

        Args:
            order: The kinds; ``each`` holds what came of every fault, as
                :func:`fog_bringup.benchmarks.faults.measure` gives it.
            report: Is told how far it is.

        Raises:
            FogError: The robot is not driven, or a process does not answer.
        """
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
        reason = self._reason(injection, first, at_ns)
        time.sleep(self._random.uniform(*_LASTS_S))
        if injection.by_robot or stop is None or reason is None:
            moved = stop is not None and self._moved_after(stop)
        else:
            moved = self._walking() or self._moved_after(reason)
            stop = stop if moved else self._newest_command()
        after_s = None if stop is None else (stop["ns"] - at_ns) / 1e9
        said = [e["text"] for e in chain.events()[first:] if _said(e, injection.status)]
        over = len(chain.events())
        over_ns = self._end(injection)
        recovered_by, recovery_s = self._recover(injection, over, over_ns, stop is not None)
        # The robot's node tells every second.
        lost_s = sum(e["seconds"] for e in chain.events()[first:] if e["event"] == "lost")
        if stop is None and not injection.by_robot and not self._walked_at(at_ns):
            self._unasked.append(self._said_since(at_ns - round(_DECIDED_S * 1e9)))
            return None
        stopped = stop is not None and reason is not None and not moved
        late = stopped and after_s is not None and after_s > limit_s
        result = {
            "kind": injection.kind,
            "detail": injection.detail,
            "limit_s": injection.limit_s,
            "stopped_after_s": after_s,
            "reason": None if reason is None else reason["text"],
            "said": said,
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
        self._unasked, self._falls = [], 0
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

    def _reason(self, injection: Injection, first: int, at_ns: int) -> dict[str, Any] | None:
        """What was said on /diagnostics that fits the fault; None when nothing did."""
        return self._chain.wait(
            "watch",
            lambda line: (
                _said(line, injection.status, injection.reasons)
                and line["level"] > 0
                and line["ns"] >= at_ns
            ),
            first,
            _REASON_S,
        )

    def _moved_after(self, event: dict[str, Any]) -> bool:
        return any(
            e["event"] == "command" and e["moving"] and e["ns"] > event["ns"]
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
        chain = self._chain
        if not stopped and not injection.kill and self._walking():
            return "itself", 0.0  # it has walked on all the while
        patience_s = _START_S if injection.kill else _ITSELF_S
        if self._walks(first, patience_s):
            how = "start" if injection.kill else "itself"
            return how, self._since(first, over_ns)
        self._help()
        if self._walks(first, _SERVICE_S):
            return "reset", self._since(first, over_ns)
        for how, transitions in (
            ("activate", ("deactivate", "activate")),
            ("configure", ("deactivate", "cleanup", "configure", "activate")),
        ):
            for transition in transitions:
                chain.request(node=f"/{POLICY}", transition=transition)
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
                stopped_ns = newest["ns"] if newest is not None else time.time_ns()
                index = len(self._chain.events())
                if not self._walks(index, _ITSELF_S):
                    self._help()
                self._unasked.append(self._said_since(stopped_ns))
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
        said = (e["text"] for e in reversed(self._chain.events()) if _said(e, _STATUS))
        return str(next(said, ""))

    def _said_since(self, ns: int) -> str:
        """What the policy node has said was wrong since then."""
        wrong = (
            e["text"]
            for e in self._chain.events()
            if _said(e, _STATUS) and e["level"] > 0 and e["ns"] >= ns
        )
        return ", then ".join(wrong) or "no reason was given"

    def _finding(self, result: dict[str, Any], stopped: bool, limit_s: float) -> str:
        what = f"{result['kind']} ({result['detail']})"
        found = []
        if not stopped:
            found.append(f"no stop within {limit_s + _PATIENCE_S:.2f} s")
        elif result["reason"] is None:
            found.append(f"no reason that fits; it was: {self._last_said()}")
        elif not result["stayed"]:
            found.append(f"driven again while the fault went on: {', then '.join(result['said'])}")
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


def _said(line: dict[str, Any], status: str, pattern: str = "") -> bool:
    return (
        line["event"] == "diagnostics"
        and line["name"] == status
        and re.search(pattern, line["text"]) is not None
    )
