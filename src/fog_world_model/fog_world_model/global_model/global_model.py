"""The global world model: denoiser, sampler and outcome head behind one interface."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fog_world_model.data.windows import Windows
from fog_world_model.errors import FogError
from fog_world_model.global_model.denoiser import Denoiser, DenoiserConfig
from fog_world_model.global_model.outcome import Outcome, OutcomeConfig, OutcomeHead
from fog_world_model.global_model.presets import PRESETS
from fog_world_model.global_model.sampler import Sampler, SamplerConfig


@dataclass(frozen=True)
class GlobalModelConfig:
    """Everything that fixes the shape of a global model."""

    height: int
    width: int
    action_size: int
    proprioception_size: int
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    outcome: OutcomeConfig = field(default_factory=OutcomeConfig)
    autoregressive_steps: int = 1
    """How many times in a row training goes on from the model's own frames (0: never)."""

    def __post_init__(self) -> None:
        """Check that sampling stays within what was trained.

        Raises:
            FogError: It does not, or a number is negative.
        """
        if self.autoregressive_steps < 0:
            raise FogError(
                f"autoregressive_steps is {self.autoregressive_steps}; expected 0 or more"
            )
        if not 0 <= self.sampler.context_noise <= self.denoiser.context_noise:
            raise FogError(
                f"the sampler's context_noise is {self.sampler.context_noise:g}; the denoiser is "
                f"trained on levels from 0 to {self.denoiser.context_noise:g}"
            )


def preset(
    name: str, *, height: int, width: int, action_size: int, proprioception_size: int
) -> GlobalModelConfig:
    """Configuration of a named size for a task's image, action and proprioception."""
    denoiser, sampler, outcome = PRESETS[name]
    return GlobalModelConfig(
        height, width, action_size, proprioception_size, denoiser, sampler, outcome
    )


@dataclass(frozen=True)
class GlobalChanges:
    """What is trained differently from a preset; the size stays. None leaves the preset's."""

    residual: bool | None = None
    """Target: the difference to the last frame, or the frame itself."""
    autoregressive_steps: int | None = None
    context_noise: float | None = None
    """Largest level of noise on the past frames."""

    def apply(self, config: GlobalModelConfig) -> GlobalModelConfig:
        """The changed configuration.

        Raises:
            FogError: A value cannot be.
        """
        if self.context_noise is not None and not 0.0 <= self.context_noise <= 2.0:
            raise FogError(f"context noise {self.context_noise:g}: expected a level from 0 to 2")
        changes: dict[str, Any] = {
            "residual": self.residual,
            "context_noise": self.context_noise,
        }
        denoiser = replace(config.denoiser, **{k: v for k, v in changes.items() if v is not None})
        steps = self.autoregressive_steps
        return replace(
            config,
            denoiser=denoiser,
            autoregressive_steps=config.autoregressive_steps if steps is None else steps,
        )


@dataclass(frozen=True)
class WorldState:
    """What the global model remembers of a batch of worlds."""

    frames: Tensor
    """``[batch, time, channel, height, width]``: the last L frames in [-1, 1], the newest last."""
    actions: Tensor
    """``[batch, time, field]``: the L - 1 actions between those frames."""
    proprioception: Tensor
    """``[batch, field]``: normalised, at the newest frame."""
    recurrent: Tensor
    """``[batch, hidden]``: state of the outcome head."""

    def where(self, mask: Tensor, other: WorldState) -> WorldState:
        """Take the worlds of ``other`` where ``mask`` ``[batch]`` is true."""

        def pick(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (mine.dim() - 1)), theirs, mine)

        return WorldState(
            pick(self.frames, other.frames),
            pick(self.actions, other.actions),
            pick(self.proprioception, other.proprioception),
            pick(self.recurrent, other.recurrent),
        )


