"""Settings of behaviour cloning. No torch in here: the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fog_world_model.errors import FogError


@dataclass(frozen=True)
class CloningConfig:
    """Everything that fixes a :class:`.behaviour_cloning.BehaviourCloning`, beside its data."""

    rank: Literal["return", "final"] = "return"
    """What makes an episode good: the sum of its rewards, or the last of them."""
    share: float = 0.25
    """Share of the episodes that is imitated, the best ones."""
    batch: int = 256
    """Steps in a minibatch."""
    rate: float = 5e-4
    patience: int = 10
    """Passes over the data without a better likelihood of held-out episodes, after which the
    policy stays as it was at its best."""
    actor_average: float = 0.999
    """Share of the average of the actor's weights that stays, per minibatch; the average is what is
    judged by held-out episodes, and kept. 0: the weights themselves."""
    gradient_clip: float = 1.0
    limit: float = 0.995
    """Recorded actions are brought within this of zero: at the very bounds a squashed Gaussian
    has no likelihood."""
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            FogError: One cannot be.
        """
        for name in ("share", "batch", "rate", "patience", "gradient_clip", "limit"):
            if not getattr(self, name) > 0:
                raise FogError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.share > 1:
            raise FogError(f"share is {self.share}; expected at most 1")
        if self.limit >= 1:
            raise FogError(f"limit is {self.limit}; expected less than 1")
        if not 0 <= self.actor_average < 1:
            raise FogError(f"actor_average is {self.actor_average}; expected 0 or more, below 1")
        if self.rank not in ("return", "final"):
            raise FogError(f"rank is {self.rank!r}; expected return or final")
