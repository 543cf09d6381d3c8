"""A driver that is a policy: recordings of what it does, for worlds that are right where it goes.

A policy that was trained in a learned world goes where that world says that it pays, which is not
where a scripted driver went. Recordings of the policy itself tell the next world what is true there
(the loop of Dyna: Sutton 1991, "Integrated Architectures for Learning, Planning, and Reacting").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fog_bringup.driver_base import Driver, Noise
from fog_bringup.robots.robot import Observation, Robot
from fog_bringup.robots.streams import camera_messages, sensor_messages
from fog_policy.batched_controller import BatchedController
from fog_policy.bundle import load_bundle
from fog_policy.shipped_policies import find_bundle
from fog_world_model.task import TaskConfig

NOISE_LEVELS = (0.0, 0.3)
"""Each episode draws its own between these: what comes of other commands is worth knowing too."""
_ORIGIN = ("method", "weights_sha256")


class PolicyDriver(Driver):
    """Lets a bundle drive as the deployed control loop would, with a hand that is not quite steady.

    Args:
        task: The bundle must be of this task.
        bundle: Bundle folder, or the name of a shipped policy.
        robot: Whose observations are shown to :meth:`drive`, pictures included.

    Raises:
        FogError: The bundle cannot be read or is of another task.
    """

    def __init__(self, task: TaskConfig, bundle: Path, robot: Robot) -> None:
        torch.set_num_threads(1)  # collecting runs in several processes
        loaded = load_bundle(find_bundle(bundle), task)
        local, actor = loaded.networks()
        self.origin = {key: str(loaded.manifest.get(key, "unknown")) for key in _ORIGIN}
        """What tells the bundle from others, wherever it lies."""
        self._robot = robot
        self._controller = BatchedController(
            task, local, actor, loaded.checkpoint.normalisation, robots=1
        )
        super().__init__(task)

    def reset(self, seed: int) -> None:
        """Begin an episode: the policy forgets, and a level of noise is drawn."""
        super().reset(seed)
        self._controller.reset()
        self._level = float(self._random.uniform(*NOISE_LEVELS))
        self._noise = Noise((self._high - self._low) / 2, self._dt)

    def drive(self, observation: Observation) -> npt.NDArray[np.float64]:
        """What the policy commands, within the task's bounds, and noise."""
        encoded = [
            *sensor_messages(self._robot, observation),
            *camera_messages(self._robot, observation),
        ]
        self._controller.receive(0, encoded, observation.stamp_ns)
        command = self._controller.tick()[0] + self._noise.draw(self._random, self._level)
        told = np.clip(command, self._low, self._high)
        self._controller.replace_command(0, told)
        return told
