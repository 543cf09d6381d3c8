"""Scripted drivers that explore: what the world models learn from.

A driver looks at an observation once per control step and gives a command in physical units. Each
episode it draws how it behaves: purposeful but noisy, at random, hardly at all, or so that a policy
can imitate it. Purposeful drivers use the simulated scene's ground truth, which no policy ever
sees; an operator uses only what of it the camera has shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fog_bringup.driver_base import Driver, RandomDriver, StandDriver
from fog_bringup.operator_drivers import SLIPPING, make_operator_driver
from fog_bringup.robots.robot import Observation, Robot
from fog_bringup.seek_drivers import make_seek_driver
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


@dataclass(frozen=True)
class DriverMix:
    """Shares of the episodes that are driven in each way; they need not add up to one."""

    seek: float = 0.7
    """Towards the object, touching and pushing it, with noise that differs per episode."""
    random: float = 0.25
    """Smooth random commands, each held for a random time."""
    stand: float = 0.05
    """Standing, with a rare short command."""
    operator: float = 0.0
    """As a person drives who looks at the camera's picture: what a policy can imitate, see
    :mod:`fog_bringup.operator_drivers`."""
    policy: float = 0.0
    """As a bundle would, with noise that differs per episode."""
    bundle: str = ""
    """Folder of that bundle, or the name of a shipped policy."""

    def probabilities(self) -> dict[str, float]:
        """Mode -> probability.

        Raises:
            FogError: A share is negative, or all are zero; or there is one for a policy and no
                bundle.
        """
        shares = {
            "seek": self.seek,
            "random": self.random,
            "stand": self.stand,
            "operator": self.operator,
            "policy": self.policy,
        }
        total = sum(shares.values())
        if min(shares.values()) < 0 or total <= 0:
            raise FogError(f"driver mix {shares}: shares must not be negative and not all be zero")
        if self.policy and not self.bundle:
            raise FogError(f"driver mix: a share of {self.policy:g} for a policy, but no bundle")
        return {mode: share / total for mode, share in shares.items()}


class MixedDriver(Driver):
    """Draws the way of driving anew for every episode.

    Args:
        task: Gives bounds, rate, and by its name the purpose.
        mix: Shares of the modes.
        robot: Who is driven; only a policy has to know.

    Raises:
        FogError: See :func:`make_driver`.
    """

    def __init__(self, task: TaskConfig, mix: DriverMix, robot: Robot | None = None) -> None:
        makers: dict[str, Callable[[TaskConfig], Driver]] = {
            "seek": make_seek_driver,
            "random": RandomDriver,
            "stand": StandDriver,
            "operator": lambda task: make_operator_driver(task, slipping=SLIPPING),
        }
        self._probabilities = {m: p for m, p in mix.probabilities().items() if p > 0}
        self.policy: dict[str, str] = {}
        """Of the bundle that drives in some episodes: ``method`` and ``weights_sha256``."""
        if mix.policy:
            if robot is None:
                raise FogError(
                    f"driver mix: a share of {mix.policy:g} for a policy, but no robot whose "
                    "pictures it could be shown; give the robot, or no share to a policy"
                )
            # It brings PyTorch along, which no other driver needs.
            from fog_bringup.policy_driver import PolicyDriver

            policy = PolicyDriver(task, Path(mix.bundle), robot)
            self.policy = policy.origin
            makers["policy"] = lambda task: policy
        self._drivers: dict[str, Driver] = {m: makers[m](task) for m in self._probabilities}
        self.mode = ""
        """How this episode is driven: ``seek``, ``random``, ``stand``, ``operator``, ``policy``."""
        super().__init__(task)

    def reset(self, seed: int) -> None:
        """Draw a mode and begin an episode with it."""
        super().reset(seed)
        modes = list(self._probabilities)
        self.mode = modes[self._random.choice(len(modes), p=list(self._probabilities.values()))]
        self._drivers[self.mode].reset(int(self._random.integers(2**31)))

    def drive(self, observation: Observation) -> npt.NDArray[np.float64]:
        """Wish for the coming step."""
        return self._drivers[self.mode].drive(observation)


def make_driver(
    task: TaskConfig, mix: DriverMix | None = None, robot: Robot | None = None
) -> MixedDriver:
    """Make the exploring driver of a task.

    Args:
        task: Gives bounds, rate, and by its name the purpose.
        mix: Shares of the ways of driving.
        robot: Who is driven; needed where a policy has a share.

    Raises:
        FogError: The mix is impossible, or it wants to seek or an operator and the task has no such
            driver, or a policy and there is no robot, or the policy's bundle does not fit.
    """
    return MixedDriver(task, mix or DriverMix(), robot)
