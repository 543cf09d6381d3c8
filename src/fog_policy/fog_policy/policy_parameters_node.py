"""What the policy's node can be told."""

from __future__ import annotations

from fog_policy.parameters_node import ParametersNode

HOLD_PERIODS = 2.0
"""Without another limit a command is held for so many control periods."""


class PolicyParametersNode(ParametersNode):
    """Declares the parameters and holds their values; they are described where they are declared.

    Raises:
        FogError: One has another type, lies outside its range, or does not exist.
    """

    def __init__(self) -> None:
        super().__init__("policy_node")
        self.bundle: str = self.declare(
            "bundle", "", "Folder of the bundle to run, or the name of a shipped policy."
        )
        self.device: str = self.declare(
            "device", "cpu", "Where the policy computes: cpu, cuda, ..."
        )
        self.report_path: str = self.declare(
            "report_path", "", "JSON file for rate, latency and stops; empty: only the log."
        )
        self.autostart: bool = self.declare(
            "autostart", False, "Configure and activate at once, without a lifecycle manager."
        )
        self.run_file: str = self.declare(
            "run_file",
            "",
            "File of this run, for whoever starts the node again when it has died: a start that "
            "finds it is a restart; empty: every start is the first.",
        )
        self.restart: str = self.declare(
            "restart",
            "inactive",
            "What a restarted node does; inactive: it configures itself and waits to be activated; "
            "active: it goes on driving if it was driving.",
            choices=("inactive", "active"),
        )
        self.task_path: str = self.declare(
            "task", "", "Task file that the bundle has to belong to; empty: its own."
        )
        self.backend: str = self.declare(
            "backend",
            "auto",
            "What computes the policy; auto: the faster one, measured when it is configured.",
            choices=("auto", "torch", "onnx"),
        )
        self.threads: int = self.declare(
            "threads", 1, "Threads for one operation of the policy.", low=1, high=64
        )
        self.shadow: bool = self.declare(
            "shadow", False, "Compute, log and report, but publish no command."
        )
        self.declare(
            "speed_scale",
            1.0,
            "What the policy proposes is multiplied by this; can be changed while it drives.",
            low=0.0,
            high=1.0,
            fixed=False,
        )
        self.hold: str = self.declare(
            "hold",
            "auto",
            "Publish between decisions too; auto: in real time, not in simulated time. Without it "
            "commands change in steps, and the task's jerk is not bounded.",
            choices=("auto", "on", "off"),
        )
        self.hold_hz: float = self.declare(
            "hold_hz", 50.0, "Rate of commands between decisions, Hz.", low=1.0, high=500.0
        )
        self.hold_timeout_s: float = self.declare(
            "hold_timeout_s",
            0.0,
            "A decision older than this gives way to zero, s; 0: two control periods.",
            low=0.0,
            high=10.0,
        )
        self.check_s: float = self.declare(
            "check_s",
            1.0,
            "Configure waits up to 4 s for the robot, then listens to it for so long, wall time, "
            "s; 0: neither.",
            low=0.0,
            high=30.0,
        )
        self.diagnostics_period_s: float = self.declare(
            "diagnostics_period_s",
            1.0,
            "Seconds between two messages on /diagnostics.",
            low=0.05,
            high=10.0,
        )
        self.check_parameters()

    @property
    def speed_scale(self) -> float:
        """Factor on what the policy proposes, as of now."""
        return float(self.get_parameter("speed_scale").value)

    def longest_hold_s(self, control_hz: float) -> float:
        """How old a decision may become before it gives way to zero, s."""
        return self.hold_timeout_s or HOLD_PERIODS / control_hz
