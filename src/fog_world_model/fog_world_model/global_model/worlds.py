"""A batch of imagined worlds, kept between steps: as fast as the device allows, or plainly."""

from __future__ import annotations

import copy
import logging
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fog_world_model.global_model.fast_sampler import FastSampler
from fog_world_model.global_model.global_model import GlobalModel, WorldState
from fog_world_model.global_model.outcome import Outcome, OutcomeHead

Precision = Literal["auto", "float32", "bfloat16"]
"""Of the networks. ``auto`` is bfloat16 on a GPU that has it, float32 elsewhere."""

_log = logging.getLogger(__name__)


class Worlds(Protocol):
    """What :class:`.imagination.ImaginedEnv` needs of a batch of worlds."""

    oldest: int
    """Where in their buffer the oldest frame lies; with :attr:`state` it is all that they are."""

    @property
    def state(self) -> WorldState:
        """Where they are now."""

    @property
    def last(self) -> tuple[Tensor, Tensor]:
        """Newest frame ``[batch, c, height, width]`` and proprioception ``[batch, field]``."""

    def put(
        self, state: WorldState, which: Tensor | None = None, oldest: int | None = None
    ) -> None:
        """Move worlds to a state.

        Args:
            state: Of as many worlds as there are.
            which: ``[batch]``, bool: the worlds that are moved; all when not given.
            oldest: What :attr:`oldest` was when :attr:`state` was read, to go on bit for bit.
        """

    def step(self, action: Tensor, generator: torch.Generator) -> Outcome:
        """Imagine one step; the new frame is then in :attr:`last`."""


