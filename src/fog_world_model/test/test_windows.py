"""Windows: inside one episode, in a repeatable order, with the values as stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import (
    Windows,
    WindowSampler,
    to_float_image,
    to_uint8_image,
)
from fog_world_model.errors import FogError


def places(windows: Windows, store: EpisodeStore) -> tuple[torch.Tensor, torch.Tensor]:
    """Episode and step of every row, ``[batch, time]``, from pixels and from proprioception."""
    pixels = to_uint8_image(windows.image)
    seen = torch.from_numpy(pixels[:, :, 8, 8, :2].astype(np.int64))
    statistics = store.normalisation
    vector = windows.proprioception.numpy() * statistics.std + statistics.mean
    told = torch.from_numpy(np.rint(vector).astype(np.int64))
    assert torch.equal(seen, told), "image and proprioception are of different rows"
    return seen[..., 0], seen[..., 1]


@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("length", [1, 5, 9])
def test_never_across_a_border(coded_store: EpisodeStore, split: str, length: int) -> None:
    sampler = WindowSampler(coded_store, length=length, split=split, seed=0)
    windows = sampler.sample(400)
    episode, step = places(windows, coded_store)
    assert episode.shape == (400, length)
    assert (episode == episode[:, :1]).all()
    assert (step == step[:, :1] + torch.arange(length)).all()
    assert set(episode.unique().tolist()) <= set(coded_store.split(split).tolist())
    # The transition beside a row is that of the row.
    torch.testing.assert_close(windows.action[..., 0], episode / 100)
    torch.testing.assert_close(windows.action[..., 1], step / 100)
    assert torch.equal(windows.reward, step.float())
    last = torch.from_numpy(coded_store.lengths)[episode] - 2
    assert torch.equal(windows.end, (step == last).float())


@pytest.mark.parametrize("length", [1, 5, 9])
def test_every_place_is_drawn(coded_store: EpisodeStore, length: int) -> None:
    sampler = WindowSampler(coded_store, length=length, seed=3)
    expected = {
        (int(e), int(s))
        for e in coded_store.split("training")
        for s in range(coded_store.lengths[e] - length + 1)
    }
    assert len(sampler) == len(expected)
    episode, step = places(sampler.sample(2000), coded_store)
    drawn = set(zip(episode[:, 0].tolist(), step[:, 0].tolist(), strict=True))
    assert drawn == expected


def test_same_seed_same_order(coded_store: EpisodeStore) -> None:
    def order(seed: int) -> torch.Tensor:
        sampler = WindowSampler(coded_store, length=4, seed=seed)
        return torch.cat([sampler.sample(8).reward for _ in range(5)])

    assert torch.equal(order(1), order(1))
    assert not torch.equal(order(1), order(2))


def test_generator_state_goes_back_over_json(coded_store: EpisodeStore) -> None:
    sampler = WindowSampler(coded_store, length=4, seed=1)
    sampler.sample(8)
    state = json.loads(json.dumps(sampler.generator_state))
    expected = [sampler.sample(8).reward for _ in range(3)]
    other = WindowSampler(coded_store, length=4, seed=99)
    other.generator_state = state
    for rewards in expected:
        assert torch.equal(other.sample(8).reward, rewards)


def test_at_and_every(coded_store: EpisodeStore) -> None:
    sampler = WindowSampler(coded_store, length=6, split="validation")
    first = sampler.every(1)
    assert len(first) == len(sampler)
    np.testing.assert_array_equal(sampler.every(3), first[::3])
    episode, step = places(sampler.at(first), coded_store)
    rows = torch.from_numpy(coded_store.starts)[episode[:, 0]] + step[:, 0]
    np.testing.assert_array_equal(rows.numpy(), first)


def test_no_episode_is_long_enough(coded_store: EpisodeStore) -> None:
    with pytest.raises(FogError, match=r"no training episode has 13 steps \(the longest has 12\)"):
        WindowSampler(coded_store, length=13)


def test_images_by_hand() -> None:
    """0 is -1, 255 is 1, and 51 = 255 / 5 is -0.6; the channel moves before the rows."""
    image = torch.zeros(2, 3, 4, 3, dtype=torch.uint8)
    image[1, 2, 3] = torch.tensor([0, 51, 255])
    scaled = to_float_image(image)
    assert scaled.shape == (2, 3, 3, 4)
    torch.testing.assert_close(scaled[1, :, 2, 3], torch.tensor([-1.0, -0.6, 1.0]))
    np.testing.assert_array_equal(to_uint8_image(scaled), image.numpy())
    np.testing.assert_array_equal(
        to_uint8_image(torch.tensor([-7.0, 0.0, 7.0]).view(3, 1, 1)), [[[0, 128, 255]]]
    )


def test_every_pixel_value_survives() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).repeat(1, 1, 3)
    np.testing.assert_array_equal(to_uint8_image(to_float_image(values)), values.numpy())


def test_images_keep_their_values(coded_store: EpisodeStore) -> None:
    """The fast way to floats gives exactly the values of the plain one."""
    sampler = WindowSampler(coded_store, length=6, split="validation")
    first = sampler.every(2)
    rows = first[:, None] + np.arange(6)
    expected = to_float_image(torch.from_numpy(coded_store.load("image")[rows]))
    assert torch.equal(sampler.at(first).image, expected)
    assert sampler.at(first).image.is_contiguous()
