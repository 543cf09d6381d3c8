"""Intervals over episodes against a plain loop, by hand, and by what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from fog_world_model.evaluation.episode_bootstrap import EpisodeSums, Figure

MEAN = Figure("n", lambda sums: sums["x"] / sums["n"])


def _sums(values: dict[int, list[float]]) -> EpisodeSums:
    """One horizon; episode -> values of its windows."""
    sums = EpisodeSums(len(values), 1)
    for episode, found in values.items():
        rows = np.full(len(found), episode)
        sums.add("x", rows, 0, found)
        sums.add("n", rows, 0, np.ones(len(found)))
    return sums


def test_a_mean_over_windows_and_its_interval() -> None:
    """Resampled by hand: whole episodes, each with all its windows."""
    values = {0: [1.0, 2.0, 3.0], 1: [10.0], 2: [4.0, 6.0], 3: [0.5, 0.5]}
    found = _sums(values).estimates({"mean": MEAN}, resamples=4000, seed=3)["mean"]
    assert found.value[0] == pytest.approx(27 / 8)
    generator, means = np.random.default_rng(11), []
    for _ in range(4000):
        drawn = [values[e] for e in generator.integers(4, size=4)]
        means.append(np.mean(np.concatenate(drawn)))
    low, high = np.percentile(means, [2.5, 97.5])
    assert found.low[0] == pytest.approx(low, abs=0.1)
    assert found.high[0] == pytest.approx(high, abs=0.3)


def test_many_windows_of_few_episodes_are_few_samples() -> None:
    """Windows that repeat their episode add nothing: the interval stays as wide."""
    few = {0: [0.0], 1: [1.0], 2: [2.0], 3: [5.0]}
    many = {episode: found * 50 for episode, found in few.items()}
    of_few, of_many = (_sums(v).estimates({"m": MEAN})["m"] for v in (few, many))
    assert of_many.value == pytest.approx(of_few.value)
    assert of_many.low == pytest.approx(of_few.low)
    assert of_many.high == pytest.approx(of_few.high)
    assert of_many.high[0] - of_many.low[0] > 2


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Episodes differ by a normal deviate, windows by another: 95 % of 200 intervals, roughly."""
    generator, held = np.random.default_rng(0), 0
    for trial in range(200):
        level = generator.normal(size=24)
        values = {e: list(level[e] + 0.3 * generator.normal(size=5)) for e in range(24)}
        found = _sums(values).estimates({"m": MEAN}, resamples=400, seed=trial)["m"]
        held += bool(found.low[0] <= 0.0 <= found.high[0])
    assert 174 <= held <= 200  # the percentile interval of 24 samples is a little too narrow


def test_no_interval_without_a_second_episode() -> None:
    """At the second horizon only one episode is left; at the third there is nothing."""
    sums = EpisodeSums(3, 3)
    for episode, steps in ((0, 1), (1, 2), (2, 1)):
        for step in range(steps):
            sums.add("x", np.array([episode]), step, [episode + step])
            sums.add("n", np.array([episode]), step, [1.0])
    found = sums.estimates({"m": MEAN})["m"]
    assert found.value[:2] == pytest.approx([1.0, 2.0])
    assert np.isfinite(found.low[0])
    assert np.isnan([found.low[1], found.high[1], found.value[2], found.low[2]]).all()
    assert found.rounded()["value"] == [1.0, 2.0, None]
    assert sums.episodes("n").tolist() == [3, 1, 0]


def test_differences_are_paired() -> None:
    """A figure that is always 1 above another: the interval of the difference has no width."""
    sums = EpisodeSums(6, 1)
    for episode, value in enumerate([0.0, 3.0, 1.0, 8.0, 2.0, 5.0]):
        row = np.array([episode])
        sums.add("n", row, 0, [1.0])
        sums.add("x", row, 0, [value])
        sums.add("y", row, 0, [value + 1])
    found = sums.estimates({"gain": Figure("n", lambda s: (s["y"] - s["x"]) / s["n"]), "m": MEAN})
    assert found["gain"].low[0] == pytest.approx(1.0)
    assert found["gain"].high[0] == pytest.approx(1.0)
    assert found["m"].high[0] - found["m"].low[0] > 2
