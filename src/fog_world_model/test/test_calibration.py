"""Reliability tables and the correction of ends, by hand and on a model that knows the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.evaluation.calibration import (
    EndCalibration,
    Predictions,
    calibration_report,
    end_reliability,
    fit_end_calibration,
    predict_outcomes,
    probability_below,
    reward_reliability,
)
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.global_model.outcome import two_hot


def test_end_table_by_hand() -> None:
    """Bins of a half: two transitions below (0.1, 0.3; one ended), three above, all ended."""
    table = end_reliability([0.1, 0.3, 0.6, 0.9, 1.0], [0, 1, 1, 1, 1], bins=2)
    assert table.low == [0.0, 0.5]
    assert table.count == [2, 3]
    assert table.predicted == pytest.approx([0.2, 2.5 / 3])
    assert table.observed == pytest.approx([0.5, 1.0])
    # 2/5 |0.2 - 0.5| + 3/5 |0.8333 - 1|
    assert table.expected_error == pytest.approx(0.12 + 0.1)
    # (0.01 + 0.49 + 0.16 + 0.01 + 0) / 5
    assert table.brier == pytest.approx(0.134)
    by_hand = -(math.log(0.9) + math.log(0.3) + math.log(0.6) + math.log(0.9) + 0.0) / 5
    assert table.log_loss == pytest.approx(by_hand, abs=1e-6)
    assert table.base_log_loss == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert table.ends == 4


def test_empty_bins_say_so() -> None:
    table = end_reliability([0.05, 0.95], [0, 1], bins=10)
    assert table.count == [1, *[0] * 8, 1]
    assert table.predicted[1:9] == [None] * 8
    assert table.expected_error == pytest.approx(0.05)


def test_reward_table_by_hand() -> None:
    """Two bins of two: predicted (1, 2) and (3, 10), observed (0, 4) and (3, 5)."""
    table = reward_reliability([3.0, 1.0, 10.0, 2.0], [3.0, 0.0, 5.0, 4.0], bins=2)
    assert table.count == [2, 2]
    assert table.predicted == [1.5, 6.5]
    assert table.observed == [2.0, 4.0]
    assert table.deviation == [2.0, 1.0]
    assert table.expected_error == pytest.approx(0.5 * 0.5 + 0.5 * 2.5)
    assert table.bias == pytest.approx(1.0)
    assert table.levels == table.coverage == []


def test_probability_below_by_hand() -> None:
    """Triangles: half of one lies below its middle, an eighth below half a bin before it."""
    bins = torch.tensor([0.0, 1.0, 2.0])
    middle = torch.tensor([0.0, 1.0, 0.0])
    for value, expected in ((-1.0, 0.0), (0.0, 0.0), (0.5, 0.125), (1.0, 0.5), (1.5, 0.875)):
        found = probability_below(middle, bins, torch.tensor(value))
        assert float(found) == pytest.approx(expected), value
    # Half of it in the first bin and half in the last: at 1 all of the first lies below.
    outer = torch.tensor([0.5, 0.0, 0.5])
    assert float(probability_below(outer, bins, torch.tensor(1.0))) == pytest.approx(0.5)


def test_coverage_of_a_true_distribution() -> None:
    """Rewards drawn from the very distributions that are predicted: coverage is the level."""
    generator = torch.Generator().manual_seed(0)
    bins, count = torch.linspace(-3, 3, 25), 40_000
    weights = torch.rand(count, 25, generator=generator).pow(4)
    weights = weights / weights.sum(-1, keepdim=True)
    chosen = torch.multinomial(weights, 1, generator=generator).squeeze(1)
    triangle = torch.rand(count, 2, generator=generator).diff(dim=1).squeeze(1)
    value = bins[chosen] + (bins[1] - bins[0]) * triangle
    below = probability_below(weights, bins, value)
    table = reward_reliability(value, value, below=below)
    assert table.coverage == pytest.approx(table.levels, abs=0.01)
    # A distribution that is too narrow covers too little.
    narrow = probability_below(two_hot((weights * bins).sum(-1), bins), bins, value)
    coverage = dict(zip(table.levels, reward_reliability(value, value, below=narrow).coverage,
                        strict=True))  # fmt: skip
    assert coverage[0.1] > 0.3
    assert coverage[0.9] < 0.7


def test_known_distortion_is_undone() -> None:
    """Events drawn with the true odds; the prediction's logit is twice the true one plus one."""
    generator = np.random.default_rng(0)
    true = generator.normal(-1.0, 1.5, 60_000)
    ended = generator.uniform(size=true.size) < 1 / (1 + np.exp(-true))
    said = 1 / (1 + np.exp(-(2 * true + 1)))
    found = fit_end_calibration(said, ended)
    assert found.scale == pytest.approx(0.5, abs=0.02)
    assert found.bias == pytest.approx(-0.5, abs=0.03)
    before = end_reliability(said, ended)
    after = end_reliability(found.apply(said), ended)
    assert before.expected_error > 0.05
    assert after.expected_error < 0.01
    assert after.log_loss < before.log_loss


