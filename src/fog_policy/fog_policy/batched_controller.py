"""Many robots side by side under one policy, each treated as the deployed control loop treats one.

A tick of :class:`.control_loop.ControlLoop` asks the networks for one robot. For a hundred episodes
in a simulator that is a hundred passes through networks that could take all robots at once, so here
the networks see a batch; everything before and after them is what runs on the robot: the same
buffer of messages, the same safety filter. A stop, which a robot would go on from, is an error
here: an episode in which it stood is no result. Whether the camera is frozen is not asked: a
simulated one draws every picture anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fog_policy.actor_critic import Actor
from fog_policy.command_limits import Command
from fog_policy.control_inputs import ControlInputs
from fog_policy.decision_filter import DecisionFilter
from fog_policy.observation_buffer import LiveObservation
from fog_policy.safety import Reason
from fog_world_model.data.episodes import Normalisation
from fog_world_model.data.windows import to_float_image
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.task import FloatArray, TaskConfig


@dataclass
class _Robot:
    """What the control loop keeps for one robot."""

    inputs: ControlInputs
    filter: DecisionFilter
    now_ns: int = 0
    fresh: bool = field(default=True)
    """Whether the coming observation is the first of an episode."""


class BatchedController:
    """Filters and acts for several robots at once.

    Args:
        task: The contract.
        local: Its encoder and posterior filter; copied, so that training may go on meanwhile.
        actor: The policy; copied.
        normalisation: Of the proprioception.
        robots: How many.
        device: Where the networks run.

    Raises:
        FogError: The task's bounds do not allow a stop, or it has a dead-man's switch.
    """

    def __init__(
        self,
        task: TaskConfig,
        local: LocalModel,
        actor: Actor,
        normalisation: Normalisation,
        *,
        robots: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if task.safety.deadman_topic:
            raise FogError(
                f"task '{task.name}': nobody holds the dead-man's switch of "
                f"safety.deadman_topic {task.safety.deadman_topic} for the batched controller; "
                "evaluate it with 'fog evaluate policy'"
            )
        self.task, self.robots = task, robots
        self._device = torch.device(device)
        self._local = copy.deepcopy(local).to(self._device).eval()
        self._actor = copy.deepcopy(actor).to(self._device).eval()
        self._normalisation = normalisation
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observations are the first of episodes."""
        task = self.task
        self._robots = [
            _Robot(ControlInputs(task), DecisionFilter(task)) for _ in range(self.robots)
        ]
        self._state = self._local.rssm.initial(self.robots)

    def receive(self, robot: int, encoded: Iterable[tuple[str, str, bytes]], now_ns: int) -> None:
        """Take what a robot published.

        Args:
            robot: Which one.
            encoded: Topic, interface name and bytes; topics that neither the observation nor the
                safety filter needs are passed over.
            now_ns: When, by the robot's clock.
        """
        one = self._robots[robot]
        wanted = one.inputs.observed()
        for topic, _, data in encoded:
            if topic in wanted and not one.inputs.ran_back(now_ns):
                one.inputs.receive(topic, data, now_ns)
        one.now_ns = now_ns

    def tick(self) -> list[Command]:
        """Decide for every robot on its newest observation.

        Returns:
            A command for each, ``[action]`` in physical units.

        Raises:
            FogError: A robot has no complete observation, or the policy's answer is not finite.
        """
        seen = [self._observed(i) for i in range(self.robots)]
        proposed = self._act(seen)
        commands = []
        for one, action in zip(self._robots, proposed, strict=True):
            situation = one.inputs.situation(one.now_ns, ())
            verdict = one.filter.decide(situation, action, 1.0 / self.task.control_hz)
            if verdict.stops:
                raise FogError(f"the robot was stopped: {verdict.stops[0]}")
            one.filter.in_force, one.fresh = verdict.command, False
            commands.append(verdict.command)
        return commands

    def replace_command(self, robot: int, command: Command) -> None:
        """Say what a robot was told in place of the policy's last answer.

        Args:
            robot: Which one.
            command: ``[action]`` in physical units, within the task's bounds.
        """
        self._robots[robot].filter.in_force = command

    def _observed(self, robot: int) -> LiveObservation:
        one = self._robots[robot]
        found = one.inputs.observation(one.now_ns)
        if isinstance(found, Reason):
            raise FogError(f"robot {robot} has no complete observation: {found}")
        return found

    @torch.no_grad()
    def _act(self, seen: Sequence[LiveObservation]) -> FloatArray:
        """Actions ``[robot, action]`` in [-1, 1], without noise."""
        image = torch.from_numpy(np.stack([o.image for o in seen])).to(self._device)
        vector = self._normalisation.apply(np.stack([o.proprioception for o in seen]))
        before = np.stack([one.filter.told(first=one.fresh) for one in self._robots])
        embedding = self._local.encoder(
            to_float_image(image), torch.from_numpy(vector).to(self._device)
        )
        self._state, _, _ = self._local.observe(
            self._state, torch.from_numpy(before).to(self._device), embedding, sample=False
        )
        action = self._actor.mode(self._state.features)
        return np.asarray(action.cpu().numpy(), np.float32)
