"""A policy for one robot: filters observations into the local model's state and acts on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from fog_policy.actor_critic import Actor
from fog_world_model.data.episodes import Normalisation
from fog_world_model.data.images import ImageArray
from fog_world_model.data.windows import to_float_image
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState, kl_divergence
from fog_world_model.task import FloatArray, TaskConfig

_State = TypeVar("_State")


class RecurrentController(ABC, Generic[_State]):
    """A :class:`.decision.Controller` whatever computes it.

    Args:
        normalisation: Of the proprioception.
        task: Gives the sizes.
        initial: The state before the first observation of an episode.
    """

    def __init__(self, normalisation: Normalisation, task: TaskConfig, initial: _State) -> None:
        self.task, self._normalisation, self._initial = task, normalisation, initial
        self.surprise: float | None = None
        """KL of posterior and prior at the last observation, nats (:mod:`fog_policy.surprise`)."""
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observation is the first of an episode."""
        self._state = self._initial
        self.surprise = None

    def act(
        self,
        image: npt.NDArray[np.uint8],
        proprioception: npt.ArrayLike,
        previous_action: npt.ArrayLike,
    ) -> FloatArray:
        """Take in one observation and answer with an action.

        Args:
            image: ``[height, width, 3]`` RGB at the task's size.
            proprioception: ``[field]``, physical units, in the task's order.
            previous_action: ``[field]`` in [-1, 1] that was carried out since the last
                observation; zeros at the start of an episode.

        Returns:
            ``[field]`` in [-1, 1], without noise.

        Raises:
            FogError: The image or the proprioception has another size.
        """
        expected = (self.task.image.height, self.task.image.width, 3)
        vector = np.asarray(proprioception, np.float32)
        if image.shape != expected or vector.shape != (self.task.proprioception_size,):
            raise FogError(
                f"policy input: image {image.shape} and proprioception {vector.shape}, expected "
                f"{expected} and ({self.task.proprioception_size},)"
            )
        action, self._state, self.surprise = self._step(
            np.ascontiguousarray(image),
            self._normalisation.apply(vector),
            np.asarray(previous_action, np.float32),
            self._state,
        )
        return np.asarray(action, np.float32)

    @abstractmethod
    def _step(
        self, image: ImageArray, vector: FloatArray, previous: FloatArray, state: _State
    ) -> tuple[FloatArray, _State, float]:
        """One step.

        Args:
            image: As for :meth:`act`, contiguous.
            vector: The proprioception, normalised.
            previous: As for :meth:`act`.
            state: Before the observation; it is not changed.

        Returns:
            The action ``[field]``, the state after the observation, and the surprise, nats.
        """


class TorchController(RecurrentController[LatentState]):
    """The policy in PyTorch.

    Args:
        local: Encoder and RSSM.
        actor: The policy.
        normalisation: Of the proprioception.
        task: Gives the sizes.
        device: Where it computes.
    """

    def __init__(
        self,
        local: LocalModel,
        actor: Actor,
        normalisation: Normalisation,
        task: TaskConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        self._local = local.to(self._device).eval()
        self._actor = actor.to(self._device).eval()
        super().__init__(normalisation, task, self._local.rssm.initial(1))

    @torch.no_grad()
    def _step(
        self, image: ImageArray, vector: FloatArray, previous: FloatArray, state: LatentState
    ) -> tuple[FloatArray, LatentState, float]:
        frame = to_float_image(torch.from_numpy(image).to(self._device))
        normalised = torch.from_numpy(vector).to(self._device)
        action = torch.from_numpy(previous).to(self._device)
        embedding = self._local.encoder(frame[None], normalised[None])
        state, prior, posterior = self._local.observe(state, action[None], embedding, sample=False)
        surprise = float(kl_divergence(posterior, prior)[0])
        return self._actor.mode(state.features)[0].cpu().numpy(), state, surprise
