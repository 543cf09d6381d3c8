"""What others are told of the policy's node: /diagnostics, the log and the control report."""

from __future__ import annotations

import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from std_srvs.srv import Trigger

from fog_policy.clock_watch_node import ClockWatch
from fog_policy.control_files import ControlFiles
from fog_policy.control_loop import ControlLoop
from fog_policy.encoding import ERROR, OK, WARN, encode_diagnostics
from fog_policy.policy_parameters_node import PolicyParametersNode
from fog_policy.safety import EmergencyStop, Verdict
from fog_world_model.errors import FogError

_SHOWN_TICKS = 500
"""Diagnostics show rate and latency over this many ticks; the report, over all."""


class PolicyStatus:
    """Tells of a node's loop.

    Args:
        node: Has the publisher and the parameters.
        clock: The node's.
        emergency_stop: The node's.
    """

    def __init__(
        self, node: PolicyParametersNode, clock: ClockWatch, emergency_stop: EmergencyStop
    ) -> None:
        self._node, self._clock, self._emergency_stop = node, clock, emergency_stop
        self.loop: ControlLoop | None = None
        """Configured, or not."""
        self.holds: str | None = None
        """While the node is active: how commands are published, for a person."""
        self.restarted = False
        """Whether this process took the place of one that died, and has not been activated yet."""
        self.failure = ""
        """What went wrong; until the node is configured again."""
        self._verdict: Verdict | None = None
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        path = node.report_path
        self._files = ControlFiles(path) if path else None

    def begin(self, holds: str) -> None:
        """The node is active from now on.

        Args:
            holds: How commands are published, for a person.
        """
        self.holds, self.restarted = holds, False
        self._verdict = None

    def show(self, verdict: Verdict) -> None:
        """Log and publish a change of what stops the robot, at once."""
        before = self._verdict
        self._verdict = verdict
        if before is not None and _causes(before) == _causes(verdict):
            return
        if verdict.stops:
            self._node.get_logger().warning(f"stopped: {_reasons(verdict)}")
        else:
            shadow = ", in shadow" if self._node.shadow else ""
            self._node.get_logger().info(f"driving{shadow}")
        self.publish()

    def failed(self, where: str, error: Exception) -> None:
        """Remember and log an exception that no callback is meant to raise.

        Args:
            where: The callback, for a person.
            error: The exception.
        """
        what = str(error) if isinstance(error, FogError) else f"{type(error).__name__}: {error}"
        self.failure = f"{where} failed: {what}"
        lines = "".join(traceback.format_exception(error))
        self._node.get_logger().error(f"{self.failure}\n{lines}")

    def publish(self) -> None:
        """Publish the state on /diagnostics."""
        level, text = self._state()
        node, loop = self._node, self.loop
        values: dict[str, Any] = {
            "bundle": node.bundle,
            "emergency_stop": self._emergency_stop.reason or "released",
        }
        if loop is not None:
            values["task"] = loop.task.name
            values["shadow"], values["speed_scale"] = node.shadow, loop.speed_scale
        if self.holds is not None and loop is not None:
            verdict = self._verdict
            values.update(loop.report.to_dict(newest=_SHOWN_TICKS))
            values["stopped_by"] = ", ".join(sorted(_causes(verdict))) if verdict else ""
            values["limited_by"] = ", ".join(verdict.limits) if verdict else ""
            values["hold"] = self.holds
        self._publisher.publish(
            encode_diagnostics(node.get_name(), level, text, values, self._clock.now_ns())
        )

    def _state(self) -> tuple[int, str]:
        if self.loop is None:
            if self.failure:
                return ERROR, f"{self.failure}; configure and activate to go on"
            return WARN, "not configured"
        if self.holds is None:
            return WARN, "restarted; activate to go on" if self.restarted else "not active"
        verdict = self._verdict
        level = ERROR if verdict is not None and verdict.stops else OK
        return level, _reasons(verdict) or ("no tick yet" if verdict is None else "driving")

    def write_report(self, loop: ControlLoop) -> None:
        """Log the report of an activation, and write its files where they are asked for."""
        self._node.get_logger().info(loop.report.summary())
        written, message = self._write_files(loop)
        if not written:
            self._node.get_logger().error(message)

    def on_write_report(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Answer the service that writes the report while the node goes on."""
        loop = self.loop
        if loop is None:
            response.success, response.message = False, "not configured: there is nothing to report"
            return response
        response.success, response.message = self._write_files(loop)
        response.message += f"\n{loop.report.text()}"
        return response

    def _write_files(self, loop: ControlLoop) -> tuple[bool, str]:
        if self._files is None:
            return True, "report_path is empty: no file was written"
        about = {
            "bundle": self._node.bundle,
            "task": loop.task.name,
            "task_hash": loop.task.hash,
        }
        try:
            return True, f"written: {self._files.write(loop.report, about)}"
        except FogError as error:
            return False, str(error)


def _causes(verdict: Verdict) -> set[str]:
    return {str(reason.cause) for reason in verdict.stops}


def _reasons(verdict: Verdict | None) -> str:
    return "; ".join(str(reason) for reason in verdict.stops) if verdict is not None else ""