def test_correction_by_hand() -> None:
    """All say one half and 2 of 8 ended: Platt's targets are 3/4 and 1/8, their mean 9/32."""
    found = fit_end_calibration(np.full(8, 0.5), [1, 1, 0, 0, 0, 0, 0, 0])
    assert found.apply([0.5])[0] == pytest.approx((2 * 0.75 + 6 * 0.125) / 8, abs=1e-3)
    assert found.scale == pytest.approx(1.0), "nothing is known of the scale"
    assert EndCalibration(2.0, 1.0).apply([0.5])[0] == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_perfect_head_is_not_pushed_without_bound() -> None:
    found = fit_end_calibration([0.01] * 50 + [0.99] * 50, [0] * 50 + [1] * 50)
    assert 0.5 < found.scale < 2
    with pytest.raises(FogError, match="0 ends among 3 transitions"):
        fit_end_calibration([0.1, 0.2, 0.3], [0, 0, 0])


@pytest.mark.parametrize("distortion", [0.0, 2.0])
def test_correction_is_offered_where_it_helps_on_other_episodes(distortion: float) -> None:
    generator = np.random.default_rng(1)
    true = generator.normal(-1.0, 1.0, 8000)
    ended = (generator.uniform(size=8000) < 1 / (1 + np.exp(-true))).astype(float)
    said = 1 / (1 + np.exp(-(true + distortion)))
    nothing = np.zeros(8000)
    found = Predictions(nothing, said, nothing, ended, nothing, np.arange(8000) // 100)
    report = calibration_report(found)
    assert report.log_loss_before is not None and report.log_loss_after is not None
    if distortion:
        assert report.correction is not None
        assert report.correction.bias == pytest.approx(-2.0, abs=0.15)
        assert report.log_loss_after < report.log_loss_before - 0.1
    else:
        assert report.log_loss_after == pytest.approx(report.log_loss_before, abs=0.005)
    assert any("expected calibration error" in line for line in report.lines())


def test_the_model_keeps_its_correction(tiny_global: GlobalModel) -> None:
    """In the end probability, not in the loss, and in what is saved; older files have none."""
    head = tiny_global.outcome
    last = head.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight[head.config.bins].zero_()
        last.bias[head.config.bins] = 1.0
        frame, vector = torch.zeros(1, 3, 16, 16), torch.zeros(1, 2)

        def end() -> float:
            outcome, _ = head.step(frame, vector, vector, frame, head.initial(1))
            return float(outcome.end_probability)

        assert end() == pytest.approx(1 / (1 + math.exp(-1)))
        head.correct_end(0.5, -2.0)
        assert end() == pytest.approx(1 / (1 + math.exp(1.5)))
        head.correct_end(2.0, 1.0)  # 2 (0.5 - 2) + 1
        assert end() == pytest.approx(1 / (1 + math.exp(2.0)))
        saved = {k: v.clone() for k, v in tiny_global.state_dict().items()}
        head.correct_end(5.0, 5.0)
        tiny_global.load_state_dict(saved)
        assert end() == pytest.approx(1 / (1 + math.exp(2.0)))
        older = {k: v for k, v in saved.items() if "end_correction" not in k}
        tiny_global.load_state_dict(older)
        assert end() == pytest.approx(1 / (1 + math.exp(-1)))


def test_what_was_recorded_lies_beside_what_was_predicted(
    coded_store: EpisodeStore, tiny_global: GlobalModel
) -> None:
    """In coded episodes the reward is the step, and the last transition is an end."""
    found = predict_outcomes(tiny_global.eval(), coded_store, horizon=3, split="training")
    assert len(found.reward) == len(found.below) > 20
    lengths = coded_store.lengths[found.episode]
    assert np.array_equal(found.observed_end == 1, found.observed_reward == lengths - 2)
    assert set(found.episode.tolist()) == set(coded_store.split("training").tolist())
    # The last transition of every episode is among them.
    assert found.observed_end.sum() == len(coded_store.split("training"))
    assert ((found.below >= 0) & (found.below <= 1)).all()
    report = calibration_report(found)
    assert report.end.ends == len(coded_store.split("training"))
    assert report.figures()["reward"]
