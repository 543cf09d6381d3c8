"""From a policy's answer to the robot's command, and back to what the policy is told. No ROS here.

The one way for the deployed control loop and for robots side by side in a simulator, so that what
is evaluated there is limited as it is on the robot.
"""

from __future__ import annotations

import numpy as np

from fog_policy.command_limits import Command
from fog_policy.safety import Situation, Verdict, check_limits, filter_command
from fog_world_model.task import FloatArray, TaskConfig


class DecisionFilter:
    """Remembers the command in force, and limits the next one.

    Args:
        task: Bounds, slew rates and timeouts.

    Raises:
        FogError: The task's bounds do not allow a stop.
    """

    def __init__(self, task: TaskConfig) -> None:
        check_limits(task)
        self._task = task
        self.stop()

    def stop(self) -> None:
        """The robot was told to stand."""
        self.in_force: Command = np.zeros(self._task.action_size)
        """``[action]``: what the robot was told last, physical units."""

    def told(self, *, first: bool) -> FloatArray:
        """What the policy has to believe that the robot was told.

        Args:
            first: At the start of an episode, which begins from rest for the policy, whatever the
                robot was told before.

        Returns:
            ``[action]`` in [-1, 1].
        """
        if first:
            return np.zeros(self._task.action_size, np.float32)
        return self._task.action.to_normalised(self.in_force)

    def proposed(self, action: FloatArray | None, speed_scale: float = 1.0) -> Command | None:
        """What an answer asks for, before it is limited; see :meth:`decide`."""
        if action is None:
            return None
        return np.asarray(self._task.action.to_physical(action) * speed_scale, np.float64)

    def decide(
        self,
        situation: Situation,
        action: FloatArray | None,
        since_s: float,
        speed_scale: float = 1.0,
    ) -> Verdict:
        """Limit an answer; it is in force once the caller says so.

        The jerk is not bounded here: a decision is a step by nature, and the command hold, which
        publishes more often, is where it is bounded (:mod:`fog_policy.command_hold`).

        Args:
            situation: What is known at this tick.
            action: ``[action]`` in [-1, 1]; None when there is no answer.
            since_s: Time since the decision before, s; one control period for the first.
            speed_scale: Factor on what the policy proposes, in [0, 1], in physical units.
        """
        proposed = self.proposed(action, speed_scale)
        return filter_command(self._task, situation, proposed, self.in_force, since_s)
