"""The global model as a batched environment that starts from recorded contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fog_world_model.context_bank import ContextBank
from fog_world_model.data.windows import Windows
from fog_world_model.global_model.global_model import GlobalModel, WorldState
from fog_world_model.global_model.worlds import Precision, Worlds, worlds


class Contexts(Protocol):
    """Where worlds start: a window sampler, or a bank of preloaded contexts."""

    @property
    def generator_state(self) -> Any:
        """State of the random order."""

    @generator_state.setter
    def generator_state(self, state: Any) -> None: ...

    def sample(self, batch: int, device: torch.device | str) -> Windows:
        """Draw contexts."""


@dataclass(frozen=True)
class ImaginedStep:
    """What every environment shows after a step; see :class:`ImaginedEnv`."""

    image: Tensor
    """``[env, channel, height, width]`` in [-1, 1]: o_{t+1}."""
    proprioception: Tensor
    """``[env, field]``, normalised: p_{t+1}."""
    reward: Tensor
    """``[env]``: r_t."""
    end: Tensor
    """``[env]``, bool: d_t."""


class ImaginedEnv:
    """Environments that live in the global model; nothing in here has a gradient.

    Each starts from a context: a few consecutive recorded observations, which are also what a
    recurrent policy is warmed up on. An environment that has ended, or has been imagined for
    ``max_steps``, is started again from another context when :meth:`restart` is called.

    The weights and the noise levels are those that the model has when the first step is taken;
    call :meth:`refresh` after changing them.
    """

    def __init__(
        self,
        model: GlobalModel,
        contexts: Contexts,
        *,
        environments: int,
        max_steps: int,
        seed: int,
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
        compiled: bool | None = None,
        stagger: bool = True,
    ) -> None:
        """Make the environments; call :meth:`restart` before the first step.

        Args:
            model: The world.
            contexts: Draws contexts of at least the model's ``context_frames`` observations: a
                :class:`.windows.WindowSampler`, or a :class:`.context_bank.ContextBank`, which
                keeps them on the device.
            environments: How many run side by side.
            max_steps: Imagined steps after which an environment is due for a new context.
            seed: Seed of the imagination (the contexts have their own).
            device: Where the model is.
            precision: Of the networks; ``auto`` is bfloat16 on a GPU and float32 elsewhere.
                (Measured on a processor with bfloat16 matrix units: worth asking for there.)
            compiled: Whether to use torch.compile; unless given on a GPU only, where it ends in
                CUDA graphs. On a processor it takes minutes and gained nothing.
            stagger: Begin with ages spread over ``max_steps``, so that environments do not all
                become due at the same moment.
        """
        self.model, self.environments, self.max_steps = model.eval(), environments, max_steps
        self._contexts, self._device = contexts, torch.device(device)
        self._generator = torch.Generator(device=self._device).manual_seed(seed)
        self._options: dict[str, Any] = {"precision": precision, "compiled": compiled}
        self._worlds: Worlds | None = None
        self._recurrent: Tensor | None = None
        ages = torch.arange(environments, device=self._device)
        self.age = ages * max_steps // environments * int(stagger)
        self.steps = 0

    @property
    def due(self) -> Tensor:
        """``[env]``, bool: environments that have been imagined for ``max_steps``."""
        return self.age >= self.max_steps

    @property
    def observation(self) -> tuple[Tensor, Tensor]:
        """What every environment shows now, restarted ones their context's last observation.

        Returns:
            ``[env, channel, height, width]`` in [-1, 1] and ``[env, field]``, normalised.
        """
        return self._begun("observation was read").last

    @property
    def worlds(self) -> Worlds:
        """The worlds that the environments live in."""
        return self._begun("worlds was read")

    def reseed(self, seed: int) -> None:
        """Begin the random numbers of the imagination anew (the contexts have their own)."""
        self._generator.manual_seed(seed)

    def refresh(self) -> None:
        """Take over the model's weights and noise levels as they are now."""
        old = self._begun("refresh was called")
        self._recurrent = None
        self._worlds = worlds(self.model, **self._options)
        self._worlds.put(old.state, oldest=old.oldest)

    def _begun(self, what: str) -> Worlds:
        if self._worlds is None:
            raise RuntimeError(f"ImaginedEnv.{what} before ImaginedEnv.restart")
        return self._worlds

    @torch.no_grad()
    def restart(self, which: Tensor | None = None) -> Windows:
        """Start environments from new contexts.

        Args:
            which: ``[env]``, bool; all when not given (ages stay staggered then).

        Returns:
            The contexts, ``[env, time, ...]`` for all environments; the rows of those that were
            not restarted have no meaning.
        """
        windows, fresh = self._fresh()
        if which is None or self._worlds is None:
            self._worlds = self._worlds or worlds(self.model, **self._options)
            self._worlds.put(fresh)
        else:
            self._worlds.put(fresh, which)
            self.age = torch.where(which, 0, self.age)
        return windows

    @torch.no_grad()
    def rewind(self, ended: Tensor) -> Tensor:
        """Start those that have ended, and those that are due, from new contexts.

        On a GPU nothing is asked of the device: a step loop with this in it never waits.

        Args:
            ended: ``[env]``, bool, as in :attr:`ImaginedStep.end`.

        Returns:
            ``[env]``, bool: which were started again.
        """
        which = ended | self.due
        if self._device.type != "cpu" or bool(which.any()):
            self.restart(which)
        return which

    def _fresh(self) -> tuple[Windows, WorldState]:
        """Contexts for all environments, and the worlds at their ends."""
        contexts = self._contexts
        if not isinstance(contexts, ContextBank):
            windows = contexts.sample(self.environments, self._device)
            return windows, self.model.start(windows)
        if self._recurrent is None:  # of every context in the bank, once
            parts = torch.arange(len(contexts), device=self._device).split(64)
            started = [self.model.start(contexts.at(part)).recurrent for part in parts]
            self._recurrent = torch.cat(started)
        chosen = contexts.draw(self.environments)
        windows = contexts.at(chosen)
        return windows, self.model.placed(windows, self._recurrent[chosen])

    def snapshot(self) -> tuple[object, ...]:
        """Everything that a step or a restart changes; give it to :meth:`restore`."""
        worlds = self._begun("snapshot was called")
        return (
            worlds.state,
            self.age,
            self.steps,
            self._generator.get_state(),
            self._contexts.generator_state,
            worlds.oldest,
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Go back to a snapshot: the same actions then give the same steps."""
        state, self.age, self.steps, noise, contexts, oldest = snapshot
        self._begun("restore was called").put(state, oldest=oldest)
        self._generator.set_state(noise)
        self._contexts.generator_state = contexts

    @torch.no_grad()
    def step(self, action: Tensor) -> ImaginedStep:
        """Imagine one step of every environment.

        Args:
            action: ``[env, field]`` in [-1, 1].
        """
        worlds = self._begun("step was called")
        outcome = worlds.step(action.detach(), self._generator)
        draw = torch.rand(self.environments, generator=self._generator, device=self._device)
        self.age = self.age + 1
        self.steps += self.environments
        return ImaginedStep(*worlds.last, outcome.reward, draw < outcome.end_probability)
