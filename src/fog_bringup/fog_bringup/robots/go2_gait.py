"""The walking policy of the simulated quadruped: velocity command in, joint targets out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[np.float64]

PERIOD_S = 0.02
"""The policy runs at 50 Hz."""
STANCE = np.array([0.0, 0.8, -1.5] * 4)
"""Joint angles around which the policy acts, rad, in its joint order."""
ACTION_SCALE = np.array([0.125, 0.25, 0.25] * 4)
COMMAND_LIMIT = np.array([1.0, 0.5, 1.5])
"""Largest (vx, vy, wz) that the policy was trained for, m/s, m/s, rad/s."""


class VelocityTrim:
    """Integral correction of the command, as the Go2's own sport mode makes.

    The walking policy alone walks 0.1 m/s when told 0.2 m/s and turns 0.1 rad/s when told to
    stand.
    """

    _FILTER_S = 0.3
    _GAIN = (1.5, 1.5, 2.0)
    _LIMIT = (0.4, 0.3, 0.6)

    def __init__(self) -> None:
        self.measured = [0.0, 0.0, 0.0]
        """Low-passed velocity (vx, vy, wz)."""
        self.trim = [0.0, 0.0, 0.0]
        """What is added to the command."""

    def apply(self, command: Array, velocity: tuple[float, float, float]) -> list[float]:
        """Trimmed command for the next 20 ms.

        Args:
            command: ``[vx, vy, wz]`` asked for, m/s and rad/s.
            velocity: ``(vx, vy, wz)`` in the heading frame now.
        """
        # Plain numbers: for three of them NumPy costs ten times as much.
        keep = self._FILTER_S / (self._FILTER_S + PERIOD_S)
        trimmed = []
        for i, asked in enumerate(command.tolist()):
            self.measured[i] = keep * self.measured[i] + (1.0 - keep) * velocity[i]
            trim = self.trim[i] + self._GAIN[i] * (asked - self.measured[i]) * PERIOD_S
            self.trim[i] = min(max(trim, -self._LIMIT[i]), self._LIMIT[i])
            trimmed.append(asked + self.trim[i])
        return trimmed

    def copy(self) -> VelocityTrim:
        """An independent copy of the state."""
        other = VelocityTrim()
        other.measured, other.trim = list(self.measured), list(self.trim)
        return other


class Gait:
    """A legged-gym style policy: 45 numbers in, 12 out.

    Args:
        path: The ONNX file.
    """

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        # one small network beside the physics: more threads would only wait for each other
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._input = np.zeros((1, 45), np.float32)
        self.last_action = np.zeros(12, np.float32)

    def reset(self) -> None:
        """Forget the last action."""
        self.last_action = np.zeros(12, np.float32)

    def targets(
        self,
        angular_velocity: Array,
        gravity: tuple[float, ...],
        command: list[float],
        q: Array,
        dq: Array,
    ) -> Array:
        """Joint targets for the next 20 ms.

        Args:
            angular_velocity: ``[3]`` of the base in its own frame, rad/s.
            gravity: ``(x, y, z)`` unit vector of gravity in the base frame.
            command: ``[vx, vy, wz]``, m/s and rad/s.
            q: ``[12]`` joint angles, rad, in the policy's order.
            dq: ``[12]`` joint velocities, rad/s.

        Returns:
            ``[12]`` joint angles, rad.
        """
        x = self._input[0]
        x[0:3] = angular_velocity * 0.25
        x[3:6] = gravity
        x[6:9] = command
        x[9:21] = q - STANCE
        x[21:33] = dq * 0.05
        x[33:45] = self.last_action
        np.minimum(np.maximum(x, -100.0, out=x), 100.0, out=x)
        (out,) = self._session.run(None, {"obs": self._input})
        self.last_action = np.minimum(np.maximum(np.asarray(out)[0], -100.0), 100.0)
        return np.asarray(STANCE + self.last_action * ACTION_SCALE)
