"""The denoiser: EDM preconditioning around a U-Net, conditioned on past frames and actions.

Formulas: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv 2206.00364), table 1, right column; as a world model in Alonso et al. 2024 (DIAMOND, arXiv
2405.12399), section 3 and appendix, whose offset noise and conditioning are kept here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

TIME_SCALE = 100.0
"""diffusers' sinusoidal embedding resolves steps of about 1; c_noise spans about 2."""


@dataclass(frozen=True)
class DenoiserConfig:
    """Size and noise of the denoiser."""

    context_frames: int = 2
    """Past frames (L) concatenated on channels, and past actions embedded."""
    patch: int = 2
    """Side of the pixel-unshuffled patches the network works on; 1 is plain pixels."""
    channels: tuple[int, ...] = (64, 96, 128)
    """Channels per resolution of the U-Net, finest first."""
    layers: int = 1
    """Residual blocks per resolution."""
    embedding: int = 128
    """Width of the embedding of actions and proprioception."""
    time_embedding: int = 0
    """Width of what the condition and the noise level are added up in; 0 is 4 x ``channels[0]``."""
    attention: bool = False
    """Self-attention at the lowest resolution, heads of 8 channels, as in DIAMOND."""
    residual: bool = True
    """Predict the difference to the last frame instead of the frame itself."""
    predict_sample: bool = False
    """Let the network give the denoised image itself instead of EDM's mixture with the noise.

    The mixture asks the network to reproduce the noise pixel by pixel, which does not pass through
    a layer with few channels more than a patch has values. With large patches the image itself,
    which is of low dimension, is the better thing to ask for (Li and He 2025, arXiv 2511.13720)."""
    sigma_data: float = 0.5
    """Standard deviation of what is denoised (after scaling, for the residual)."""
    sigma_offset: float = 0.3
    """Offset noise per channel, against drift of the mean colour; 0 switches it off."""
    context_noise: float = 0.0
    """Largest level of noise added to the past frames in training; 0 switches it off.

    Each sample draws its level evenly from 0 to this, and the network is told it (Valevski et al.
    2024, GameNGen, arXiv 2408.14837, section 3.2.1). Imagined frames are never quite clean: a model
    that has seen only clean ones amplifies their errors. The residual is taken to the frame that
    was given, so the noise has to be removed and is not passed on."""
    noise_log_mean: float = -0.4
    noise_log_std: float = 1.2
    sigma_min: float = 2e-3
    sigma_max: float = 20.0


@dataclass(frozen=True)
class Preconditioning:
    """The four coefficients, each ``[batch]``."""

    c_in: Tensor
    c_out: Tensor
    c_skip: Tensor
    c_noise: Tensor


def preconditioning(sigma: Tensor, sigma_data: float, sigma_offset: float) -> Preconditioning:
    """EDM coefficients for noise of level ``sigma`` plus offset noise.

    The two noises are independent, so the effective level is ``sqrt(sigma^2 + sigma_offset^2)``.
    """
    sigma = (sigma**2 + sigma_offset**2).sqrt()
    total = sigma**2 + sigma_data**2
    return Preconditioning(
        c_in=total.rsqrt(),
        c_out=sigma * sigma_data * total.rsqrt(),
        c_skip=sigma_data**2 / total,
        c_noise=sigma.log() / 4,
    )