class GlobalModel(nn.Module):
    """Imagine the next frame, proprioception, reward and end, given an action."""

    def __init__(self, config: GlobalModelConfig) -> None:
        """Build an untrained model."""
        super().__init__()
        self.config = config
        sizes = {
            "height": config.height,
            "width": config.width,
            "action_size": config.action_size,
            "proprioception_size": config.proprioception_size,
        }
        self.denoiser = Denoiser(config.denoiser, **sizes)
        self.outcome = OutcomeHead(config.outcome, **sizes)
        self.sampler = Sampler(config.sampler, config.denoiser.sigma_data)

    @property
    def context_frames(self) -> int:
        """Past frames (L) that a world is started from."""
        return self.config.denoiser.context_frames

    def with_sampling_steps(self, steps: int) -> None:
        """Change the number of denoising steps (speed against sharpness); weights stay."""
        self.sampler = Sampler(
            replace(self.config.sampler, steps=steps), self.config.denoiser.sigma_data
        )

    def loss(self, windows: Windows) -> dict[str, Tensor]:
        """Losses on real windows of at least L + 1 observations.

        From the L-th on, every frame of the window is denoised given the L real frames before it.
        Frames whose context can hold denoised frames are denoised once more given those, so that
        the model learns to go on from its own frames (multi-step training against drift; one
        autoregressive step in DIAMOND). Each further pass goes on from the frames of the one
        before and begins a frame later: with K passes, contexts hold frames that are up to K
        steps away from a real one. A window of L + 1 + K observations has room for all of them.

        Returns:
            ``denoise``, ``own`` (the mean over the passes after the first), ``reward``, ``end``,
            ``proprioception`` and their sum ``total``.
        """
        context, length = self.context_frames, windows.image.shape[1]
        denoise, denoised = self._denoise(windows, windows.image, range(context - 1, length - 1))
        own = torch.cat([windows.image[:, :context], denoised], 1)
        losses = {"denoise": denoise}
        passes, given = [], own
        for k in range(min(self.config.autoregressive_steps, length - context - 1)):
            again, denoised = self._denoise(windows, given, range(context + k, length - 1))
            given = torch.cat([given[:, : context + k + 1], denoised], 1)
            passes.append(again)
        if passes:
            losses["own"] = torch.stack(passes).mean()
        # The outcome head will read imagined frames: let it see them in training too.
        mixed = torch.rand(own.shape[:2], device=own.device)[:, :, None, None, None] < 0.5
        seen = torch.where(mixed, own, windows.image)
        losses |= self.outcome.loss(
            seen[:, :-1],
            windows.proprioception[:, :-1],
            windows.action[:, :-1],
            seen[:, 1:],
            windows.reward[:, :-1],
            windows.end[:, :-1],
            windows.proprioception[:, 1:],
        )
        losses["total"] = torch.stack(list(losses.values())).sum()
        return losses

    def _denoise(self, windows: Windows, context: Tensor, steps: range) -> tuple[Tensor, Tensor]:
        """Denoise frame t + 1 for each t of ``steps`` in one batch.

        Args:
            windows: The targets, actions and proprioception.
            context: ``[batch, time, c, h, w]``: the frames that are given as context.
            steps: Which t.

        Returns:
            The loss and the denoised frames ``[batch, len(steps), c, h, w]``.
        """
        past = self.context_frames

        def stacked(rows: list[Tensor]) -> Tensor:
            return torch.stack(rows, 1).flatten(0, 1)

        loss, denoised = self.denoiser.loss(
            stacked([windows.image[:, t + 1] for t in steps]),
            stacked([context[:, t + 1 - past : t + 1] for t in steps]),
            stacked([windows.action[:, t + 1 - past : t + 1] for t in steps]),
            stacked([windows.proprioception[:, t] for t in steps]),
        )
        return loss, denoised.unflatten(0, (-1, len(steps)))

    @torch.no_grad()
    def start(self, windows: Windows) -> WorldState:
        """Worlds that go on from the last observation of real contexts of at least L."""
        recurrent = self.outcome.initial(len(windows.image))
        for t in range(windows.image.shape[1] - 1):
            _, recurrent = self.outcome.step(
                windows.image[:, t],
                windows.proprioception[:, t],
                windows.action[:, t],
                windows.image[:, t + 1],
                recurrent,
            )
        return self.placed(windows, recurrent)

    def placed(self, windows: Windows, recurrent: Tensor) -> WorldState:
        """Worlds at the last observation of contexts, given the outcome head's state there."""
        return WorldState(
            windows.image[:, -self.context_frames :],
            windows.action[:, -self.context_frames : -1],
            windows.proprioception[:, -1],
            recurrent,
        )

    @torch.no_grad()
    def step(
        self, state: WorldState, action: Tensor, generator: torch.Generator
    ) -> tuple[WorldState, Outcome]:
        """Imagine one step.

        Args:
            state: The worlds.
            action: ``[batch, field]`` in [-1, 1].
            generator: Source of the sampler's noise.

        Returns:
            The new worlds (newest frame last) and the outcome of the transition.
        """
        actions = torch.cat([state.actions, action[:, None]], dim=1)
        frame = self.sampler.sample(
            self.denoiser, state.frames, actions, state.proprioception, generator
        )
        outcome, recurrent = self.outcome.step(
            state.frames[:, -1], state.proprioception, action, frame, state.recurrent
        )
        following = WorldState(
            torch.cat([state.frames[:, 1:], frame[:, None]], dim=1),
            actions[:, 1:],
            outcome.proprioception,
            recurrent,
        )
        return following, outcome
