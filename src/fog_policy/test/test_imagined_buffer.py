"""The buffer of imagined trajectories: what it keeps, forgets, and brings back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fog_policy.decoupled_gradient import Rollout
from fog_policy.imagined_buffer import ImaginedBuffer, joined
from fog_world_model.data.windows import Windows
from fog_world_model.errors import FogError
from fog_world_model.imagination import ImaginedStep
from fog_world_model.local_model.rssm import LatentState


def hand_made(ends: list[list[int]], number: float = 0.0) -> tuple[Tensor, Tensor, Rollout]:
    """A rollout, ``ends[time][env]``; images say the time, rewards are 10 env + time."""
    end = torch.tensor(ends)
    time, environments = end.shape

    def image(t: int) -> Tensor:
        return torch.full((environments, 3, 2, 2), t / 127.5 - 1)

    def vector(t: int) -> Tensor:
        return torch.stack([torch.arange(environments) + number, torch.full((environments,), t)], 1)

    steps = [
        ImaginedStep(image(t + 1), vector(t + 1), torch.arange(environments) * 10.0 + t, end[t] > 0)
        for t in range(time)
    ]
    actions = torch.arange(time)[:, None, None] * torch.ones(1, environments, 2)
    nothing = torch.zeros(time, environments)
    flow = Rollout(
        nothing[..., None], nothing[..., None], actions, nothing, nothing, end.float(), steps,
        LatentState(torch.zeros(environments, 1), torch.zeros(environments, 1)),
    )  # fmt: skip
    return image(0), vector(0), flow


def test_buffer_keeps_only_whole_trajectories() -> None:
    """An end on the way means a restart there; an end with the last step is part of the story."""
    buffer = ImaginedBuffer(10, 3, seed=0, piece=1)
    buffer.add(*hand_made([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]))
    assert len(buffer) == 2
    windows = buffer.sample(40)
    assert set(windows.proprioception[:, 0, 0].tolist()) == {0.0, 2.0}
    assert windows.image.shape == (40, 4, 3, 2, 2)
    assert ((windows.image[:, :, 0, 0, 0] + 1) * 127.5).round().tolist() == [[0, 1, 2, 3]] * 40
    assert windows.proprioception[0, :, 1].tolist() == [0, 1, 2, 3]
    # a_t, r_t and d_t lie beside o_t; the last row's are unused.
    assert windows.action[0, :, 0].tolist() == [0, 1, 2, 0]
    for i in range(40):
        e = float(windows.proprioception[i, 0, 0])
        assert windows.reward[i].tolist() == [10 * e, 10 * e + 1, 10 * e + 2, 0]
        assert windows.end[i].tolist() == [0, 0, float(e == 0), 0]


def test_buffer_forgets_the_oldest() -> None:
    buffer = ImaginedBuffer(3, 2, seed=0, piece=1)
    for number in range(5):
        buffer.add(*hand_made([[0], [0]], number=number))
    assert len(buffer) == 3
    assert set(buffer.sample(100).proprioception[:, 0, 0].tolist()) == {2.0, 3.0, 4.0}


def test_joined_takes_the_shorter_length() -> None:
    def windows(batch: int, time: int, value: float) -> Windows:
        return Windows(
            torch.full((batch, time, 3, 2, 2), value),
            torch.full((batch, time, 2), value),
            torch.full((batch, time, 2), value),
            torch.full((batch, time), value),
            torch.full((batch, time), value),
        )

    both = joined(windows(2, 5, 1.0), windows(3, 4, 2.0))
    assert both.image.shape == (5, 4, 3, 2, 2)
    assert both.reward.tolist() == [[1.0] * 4] * 2 + [[2.0] * 4] * 3
    np.testing.assert_array_equal(both.action[:, 0, 0], [1, 1, 2, 2, 2])


def test_long_rollouts_are_cut_into_trajectories() -> None:
    """Seven steps, windows of three: two trajectories an environment, the last step is left out.

    Environment 1 ends with the first window, and goes on from another context in the second, whose
    first observation is not there; environment 2 ends within the second.
    """
    buffer = ImaginedBuffer(10, 3, seed=0, piece=1)
    ends = [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    buffer.add(*hand_made(ends))
    windows = buffer.sample(80)
    found = {
        (int(windows.proprioception[i, 0, 0]), *windows.proprioception[i, :, 1].int().tolist())
        for i in range(80)
    }
    assert found == {(0, 0, 1, 2, 3), (0, 3, 4, 5, 6), (1, 0, 1, 2, 3), (2, 0, 1, 2, 3)}
    assert len(buffer) == 4
    ended = windows.proprioception[:, 0, 0] == 1
    assert windows.end[ended].sum(0).tolist() == [0, 0, float(ended.sum()), 0]


@pytest.mark.parametrize("rollouts", [0, 1, 2, 3, 5, 7, 8, 9, 23])
def test_what_is_kept_in_pieces_comes_back(rollouts: int) -> None:
    """Rollouts of three in pieces of four, room for eight: before, at and after the wrap.

    Pieces that were kept when they were full are put back, whatever has been written over since.
    """
    buffer = ImaginedBuffer(8, 1, seed=0, piece=4)
    assert buffer.capacity == 8
    kept: dict[str, dict[str, Tensor]] = {}
    for number in range(rollouts):
        buffer.add(*hand_made([[0, 0, 0]], number=10 * number))
        copies = {n: {k: v.clone() for k, v in p.items()} for n, p in buffer.pieces().items()}
        kept = {n: kept.get(n, p) if n != "buffer_newest" else p for n, p in copies.items()}
    if rollouts:
        buffer.sample(5)
    again = ImaginedBuffer(8, 1, seed=1, piece=4)
    fresh, state = buffer.pieces(), buffer.state()
    again.load(kept, state, torch.device("cpu"))
    assert len(again) == len(buffer) == min(3 * rollouts, 8)
    for _ in range(3 if rollouts else 0):
        left, right = buffer.sample(50), again.sample(50)
        for name in ("image", "proprioception", "action", "reward", "end"):
            assert torch.equal(getattr(left, name), getattr(right, name))
        newest = torch.arange(3.0) + 10 * (rollouts - 1)
        assert set(newest.tolist()) <= set(left.proprioception[:, 0, 0].tolist())
    for made in (buffer, again):
        made.add(*hand_made([[0, 0, 0]], number=990))
    left, right = buffer.sample(50), again.sample(50)
    assert torch.equal(left.proprioception, right.proprioception)
    if rollouts > 2:
        first = min(fresh)
        del kept[first]
        with pytest.raises(FogError, match=f"has no {first}"):
            again.load(kept, state, torch.device("cpu"))