class Denoiser(nn.Module):
    """D(x; sigma, context): the mean of the next frame given a noisy one.

    ``x`` is the frame in [-1, 1], or with ``residual`` the difference to the last frame divided by
    its standard deviation and multiplied by ``sigma_data``, so that the same noise fits both.
    """

    residual_std: Tensor

    def __init__(
        self,
        config: DenoiserConfig,
        *,
        height: int,
        width: int,
        action_size: int,
        proprioception_size: int,
    ) -> None:
        """Build the network for images of a size (channel is always 3)."""
        super().__init__()
        self.config = config
        self.time_embedding = config.time_embedding or 4 * config.channels[0]
        pixels = 3 * config.patch**2
        self.unet = UNet2DModel(
            sample_size=(height // config.patch, width // config.patch),
            in_channels=pixels * (config.context_frames + 1),
            out_channels=pixels,
            layers_per_block=config.layers,
            block_out_channels=config.channels,
            down_block_types=("DownBlock2D",) * len(config.channels),
            up_block_types=("UpBlock2D",) * len(config.channels),
            add_attention=config.attention,
            attention_head_dim=8,
            time_embedding_dim=self.time_embedding,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            norm_num_groups=8,
        )
        # Start from F = 0: a residual model then begins by copying, instead of unlearning noise.
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)
        # diffusers adds class_labels to the time embedding, which scales and shifts every group
        # norm: the way in for actions and proprioception.
        conditions = config.context_frames * action_size + proprioception_size
        conditions += config.context_noise > 0
        self.condition = nn.Sequential(
            nn.Linear(conditions, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, self.time_embedding),
        )
        self.register_buffer("residual_std", torch.tensor(0.2))

    def measure_residual(self, frames: Tensor) -> None:
        """Set the scale of the residual from real frames ``[batch, time, c, h, w]``."""
        self.residual_std.copy_((frames[:, 1:] - frames[:, :-1]).std().clamp_min(1e-3))

    def to_target(self, frame: Tensor, last: Tensor) -> Tensor:
        """What is denoised, from the next frame and the last one, ``[batch, c, h, w]``."""
        if not self.config.residual:
            return frame
        return (frame - last) * (self.config.sigma_data / self.residual_std)

    def to_frame(self, target: Tensor, last: Tensor) -> Tensor:
        """Inverse of :meth:`to_target`, clipped to [-1, 1]."""
        if self.config.residual:
            target = last + target * (self.residual_std / self.config.sigma_data)
        return target.clamp(-1.0, 1.0)

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        context: Tensor,
        actions: Tensor,
        proprio: Tensor,
        level: Tensor | None = None,
    ) -> Tensor:
        """Denoise.

        Args:
            noisy: ``[batch, channel, height, width]``.
            sigma: ``[batch]`` noise level.
            context: ``[batch, time, channel, height, width]``, the last L frames.
            actions: ``[batch, time, field]``, the last L actions, the newest is a_t.
            proprio: ``[batch, field]``, normalised proprioception at o_t.
            level: ``[batch]``, level of the noise that is in the context; none unless given.

        Returns:
            Denoised ``[batch, channel, height, width]``.
        """
        c = self.coefficients(sigma)
        condition = self.conditions(actions, proprio, level)
        output = self._network(noisy, c, context, condition)
        return _per_image(c.c_skip) * noisy + _per_image(c.c_out) * output

    def conditions(self, actions: Tensor, proprio: Tensor, level: Tensor | None = None) -> Tensor:
        """What the embedding is computed from, ``[batch, field]``; see :meth:`forward`."""
        parts = [actions.flatten(1), proprio]
        if self.config.context_noise:
            level = proprio.new_zeros(len(proprio)) if level is None else level
            parts.append(level[:, None] / self.config.context_noise)
        return torch.cat(parts, dim=1)

    def loss(
        self, frame: Tensor, context: Tensor, actions: Tensor, proprio: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of the network against the target (x - c_skip x_noisy) / c_out.

        Returns:
            The loss, and the denoised frame ``[batch, channel, height, width]`` without gradient.
        """
        config = self.config
        level = None
        if config.context_noise:
            level = config.context_noise * torch.rand(len(frame), device=frame.device)
            context = context + level[:, None, None, None, None] * torch.randn_like(context)
        last = context[:, -1]
        clean = self.to_target(frame, last)
        batch = len(frame)
        log_sigma = torch.randn(batch, device=frame.device)
        sigma = (log_sigma * config.noise_log_std + config.noise_log_mean).exp()
        sigma = sigma.clamp(config.sigma_min, config.sigma_max)
        offset = config.sigma_offset * torch.randn(batch, 3, 1, 1, device=frame.device)
        noisy = clean + offset + _per_image(sigma) * torch.randn_like(clean)
        c = self.coefficients(sigma)
        output = self._network(noisy, c, context, self.conditions(actions, proprio, level))
        target = (clean - _per_image(c.c_skip) * noisy) / _per_image(c.c_out)
        with torch.no_grad():
            denoised = _per_image(c.c_skip) * noisy + _per_image(c.c_out) * output
        error = (output.float() - target).square()
        if config.predict_sample:
            # Weigh noise levels as EDM does, but not without bound as the noise vanishes.
            edm = preconditioning(sigma, config.sigma_data, config.sigma_offset)
            error = error * (config.sigma_data / _per_image(edm.c_out).clamp_min(0.2)) ** 2
        return error.mean(), self.to_frame(denoised, last)

    def coefficients(self, sigma: Tensor) -> Preconditioning:
        """EDM's coefficients for ``[batch]`` noise levels, or those of the image itself."""
        c = preconditioning(sigma, self.config.sigma_data, self.config.sigma_offset)
        if not self.config.predict_sample:
            return c
        return Preconditioning(
            c_in=c.c_in,
            c_out=torch.full_like(c.c_out, self.config.sigma_data),
            c_skip=torch.zeros_like(c.c_skip),
            c_noise=c.c_noise,
        )

    def _network(
        self, noisy: Tensor, c: Preconditioning, context: Tensor, conditions: Tensor
    ) -> Tensor:
        scaled = context.flatten(1, 2) / self.config.sigma_data
        stacked = torch.cat([_per_image(c.c_in) * noisy, scaled], dim=1)
        stacked = F.pixel_unshuffle(stacked, self.config.patch)
        condition = self.condition(conditions)
        output = self.unet(stacked, TIME_SCALE * c.c_noise, class_labels=condition).sample
        return F.pixel_shuffle(output, self.config.patch)


def _per_image(coefficient: Tensor) -> Tensor:
    """``[batch]`` -> ``[batch, 1, 1, 1]``."""
    return coefficient[:, None, None, None]
