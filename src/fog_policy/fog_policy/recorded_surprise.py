"""How surprising recordings are to the local model: what a bundle's guard is fitted to.

Apart from :mod:`fog_policy.surprise`, which the control loop loads, because this needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from fog_policy.surprise import STEPS, WARM_UP, Nats
from fog_world_model.data.episodes import EpisodeStore, Normalisation
from fog_world_model.data.windows import to_float_image
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import kl_divergence

_ENCODED_AT_ONCE = 256


def surprise_of_store(
    local: LocalModel,
    normalisation: Normalisation,
    store: EpisodeStore,
    episodes: Sequence[int] | None = None,
    *,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> list[Nats]:
    """Filter recorded episodes as the robot would, and say how surprising each step was.

    Args:
        local: Its encoder and RSSM are used, on the device where they are.
        normalisation: Of the proprioception.
        store: The recordings.
        episodes: Which; None: those held out from training, or all where none is held out. The
            model is less surprised by episodes that it was fitted to.
        progress: Called with the fraction done and a text.

    Returns:
        For each episode ``[step]``, nats.

    Raises:
        FogError: An episode is damaged.
    """
    episodes = _judged_episodes(store) if episodes is None else episodes
    found, total = [], max(1, int(store.lengths[list(episodes)].sum()))
    done = 0
    for index in episodes:
        found.append(_surprise_of_episode(local, normalisation, store, index))
        done += len(found[-1])
        progress(done / total, f"{done} of {total} steps")
    return found


def has_range(store: EpisodeStore, *, steps: int = STEPS, warm_up: int = WARM_UP) -> bool:
    """Whether the episodes that :func:`surprise_of_store` takes are long enough for a range."""
    return bool((store.lengths[_judged_episodes(store)] >= warm_up + steps).any())


def _judged_episodes(store: EpisodeStore) -> list[int]:
    held_out = store.split("validation")
    return [int(i) for i in (held_out if len(held_out) else range(len(store.episodes)))]


@torch.no_grad()
def _surprise_of_episode(
    local: LocalModel, normalisation: Normalisation, store: EpisodeStore, index: int
) -> Nats:
    device = next(local.parameters()).device
    episode = store.episode(index)
    vector = torch.from_numpy(normalisation.apply(episode.proprioception)).to(device)
    action = torch.from_numpy(episode.action).to(device)
    state = local.rssm.initial(1)
    previous = torch.zeros_like(action[:1])
    nats = []
    for first in range(0, len(episode), _ENCODED_AT_ONCE):
        rows = slice(first, first + _ENCODED_AT_ONCE)
        image = to_float_image(torch.from_numpy(episode.image[rows]).to(device))
        embedding = local.encoder(image, vector[rows])
        for t in range(len(embedding)):
            state, prior, posterior = local.observe(
                state, previous, embedding[t : t + 1], sample=False
            )
            previous = action[first + t : first + t + 1]
            nats.append(kl_divergence(posterior, prior))
    return np.asarray(torch.cat(nats).cpu().numpy(), np.float64)
