"""What every way of learning a policy has in common, so that they can be compared fairly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from fog_policy.actor_critic import Actor
from fog_world_model.local_model.local_model import LocalModel


class Learner(Protocol):
    """A policy that is being learned inside a world model, one update at a time.

    The policy is always an :class:`~fog_policy.actor_critic.Actor` on the state of a local model:
    what learns differs from method to method, what is deployed does not.
    """

    actor: Actor
    """What learns."""
    local_model: LocalModel
    """The model whose encoder and posterior turn observations into the actor's features."""

    @property
    def policy(self) -> Actor:
        """What has been learned so far, to be evaluated and deployed: the actor or its average."""

    @property
    def imagined_steps(self) -> int:
        """Steps of environments used so far, in whichever world the method learns in."""

    def update(self) -> dict[str, float]:
        """Learn once; returns what happened, for the log.

        Raises:
            FogError: Something is not finite.
        """

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """Everything that the next update depends on.

        Returns:
            Tensors by file and name, among them ``actor`` and ``local``, and ``average`` where
            the policy is not the actor itself; and JSON values.
        """

    def load_state(
        self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
    ) -> None:
        """Put back what :meth:`state` returned: the next update is the one that was next."""
