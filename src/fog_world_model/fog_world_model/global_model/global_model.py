"""The global world model: denoiser, sampler and outcome head behind one interface."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fog_world_model.data.windows import Windows
from fog_world_model.global_model.denoiser import Denoiser, DenoiserConfig
from fog_world_model.global_model.outcome import Outcome, OutcomeConfig, OutcomeHead
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


PRESETS: dict[str, tuple[DenoiserConfig, SamplerConfig, OutcomeConfig]] = {
    "tiny": (
        DenoiserConfig(patch=4, channels=(16, 32), embedding=32),
        SamplerConfig(steps=2),
        OutcomeConfig(channels=16, hidden=32),
    ),
    "small": (
        # Large patches make it cheap, and go with predicting the image itself. One denoising step
        # gives the mean of the next frame: after minutes of training, more steps add noise and no
        # sharpness (measured: 15.3, 15.1 and 15.0 dB at horizon 8 with 1, 2 and 3 steps).
        DenoiserConfig(
            patch=4,
            channels=(48, 96, 96),
            predict_sample=True,
            sigma_offset=0.0,
            noise_log_mean=1.0,  # trained where it samples: at large noise
            noise_log_std=0.8,
        ),
        SamplerConfig(steps=1, sigma_max=20.0),
        OutcomeConfig(),
    ),
    "diamond": (
        DenoiserConfig(
            context_frames=4, patch=1, channels=(64, 64, 64, 64), layers=2, embedding=256
        ),
        SamplerConfig(steps=3),
        OutcomeConfig(channels=64, hidden=512),
    ),
}
"""Named sizes: ``tiny`` for tests, ``small`` for two CPU cores, ``diamond`` for a GPU."""


def preset(
    name: str, *, height: int, width: int, action_size: int, proprioception_size: int
) -> GlobalModelConfig:
    """Configuration of a named size for a task's image, action and proprioception."""
    denoiser, sampler, outcome = PRESETS[name]
    return GlobalModelConfig(
        height, width, action_size, proprioception_size, denoiser, sampler, outcome
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
        the model learns to go on from its own frames (multi-step training against drift).

        Returns:
            ``denoise``, ``own`` (the second pass), ``reward``, ``end``, ``proprioception`` and
            their sum ``total``.
        """
        context, length = self.context_frames, windows.image.shape[1]
        denoise, denoised = self._denoise(windows, windows.image, range(context - 1, length - 1))
        own = torch.cat([windows.image[:, :context], denoised], 1)
        losses = {"denoise": denoise}
        if length > context + 1:
            losses["own"], _ = self._denoise(windows, own, range(context, length - 1))
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
