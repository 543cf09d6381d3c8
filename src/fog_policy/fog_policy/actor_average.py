"""The average of an actor's weights over its updates: steadier than the last of them.

A policy that climbs by noisy gradients goes up and down around what it has learned. The
exponential moving average of its weights (Polyak and Juditsky, 1992) is what is evaluated and
deployed; what learns, and acts in imagination, is the actor itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fog_policy.actor_critic import Actor
from fog_world_model.training.weight_average import follow, kept_share


class ActorAverage:
    """Follows an actor; before the first update it is the actor."""

    def __init__(self, actor: Actor, decay: float) -> None:
        """Follow an actor.

        Args:
            actor: What learns.
            decay: Share of the average that stays, per update, in [0, 1); 0: the actor itself is
                deployed. Less stays while there were few updates, see
                :func:`~fog_world_model.training.weight_average.kept_share`.
        """
        self._actor, self._decay, self._count = actor, decay, 0
        self._average = copy.deepcopy(actor).requires_grad_(False) if decay else actor

    @property
    def policy(self) -> Actor:
        """What is to be evaluated and deployed."""
        return self._average if self._count else self._actor

    def update(self) -> None:
        """Take in the actor's weights as they are after an update."""
        if self._average is self._actor:
            return
        keep = kept_share(self._decay, self._count) if self._count else 0.0
        self._count += 1
        follow(self._average.state_dict(), self._actor.state_dict(), keep)

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """A file of weights, if there is an average yet, and JSON values; part of a learner's."""
        files: dict[str, Mapping[str, Tensor]] = {}
        if self._count:
            files["average"] = self._average.state_dict()
        return files, {"averaged": self._count}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self._count = int(values.get("averaged", 0))
        if self._count:
            self._average.load_state_dict(tensors["average"])
