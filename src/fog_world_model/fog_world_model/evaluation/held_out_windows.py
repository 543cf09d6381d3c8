"""Which stretches of held-out episodes are imagined, and how they are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore, Normalisation
from fog_world_model.data.windows import Windows, to_float_image
from fog_world_model.errors import FogError

Rows = npt.NDArray[np.int64]
LEAST = 16
"""Steps that a window should have, even where the episode ends before the horizon."""


@dataclass(frozen=True)
class HeldOutBatch:
    """Windows side by side, each with a context and what followed."""

    data: Windows
    """``[window, context + steps, ...]``, proprioception in physical units; rows beyond a window's
    own length repeat its last."""
    shuffled: Tensor
    """``[window, steps, field]``: actions of a window of another episode, where there is one."""
    context: int
    length: Rows
    """``[window]``: steps that were recorded after the context, not ascending."""
    episode: Rows
    """``[window]``: place of the episode among the held-out ones."""
    first: int
    """Place of the first window among all."""

    @property
    def steps(self) -> int:
        """Steps of the longest window after the context."""
        return int(self.length[0])

    @property
    def actions(self) -> Tensor:
        """``[window, steps, field]``: what was done from the last observation of the context on."""
        return self.data.action[:, self.context - 1 : self.context - 1 + self.steps]

    def seen(self, normalisation: Normalisation) -> Windows:
        """The context, as a model of a certain normalisation is to see it."""
        rows = {name: values[:, : self.context] for name, values in vars(self.data).items()}
        normalised = normalisation.apply(rows["proprioception"].cpu().numpy())
        device = rows["proprioception"].device
        return Windows(**{**rows, "proprioception": torch.from_numpy(normalised).to(device)})


class HeldOutWindows:
    """Windows spread evenly over the held-out episodes, and within each.

    In an episode that is long enough all windows have the whole horizon, so that figures at
    different horizons speak of the same windows. In a shorter one they end with the episode, and
    begin at least :data:`LEAST` steps before that, where there are so many. In order of length, so
    that those of a batch are about equally long.
    """

    def __init__(
        self, store: EpisodeStore, *, context: int, horizon: int, windows: int, seed: int = 0
    ) -> None:
        """Choose the windows.

        Args:
            store: Its ``validation`` episodes are used.
            context: Observations before the first imagined one.
            horizon: Largest number of steps after the context.
            windows: About how many windows; no fewer than one for each episode, if it is at least
                their number.
            seed: Which actions are exchanged for which.

        Raises:
            FogError: No held-out episode has an observation after the context.
        """
        self.context, self._store = context, store
        held_out = store.split("validation")
        episodes = [int(i) for i in held_out if store.lengths[i] > context]
        if not episodes:
            longest = int(store.lengths[held_out].max()) if len(held_out) else 0
            raise FogError(
                f"episode store {store.path}: no held-out episode has {context + 1} steps (of "
                f"{len(held_out)} the longest has {longest}); import with a larger "
                "--validation-fraction, or record longer episodes"
            )
        if len(episodes) > windows:
            spread = np.linspace(0, len(episodes) - 1, windows).round().astype(int)
            episodes = [episodes[i] for i in spread]
        starts, lengths, owners = [], [], []
        room = store.lengths[episodes] - context + 1
        whole = room - horizon
        # With but a few places for whole windows they would all be nearly the same.
        places = np.maximum(1, np.where(whole >= LEAST, whole, room - min(LEAST, horizon)))
        share = _shares(places, windows)
        for place, (index, count) in enumerate(zip(episodes, share, strict=True)):
            first = np.unique(np.linspace(0, places[place] - 1, count).round().astype(np.int64))
            starts.append(store.starts[index] + first)
            lengths.append(
                np.minimum(horizon, store.lengths[index] - context - first).astype(np.int64)
            )
            owners.append(np.full(len(first), place))
        order = np.argsort(-np.concatenate(lengths), kind="stable")
        self.start, self.length = np.concatenate(starts)[order], np.concatenate(lengths)[order]
        self.episode = np.concatenate(owners)[order]
        self.partner = exchange(self.episode, self.length, seed)
        self.episodes, self.horizon = len(episodes), int(self.length.max())
        self.skipped = len(held_out) - len(episodes)
        """Held-out episodes that have no window: too short, or more than windows were asked for."""

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.start)

    @property
    def by_horizon(self) -> list[int]:
        """Windows that reach each horizon, from 1 on."""
        return [int((self.length >= h).sum()) for h in range(1, self.horizon + 1)]

    def source(self, number: int) -> str:
        """Where a window lies: episode of the store and step of its first imagined frame."""
        index = int(np.searchsorted(self._store.starts, self.start[number], side="right")) - 1
        step = int(self.start[number] - self._store.starts[index]) + self.context
        return f"episode {index}, step {step}"

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[HeldOutBatch]:
        """All windows, in their order."""
        for first in range(0, len(self), size):
            yield self.batch(first, size, device)

    def batch(self, first: int, size: int, device: torch.device | str = "cpu") -> HeldOutBatch:
        """The windows from ``first`` on, at most ``size``."""
        chosen = range(first, min(first + size, len(self)))
        steps = int(self.length[first])
        loaded = [self._load(n, steps) for n in chosen]
        data = {name: torch.stack([vars(w)[name] for w in loaded]) for name in vars(loaded[0])}
        actions = self._store.column("action")
        others = []
        for n in chosen:
            other = self.partner[n]
            begin = self.start[other] + self.context - 1
            rows = torch.from_numpy(actions[begin : begin + self.length[other]])
            others.append(_padded(rows, steps))
        return HeldOutBatch(
            Windows(**{name: values.to(device) for name, values in data.items()}),
            torch.stack(others).to(device),
            self.context,
            self.length[chosen.start : chosen.stop],
            self.episode[chosen.start : chosen.stop],
            first,
        )

    def _load(self, number: int, steps: int) -> Windows:
        """One window from the disk; only this much of the images is ever in memory."""
        start, store = int(self.start[number]), self._store
        stop = start + self.context + int(self.length[number])
        rows = {
            name: torch.from_numpy(store.column(name)[start:stop].astype(np.float32))
            for name in ("proprioception", "action", "reward", "end")
        }
        image = to_float_image(torch.from_numpy(store.load("image", start, stop)))
        total = self.context + steps
        return Windows(_padded(image, total), **{k: _padded(v, total) for k, v in rows.items()})


def exchange(episode: Rows, length: Rows, seed: int) -> Rows:
    """For each window one of another episode that is as long, as far as there is one.

    Args:
        episode: ``[window]``: whose windows they are.
        length: ``[window]``: their lengths.
        seed: Of the choice.

    Returns:
        ``[window]``: the other window's place. With a single episode it is another window of the
        same, with a single window that window itself.
    """
    generator = np.random.default_rng(seed)
    everyone = np.arange(len(episode))
    chosen = []
    for n in everyone:
        others = everyone[episode != episode[n]]
        if not len(others):
            others = everyone[everyone != n] if len(everyone) > 1 else everyone
        reach = np.minimum(length[others], length[n])
        chosen.append(generator.choice(others[reach == reach.max()]))
    return np.asarray(chosen, np.int64)


def _shares(places: Rows, total: int) -> list[int]:
    """Divide ``total`` windows: one for each episode at least, no more than it has places."""
    share = np.ones(len(places), np.int64)
    while share.sum() < total and (share < places).any():
        # To the one with the fewest windows for its places.
        share[int(np.argmin(np.where(share < places, share / places, np.inf)))] += 1
    return [int(s) for s in share]


def _padded(values: Tensor, length: int) -> Tensor:
    missing = length - len(values)
    if missing <= 0:
        return values[:length]
    return torch.cat([values, values[-1:].expand(missing, *values.shape[1:])])
