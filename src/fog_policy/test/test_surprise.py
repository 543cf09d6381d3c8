"""The out-of-distribution guard: its measure, its range on recordings, and when it stops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_policy.recorded_surprise import surprise_of_store
from fog_policy.surprise import SurpriseGuard, SurpriseRange, fit_range
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import Gaussian, kl_divergence


def make_range(**changes: Any) -> SurpriseRange:
    content: dict[str, Any] = {
        "threshold_nats": 10.0,
        "shock_nats": 1000.0,
        "steps": 3,
        "warm_up": 2,
        "false_alarm": 0.01,
        "judged": 999,
        "episodes": 7,
        "median_nats": 2.0,
        "largest_nats": 12.0,
    }
    return SurpriseRange(**{**content, **changes})


def alarms(nats: list[np.ndarray], found: SurpriseRange) -> int:
    """Steps at which a guard without a memory of its stops would stop, counted one by one."""
    count = 0
    for episode in nats:
        above = 0
        for value in episode[found.warm_up :]:
            above = above + 1 if value > found.threshold_nats else 0
            count += above >= found.steps or value > found.shock_nats
    return count


def test_kl_by_hand_and_against_torch() -> None:
    """KL(N(1, 1) || N(0, 2)) = ln 2 + (1 + 1) / 8 - 1/2 = 0.4431, and twice that for two axes."""
    posterior = Gaussian(torch.full((1, 2), 1.0), torch.full((1, 2), 1.0))
    prior = Gaussian(torch.zeros(1, 2), torch.full((1, 2), 2.0))
    assert float(kl_divergence(posterior, prior)) == pytest.approx(2 * 0.443147, abs=1e-5)
    torch.manual_seed(0)
    left, right = (Gaussian(torch.randn(5, 4), torch.rand(5, 4) + 0.1) for _ in range(2))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(left.mean, left.std),
        torch.distributions.Normal(right.mean, right.std),
    ).sum(-1)
    torch.testing.assert_close(kl_divergence(left, right), expected)


def test_surprise_of_a_store_is_the_filter_of_training(
    tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    told: list[tuple[float, str]] = []
    found = surprise_of_store(
        tiny_local,
        tiny_store.normalisation,
        tiny_store,
        progress=lambda fraction, text: told.append((fraction, text)),
    )
    held_out = tiny_store.split("validation")
    assert len(found) == len(held_out) == 2
    windows = WindowSampler(tiny_store, length=31, split="validation").at(
        tiny_store.starts[held_out]
    )
    with torch.no_grad():
        _, prior, posterior = tiny_local.filter(windows, sample=False)
    np.testing.assert_allclose(found, kl_divergence(posterior, prior), rtol=1e-4, atol=1e-6)
    assert told == [(0.5, "31 of 62 steps"), (1.0, "62 of 62 steps")]
    everything = surprise_of_store(tiny_local, tiny_store.normalisation, tiny_store, list(range(8)))
    np.testing.assert_allclose(everything[int(held_out[0])], found[0])


def test_range_by_hand() -> None:
    """Smallest of two in a row: 1 3 2 | 4 1, five values; a quarter may lie above: one."""
    nats = [np.array([90.0, 1.0, 5.0, 3.0, 2.0]), np.array([90.0, 4.0, 6.0, 1.0])]
    found = fit_range(nats, steps=2, warm_up=1, false_alarm=0.5, data_hash="d")
    assert found.threshold_nats == 3.0
    # Single steps: 1 1 2 3 4 5 6, of which 6 x 0.75 = 4.5 is the index, and the higher is 5.
    assert found.shock_nats == 5.0
    assert (found.judged, found.episodes) == (5, 2)
    assert (found.median_nats, found.largest_nats) == (3.0, 6.0)
    assert alarms(nats, found) == 1  # 6, after 4: both limits at the same step
    # The recordings cannot vouch for less than two in six.
    surest = fit_range(nats, steps=2, warm_up=1, false_alarm=0.0)
    assert surest.rate == pytest.approx(1 / 3)
    assert (surest.threshold_nats, surest.shock_nats) == (4.0, 6.0)
    assert alarms(nats, surest) == 0


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    steps=st.integers(1, 5),
    warm_up=st.integers(0, 4),
    false_alarm=st.floats(0.0, 0.5),
    correlation=st.floats(0.0, 0.95),
)
def test_false_alarms_are_at_most_what_was_asked_for(
    seed: int, steps: int, warm_up: int, false_alarm: float, correlation: float
) -> None:
    """Also where neighbouring steps hang together, for which (1 - quantile)^steps is wrong."""
    rng = np.random.default_rng(seed)
    nats = []
    for _ in range(4):
        noise, value, episode = rng.exponential(size=int(rng.integers(10, 60))), 0.0, []
        for one in noise:
            value = correlation * value + one
            episode.append(value)
        nats.append(np.asarray(episode))
    found = fit_range(nats, steps=steps, warm_up=warm_up, false_alarm=false_alarm)
    long_enough = [n for n in nats if len(n) >= warm_up + steps]
    single = sum(len(n) - warm_up for n in long_enough)
    assert alarms(long_enough, found) <= false_alarm / 2 * (found.judged + single) + 1e-9
    assert found.rate >= false_alarm


@pytest.mark.parametrize(
    ("nats", "options", "message"),
    [
        ([np.ones(7)], {}, "no episode has 8 steps or more"),
        ([], {}, "no episode has 8 steps"),
        ([np.full(20, np.nan)], {}, "is not finite"),
        ([np.ones(20)], {"steps": 0}, "steps 0, warm_up 5"),
        ([np.ones(20)], {"false_alarm": 1.0}, r"false_alarm 1.0 must be .* in \[0, 1\)"),
    ],
)
def test_range_that_cannot_be(
    nats: list[np.ndarray], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FogError, match=message):
        fit_range(nats, **options)


def test_range_as_plain_data() -> None:
    found = make_range(data_hash="abc")
    assert SurpriseRange.from_dict(found.to_dict(), "bundle x") == found
    # 999 judged steps vouch for one in 500; one in 100 was asked for: at 5 Hz, once in 20 s.
    assert "once in 20 s" in found.describe(5.0)
    for content in (
        3,
        {"threshold_nats": 1.0},
        {**found.to_dict(), "other": 1},
        {**found.to_dict(), "threshold_nats": math.nan},
        {**found.to_dict(), "steps": 0},
        {**found.to_dict(), "steps": 2.5},
        {**found.to_dict(), "threshold_nats": "high"},
    ):
        with pytest.raises(FogError, match=r"^bundle x: surprise in the manifest cannot be read"):
            SurpriseRange.from_dict(content, "bundle x")


def stops(guard: SurpriseGuard, nats: list[float | None]) -> list[bool]:
    return [guard.update(value) is not None for value in nats]


def test_several_steps_in_a_row_stop_and_as_many_calm_ones_release() -> None:
    guard = SurpriseGuard(make_range())
    assert guard.off is None
    # The first two are the warm-up; at the limit is not above it.
    assert stops(guard, [99, 99, 11, 11, 10, 11, 11]) == [False] * 7
    assert stops(guard, [11, 1, 1, 11, 1, 1]) == [True] * 6
    assert stops(guard, [1, 1]) == [False, False]
    guard.restart()
    assert stops(guard, [99, 99, 11, 11, 11]) == [False] * 4 + [True]


def test_a_shock_stops_until_the_reset() -> None:
    guard = SurpriseGuard(make_range())
    assert stops(guard, [2000, 2000]) == [False, False]
    assert stops(guard, [1000, 1001, 1, 1, 1, 1]) == [False] + [True] * 5
    guard.restart()  # a gap in a stream is no excuse
    assert stops(guard, [1, 1, 1]) == [True] * 3
    guard.reset()
    assert stops(guard, [1, 1, 1]) == [False] * 3
    for bad in (math.nan, math.inf):
        guard.reset()
        assert stops(guard, [1, 1, bad, 1]) == [False, False, True, True]


def test_reason_in_words() -> None:
    guard = SurpriseGuard(make_range(warm_up=0, steps=2), margin=1.5)
    guard.update(16.0)
    assert str(guard.update(17.25)) == (
        "out_of_distribution: the local model's surprise is 17.2 nats (limit 15 nats over 2 "
        "steps), for 2 steps"
    )
    assert str(guard.update(1.0)) == (
        "out_of_distribution: the local model's surprise is 1 nats (limit 15 nats over 2 steps), "
        "calm for 1 steps only"
    )
    assert str(guard.update(1600.0)) == (
        "out_of_distribution: the local model's surprise was 1.6e+03 nats at one step (limit "
        "1.5e+03 nats); reset it to go on"
    )


def test_guard_that_is_off_says_so() -> None:
    without = SurpriseGuard(None)
    assert without.off is not None
    assert "does not hold the range" in without.off
    switched_off = SurpriseGuard(make_range(warm_up=0, steps=1), margin=0.0)
    assert switched_off.off == "safety.surprise_margin is 0"
    for guard in (without, switched_off):
        assert stops(guard, [1e9, math.nan, None]) == [False] * 3


def test_a_controller_that_does_not_say_stops() -> None:
    reason = SurpriseGuard(make_range()).update(None)
    assert reason is not None
    assert reason.cause == "out_of_distribution"
