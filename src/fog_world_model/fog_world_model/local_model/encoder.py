"""Encoder and decoder between observations and vectors."""

from __future__ import annotations

from torch import Tensor, nn


class Encoder(nn.Module):
    """Convolutions over the image and an MLP over proprioception -> one embedding."""

    def __init__(
        self, *, height: int, width: int, proprioception_size: int, depth: int, embedding: int
    ) -> None:
        """Build an encoder for images of a size that is a multiple of 8."""
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, depth, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(depth, 2 * depth, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * depth, 4 * depth, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(4 * depth * (height // 8) * (width // 8), embedding),
        )
        self.proprioception = nn.Sequential(
            nn.Linear(proprioception_size, 64), nn.SiLU(), nn.Linear(64, embedding)
        )
        self.output = nn.Sequential(nn.LayerNorm(embedding), nn.SiLU())

    def forward(self, image: Tensor, proprioception: Tensor) -> Tensor:
        """Embed observations.

        Args:
            image: ``[..., channel, height, width]`` in [-1, 1].
            proprioception: ``[..., field]``, normalised.

        Returns:
            ``[..., embedding]``.
        """
        lead = image.shape[:-3]
        seen = self.image(image.reshape(-1, *image.shape[-3:])).reshape(*lead, -1)
        embedding: Tensor = self.output(seen + self.proprioception(proprioception))
        return embedding


class Decoder(nn.Module):
    """State features -> image and proprioception."""

    def __init__(
        self, *, features: int, height: int, width: int, proprioception_size: int, depth: int
    ) -> None:
        """Build a decoder for images of a size that is a multiple of 8."""
        super().__init__()
        self.image = nn.Sequential(
            nn.Linear(features, 4 * depth * (height // 8) * (width // 8)),
            nn.Unflatten(-1, (4 * depth, height // 8, width // 8)),
            nn.ConvTranspose2d(4 * depth, 2 * depth, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * depth, depth, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(depth, 3, 4, stride=2, padding=1),
        )
        self.proprioception = nn.Sequential(
            nn.Linear(features, 128), nn.SiLU(), nn.Linear(128, proprioception_size)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Decode ``[..., features]`` to ``[..., channel, height, width]`` and ``[..., field]``."""
        lead = features.shape[:-1]
        image = self.image(features.reshape(-1, features.shape[-1]))
        return image.reshape(*lead, *image.shape[1:]), self.proprioception(features)


def mlp(inputs: int, hidden: int, outputs: int, *, layers: int = 2) -> nn.Sequential:
    """``layers`` hidden layers with layer norm and SiLU, and a linear output."""
    modules: list[nn.Module] = []
    for i in range(layers):
        modules += [
            nn.Linear(inputs if i == 0 else hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
        ]
    return nn.Sequential(*modules, nn.Linear(hidden, outputs))
