"""Draw the next frame with diffusers' EDM scheduler (Karras et al. 2022, algorithm 1, Euler)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import EDMEulerScheduler
from torch import Tensor

from fog_world_model.global_model.denoiser import Denoiser


@dataclass(frozen=True)
class SamplerConfig:
    """Noise schedule of the sampler."""

    steps: int = 3
    """Denoising steps per frame."""
    sigma_max: float = 5.0
    sigma_min: float = 2e-3
    rho: float = 7.0
    context_noise: float = 0.0
    """Level of noise added to the past frames; the denoiser is told, and must know such levels."""


class Sampler:
    """Euler integration of the probability-flow ODE from noise to a frame."""

    def __init__(self, config: SamplerConfig, sigma_data: float) -> None:
        """Compute the noise levels once."""
        self.config = config
        self._scheduler = EDMEulerScheduler(
            sigma_min=config.sigma_min,
            sigma_max=config.sigma_max,
            sigma_data=sigma_data,
            rho=config.rho,
            sigma_schedule="karras",
            final_sigmas_type="zero",
        )
        self._scheduler.set_timesteps(config.steps)

    @property
    def sigmas(self) -> Tensor:
        """``[steps + 1]`` noise levels, largest first, 0 last."""
        sigmas: Tensor = self._scheduler.sigmas
        return sigmas

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        context: Tensor,
        actions: Tensor,
        proprio: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw the next frame.

        Args:
            denoiser: The model.
            context: ``[batch, time, channel, height, width]`` the last L frames in [-1, 1].
            actions: ``[batch, time, field]`` the last L actions, the newest last.
            proprio: ``[batch, field]`` normalised.
            generator: Source of the noise, on the device of the tensors.

        Returns:
            ``[batch, channel, height, width]`` in [-1, 1].
        """
        scheduler = self._scheduler
        scheduler.set_timesteps(self.config.steps)  # rewinds it to the first step
        scheduler.is_scale_input_called = True  # the denoiser scales its input itself
        level = None
        if self.config.context_noise:
            level = context.new_full((len(context),), self.config.context_noise)
            added = torch.randn(context.shape, generator=generator, device=context.device)
            context = context + self.config.context_noise * added
        last = context[:, -1]
        noise = torch.randn(last.shape, generator=generator, device=last.device, dtype=last.dtype)
        sample = noise * float(scheduler.sigmas[0])
        for i, timestep in enumerate(scheduler.timesteps):
            sigma = scheduler.sigmas[i].to(sample.device).expand(len(sample))
            denoised = denoiser(sample, sigma, context, actions, proprio, level)
            # Our preconditioning knows of the offset noise, the scheduler's does not: hand it the
            # denoised sample, so that it does the integration only.
            sample = scheduler.step(
                denoised, timestep, sample, pred_original_sample=denoised
            ).prev_sample
        return denoiser.to_frame(sample, last)
