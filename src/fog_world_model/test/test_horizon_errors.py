"""Figures by horizon against models whose imagination is known."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows
from fog_world_model.evaluation.examples import RECORDED, chosen, examples
from fog_world_model.evaluation.horizon_errors import (
    COPY,
    LOCAL,
    Contenders,
    EvaluationConfig,
    Measured,
    measure,
)
from fog_world_model.global_model.global_model import GlobalModel, WorldState
from fog_world_model.global_model.outcome import Outcome
from fog_world_model.local_model.local_model import LocalModel

CONFIG = EvaluationConfig(horizon=6, windows=40, context=3, batch_size=4, resamples=200)


class _Counting:
    """Follows the actions: they tell episode and step, as do the pictures (see conftest.py).

    ``error`` is added to the first channel with every step, ``off`` to every reward.
    """

    context_frames = 2

    def __init__(self, error: float = 0.0, off: float = 0.0) -> None:
        self.error, self.off = error, off

    def start(self, windows: Windows) -> WorldState:
        nothing = torch.zeros(len(windows.image), 1)
        return WorldState(windows.image[:, -2:], nothing, nothing, nothing)

    def step(self, state: WorldState, action: Tensor, _: Any) -> tuple[WorldState, Outcome]:
        number, step = (action * 100).unbind(-1)
        age = state.recurrent + 1
        frame = torch.full_like(state.frames[:, -1], -1.0)
        frame[:, 0] += (number / 127.5)[:, None, None] + (self.error * age)[..., None]
        frame[:, 1] += ((step + 1) / 127.5)[:, None, None]
        after = WorldState(torch.stack([state.frames[:, -1], frame], 1), age, age, age)
        return after, Outcome(step + self.off, step * 0, age)


def _measure(
    store: EpisodeStore, models: dict[str, Any], config: EvaluationConfig = CONFIG, **more: Any
) -> tuple[Contenders, Measured]:
    contenders = Contenders({n: (m, store.normalisation) for n, m in models.items()}, **more)
    return contenders, measure(contenders, store, config)


def test_figures_by_hand(coded_store: EpisodeStore) -> None:
    """0.02 more in one channel of three with every step; copying is off by 2 h / 255 in another."""
    _, found = _measure(coded_store, {"off": _Counting(0.02, 0.5), "right": _Counting()})
    horizon = np.arange(1, found.windows.horizon + 1)
    off, right, copy = (found.figures[n] for n in ("off", "right", COPY))
    expected = [10 * math.log10(4 * 3 / (0.02 * h) ** 2) for h in horizon]
    assert off["psnr"].value == pytest.approx(expected, abs=0.01)
    expected = [10 * math.log10(4 * 3 / (2 * h / 255) ** 2) for h in horizon]
    assert copy["psnr"].value == pytest.approx(expected, abs=0.01)
    assert off["psnr_gain"].value == pytest.approx(off["psnr"].value - copy["psnr"].value)
    assert right["psnr"].value.min() > 99
    assert right["ssim"].value == pytest.approx(1.0, abs=1e-4)
    assert right["perceptual_distance"].value == pytest.approx(0.0, abs=1e-4)
    # All windows are equally wrong, so that the choice of episodes does not matter.
    assert off["psnr"].low == pytest.approx(off["psnr"].high, abs=0.01)
    assert off["reward_error"].value == pytest.approx(0.5, abs=1e-4)
    assert off["reward_correlation"].value == pytest.approx(1.0, abs=1e-4)
    # The reward is the step, and the last one seen is that of the step before the context's end.
    assert copy["reward_error"].value == pytest.approx(horizon, abs=1e-4)
    # 0.02 h in one channel of three, in levels of 255
    assert off["colour_shift"].value == pytest.approx(0.02 * horizon * 127.5 / 3, abs=1e-3)
    assert found.figures.keys() == {"off", "right", COPY}
    assert np.isnan(found.object_seen).all() or found.object_seen[0] == 0.0  # nothing is red


def test_windows_of_unequal_length_and_batches_change_nothing(coded_store: EpisodeStore) -> None:
    """By hand at the last horizon; and the same figures whatever the size of a batch."""
    config = dataclasses.replace(CONFIG, horizon=30)
    models = {"m": _Counting(0.02, 0.5)}
    found = [
        _measure(coded_store, models, dataclasses.replace(config, batch_size=size))[1]
        for size in (1, 3, 64)
    ]
    windows = found[0].windows
    assert windows.by_horizon[0] > windows.by_horizon[-1] > 0
    for other in found[1:]:
        for name, figures in found[0].figures.items():
            for key, estimate in figures.items():
                again = other.figures[name][key]
                for part in ("value", "low", "high"):
                    left, right = getattr(estimate, part), getattr(again, part)
                    assert np.allclose(left, right, rtol=1e-4, atol=1e-4, equal_nan=True), key
    last = windows.horizon
    expected = 10 * math.log10(4 * 3 / (2 * last / 255) ** 2)
    assert found[0].figures[COPY]["psnr"].value[-1] == pytest.approx(expected, abs=0.01)


def test_actions_that_matter_and_actions_that_do_not(coded_store: EpisodeStore) -> None:
    class Deaf(_Counting):
        """Goes on counting, a little off, whatever is done."""

        def step(self, state: WorldState, action: Tensor, _: Any) -> tuple[WorldState, Outcome]:
            frame = state.frames[:, -1].clone()
            frame[:, 1] += 1.1 / 127.5
            after = WorldState(torch.stack([state.frames[:, -1], frame], 1), *[action[:, :1]] * 3)
            return after, Outcome(action[:, 0], action[:, 0], action[:, :1])

    _, found = _measure(coded_store, {"heeds": _Counting(0.001), "deaf": Deaf()})
    heeds, deaf = (found.figures[n]["action_sensitivity"].value for n in ("heeds", "deaf"))
    assert deaf == pytest.approx(1.0)
    # Another episode's actions lead to another episode's pictures.
    assert heeds[0] > 100
    assert "action_sensitivity" not in found.figures[COPY]


def test_the_object_is_followed_or_lost(
    coded_store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finder that reads the place of an object from the coded colours."""
    from fog_world_model.evaluation import horizon_errors
    from fog_world_model.evaluation.object_position import Sight

    class Finder:
        name, measures_area = "thing", True

        def find(self, image: Any) -> Sight | None:
            red, green = (int(v) for v in image[0, 0, :2])
            return None if red > 100 else Sight(float(green), 0.0, area=float(green))

    class Loses(_Counting):
        """Two pixels further to the right with every step, and gone from the third step on."""

        def step(self, state: WorldState, action: Tensor, _: Any) -> tuple[WorldState, Outcome]:
            after, outcome = super().step(state, action, _)
            frame = after.frames[:, -1].clone()
            frame[:, 1] += (2 * after.recurrent / 127.5)[..., None]
            frame[:, 0] = torch.where((after.recurrent > 2)[..., None], 0.8, frame[:, 0])
            return dataclasses.replace(
                after, frames=torch.stack([after.frames[:, 0], frame], 1)
            ), outcome

    monkeypatch.setattr(horizon_errors, "object_finder", lambda task: Finder())
    _, found = _measure(coded_store, {"m": Loses()})
    figures = found.figures["m"]
    marks = [0, 1, 3]  # horizons 1, 2 and 4
    assert found.object_seen[marks] == pytest.approx(1.0)
    assert figures["object_error_px"].value[:2] == pytest.approx([2.0, 4.0])
    assert np.isnan(figures["object_error_px"].value[3])
    assert figures["object_lost"].value[marks] == pytest.approx([0.0, 0.0, 1.0])
    assert np.isnan(figures["object_lost"].value[2]), "not looked for at 3 steps"
    assert found.figures[COPY]["object_error_px"].value[marks] == pytest.approx([1.0, 2.0, 4.0])


