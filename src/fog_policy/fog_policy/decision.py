"""What a policy is asked in one control tick, what it answers, and what is decided. No ROS here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fog_policy.command_limits import Command
from fog_policy.observation_buffer import LiveObservation
from fog_policy.safety import Verdict
from fog_world_model.data.images import ImageArray
from fog_world_model.task import FloatArray


class Controller(Protocol):
    """A policy with its recurrent state, as a bundle gives it."""

    surprise: float | None
    """KL of posterior and prior at the last observation, nats; None: it does not say."""

    def reset(self) -> None:
        """Forget the past: the next observation is the first of an episode."""

    def act(
        self, image: ImageArray, proprioception: FloatArray, previous_action: FloatArray
    ) -> FloatArray:
        """Update the state and choose an action.

        Args:
            image: ``[height, width, channel]`` uint8 RGB of the task's size.
            proprioception: ``[field]``, physical units.
            previous_action: ``[action]`` in [-1, 1]: what the robot was told before; zeros at
                the start of an episode.

        Returns:
            ``[action]`` in [-1, 1].
        """


@dataclass(frozen=True)
class Decision:
    """The outcome of one tick."""

    command: Command
    """``[action]``, physical units."""
    verdict: Verdict
    image_ns: int | None
    """Stamp of the image that the command was computed from; None when there was none."""
    inference_ns: int
    """Wall time that the policy took."""
    proposed: Command | None = None
    """``[action]``, physical units: what the policy wanted, scaled for speed, before the safety
    filter. None where it was not asked, or its answer is no command."""


@dataclass(frozen=True)
class Question:
    """What the policy is asked in one tick."""

    observation: LiveObservation
    previous: FloatArray
    """``[action]`` in [-1, 1]: what the robot was told before."""
    first: bool
    """Whether the policy forgets everything before."""
    episode: int
    """Which stretch of unbroken time this belongs to."""
    now_ns: int
    """When the tick began."""


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    action: FloatArray | None
    """``[action]`` in [-1, 1]; None when the policy failed."""
    problem: str
    inference_ns: int
    """Wall time that the policy took."""
    surprise: float | None = None
    """Of the local model at this observation, nats."""
