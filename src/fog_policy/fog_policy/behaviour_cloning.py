"""The baseline that needs no world model to learn in: imitate the best recorded episodes.

Maximum likelihood of the recorded actions under the same actor, on the features that it has on
the robot: the local model filters each episode from its first observation, given the actions that
were carried out. Nothing is imagined; what the recorded driver cannot do cannot be learned.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fog_policy.actor_average import ActorAverage
from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.cloning_config import CloningConfig
from fog_policy.learner_state import fitting_state, load_optimiser, optimiser_tensors
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import to_float_image
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.training import random_state
from fog_world_model.training.processes import device_of

ENCODED = 256
"""Images that are encoded at once."""
ABREAST = 64
"""Episodes that are filtered side by side."""


def best_episodes(store: EpisodeStore, split: str, *, rank: str, share: float) -> list[int]:
    """The best episodes of a split, best first.

    Args:
        store: The recordings.
        split: ``training`` or ``validation``.
        rank: ``return`` for the sum of the rewards of an episode, ``final`` for the last one.
        share: Of the episodes; at least one is chosen.

    Returns:
        Indices in the store; of equally good episodes the earlier one comes first.

    Raises:
        FogError: The split has no episode with a transition.
    """
    reward = store.column("reward")
    chosen = [int(i) for i in store.split(split) if store.lengths[i] > 1]
    if not chosen:
        raise FogError(
            f"episode store {store.path}: no {split} episode to imitate; import more recordings, "
            "or choose another share of held-out episodes"
        )

    def worth(index: int) -> float:
        start, transitions = int(store.starts[index]), int(store.lengths[index]) - 1
        rows = reward[start : start + transitions].astype(np.float64)
        return float(rows.sum() if rank == "return" else rows[-1])

    count = max(1, round(share * len(chosen)))
    return sorted(chosen, key=worth, reverse=True)[:count]


@torch.no_grad()
def filtered(
    model: LocalModel, store: EpisodeStore, indices: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the actor sees at every step of recorded episodes, and what was done there.

    Args:
        model: The local model.
        store: The recordings.
        indices: Episodes; they are filtered side by side.
        device: Where the model is.

    Returns:
        Features ``[step, feature]``, those of the deployed controller if it had acted so, and
        actions ``[step, field]`` in [-1, 1], episode after episode.
    """
    embeddings, actions = [], []
    for index in indices:
        episode = store.episode(index)
        vectors = torch.from_numpy(store.normalisation.apply(episode.proprioception[:-1]))
        images = torch.from_numpy(episode.image[:-1])
        parts = zip(images.split(ENCODED), vectors.split(ENCODED), strict=True)
        embeddings.append(
            torch.cat([model.encoder(to_float_image(i.to(device)), v.to(device)) for i, v in parts])
        )
        actions.append(torch.from_numpy(episode.action[:-1]).to(device))
    seen, done = pad_sequence(embeddings), pad_sequence(actions)  # ``[time, episode, ...]``
    state, previous, features = model.rssm.initial(len(indices)), torch.zeros_like(done[0]), []
    for embedding, action in zip(seen, done, strict=True):
        state, _, _ = model.observe(state, previous, embedding, sample=False)
        features.append(state.features)
        previous = action
    padded = torch.stack(features, 1)
    whole = [padded[i, : len(action)] for i, action in enumerate(actions)]
    return torch.cat(whole), torch.cat(actions)