def precision_of(precision: Precision, device: torch.device) -> torch.dtype:
    """The precision of the networks on a device."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def worlds(
    model: GlobalModel, *, precision: Precision = "auto", compiled: bool | None = None
) -> Worlds:
    """Worlds of a model; plain ones for a model that has a ``step`` of its own.

    Args:
        model: The weights are taken as they are at the first step.
        precision: Of the networks.
        compiled: Whether to compile; on a GPU unless given.
    """
    if type(model).step is not GlobalModel.step:
        return PlainWorlds(model)
    return FastWorlds(model, precision=precision, compiled=compiled)


class PlainWorlds:
    """Worlds that are stepped by :meth:`.GlobalModel.step`."""

    oldest = 0

    def __init__(self, model: GlobalModel) -> None:
        """Begin nowhere; call :meth:`put` first."""
        self._model = model
        self._state: WorldState | None = None

    @property
    def state(self) -> WorldState:
        """See :class:`Worlds`."""
        if self._state is None:
            raise RuntimeError("worlds were read before they were put anywhere")
        return self._state

    @property
    def last(self) -> tuple[Tensor, Tensor]:
        """See :class:`Worlds`."""
        return self.state.frames[:, -1], self.state.proprioception

    def put(
        self, state: WorldState, which: Tensor | None = None, oldest: int | None = None
    ) -> None:
        """See :class:`Worlds`."""
        self._state = state if which is None else self.state.where(which, state)

    def step(self, action: Tensor, generator: torch.Generator) -> Outcome:
        """See :class:`Worlds`."""
        self._state, outcome = self._model.step(self.state, action, generator)
        return outcome


class _Transition(nn.Module):
    """Frame and outcome of one step: all that is computed on the device, as one graph."""

    def __init__(self, model: GlobalModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.sampler = FastSampler(model.denoiser, model.sampler, dtype)
        self.outcome: OutcomeHead = copy.deepcopy(model.outcome).eval().requires_grad_(False)
        frames: Any = self.outcome.frames
        frames.to(dtype=dtype, memory_format=torch.channels_last)

    def forward(
        self,
        noise: Tensor,
        last: Tensor,
        given: Tensor,
        past: Tensor,
        past_weight: Tensor,
        conditions: Tensor,
        proprio: Tensor,
        action: Tensor,
        recurrent: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        frame = self.sampler(noise, given, past, past_weight, conditions)
        outcome, recurrent = self.outcome.step(last, proprio, action, frame, recurrent)
        return frame, outcome.reward, outcome.end_probability, outcome.proprioception, recurrent


class FastWorlds:
    """Worlds whose past frames lie in a ring on the device, in the network's layout.

    Equal to :class:`PlainWorlds` up to rounding. A step allocates its results and nothing that
    could be kept; on a GPU it is compiled into CUDA graphs.
    """

    def __init__(
        self, model: GlobalModel, *, precision: Precision = "auto", compiled: bool | None = None
    ) -> None:
        """Begin nowhere; call :meth:`put` first. See :func:`worlds`."""
        self._model, self._config = model, model.config
        self._device = model.denoiser.residual_std.device
        self.dtype = precision_of(precision, self._device)
        self.compiled = self._device.type == "cuda" if compiled is None else compiled
        self._untried = self.compiled
        self._transition: _Transition | None = None
        self.oldest = 0
        self._begun = False

    def _build(self) -> _Transition:
        """Copy the weights as they are now."""
        self._transition = transition = _Transition(self._model, self.dtype)
        self._run: Any = transition
        if self.compiled and self._device.type == "cuda":  # a whole step, replayed as CUDA graphs
            self._run = torch.compile(
                transition, mode="reduce-overhead", fullgraph=True, dynamic=False
            )
        elif self.compiled:  # one denoising step: a third of the code for the C++ compiler
            sampler = transition.sampler
            network: Any = torch.compile(sampler.network, fullgraph=True, dynamic=False)
            sampler.network = network  # type: ignore[method-assign]
        return transition

    @property
    def last(self) -> tuple[Tensor, Tensor]:
        """See :class:`Worlds`."""
        self._require_begun()
        return self._frame, self._proprio

    @property
    def state(self) -> WorldState:
        """See :class:`Worlds`."""
        self._require_begun()
        patches = self._slots.roll(-self.oldest, 1).flatten(1, 2).float()
        frames = F.pixel_shuffle(patches, self._config.denoiser.patch)
        frames = frames.unflatten(1, (self._slots.shape[1], -1)).contiguous()
        frames[:, -1] = self._frame  # the others have the ring's precision, this one is exact
        return WorldState(frames, self._actions[:, :-1].clone(), self._proprio, self._recurrent)

    def put(
        self, state: WorldState, which: Tensor | None = None, oldest: int | None = None
    ) -> None:
        """See :class:`Worlds`."""
        if which is None:
            self.oldest = oldest or 0
            self._allocate(state)
        else:
            self._require_begun()
        patches = self._patches(state.frames).roll(self.oldest, 1)
        actions = F.pad(state.actions, (0, 0, 0, 1))
        if which is None:
            self._slots.copy_(patches)
            self._actions.copy_(actions)
            self._frame, self._proprio = state.frames[:, -1], state.proprioception
            self._recurrent = state.recurrent
            return
        self._slots.copy_(torch.where(_beside(which, patches), patches, self._slots))
        self._actions.copy_(torch.where(_beside(which, actions), actions, self._actions))
        old = WorldState(self._frame[:, None], actions, self._proprio, self._recurrent)
        new = WorldState(state.frames[:, -1:], actions, state.proprioception, state.recurrent)
        now = old.where(which, new)
        self._frame, self._proprio = now.frames[:, -1], now.proprioception
        self._recurrent = now.recurrent

    def step(self, action: Tensor, generator: torch.Generator) -> Outcome:
        """See :class:`Worlds`."""
        self._require_begun()
        transition = self._transition or self._build()
        self._actions[:, -1] = action
        past, given, level = self._ring, self._frame, None
        if added := self._model.sampler.config.context_noise:
            frames = self.state.frames
            noise = torch.randn(frames.shape, generator=generator, device=frames.device)
            frames, level = frames + added * noise, action.new_full((len(action),), added)
            noisy = self._patches(frames).roll(self.oldest, 1).flatten(1, 2)
            past = noisy.contiguous(memory_format=torch.channels_last)
            given = frames[:, -1]
        noise = torch.randn(self._frame.shape, generator=generator, device=self._frame.device)
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()  # the last step's results were cloned
        with torch.inference_mode():
            results = self._imagine(
                noise,
                self._frame,
                given,
                past,
                transition.sampler.past_weight(self.oldest),
                self._model.denoiser.conditions(self._actions, self._proprio, level),
                self._proprio,
                action,
                self._recurrent,
            )
        # Cloned, because CUDA graphs write into the same memory at every step, and because a tensor
        # made in inference mode could not be learned from.
        self._frame, reward, end, self._proprio, self._recurrent = (r.clone() for r in results)
        self._slots[:, self.oldest] = self._patches(self._frame[:, None])[:, 0]
        self._actions.copy_(self._actions.roll(-1, 1))
        self.oldest = (self.oldest + 1) % self._slots.shape[1]
        return Outcome(reward, end, self._proprio)

    def _imagine(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Run the transition; where it cannot be compiled, go on without."""
        if not self._untried:
            results: tuple[Tensor, ...] = self._run(*arguments)
            return results
        self._untried = False
        try:
            results = self._run(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compilers raise
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            _log.warning("torch.compile failed, imagining without it: %s", reason)
            self.compiled = False
            self._build()
            results = self._run(*arguments)
        return results

    def _allocate(self, state: WorldState) -> None:
        """Buffers for a batch: the ring ``[batch, L * patch channels, height, width]``."""
        patches = self._patches(state.frames).flatten(1, 2)
        self._ring = torch.empty_like(patches, memory_format=torch.channels_last)
        self._slots = self._ring.unflatten(1, (state.frames.shape[1], -1))
        self._actions = state.actions.new_zeros(
            len(patches), state.frames.shape[1], state.actions.shape[2]
        )
        self._begun = True

    def _patches(self, frames: Tensor) -> Tensor:
        """``[batch, time, channel, height, width]`` -> ``[batch, time, patch channel, h, w]``."""
        return F.pixel_unshuffle(frames, self._config.denoiser.patch).to(self.dtype)

    def _require_begun(self) -> None:
        if not self._begun:
            raise RuntimeError("worlds were read or stepped before they were put anywhere")


def _beside(which: Tensor, values: Tensor) -> Tensor:
    """``[batch]`` -> ``[batch, 1, ...]``, as many axes as ``values``."""
    return which.view(-1, *[1] * (values.dim() - 1))
