"""Another light in what the local model sees: what is drawn, and what training with it brings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.light_jitter import light_jitter
from fog_world_model.data.windows import Windows
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel, LocalModelConfig
from fog_world_model.training.global_draws import GlobalDraws
from fog_world_model.training.loop_config import LoopConfig
from fog_world_model.training.train_world_models import load_local, train_local

STILL = LoopConfig(max_steps=1, batch_size=2, learning_rate=0.0, device="cpu")


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brighter by 1.25, blue by 0.9375 of that: 0.5 becomes 0.625 (0.586), and 0.9 saturates."""
    draws = iter([torch.tensor([[0.75]]), torch.tensor([[0.5, 0.5, 0.25]])])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(draws))
    image = torch.tensor([0.0, 0.5, 0.9]).mul(2).sub(1).expand(1, 2, 3, 1, 3)
    found = (light_jitter(image, 0.5) + 1) / 2
    rest, blue = torch.tensor([0.0, 0.625, 1.0]), torch.tensor([0.0, 0.5859375, 1.0])
    for time in range(2):
        torch.testing.assert_close(found[0, time, :, 0], torch.stack([rest, rest, blue]))


def test_one_light_per_window_within_its_range() -> None:
    torch.manual_seed(0)
    grey = torch.full((400, 3, 3, 2, 2), -0.5)  # 0.25 of white: nothing saturates
    found = light_jitter(grey, 0.6)
    factor = (found + 1) / 0.5
    first = factor[:, :1, :, :1, :1]
    torch.testing.assert_close(factor, first.expand_as(factor))  # over time, height and width
    assert len({round(float(f), 6) for f in first[:, 0, 0, 0, 0]}) > 390
    assert 0.4 * 0.85 <= float(first.min()) < 0.5
    assert 1.5 < float(first.max()) <= 1.6 * 1.15
    among = first.amax(2) / first.amin(2)
    assert 1.2 < float(among.max()) <= 1.15 / 0.85
    assert torch.equal(grey, torch.full_like(grey, -0.5))


def test_a_divided_batch_has_the_lights_of_the_whole() -> None:
    image = torch.rand(6, 2, 3, 4, 4) * 2 - 1
    torch.manual_seed(3)
    whole = light_jitter(image, 0.5)
    parts = []
    for first in (0, 2, 4):
        torch.manual_seed(3)
        with GlobalDraws(first, 2, 6):
            parts.append(light_jitter(image[first : first + 2], 0.5))
    assert torch.equal(torch.cat(parts), whole)


def decoded(model: LocalModel, windows: Windows, seen: Tensor) -> Tensor:
    """The last pictures, as decoded from states that have seen other ones."""
    state, _, _ = model.filter(dataclasses.replace(windows, image=seen), sample=False)
    image: Tensor = model.decoder(state.features)[0]
    return image[:, -1]


def test_a_model_trained_so_sees_through_the_dark() -> None:
    """Of eight patterns it decodes the recorded one from its dark picture."""
    torch.manual_seed(0)
    patterns = torch.rand(8, 1, 3, 4, 4).mul(2).sub(1).repeat_interleave(4, 3)
    image = patterns.repeat_interleave(4, 4).expand(8, 2, 3, 16, 16).contiguous()
    still, nothing = torch.zeros(8, 2, 2), torch.zeros(8, 2)
    windows = Windows(image, still, still, nothing, nothing)
    dark, errors = (image + 1) * 0.6 - 1, {}
    for jitter in (0.0, 0.6):
        torch.manual_seed(0)
        model = LocalModel(
            LocalModelConfig(
                height=16, width=16, action_size=2, proprioception_size=2,
                depth=8, embedding=32, deterministic=32, stochastic=8, hidden=32,
                light_jitter=jitter,
            )
        )  # fmt: skip
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(250):
            optimiser.zero_grad()
            model.loss(windows)["total"].backward()
            optimiser.step()
        with torch.no_grad():
            errors[jitter] = [
                float((decoded(model, windows, seen) - image[:, -1]).square().mean())
                for seen in (image, dark)
            ]
    rise = {jitter: dark - lit for jitter, (lit, dark) in errors.items()}
    assert rise[0.6] < 0.3 * rise[0.0], errors


def test_the_setting_is_kept_inherited_and_belongs_to_the_run(
    coded_store: EpisodeStore, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"preset": "tiny", "window": 5}
    train_local(coded_store, tmp_path / "a", STILL, light_jitter=0.5, **settings)
    train_local(coded_store, tmp_path / "b", STILL, window=5, start_from=tmp_path / "a")
    again = {"window": 5, "start_from": tmp_path / "a", "light_jitter": 0.0}
    train_local(coded_store, tmp_path / "c", STILL, **again)
    found = {name: load_local(tmp_path / name)[0].config.light_jitter for name in "abc"}
    assert found == {"a": 0.5, "b": 0.5, "c": 0.0}
    more = dataclasses.replace(STILL, max_steps=2)
    with pytest.raises(FogError, match=r"config\.light_jitter was 0\.5, is 0\.0"):
        train_local(coded_store, tmp_path / "a", more, resume=True, **settings)
    for wrong in (-0.1, 0.9, float("nan")):
        with pytest.raises(FogError, match=r"^--light-jitter .*: expected 0 to 0\.8$"):
            train_local(coded_store, tmp_path / "d", STILL, light_jitter=wrong, **settings)