def test_examples_are_what_was_measured(
    coded_store: EpisodeStore, tiny_global: GlobalModel, tiny_local: LocalModel
) -> None:
    """With a model that draws noise: the pictures have the error that the window was ranked by."""
    config = dataclasses.replace(CONFIG, windows=9)
    contenders, found = _measure(
        coded_store, {"m": tiny_global}, config, local=(tiny_local, coded_store.normalisation)
    )
    assert contenders.names == ["m", COPY, LOCAL]
    shown = examples(contenders, found, config)
    assert [e.title for e in shown] == list(chosen(found))
    ranked = sorted(shown, key=lambda e: -e.psnr["m"])
    assert [e.title for e in ranked] == [e.title for e in shown]
    for example in shown:
        assert list(example.rows) == [RECORDED, *contenders.names]
        assert example.horizons == [1, 2, 4]
        assert all(len(frames) >= 6 for frames in example.rows.values())
        assert len({len(frames) for frames in example.rows.values()}) == 1
    at = found.reference
    assert at == 6
    for example, number in zip(shown, chosen(found).values(), strict=True):
        first = number // config.batch_size * config.batch_size
        batch = found.windows.batch(first, config.batch_size)
        again = list(contenders.predict("m", batch))[at - 1].frame[number - first]
        real = batch.data.image[number - first, batch.context + at - 1]
        error = float((again - real).square().mean())
        assert error == pytest.approx(found.errors["m"][number], rel=1e-5)
        assert example.psnr["m"] == pytest.approx(10 * math.log10(4 / error), abs=1e-4)


def test_progress_ends_at_its_total(coded_store: EpisodeStore) -> None:
    told: list[tuple[int, int]] = []
    contenders = Contenders({"m": (_Counting(), coded_store.normalisation)})  # type: ignore[dict-item]
    measure(contenders, coded_store, CONFIG, progress=lambda _, d, t: told.append((d, t)))
    assert told[-1][0] == told[-1][1]
    assert all(a[0] < b[0] for a, b in itertools.pairwise(told))