class BehaviourCloning:
    """Fits the actor to recorded actions, with early stopping; a :class:`.learner.Learner`.

    An update is one pass over the training episodes. :attr:`actor` is the best one so far, by the
    likelihood of held-out episodes, of the averages of the weights after each pass.
    """

    imagined_steps = 0
    """Nothing is imagined."""

    def __init__(self, store: EpisodeStore, local_model: LocalModel, config: CloningConfig) -> None:
        """Choose the episodes and filter them once.

        Args:
            store: The recordings.
            local_model: Copied, and left as it is.
            config: Settings.

        Raises:
            FogError: There is no episode to imitate, or a feature is not finite.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config, self.device = config, device_of(config.device)
        self.local_model = copy.deepcopy(local_model).to(self.device).eval().requires_grad_(False)
        sizes = ActorCriticConfig(local_model.features_size, local_model.config.action_size)
        self.actor = Actor(sizes).to(self.device)
        self._fitted = copy.deepcopy(self.actor)
        self._average = ActorAverage(self._fitted, config.actor_average)
        self._optimiser = torch.optim.Adam(self._fitted.parameters(), lr=config.rate)
        self.episodes = {
            split: best_episodes(store, split, rank=config.rank, share=config.share)
            for split in ("training", "validation")
        }
        """Split -> indices of the episodes that are imitated, best first."""
        self._training = self._filtered(store, "training")
        self._held_out = self._filtered(store, "validation")
        self.updates, self._since, self._best = 0, 0, float("inf")

    def _filtered(self, store: EpisodeStore, split: str) -> tuple[Tensor, Tensor]:
        """Features ``[step, feature]`` and actions before squashing ``[step, field]``."""
        chosen = self.episodes[split]
        found = [
            filtered(self.local_model, store, chosen[i : i + ABREAST], self.device)
            for i in range(0, len(chosen), ABREAST)
        ]
        features, actions = (torch.cat(column) for column in zip(*found, strict=True))
        if not bool(features.isfinite().all()):
            raise FogError(
                f"the local model's state is not finite on the {split} episodes of "
                f"{store.path}; train the local model anew"
            )
        return features, actions.clamp(-self.config.limit, self.config.limit).atanh()

    @property
    def policy(self) -> Actor:
        """See :class:`.learner.Learner`; the best so far, by the episodes that are held out."""
        return self.actor

    @property
    def finished(self) -> bool:
        """Whether the likelihood of held-out episodes has stopped rising."""
        return self._since >= self.config.patience

    def update(self) -> dict[str, float]:
        """One pass over the data; none once :attr:`finished`.

        Returns:
            ``negative_log_likelihood`` of training steps during the pass and ``held_out`` of
            held-out steps after it, nats per step; ``best``, the least of the latter so far;
            ``action_error``, root mean square difference between the best policy's actions and
            the held-out ones.

        Raises:
            FogError: A gradient is not finite.
        """
        log = {} if self.finished else self._pass()
        features, raw = self._held_out
        with torch.no_grad():
            error = (self.actor.mode(features) - raw.tanh()).square().mean().sqrt()
        self.updates += 1
        return log | {
            "best": self._best,
            "action_error": float(error),
            "finished": float(self.finished),
        }

    def _pass(self) -> dict[str, float]:
        features, raw = self._training
        total = 0.0
        for rows in torch.randperm(len(features), device=self.device).split(self.config.batch):
            loss = -self._fitted.log_prob(features[rows], raw[rows]).mean()
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self._fitted.parameters(), self.config.gradient_clip)
            if not bool(norm.isfinite()):
                raise FogError(
                    f"update {self.updates}: the gradient of the actor is not finite (norm "
                    f"{float(norm)}, loss {float(loss.detach())}); lower rate"
                )
            self._optimiser.step()
            self._average.update()
            total += float(loss.detach()) * len(rows)
        with torch.no_grad():
            held_out = -float(self._average.policy.log_prob(*self._held_out).mean())
        self._since += 1
        if held_out < self._best:
            self._best, self._since = held_out, 0
            self.actor.load_state_dict(self._average.policy.state_dict())
        return {"negative_log_likelihood": total / len(features), "held_out": held_out}

    def state(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """See :class:`.learner.Learner`."""
        average, averaged = self._average.state()
        files: dict[str, Mapping[str, Tensor]] = average | {
            "actor": self.actor.state_dict(),
            "fitted": self._fitted.state_dict(),
            "local": self.local_model.state_dict(),
            "training": optimiser_tensors(self._optimiser, "actor")
            | random_state.capture(self.device),
        }
        return files, averaged | {
            "updates": self.updates,
            "since": self._since,
            "best": None if self._best == float("inf") else self._best,
            "episodes": self.episodes,
        }

    def load_state(
        self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
    ) -> None:
        """See :class:`.learner.Learner`.

        Raises:
            FogError: It is not the state of such a learner, or not of these episodes.
        """
        if values.get("episodes") != self.episodes:
            raise FogError(
                "the run imitated other episodes; give the store and the settings that it was "
                "made with, or train anew in another folder"
            )
        with fitting_state():
            rest = dict(tensors["training"])
            for name, module in (("actor", self.actor), ("fitted", self._fitted)):
                module.load_state_dict(tensors[name])
            if any(
                not torch.equal(value.cpu(), tensors["local"][name].cpu())
                for name, value in self.local_model.state_dict().items()
            ):
                raise FogError(
                    "the run imitated on the features of another local model; give the one that "
                    "it was made with, or train anew in another folder"
                )
            self._average.load(tensors, values)
            load_optimiser(self._optimiser, "actor", rest)
            self.updates, self._since = int(values["updates"]), int(values["since"])
            self._best = float("inf") if values["best"] is None else float(values["best"])
            random_state.restore(rest, self.device)
