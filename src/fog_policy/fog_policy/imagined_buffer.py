"""What the policy did inside the global model: the data that keeps the local model honest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fog_policy.decoupled_gradient import Rollout
from fog_world_model.data.windows import Windows
from fog_world_model.errors import FogError

_FIELDS = ("image", "proprioception", "action", "reward", "end")
PIECE = "buffer_"
"""How the names of :meth:`ImaginedBuffer.pieces` begin."""


class ImaginedBuffer:
    """A ring of imagined trajectories of one length, on the device that they were made on.

    Images are kept as uint8, so 100,000 steps of 32x32 take 300 MB.

    For checkpoints the ring is cut into pieces. A piece that is full never changes again, so a
    checkpoint that holds it already need not write it a second time.
    """

    def __init__(self, capacity: int, window: int, *, seed: int, piece: int = 64) -> None:
        """Hold the newest trajectories.

        Args:
            capacity: How many; rounded up to whole pieces.
            window: Transitions in each; there is one observation more.
            seed: Seed of the order in which they are drawn.
            piece: Trajectories in a piece.
        """
        self._piece, self._ring = piece, max(1, -(-capacity // piece))
        self.capacity, self.window = self._ring * piece, window
        self._rows: dict[str, Tensor] = {}
        self._count = 0
        self._generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of trajectories."""
        return min(self._count, self.capacity)

    def add(self, image: Tensor, proprioception: Tensor, rollout: Rollout) -> None:
        """Cut a rollout into trajectories, and add them.

        A trajectory that was restarted on its way is not one trajectory, so it is left out; so are
        the last steps of a rollout that do not fill one.

        Args:
            image: ``[env, channel, height, width]`` of the first observation.
            proprioception: ``[env, field]`` of the first observation.
            rollout: What followed.
        """
        images = torch.stack([image, *(s.image for s in rollout.steps)], 1)
        vectors = torch.stack([proprioception, *(s.proprioception for s in rollout.steps)], 1)
        coded = images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        actions = rollout.actions.detach().transpose(0, 1)
        rewards = torch.stack([s.reward for s in rollout.steps], 1)
        ends = rollout.ends.transpose(0, 1)
        restarted = torch.zeros_like(ends[:, 0], dtype=torch.bool)
        for first in range(0, ends.shape[1] - self.window + 1, self.window):
            after = first + self.window
            if first:  # its first observation would be that of the episode that is over
                restarted = ends[:, first - 1] > 0
            whole = ((ends[:, first : after - 1].sum(1) == 0) & ~restarted).nonzero().flatten()
            if len(whole):
                self._append(
                    {
                        "image": coded[whole, first : after + 1],
                        "proprioception": vectors[whole, first : after + 1],
                        "action": _padded(actions[whole, first:after]),
                        "reward": _padded(rewards[whole, first:after]),
                        "end": _padded(ends[whole, first:after]),
                    }
                )

    def _append(self, rows: Mapping[str, Tensor]) -> None:
        self._allocate(rows)
        number = len(rows["end"])
        places = torch.arange(self._count, self._count + number) % self.capacity
        if number > self.capacity:  # more than there is room for: the last ones stay
            places, rows = (
                places[-self.capacity :],
                {name: value[-self.capacity :] for name, value in rows.items()},
            )
        for name, value in rows.items():
            self._rows[name][places] = value
        self._count += number

    def _allocate(self, rows: Mapping[str, Tensor]) -> None:
        if not self._rows:
            self._rows = {
                name: value.new_empty(self.capacity, *value.shape[1:])
                for name, value in rows.items()
            }

    def sample(self, batch: int) -> Windows:
        """Draw whole trajectories with replacement, ``[batch, time, ...]``."""
        drawn = torch.from_numpy(self._generator.integers(len(self), size=batch))
        chosen = {name: self._rows[name][drawn] for name in _FIELDS}
        chosen["image"] = chosen["image"].float().div_(127.5).sub_(1.0)
        return Windows(**chosen)

    @property
    def generator_state(self) -> dict[str, object]:
        """State of the random order (JSON values)."""
        return dict(self._generator.bit_generator.state)

    def pieces(self) -> dict[str, dict[str, Tensor]]:
        """Everything that is kept, by piece.

        Returns:
            ``buffer_NUMBER`` -> tensors of a full piece, and ``buffer_newest`` for the one that is
            being filled, which lies over the beginning of the oldest. Whichever state of a full
            piece is put back under it, the same trajectories come out.
        """
        full = self._count // self._piece
        kept = {f"{PIECE}{i:08d}": self._slice(i, self._piece)
                for i in range(max(0, full - self._ring), full)}  # fmt: skip
        if rest := self._count % self._piece:
            kept[f"{PIECE}newest"] = self._slice(full, rest)
        return kept

    def _slice(self, number: int, rows: int) -> dict[str, Tensor]:
        first = number % self._ring * self._piece
        return {name: value[first : first + rows] for name, value in self._rows.items()}

    def state(self) -> dict[str, Any]:
        """Everything but the trajectories (JSON values)."""
        return {
            "count": self._count,
            "window": self.window,
            "piece": self._piece,
            "capacity": self.capacity,
            "generator": self.generator_state,
        }

    def load(
        self,
        pieces: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        """Put back what :meth:`pieces` and :meth:`state` returned.

        Raises:
            FogError: A piece is missing.
        """
        self._rows, self._count = {}, 0
        full = state["count"] // self._piece
        wanted = {f"{PIECE}{i:08d}": i for i in range(max(0, full - self._ring), full)}
        if state["count"] % self._piece:
            wanted[f"{PIECE}newest"] = full  # last, because it lies over a part of the oldest
        if missing := sorted(set(wanted) - set(pieces)):
            raise FogError(
                f"the buffer of imagined trajectories has no {', '.join(missing[:3])}, so that "
                "training cannot go on; train anew in another folder"
            )
        for name, number in wanted.items():
            piece = pieces[name]
            self._allocate({key: piece[key].to(device) for key in _FIELDS})
            for key in _FIELDS:
                first = number % self._ring * self._piece
                self._rows[key][first : first + len(piece[key])] = piece[key].to(device)
        self._count = int(state["count"])
        self._generator.bit_generator.state = state["generator"]


def _padded(transitions: Tensor) -> Tensor:
    """``[batch, time, ...]`` -> one step longer: the last observation's transition is unused."""
    return torch.cat([transitions, torch.zeros_like(transitions[:, :1])], 1)


def joined(left: Windows, right: Windows) -> Windows:
    """Two batches as one; the longer windows are cut to the length of the shorter."""
    time = min(left.image.shape[1], right.image.shape[1])
    return Windows(
        *(torch.cat([getattr(left, f)[:, :time], getattr(right, f)[:, :time]]) for f in _FIELDS)
    )
