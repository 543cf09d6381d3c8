"""What the policy did inside the global model: the data that keeps the local model honest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fog_policy.decoupled_gradient import Rollout
from fog_world_model.data.windows import Windows


class ImaginedBuffer:
    """A ring of imagined trajectories, each a rollout of one environment.

    Images are kept as uint8, so 100,000 steps of 32x32 take 300 MB.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        """Hold the newest ``capacity`` trajectories."""
        self.capacity = capacity
        self._rows: list[dict[str, Tensor]] = []
        self._next = 0
        self._generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self._rows)

    def add(self, image: Tensor, proprioception: Tensor, rollout: Rollout) -> None:
        """Add a rollout.

        A trajectory that was restarted on its way is not one trajectory, so it is left out.

        Args:
            image: ``[env, channel, height, width]`` of the first observation.
            proprioception: ``[env, field]`` of the first observation.
            rollout: What followed.
        """
        images = torch.stack([image, *(s.image for s in rollout.steps)], 1)
        vectors = torch.stack([proprioception, *(s.proprioception for s in rollout.steps)], 1)
        whole = rollout.ends[:-1].sum(0) == 0
        coded = images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        actions = rollout.actions.detach().transpose(0, 1)
        rewards = torch.stack([s.reward for s in rollout.steps], 1)
        ends = rollout.ends.transpose(0, 1)
        for i in whole.nonzero().flatten().tolist():
            row = {
                "image": coded[i].clone(),
                "proprioception": vectors[i].clone(),
                "action": _padded(actions[i]),
                "reward": _padded(rewards[i]),
                "end": _padded(ends[i]),
            }
            if len(self._rows) < self.capacity:
                self._rows.append(row)
            else:
                self._rows[self._next] = row
            self._next = (self._next + 1) % self.capacity

    def sample(self, batch: int) -> Windows:
        """Draw whole trajectories with replacement, ``[batch, time, ...]``."""
        chosen = [self._rows[i] for i in self._generator.integers(len(self._rows), size=batch)]
        stacked = {key: torch.stack([row[key] for row in chosen]) for key in chosen[0]}
        stacked["image"] = stacked["image"].float().div_(127.5).sub_(1.0)
        return Windows(**stacked)


def _padded(transitions: Tensor) -> Tensor:
    """``[time, ...]`` -> ``[time + 1, ...]``: the last observation's transition is unused."""
    return torch.cat([transitions, torch.zeros_like(transitions[:1])])


def joined(left: Windows, right: Windows) -> Windows:
    """Two batches as one; the longer windows are cut to the length of the shorter."""
    time = min(left.image.shape[1], right.image.shape[1])
    return Windows(
        *(
            torch.cat([getattr(left, f)[:, :time], getattr(right, f)[:, :time]])
            for f in ("image", "proprioception", "action", "reward", "end")
        )
    )
