"""The network that ours is compared with: DIAMOND's, in plain torch, run the obvious way.

Depths, widths and conditioning are those of Alonso et al. 2024 (arXiv 2405.12399, appendix D) and
of the configuration that they published: four resolutions of 64 channels with two residual blocks
each, attention at the lowest, every norm conditioned on 256 values. Actions are continuous here.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS, WIDTH, CONDITION, BLOCKS, PAST = 4, 64, 256, 2, 4
GROUP = 32
SIGMAS = (5.0, 0.283083, 0.002, 0.0)
"""Karras' noise levels for three steps (see the test of our sampler)."""


class ConditionedNorm(nn.Module):
    """Group norm whose scale and shift are projected from the condition."""

    def __init__(self, channels: int) -> None:
        """Groups of 32 channels."""
        super().__init__()
        self.groups = channels // GROUP
        self.project = nn.Linear(CONDITION, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``[batch, channel, height, width]``."""
        scale, shift = self.project(condition)[:, :, None, None].chunk(2, dim=1)
        result: Tensor = F.group_norm(x, self.groups) * (1 + scale) + shift
        return result


class Attention(nn.Module):
    """Self-attention over all places, heads of 8 channels."""

    def __init__(self, channels: int) -> None:
        """Build the projections."""
        super().__init__()
        self.heads = channels // 8
        self.norm = nn.GroupNorm(channels // GROUP, channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channel, height, width]``."""
        batch, channels, height, width = x.shape
        projected = self.query_key_value(self.norm(x)).flatten(2)
        split = projected.view(batch, 3, self.heads, 8, height * width).transpose(-1, -2)
        q, k, v = split.unbind(1)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1)
        seen = (weights @ v).transpose(-1, -2).reshape(batch, channels, height, width)
        return x + self.out(seen)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, channels: int, out: int, *, attention: bool = False) -> None:
        """Build the block."""
        super().__init__()
        self.norm1, self.norm2 = ConditionedNorm(channels), ConditionedNorm(out)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        self.attention = Attention(out) if attention else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``[batch, channel, height, width]``."""
        hidden = self.conv1(F.silu(self.norm1(x, condition)))
        hidden = self.conv2(F.silu(self.norm2(hidden, condition)))
        return self.attention(self.skip(x) + hidden)  # type: ignore[no-any-return]


class DiamondNetwork(nn.Module):
    """Noisy frame, noise level, past frames and actions -> what the preconditioning asks for."""

    frequencies: Tensor

    def __init__(self, action_size: int) -> None:
        """Build it with random weights."""
        super().__init__()
        self.register_buffer("frequencies", torch.randn(CONDITION // 2))
        self.action = nn.Linear(action_size, CONDITION // PAST)
        self.condition = nn.Sequential(
            nn.Linear(CONDITION, CONDITION), nn.SiLU(), nn.Linear(CONDITION, CONDITION)
        )
        self.first = nn.Conv2d(3 * (PAST + 1), WIDTH, 3, padding=1)
        self.down = nn.ModuleList(
            nn.ModuleList(Block(WIDTH, WIDTH) for _ in range(BLOCKS)) for _ in range(LEVELS)
        )
        self.middle = nn.ModuleList(Block(WIDTH, WIDTH, attention=True) for _ in range(2))
        self.up = nn.ModuleList(
            nn.ModuleList(Block(2 * WIDTH, WIDTH) for _ in range(BLOCKS + 1)) for _ in range(LEVELS)
        )
        self.smaller = nn.ModuleList(
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1) for _ in range(LEVELS - 1)
        )
        self.larger = nn.ModuleList(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(LEVELS - 1)
        )
        self.norm = nn.GroupNorm(WIDTH // GROUP, WIDTH)
        self.last = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, noisy: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """``[batch, 3, h, w]``, ``[batch]``, ``[batch, 12, h, w]``, ``[batch, 4, field]``."""
        angles = 2 * math.pi * c_noise[:, None] * self.frequencies
        embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
        condition = self.condition(embedding + self.action(actions).flatten(1))
        x = self.first(torch.cat([past, noisy], dim=1))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            x = self.smaller[level - 1](x) if level else x
            skips.append(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
                skips.append(x)
        for block in self.middle:
            x = block(x, condition)
        for level, blocks in enumerate(self.up):
            if level:
                x = self.larger[level - 1](F.interpolate(x, scale_factor=2.0, mode="nearest"))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(torch.cat([x, skips.pop()], dim=1), condition)
        return self.last(F.silu(self.norm(x)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def imagine(self, past: Tensor, actions: Tensor) -> Tensor:
        """The next frame in three Euler steps of EDM, ``[batch, 3, height, width]``."""
        x = SIGMAS[0] * torch.randn_like(past[:, :3])
        for sigma, following in pairwise(SIGMAS):
            level = math.sqrt(sigma**2 + 0.3**2)
            total = level**2 + 0.25
            c_noise = x.new_full((len(x),), math.log(level) / 4)
            output = self(x / math.sqrt(total), c_noise, past / 0.5, actions)
            denoised = 0.25 / total * x + level * 0.5 / math.sqrt(total) * output
            x = x + (following - sigma) * (x - denoised) / sigma
        return x.clamp(-1, 1)
