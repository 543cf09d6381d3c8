"""Windows drawn by how much moves in them: by hand, and as often as they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter, Place
from fog_world_model.data.image_sources import image_source
from fog_world_model.data.picture_change import chances_by_change, picture_change
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

STEP = {2: 30, 3: 60}
"""Red is 0 in the first episode, rises by this upon these rows, and never changes elsewhere."""


@pytest.fixture
def moving_store(
    tmp_path: Path, tiny_task: TaskConfig, make_coded_episode: Callable[[int, int], Episode]
) -> EpisodeStore:
    """An episode with two changes of the picture, and one without any."""
    writer = EpisodeWriter(tmp_path / "moving.episodes", tiny_task)
    for number, length in enumerate((8, 6)):
        episode = make_coded_episode(number, length)
        episode.image[:] = 0
        if number == 0:
            for row, by in STEP.items():
                episode.image[row:, ..., 0] += by
        writer.append(episode, source=f"moving#{number}")
    return writer.finish(validation_fraction=0.0, report={})


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_change_of_every_row_by_hand(moving_store: EpisodeStore, place: Place) -> None:
    images = image_source(moving_store, "training", place)
    change = picture_change(images, moving_store.starts, moving_store.lengths, 14)
    # One channel of three changes; 7 and 13 are the last rows of episodes.
    expected = np.zeros(14, np.float32)
    expected[1], expected[2] = 30 / 3, 60 / 3
    np.testing.assert_allclose(change, expected, rtol=1e-6)


def test_chances_by_hand() -> None:
    change = np.array([0, 10, 20, 0, 0, 0, 0, 1], np.float32)
    # Windows of three rows hold two transitions: sums 10, 30, 20, 0, 0 and 0, median 5.
    chances = chances_by_change(change, np.arange(6), 3)
    np.testing.assert_allclose(chances, np.cumsum([5, 25, 15, 0, 0, 0]) / 45)


def test_nothing_that_moves_is_an_error() -> None:
    with pytest.raises(FogError, match=r"--moving-windows 0"):
        chances_by_change(np.ones(9, np.float32), np.arange(5), 3)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_shares(moving_store: EpisodeStore, share: float) -> None:
    sampler = WindowSampler(moving_store, length=3, seed=4, moving=share)
    image = torch.cat([sampler.sample(1000).image for _ in range(4)])
    moved = float((image[:, 0] != image[:, 2]).any(-1).any(-1).any(-1).float().mean())
    # Of ten windows three hold a change; of those that are drawn by change, all do.
    assert moved == pytest.approx(share + (1 - share) * 0.3, abs=0.03)


def test_the_order_can_be_gone_on_with(moving_store: EpisodeStore) -> None:
    sampler = WindowSampler(moving_store, length=3, seed=4, moving=0.5)
    sampler.sample(7)
    state = sampler.generator_state
    expected = [sampler.sample(7).reward for _ in range(3)]
    other = WindowSampler(moving_store, length=3, seed=9, moving=0.5)
    other.generator_state = state
    assert all(torch.equal(e, other.sample(7).reward) for e in expected)
    with pytest.raises(FogError, match=r"--moving-windows 1\.5: expected a share from 0 to 1"):
        WindowSampler(moving_store, length=3, moving=1.5)
