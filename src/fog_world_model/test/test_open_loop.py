"""Open-loop figures against a model whose imagination is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows
from fog_world_model.errors import FogError
from fog_world_model.evaluation.open_loop import (
    correlation,
    evaluate_open_loop,
    pooled_psnr,
    psnr,
)
from fog_world_model.global_model.global_model import WorldState
from fog_world_model.global_model.outcome import Outcome
from fog_world_model.local_model.local_model import LocalModel


def test_psnr_by_hand() -> None:
    """Off by 0.2 everywhere: 10 log10(2^2 / 0.2^2) = 20 dB; off by 2: 0 dB; equal: 100 dB."""
    left = torch.zeros(3, 3, 4, 4)
    right = torch.stack([left[0] + 0.2, left[0] + 2.0, left[0]])
    assert psnr(left, right).tolist() == pytest.approx([20.0, 0.0, 100.0], abs=1e-4)
    one = torch.zeros(1, 3, 4, 4)
    one[0, 0, 0, 0] = 2.0  # 4 over 48 values: 10 log10(48)
    assert float(psnr(torch.zeros(1, 3, 4, 4), one)) == pytest.approx(16.812412, abs=1e-5)


def test_pooled_psnr_by_hand() -> None:
    """Squared errors 0.04 and 0 have the mean 0.02: 10 log10(200)."""
    left = torch.zeros(2, 3, 4, 4)
    right = torch.stack([left[0] + 0.2, left[1]])
    assert float(pooled_psnr(left, right)) == pytest.approx(23.0103, abs=1e-4)


def test_correlation_by_hand() -> None:
    """(0, 1, 2) and (0, 0, 3): covariance 1, deviations sqrt(2/3) and sqrt(2): 0.866025."""
    assert correlation(torch.tensor([0.0, 1, 2]), torch.tensor([0.0, 0, 3])) == pytest.approx(
        0.866025, abs=1e-6
    )
    assert correlation(torch.tensor([0.0, 1, 2]), torch.tensor([2.0, 1, 0])) == pytest.approx(-1.0)
    assert correlation(torch.ones(3), torch.tensor([2.0, 1, 0])) == 0.0


class _Counting:
    """Knows that the second channel counts the steps (see conftest.py), and the reward too.

    ``error`` is added to the first channel with every step.
    """

    context_frames = 2

    def __init__(self, store: EpisodeStore, error: float = 0.0) -> None:
        self.error, self.action_mean = error, store
        self.actions: list[Tensor] = []

    def start(self, windows: Windows) -> WorldState:
        self.length = windows.image.shape[1]
        nothing = torch.zeros(len(windows.image), 0)
        return WorldState(windows.image[:, -2:], nothing, nothing, nothing)

    def step(self, state: WorldState, action: Tensor, _: Any) -> tuple[WorldState, Outcome]:
        last = state.frames[:, -1]
        frame = last.clone()
        frame[:, 1] += 1 / 127.5
        frame[:, 0] += self.error
        self.actions.append(action)
        reward = (last[:, 1, 0, 0] + 1) * 127.5  # r_t is t in a coded episode
        after = WorldState(torch.stack([last, frame], 1), *[state.actions] * 3)
        return after, Outcome(reward, reward * 0, state.proprioception)


def test_a_perfect_model(coded_store: EpisodeStore, tiny_local: LocalModel) -> None:
    """Copying is off by 2 h / 255 in one channel of three."""
    model: Any = _Counting(coded_store)
    horizons = (1, 2, 4)
    result = evaluate_open_loop(
        model, coded_store, local=tiny_local, horizons=horizons, context=3, examples=2
    )
    lengths = coded_store.lengths[coded_store.split("validation")]
    assert result.windows == sum(max(0, n - 7 + 1) for n in lengths)
    assert model.length == 3
    assert result.horizon == [1, 2, 4]
    assert min(result.model_psnr) > 99
    expected = [10 * math.log10(4 * 3 / (2 * h / 255) ** 2) for h in horizons]
    assert result.copy_last_psnr == pytest.approx(expected, abs=1e-2)
    assert result.copy_last_psnr_per_window == pytest.approx(expected, abs=1e-2)
    assert result.model_reward_correlation == pytest.approx([1.0] * 3, abs=1e-5)
    assert len(result.local_psnr) == len(result.local_reward_correlation) == 3
    assert result.real.shape == result.imagined.shape == (2, 4, 16, 16, 3)
    assert (result.real == result.imagined).all()
    figures = result.figures()
    assert "real" not in figures
    assert figures["windows"] == result.windows
    # The first action is that of the last context frame: number / 100, step / 100.
    first = (model.actions[0][:, 1] * 100).round()
    assert torch.equal((model.actions[1][:, 1] * 100).round(), first + 1)
    seen = torch.from_numpy(result.real[:, 0, 0, 0, 1].astype("float32"))
    assert torch.equal(first[[0, -1]] + 1, seen), "two examples: the first window and the last"


def test_an_error_shows_at_its_horizon(coded_store: EpisodeStore) -> None:
    """0.02 more in one channel with every step: mean square (0.02 h)^2 / 3."""
    model: Any = _Counting(coded_store, error=0.02)
    result = evaluate_open_loop(model, coded_store, horizons=(1, 3), context=2, windows=5)
    assert result.windows == 5
    expected = [10 * math.log10(4 * 3 / (0.02 * h) ** 2) for h in (1, 3)]
    assert result.model_psnr == pytest.approx(expected, abs=1e-2)
    assert result.local_psnr == []


def test_no_held_out_episode_is_long_enough(coded_store: EpisodeStore) -> None:
    model: Any = _Counting(coded_store)
    with pytest.raises(FogError, match="no validation episode has 35 steps"):
        evaluate_open_loop(model, coded_store, horizons=(32,), context=3)
