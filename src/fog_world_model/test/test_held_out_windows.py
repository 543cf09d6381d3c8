"""Which windows are evaluated, with episodes whose content says where it is from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.errors import FogError
from fog_world_model.evaluation.held_out_windows import LEAST, HeldOutWindows, exchange
from fog_world_model.task import TaskConfig


def test_rows_are_those_of_the_store(coded_store: EpisodeStore) -> None:
    """Contexts, actions and what followed, of held-out episodes alone, padded with the last row."""
    windows = HeldOutWindows(coded_store, context=3, horizon=5, windows=50)
    held_out = coded_store.split("validation")
    assert windows.episodes == len(held_out)
    seen = set()
    for batch in windows.batches(4):
        image, data = ((batch.data.image + 1) * 127.5).round(), batch.data
        assert batch.length[0] == batch.length.max() == batch.steps
        for i, length in enumerate(batch.length):
            numbers = image[i, :, 0, 0, 0].unique()
            assert len(numbers) == 1, "a window never crosses episodes"
            number = int(numbers)
            assert number == held_out[batch.episode[i]]
            steps = image[i, :, 1, 0, 0]
            recorded = steps[: 3 + length]
            assert torch.equal(recorded, recorded[0] + torch.arange(3 + length))
            assert (steps[3 + length :] == recorded[-1]).all()
            # the first action is that of the last observation of the context
            assert float(batch.actions[i, 0, 1]) * 100 == pytest.approx(float(steps[2]), abs=1e-4)
            assert torch.equal(data.reward[i, : 3 + length], recorded)
            assert float(recorded[-1]) < coded_store.lengths[number]
            seen.add((number, int(steps[0])))
        context = batch.seen(coded_store.normalisation)
        assert context.image.shape[1] == 3
        mean, std = (torch.from_numpy(v) for v in vars(coded_store.normalisation).values())
        physical = context.proprioception * std + mean
        assert torch.allclose(physical, data.proprioception[:, :3], atol=1e-4)
    assert len(seen) == len(windows)


def _episode(length: int) -> Episode:
    nothing = np.zeros((length, 2), np.float32)
    return Episode(
        image=np.zeros((length, 16, 16, 3), np.uint8),
        proprioception=nothing,
        action=nothing,
        reward=nothing[:, 0],
        end=np.zeros(length, np.bool_),
        stamp_ns=np.arange(length) * 200_000_000,
    )


def test_windows_by_length_of_episode(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """Long episodes give whole windows only; of short ones, windows end with the episode."""
    writer = EpisodeWriter(tmp_path / "s", tiny_task)
    for number, length in enumerate((80, 30, 4, 80, 30, 4)):
        writer.append(_episode(length), source=f"episode#{number}")
    store = writer.finish(validation_fraction=0.9, report={})
    kept = [i for i in store.split("validation") if store.lengths[i] > 4]
    windows = HeldOutWindows(store, context=4, horizon=40, windows=24)
    assert windows.skipped == len(store.split("validation")) - len(kept)
    assert windows.horizon == 40
    assert (np.diff(windows.length) <= 0).all()
    for place, episode in enumerate(kept):
        mine = windows.episode == place
        # in the numbers of the places in each: 37 and 11
        assert 2 <= mine.sum() <= 37
        if store.lengths[episode] == 80:
            assert (windows.length[mine] == 40).all()
        else:
            assert windows.length[mine].max() == 26, "from its very beginning"
            assert windows.length[mine].min() >= LEAST
    assert windows.by_horizon[0] == len(windows)
    assert windows.by_horizon[-1] == (windows.length == 40).sum()
    assert windows.source(0).startswith("episode ")
    one = HeldOutWindows(store, context=4, horizon=40, windows=1)
    assert len(one) == one.episodes == 1


def test_actions_are_exchanged_between_episodes() -> None:
    episode = np.array([0, 0, 1, 1, 2, 2])
    length = np.array([9, 9, 9, 5, 5, 5])
    partner = exchange(episode, length, seed=4)
    assert (episode[partner] != episode).all()
    assert (length[partner] >= length).all()
    alone = exchange(np.zeros(3, np.int64), np.array([4, 4, 4]), seed=0)
    assert (alone != np.arange(3)).all(), "another window, if there is no other episode"
    assert exchange(np.zeros(1, np.int64), np.array([4]), seed=0).tolist() == [0]


def test_no_held_out_episode_is_long_enough(coded_store: EpisodeStore) -> None:
    with pytest.raises(FogError, match="no held-out episode has 31 steps"):
        HeldOutWindows(coded_store, context=30, horizon=5, windows=8)
