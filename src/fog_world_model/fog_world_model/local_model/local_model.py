"""The local world model: encoder, RSSM, decoder, reward and continue heads, and their loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fog_world_model.data.light_jitter import light_jitter
from fog_world_model.data.windows import Windows
from fog_world_model.local_model.encoder import Decoder, Encoder, mlp
from fog_world_model.local_model.rssm import RSSM, Gaussian, LatentState, kl_divergence


@dataclass(frozen=True)
class LocalModelConfig:
    """Everything that fixes a local model."""

    height: int
    width: int
    action_size: int
    proprioception_size: int
    depth: int = 16
    """Channels of the first convolution."""
    embedding: int = 256
    deterministic: int = 256
    stochastic: int = 32
    hidden: int = 256
    free_nats: float = 1.0
    """KL below this is not pressed further (free bits)."""
    dynamics_scale: float = 1.0
    """Weight of pulling the prior to the posterior."""
    representation_scale: float = 0.1
    """Weight of pulling the posterior to the prior (KL balance)."""
    reward_std: float = 0.1
    """Standard deviation at which rewards are modelled: smaller weighs the reward more."""
    light_jitter: float = 0.0
    """How much the light changes in what the encoder sees in training, not in what is to be
    decoded, so that the state need not tell lamps apart; see :func:`.light_jitter.light_jitter`."""


PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"depth": 8, "embedding": 32, "deterministic": 32, "stochastic": 8, "hidden": 32},
    "small": {},
    "large": {"depth": 32, "embedding": 512, "deterministic": 512, "stochastic": 64, "hidden": 512},
}
"""Named sizes: ``tiny`` for tests, ``small`` for two CPU cores, ``large`` for a GPU."""


class LocalModel(nn.Module):
    """A differentiable world in a few vectors."""

    def __init__(self, config: LocalModelConfig) -> None:
        """Build an untrained model."""
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            height=config.height,
            width=config.width,
            proprioception_size=config.proprioception_size,
            depth=config.depth,
            embedding=config.embedding,
        )
        self.rssm = RSSM(
            action_size=config.action_size,
            embedding=config.embedding,
            deterministic=config.deterministic,
            stochastic=config.stochastic,
            hidden=config.hidden,
        )
        self.decoder = Decoder(
            features=self.features_size,
            height=config.height,
            width=config.width,
            proprioception_size=config.proprioception_size,
            depth=config.depth,
        )
        self.reward_head = mlp(self.features_size, config.hidden, 1)
        self.continue_head = mlp(self.features_size, config.hidden, 1)

    @property
    def features_size(self) -> int:
        """Width of :attr:`LatentState.features`."""
        return self.config.deterministic + self.config.stochastic

    def reward(self, state: LatentState) -> Tensor:
        """Reward of the transition that led to ``state``, ``[...]``."""
        reward: Tensor = self.reward_head(state.features)
        return reward.squeeze(-1)

    def observe(
        self, state: LatentState, action: Tensor, embedding: Tensor, *, sample: bool
    ) -> tuple[LatentState, Gaussian, Gaussian]:
        """Filter one observation.

        Args:
            state: s_t.
            action: a_t ``[batch, field]``; zero before the first observation.
            embedding: ``[batch, embedding]`` of o_{t+1}.
            sample: Draw the posterior, or take its mean.

        Returns:
            s_{t+1} from the posterior, the prior, and the posterior.
        """
        deterministic = self.rssm.advance(state, action)
        prior = self.rssm.prior(deterministic)
        posterior = self.rssm.posterior(deterministic, embedding)
        stochastic = posterior.sample() if sample else posterior.mean
        return LatentState(deterministic, stochastic), prior, posterior

    def filter(self, windows: Windows, *, sample: bool) -> tuple[LatentState, Gaussian, Gaussian]:
        """Filter whole windows from the initial state.

        Returns:
            States, priors and posteriors ``[batch, time, ...]``; the state at t has seen o_0..o_t.
        """
        embedding = self.encoder(windows.image, windows.proprioception)
        batch, time = embedding.shape[:2]
        state = self.rssm.initial(batch)
        previous = torch.zeros_like(windows.action[:, 0])
        steps = []
        for t in range(time):
            state, prior, posterior = self.observe(state, previous, embedding[:, t], sample=sample)
            previous = windows.action[:, t]
            steps.append((state, prior, posterior))
        states, priors, posteriors = zip(*steps, strict=True)
        return (
            LatentState(
                torch.stack([s.deterministic for s in states], 1),
                torch.stack([s.stochastic for s in states], 1),
            ),
            _over_time(priors),
            _over_time(posteriors),
        )

    def imagine(self, state: LatentState, action: Tensor, *, sample: bool = False) -> LatentState:
        """s_{t+1} from the prior alone; differentiable in state and action."""
        deterministic = self.rssm.advance(state, action)
        prior = self.rssm.prior(deterministic)
        return LatentState(deterministic, prior.sample() if sample else prior.mean)

    def loss(self, windows: Windows) -> dict[str, Tensor]:
        """Evidence bound of windows, in nats per step.

        Returns:
            ``image``, ``proprioception``, ``reward``, ``continue``, ``kl`` and ``total``.
        """
        config = self.config
        seen = windows
        if config.light_jitter > 0:
            other = light_jitter(windows.image, config.light_jitter)
            seen = replace(windows, image=other)
        states, prior, posterior = self.filter(seen, sample=True)
        image, proprioception = self.decoder(states.features)
        # Half the squared error in units of [0, 1] summed over pixels, as DreamerV3 weighs it.
        image_loss = 0.5 * ((image - windows.image) / 2).square().sum((-3, -2, -1)).mean()
        vector_loss = 0.5 * (proprioception - windows.proprioception).square().sum(-1).mean()
        # r_t and d_t are read from the state that the transition led to.
        arrived = LatentState(states.deterministic[:, 1:], states.stochastic[:, 1:])
        error = (self.reward(arrived) - windows.reward[:, :-1]) / config.reward_std
        go_on = self.continue_head(arrived.features).squeeze(-1)
        continue_loss = F.binary_cross_entropy_with_logits(go_on, 1 - windows.end[:, :-1])
        dynamics = kl_divergence(posterior.detach(), prior)
        representation = kl_divergence(posterior, prior.detach())
        kl = config.dynamics_scale * dynamics.clamp_min(config.free_nats).mean()
        kl = kl + config.representation_scale * representation.clamp_min(config.free_nats).mean()
        losses = {
            "image": image_loss,
            "proprioception": vector_loss,
            "reward": 0.5 * error.square().mean(),
            "continue": continue_loss,
        }
        losses["total"] = sum(losses.values(), kl)
        losses["kl"] = dynamics.mean()
        return losses


def _over_time(steps: Sequence[Gaussian]) -> Gaussian:
    """Distributions ``[batch, ...]`` of consecutive steps as one, ``[batch, time, ...]``."""
    return Gaussian(
        torch.stack([step.mean for step in steps], 1), torch.stack([step.std for step in steps], 1)
    )
