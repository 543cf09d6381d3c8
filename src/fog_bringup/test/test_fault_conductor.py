"""How a fault is judged, on a chain of processes that is only told: no ROS, no waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import pytest

from fog_bringup.benchmarks import fault_conductor
from fog_bringup.benchmarks.fault_chain import FaultChain
from fog_bringup.tasks import find_task

JOINTS = "proprioception: not finite: /joint_states position.FR_hip_joint"


class ToldChain:
    """A robot that walks, stops as it is told, and is got to walk again by what it is told.

    Args:
        stop_s: From the fault to the zero command; None: it walks on.
        says: On /diagnostics.
        goes_on_by: ``itself``, ``reset``, ``activate``, ``restart`` or nothing.
        twitches: A command that is not zero comes while the fault goes on.
        before: The robot has stopped for something else, and walks again: when both happen,
            from the fault.
        lost_s: Of the robot's time while the fault goes on.
    """

    def __init__(
        self,
        stop_s: float | None = 0.01,
        says: str = JOINTS,
        goes_on_by: str = "itself",
        *,
        twitches: bool = False,
        before: tuple[float, float] | None = None,
        lost_s: float = 0.0,
    ) -> None:
        self.task = find_task("reach_cube")
        self.asked: list[str] = []
        self._stop_s, self._says, self._goes_on_by = stop_s, says, goes_on_by
        self._twitches, self._before, self._lost_s = twitches, before, lost_s
        self._told: list[dict[str, Any]] = []
        self._command(True, time.time_ns() - 10**9)

    def spoil(self, topics: Mapping[str, Any]) -> int:
        at_ns = time.time_ns()
        if topics and self._stop_s is not None:
            stop_ns = at_ns + round(self._stop_s * 1e9)
            if self._before is not None:
                for seconds, moving in zip(self._before, (False, True), strict=True):
                    self._command(moving, at_ns + round(seconds * 1e9))
            self._command(False, stop_ns)
            self._say(self._says, stop_ns + 1)
            if self._lost_s:
                lost = {"event": "lost", "ns": stop_ns + 1, "seconds": self._lost_s}
                self._told.append(lost)
            if self._twitches:
                self._command(True, stop_ns + 2)
                self._command(False, stop_ns + 3)
        elif not topics and self._stop_s is not None:
            self._done("itself")
        return at_ns

    def request(self, **content: Any) -> None:
        name = content.get("transition") or content["trigger"].rpartition("/")[2]
        self.asked.append(name)
        self._done({"reset_emergency_stop": "reset"}.get(name, name))

    def kill(self, name: str) -> int:
        self.asked.append(f"kill {name}")
        return time.time_ns()

    def start(self, name: str) -> None:
        self._done("restart")

    def tally(self) -> dict[str, Any]:
        return {"commands": 10, "out_of_bounds": 0, "unseen": 0}

    def check(self) -> None:
        pass

    def tail(self, name: str) -> str:
        return ""

    def events(self) -> list[dict[str, Any]]:
        return self._told

    def wait(
        self, name: str, condition: Callable[[dict[str, Any]], bool], first: int, limit_s: float
    ) -> dict[str, Any] | None:
        return next((line for line in self._told[first:] if condition(line)), None)

    def _command(self, moving: bool, ns: int) -> None:
        self._told.append({"event": "command", "ns": ns, "moving": moving})

    def _say(self, text: str, ns: int) -> None:
        self._told.append(
            {
                "event": "diagnostics",
                "ns": ns,
                "name": "policy_node: control",
                "level": 2,
                "text": text,
            }
        )

    def _done(self, what: str) -> None:
        if what == self._goes_on_by and not self._told[-1].get("moving"):
            self._command(True, time.time_ns())


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_conductor, "_STEADY_S", (0.0, 0.001))
    monkeypatch.setattr(fault_conductor, "_LASTS_S", (0.0, 0.001))


def inject(chain: ToldChain) -> dict[str, Any]:
    stand_in = cast("FaultChain", chain)
    conductor = fault_conductor.FaultConductor(stand_in, 10.0, np.random.default_rng(0))
    conductor.run(["nan_joints"], lambda *arguments: None)
    assert conductor.tally["commands"] == 10
    (result,) = conductor.each
    return result


def test_a_safe_stop() -> None:
    result = inject(ToldChain())
    assert result["safe"] and result["recovered"] and not result["late"]
    assert result["stopped_after_s"] == pytest.approx(0.01, abs=1e-6)
    assert result["reason"] == JOINTS
    assert result["recovered_by"] == "itself"
    assert result["finding"] == ""


def test_a_robot_that_walks_on_is_a_finding() -> None:
    chain = ToldChain(stop_s=None)
    result = inject(chain)
    assert not result["safe"] and result["stopped_after_s"] is None
    assert "no stop within" in result["finding"]
    assert chain.asked == [], "nothing has to be got to walk that has never stopped"


def test_a_stop_for_another_reason_is_none() -> None:
    result = inject(ToldChain(says="image: /camera/image_raw is 0.51 s old (limit 0.5 s)"))
    assert not result["safe"] and result["reason"] is None
    assert "it was: image: /camera/image_raw" in result["finding"]


def test_a_stop_after_the_limit_is_late() -> None:
    # The joints may be 0.3 s old; 0.05 s are allowed beyond that.
    assert inject(ToldChain(stop_s=0.34))["safe"]
    result = inject(ToldChain(stop_s=0.36))
    assert result["late"] and not result["safe"]
    assert result["finding"].endswith("stopped after 0.360 s, limit 0.350 s")


def test_a_late_stop_tells_of_a_robot_that_got_no_processor() -> None:
    result = inject(ToldChain(stop_s=0.36, lost_s=0.8))
    assert result["late"] and not result["safe"], "late is late"
    assert result["robot_lost_s"] == 0.8
    assert "got no processor meanwhile and gave up 0.8 s of its time" in result["finding"]
    assert inject(ToldChain(lost_s=0.8))["finding"] == ""


def test_a_twitch_while_the_fault_goes_on_is_not_safe() -> None:
    result = inject(ToldChain(twitches=True))
    assert not result["safe"] and not result["stayed"]
    assert result["finding"].endswith(f"driven again while the fault went on: {JOINTS}")


def test_a_stop_for_something_else_before_it_can_be_known_is_not_the_faults() -> None:
    result = inject(ToldChain(stop_s=0.2, before=(0.05, 0.1)))
    assert result["safe"] and result["stopped_after_s"] == pytest.approx(0.2, abs=1e-6)
    result = inject(ToldChain(stop_s=0.4, before=(0.05, 0.1)))
    assert result["late"] and not result["safe"], "nor does it come in its place"


def test_a_robot_that_says_what_is_wrong_and_walks_on_is_not_safe() -> None:
    class SaysAndWalks(ToldChain):
        """Stops for something else, walks again, then says what is wrong and does nothing."""

        def _command(self, moving: bool, ns: int) -> None:
            if moving or not any(e["event"] == "command" and not e["moving"] for e in self._told):
                super()._command(moving, ns)

    result = inject(SaysAndWalks(stop_s=0.2, before=(0.05, 0.1)))
    assert result["reason"] == JOINTS and not result["safe"] and not result["stayed"]


@pytest.mark.parametrize(
    ("goes_on_by", "recovered", "asked"),
    [
        ("reset", True, ["reset_emergency_stop"]),
        ("activate", True, ["reset_emergency_stop", "deactivate", "activate"]),
        (
            "restart",
            False,
            [
                *("reset_emergency_stop", "deactivate", "activate", "deactivate", "cleanup"),
                *("configure", "activate", "kill policy_node"),
            ],
        ),
    ],
)
def test_the_least_that_helps_is_what_counts(
    goes_on_by: str, recovered: bool, asked: list[str]
) -> None:
    chain = ToldChain(goes_on_by=goes_on_by)
    result = inject(chain)
    assert result["recovered"] is recovered and result["recovered_by"] == goes_on_by
    assert chain.asked == asked
    assert ("without a restart" in result["finding"]) is not recovered


def test_a_fault_that_finds_the_robot_standing_is_repeated() -> None:
    class StandsFirst(ToldChain):
        """The robot stops by itself at the moment of the first fault."""

        faults = 0

        def spoil(self, topics: Mapping[str, Any]) -> int:
            self.faults += bool(topics)
            if self.faults > 1:
                return super().spoil(topics)
            if topics:
                self._say("image: is old", time.time_ns() - 2)
            self._command(not topics, time.time_ns() - 1)
            return time.time_ns()

    chain = StandsFirst()
    result = inject(chain)
    assert chain.faults == 2
    assert result["safe"] and result["unasked_stops"] == ["image: is old"]
