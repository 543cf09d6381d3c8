"""What every scripted driver is, and those that need no purpose."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from fog_bringup.robots.robot import Observation
from fog_world_model.task import TaskConfig

Command = npt.NDArray[np.float32]


class Driver(ABC):
    """Something that drives a robot, one command per control step."""

    def __init__(self, task: TaskConfig) -> None:
        self._task = task
        self._low = np.asarray(task.action.low, np.float64)
        self._high = np.asarray(task.action.high, np.float64)
        self._dt = 1.0 / task.control_hz
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin an episode; equal seeds and observations give equal commands."""
        self._random = np.random.default_rng(seed)

    @abstractmethod
    def drive(self, observation: Observation) -> npt.NDArray[np.float64]:
        """Wish, ``[action]`` in physical units; it may leave the bounds."""

    def command(self, observation: Observation) -> Command:
        """Command for the coming control step, ``[action]``, within the task's bounds."""
        return np.clip(self.drive(observation), self._low, self._high).astype(np.float32)

    def _steps(self, low_s: float, high_s: float) -> int:
        """A random duration in control steps, at least one."""
        return max(1, round(float(self._random.uniform(low_s, high_s)) / self._dt))


class StandDriver(Driver):
    """Zero command, except for a rare short one."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        super().reset(seed)
        self._left, self._wish = 0, np.zeros(len(self._low))

    def drive(self, observation: Observation) -> npt.NDArray[np.float64]:
        """Wish for the coming step."""
        if self._left == 0:
            moves = self._random.random() < 0.15
            wish = self._random.uniform(self._low, self._high)
            self._wish = wish if moves else np.zeros(len(self._low))
            self._left = self._steps(0.3, 0.8) if moves else self._steps(1.0, 4.0)
        self._left -= 1
        return self._wish


class RandomDriver(Driver):
    """Random commands, each held for a random time and approached smoothly."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        super().reset(seed)
        self._left = 0
        self._wish = self._now = np.zeros(len(self._low))
        self._smooth = float(self._random.uniform(0.3, 1.0))

    def drive(self, observation: Observation) -> npt.NDArray[np.float64]:
        """Wish for the coming step."""
        if self._left == 0:
            self._wish = self._random.uniform(self._low, self._high)
            kind = self._random.random()
            if kind < 0.15:  # a pause
                self._wish = np.zeros(len(self._low))
            elif kind < 0.45:  # one axis alone, so that the axes can be told apart
                axis = self._random.integers(len(self._low))
                self._wish = np.where(np.arange(len(self._low)) == axis, self._wish, 0.0)
            self._left = self._steps(0.4, 2.5)
        self._left -= 1
        self._now = self._now + self._smooth * (self._wish - self._now)
        return self._now


class Noise:
    """Ornstein-Uhlenbeck noise: what a hand that is not quite steady adds."""

    def __init__(self, scale: npt.NDArray[np.float64], dt: float, time_s: float = 0.8) -> None:
        self._scale, self._keep = scale, math.exp(-dt / time_s)
        self._value = np.zeros(len(scale))

    def draw(self, random: np.random.Generator, level: float) -> npt.NDArray[np.float64]:
        """Next value: ``level`` times the scale is its standard deviation."""
        fresh = random.normal(size=len(self._scale)) * math.sqrt(1.0 - self._keep**2)
        self._value = self._keep * self._value + fresh
        return np.asarray(level * self._scale * self._value)
