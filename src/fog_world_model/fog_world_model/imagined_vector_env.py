"""The imagined environment for libraries that train in ``gymnasium.vector`` environments."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from fog_world_model.context_bank import ContextBank
from fog_world_model.data.windows import to_uint8_image
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.global_model.worlds import Precision
from fog_world_model.imagination import ImaginedEnv

Observation = dict[str, npt.NDArray[Any]]


class ImaginedVectorEnv(VectorEnv[Observation, npt.NDArray[np.float32], npt.NDArray[Any]]):
    """Worlds of the global model as a batch of environments.

    Observations are dictionaries of ``image`` and ``proprioception`` (normalised as the models see
    it). Actions are in [-1, 1] and are clipped to it. An environment terminates when the model says
    that the episode ends, and is truncated after ``max_steps``. It is then reset within the same
    step (``AutoresetMode.SAME_STEP``): the observation is the first of the next episode, and the
    last of the one that is over is in ``info["final_obs"]``, as in Gymnasium's own environments.

    A loop that keeps its tensors on the device uses :class:`.imagination.ImaginedEnv` itself.
    """

    def __init__(
        self,
        model: GlobalModel,
        contexts: ContextBank,
        *,
        environments: int,
        max_steps: int,
        images: Literal["uint8", "float32"] = "uint8",
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
        compiled: bool | None = None,
    ) -> None:
        """Make the environments; call :meth:`reset` before the first step.

        Args:
            model: The world.
            contexts: Where episodes start.
            environments: How many run side by side.
            max_steps: Steps after which an episode is truncated.
            images: ``uint8``: ``[height, width, channel]``; ``float32``: ``[channel, height,
                width]`` in [-1, 1], as the models have them.
            device: Where the model and the contexts are.
            precision: See :class:`.imagination.ImaginedEnv`.
            compiled: See :class:`.imagination.ImaginedEnv`.
        """
        config = model.config
        self._images, self._bank = images, contexts
        self._env = ImaginedEnv(
            model,
            contexts,
            environments=environments,
            max_steps=max_steps,
            seed=0,
            device=device,
            precision=precision,
            compiled=compiled,
            stagger=False,
        )
        self.num_envs = environments
        self.metadata = {
            "autoreset_mode": AutoresetMode.SAME_STEP,
            "render_modes": ["rgb_array"],
        }
        self.render_mode = "rgb_array"
        shape = (config.height, config.width, 3)
        image = (
            spaces.Box(0, 255, shape, np.uint8)
            if images == "uint8"
            else spaces.Box(-1.0, 1.0, (shape[2], *shape[:2]), np.float32)
        )
        vector = spaces.Box(-np.inf, np.inf, (config.proprioception_size,), np.float32)
        self.single_observation_space = spaces.Dict({"image": image, "proprioception": vector})
        self.single_action_space = spaces.Box(-1.0, 1.0, (config.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, environments)
        self.action_space = batch_space(self.single_action_space, environments)
        self._device = torch.device(device)
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start all environments, or those of a mask, from contexts.

        Args:
            seed: Seed of the contexts and of the imagination of all environments.
            options: ``reset_mask``: ``[env]``, bool.

        Raises:
            ValueError: The mask has another shape, or the first reset has one.
        """
        if seed is None and not self._begun:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed is not None:
            self._np_random, self._np_random_seed = gymnasium.utils.seeding.np_random(seed)
            self._env.reseed(seed)
            self._bank.reseed(seed)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            mask = np.ones(self.num_envs, np.bool_)
        elif np.shape(mask) != (self.num_envs,) or not self._begun:
            raise ValueError(
                f"reset_mask must have the shape ({self.num_envs},), and come after a first reset"
            )
        which = torch.from_numpy(np.asarray(mask, np.bool_)).to(self._device)
        # A start of all begins everything anew, so that it depends on nothing but the seed.
        self._env.restart(None if np.all(mask) else which)
        self._env.age = torch.where(which, 0, self._env.age)
        self._begun = True
        return self._observation(*self._env.observation), {}

    def step(
        self, actions: npt.NDArray[np.float32]
    ) -> tuple[Observation, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Imagine one step of every environment.

        Raises:
            gymnasium.error.ResetNeeded: There was no reset.
            ValueError: The actions have another shape or are not finite.
        """
        if not self._begun:
            raise gymnasium.error.ResetNeeded("call reset before the first step")
        actions = np.asarray(actions, np.float32)
        expected = self.action_space.shape
        if actions.shape != expected or not np.isfinite(actions).all():
            raise ValueError(f"actions must be finite and of shape {expected}, not {actions.shape}")
        given = torch.from_numpy(np.clip(actions, -1.0, 1.0)).to(self._device)
        step = self._env.step(given)
        terminated, truncated = step.end, self._env.due & ~step.end
        over = self._env.rewind(step.end).cpu().numpy()
        info: dict[str, Any] = {}
        if over.any():
            last = self._observation(step.image, step.proprioception)
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(over):
                final[i] = {name: values[i] for name, values in last.items()}
            # Nothing is known of a step but what is observed, so the last information is empty.
            info = {"final_obs": final, "_final_obs": over, "final_info": {}, "_final_info": over}
        return (
            self._observation(*self._env.observation),
            step.reward.cpu().numpy(),
            terminated.cpu().numpy(),
            truncated.cpu().numpy(),
            info,
        )

    def render(self) -> tuple[npt.NDArray[np.uint8], ...]:
        """What every environment shows now, ``[height, width, channel]`` each."""
        return tuple(to_uint8_image(self._env.observation[0]))

    def _observation(self, image: Tensor, proprioception: Tensor) -> Observation:
        shown = to_uint8_image(image) if self._images == "uint8" else image.cpu().numpy().copy()
        return {
            "image": np.ascontiguousarray(shown),
            "proprioception": proprioception.cpu().numpy().copy(),
        }
