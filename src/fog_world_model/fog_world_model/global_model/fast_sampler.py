"""Draw the next frame with everything hoisted out of the denoising steps; forward only.

The numbers are those of :class:`.sampler.Sampler` with :class:`.denoiser.Denoiser`, up to rounding:
the same U-Net, run over diffusers' own layers. What differs is what is computed when:

- once: coefficients, time embeddings, and the projections of all blocks as one matrix, into which
  the affine part of the second norm is multiplied;
- once per frame: the embedding of actions and proprioception, scale and shift of every block at
  every noise level, and the first convolution's share of the past frames;
- per denoising step: the rest, in the precision and the memory layout that the device is best at.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fog_world_model.global_model.denoiser import TIME_SCALE, Denoiser
from fog_world_model.global_model.sampler import Sampler


class FastSampler(nn.Module):
    """Noise, past frames and conditions -> the next frame. Takes the weights as they are now."""

    times: Tensor
    projection: Tensor
    projection_bias: Tensor
    noisy_weight: Tensor
    first_bias: Tensor
    residual_scale: Tensor

    def __init__(self, denoiser: Denoiser, sampler: Sampler, dtype: torch.dtype) -> None:
        """Copy the network into a precision, channels last.

        Args:
            denoiser: The model.
            sampler: Its noise levels.
            dtype: Precision of the network; the frame itself is integrated in float32.
        """
        super().__init__()
        config = denoiser.config
        self.config, self.dtype, self.patch = config, dtype, config.patch
        self.past = config.context_frames
        sigmas = sampler.sigmas.to(torch.float64)
        c = denoiser.coefficients(sigmas[:-1])
        # Euler: x <- r x + (1 - r) D(x) with r the ratio of the levels, and D = c_skip x + c_out F.
        ratio = sigmas[1:] / sigmas[:-1]
        self.first_sigma = float(sigmas[0])
        self.input_scale: list[float] = c.c_in.tolist()
        self.keep: list[float] = (ratio + (1 - ratio) * c.c_skip).tolist()
        self.add: list[float] = ((1 - ratio) * c.c_out).tolist()
        with torch.no_grad():
            unet = denoiser.unet
            device = unet.conv_in.weight.device
            noise_levels = (TIME_SCALE * c.c_noise).float().to(device)
            times = unet.time_embedding(unet.time_proj(noise_levels))
            scale = denoiser.residual_std / config.sigma_data
            self.register_buffer("times", times[:, None])  # [step, 1, embedding]
            self.register_buffer("residual_scale", scale.detach().clone())
        self.condition = copy.deepcopy(denoiser.condition)
        # One copy: diffusers' own module is left as it is.
        network = copy.deepcopy(unet).eval().requires_grad_(False)
        self._take_projections(network)
        self._take_first_convolution(network, 3 * self.patch**2)
        blocks: Any = nn.ModuleDict(
            {
                "down": network.down_blocks,
                "middle": network.mid_block,
                "up": network.up_blocks,
                "norm": network.conv_norm_out,
                "out": network.conv_out,
            }
        )
        self.blocks: Any = blocks.to(dtype=dtype, memory_format=torch.channels_last)

    def _take_projections(self, network: Any) -> None:
        """All blocks' projections of the embedding, as one; with norm2's affine part inside.

        With n the normalised features, gamma and beta of the norm, s and t the projected scale and
        shift: (gamma n + beta)(1 + s) + t = n (gamma (1 + s)) + (beta (1 + s) + t).
        """
        weights, biases = [], []
        self.sizes: list[int] = []
        for resnet in _resnets(network):
            projection, norm = resnet.time_emb_proj, resnet.norm2
            ws, wt = projection.weight.chunk(2)
            bs, bt = projection.bias.chunk(2)
            gamma, beta = norm.weight, norm.bias
            weights += [gamma[:, None] * ws, beta[:, None] * ws + wt]
            biases += [gamma * (1 + bs), beta * (1 + bs) + bt]
            self.sizes.append(len(gamma))
            resnet.time_emb_proj = None
        self.register_buffer("projection", torch.cat(weights).detach())
        self.register_buffer("projection_bias", torch.cat(biases).detach())

    def _take_first_convolution(self, network: Any, pixels: int) -> None:
        """Split the first convolution into the noisy frame's and the past frames' share.

        The past frames lie in a ring of L slots. Instead of moving them, the weights are turned:
        one set for each slot in which the oldest frame can be.
        """
        weight = network.conv_in.weight.detach() / self.config.sigma_data
        noisy = (network.conv_in.weight[:, :pixels].detach()).to(self.dtype)
        slots = weight[:, pixels:].unflatten(1, (self.past, pixels))
        turned = [slots.roll(oldest, 1).flatten(1, 2) for oldest in range(self.past)]
        layout = torch.channels_last
        self.register_buffer("noisy_weight", noisy.contiguous(memory_format=layout))
        self.register_buffer("first_bias", network.conv_in.bias.detach().to(self.dtype))
        for i, each in enumerate(turned):
            each = each.to(self.dtype).contiguous(memory_format=layout)
            self.register_buffer(f"past_weight_{i}", each)

    def past_weight(self, oldest: int) -> Tensor:
        """Weights for a ring whose oldest frame is in this slot; argument of :meth:`forward`."""
        weight: Tensor = getattr(self, f"past_weight_{oldest}")
        return weight

    def forward(
        self, noise: Tensor, last: Tensor, past: Tensor, past_weight: Tensor, conditions: Tensor
    ) -> Tensor:
        """Draw the next frame.

        Args:
            noise: ``[batch, channel, height, width]``, standard normal.
            last: ``[batch, channel, height, width]``, the newest frame.
            past: ``[batch, L * patch channels, height / patch, width / patch]``: the ring, in the
                network's precision, channels last, pixel-unshuffled.
            past_weight: From :meth:`past_weight`.
            conditions: ``[batch, field]``, from :meth:`.denoiser.Denoiser.conditions`.

        Returns:
            ``[batch, channel, height, width]`` in [-1, 1].
        """
        embedding = F.silu(self.condition(conditions)[None] + self.times)
        film = F.linear(embedding, self.projection, self.projection_bias).to(self.dtype)
        given = F.conv2d(past, past_weight, self.first_bias, padding=1)
        x = noise * self.first_sigma
        for k, (scale, keep, add) in enumerate(
            zip(self.input_scale, self.keep, self.add, strict=True)
        ):
            patches = F.pixel_unshuffle((scale * x).to(self.dtype), self.patch)
            patches = patches.contiguous(memory_format=torch.channels_last)
            hidden = F.conv2d(patches, self.noisy_weight, padding=1).add_(given)
            output = F.pixel_shuffle(self.network(hidden, film[k]), self.patch)
            x = keep * x + add * output.float()
        if self.config.residual:
            x = last + x * self.residual_scale
        return x.clamp(-1.0, 1.0)

    def network(self, x: Tensor, film: Tensor) -> Tensor:
        """What diffusers' UNet2DModel does after its first convolution."""
        films = iter(film[..., None, None].split([n for n in self.sizes for _ in "st"], dim=1))
        blocks, skips = self.blocks, [x]
        for down in blocks["down"]:
            for resnet in down.resnets:
                x = _residual(resnet, x, next(films), next(films))
                skips.append(x)
            if down.downsamplers is not None:
                x = down.downsamplers[0](x)
                skips.append(x)
        middle = blocks["middle"]
        x = _residual(middle.resnets[0], x, next(films), next(films))
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            if attention is not None:
                x = attention(x).contiguous(memory_format=torch.channels_last)
            x = _residual(resnet, x, next(films), next(films))
        for up in blocks["up"]:
            for resnet in up.resnets:
                x = torch.cat([x, skips.pop()], dim=1)
                x = _residual(resnet, x, next(films), next(films))
            if up.upsamplers is not None:
                x = up.upsamplers[0].conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return blocks["out"](F.silu(blocks["norm"](x)))  # type: ignore[no-any-return]


def _resnets(network: Any) -> list[Any]:
    """All residual blocks in the order in which they run."""
    parts = [*network.down_blocks, network.mid_block, *network.up_blocks]
    return [resnet for part in parts for resnet in part.resnets]


def _residual(block: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Do what diffusers' ResnetBlock2D does, given scale and shift of its second norm."""
    # In place where nobody else has the values: fresh memory costs a processor time.
    hidden = block.conv1(F.silu(block.norm1(x), inplace=True))
    hidden = F.group_norm(hidden, block.norm2.num_groups, eps=block.norm2.eps)
    hidden = block.conv2(F.silu(torch.addcmul(shift, hidden, scale), inplace=True))
    result: Tensor = hidden.add_(x if block.conv_shortcut is None else block.conv_shortcut(x))
    return result
