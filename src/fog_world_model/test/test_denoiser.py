"""EDM preconditioning, noise levels and sampler against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fog_world_model.global_model.denoiser import (
    Denoiser,
    DenoiserConfig,
    Preconditioning,
    preconditioning,
)
from fog_world_model.global_model.sampler import Sampler, SamplerConfig

SIZES = {"height": 16, "width": 16, "action_size": 2, "proprioception_size": 3}
SMALL = DenoiserConfig(patch=4, channels=(16, 32), embedding=32)


@pytest.mark.parametrize(
    ("sigma", "offset", "c_in", "c_skip", "c_out", "c_noise"),
    [
        # 1 / sqrt(1 + 0.25), 0.25 / 1.25, 0.5 / sqrt(1.25), ln(1) / 4
        (1.0, 0.0, 0.894427, 0.2, 0.447214, 0.0),
        # sqrt(0.16 + 0.09) = 0.5: 1 / sqrt(0.5), 0.25 / 0.5, 0.25 / sqrt(0.5), ln(0.5) / 4
        (0.4, 0.3, 1.414214, 0.5, 0.353553, -0.173287),
        # 1 / sqrt(25.25), 0.25 / 25.25, 2.5 / sqrt(25.25), ln(5) / 4
        (5.0, 0.0, 0.199007, 0.009901, 0.497519, 0.402359),
        # 1 / sqrt(0.250004), 0.25 / 0.250004, 0.001 / sqrt(0.250004), ln(0.002) / 4
        (0.002, 0.0, 1.999984, 0.999984, 0.002000, -1.553652),
    ],
)
def test_preconditioning_by_hand(
    sigma: float, offset: float, c_in: float, c_skip: float, c_out: float, c_noise: float
) -> None:
    c = preconditioning(torch.tensor([sigma], dtype=torch.float64), 0.5, offset)
    assert float(c.c_in) == pytest.approx(c_in, abs=1e-6)
    assert float(c.c_skip) == pytest.approx(c_skip, abs=1e-6)
    assert float(c.c_out) == pytest.approx(c_out, abs=1e-6)
    assert float(c.c_noise) == pytest.approx(c_noise, abs=1e-6)


def test_preconditioning_keeps_unit_variance() -> None:
    """What EDM is for: input and target of the network have variance 1 at every noise level."""
    torch.manual_seed(0)
    clean = 0.5 * torch.randn(200_000, dtype=torch.float64)
    noise = torch.randn(200_000, dtype=torch.float64)
    for sigma in (0.01, 0.3, 2.0, 20.0):
        c = preconditioning(torch.tensor(sigma, dtype=torch.float64), 0.5, 0.0)
        noisy = clean + sigma * noise
        assert float((c.c_in * noisy).var()) == pytest.approx(1.0, abs=0.02)
        assert float(((clean - c.c_skip * noisy) / c.c_out).var()) == pytest.approx(1.0, abs=0.02)


def test_karras_noise_levels_by_hand() -> None:
    """Three levels from 5 to 0.002 with rho 7.

    5^(1/7) = 1.258499 and 0.002^(1/7) = 0.411560; half-way lies 0.835030, whose 7th power is
    0.283083.
    """
    sigmas = Sampler(SamplerConfig(steps=3, sigma_max=5.0, sigma_min=2e-3, rho=7.0), 0.5).sigmas
    assert sigmas.tolist() == pytest.approx([5.0, 0.283083, 0.002, 0.0], rel=1e-4)


def test_default_settings_are_those_of_the_design() -> None:
    """DESIGN, section 4."""
    config, sampler = DenoiserConfig(), SamplerConfig()
    assert (config.sigma_data, config.sigma_offset) == (0.5, 0.3)
    assert (config.noise_log_mean, config.noise_log_std) == (-0.4, 1.2)
    assert (config.sigma_min, config.sigma_max) == (2e-3, 20.0)
    assert (sampler.steps, sampler.sigma_max, sampler.sigma_min, sampler.rho) == (3, 5.0, 2e-3, 7.0)


class _Perfect(nn.Module):
    """Knows the frame."""

    def __init__(self, frame: Tensor) -> None:
        super().__init__()
        self.frame = frame
        self.seen: list[Tensor] = []
        self.levels: list[float] = []

    def forward(self, noisy: Tensor, sigma: Tensor, *_: Tensor) -> Tensor:
        self.seen.append(noisy)
        self.levels.append(float(sigma[0]))
        return self.frame

    def to_frame(self, target: Tensor, _: Tensor) -> Tensor:
        return target


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_perfect_denoiser_gives_its_frame(steps: int) -> None:
    torch.manual_seed(0)
    frame = torch.rand(2, 3, 16, 16) * 2 - 1
    stub: Any = _Perfect(frame)
    sampler = Sampler(SamplerConfig(steps=steps), 0.5)
    context, nothing = torch.zeros(2, 2, 3, 16, 16), torch.zeros(2, 0)
    for _ in range(2):  # the sampler rewinds
        stub.seen.clear()
        result = sampler.sample(stub, context, nothing, nothing, torch.Generator().manual_seed(1))
        torch.testing.assert_close(result, frame, rtol=0, atol=1e-5)
    # On its way it is the frame plus noise of the level that the denoiser is told.
    assert float(stub.seen[0].std()) == pytest.approx(5.0, rel=0.05)
    assert stub.levels[:steps] == stub.levels[steps:] == sampler.sigmas[:-1].tolist()
    for level, seen in zip(stub.levels[1:steps], stub.seen[1:], strict=True):
        expected = frame + level / 5.0 * (stub.seen[0] - frame)  # Euler on a straight line
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


def test_sampler_is_a_function_of_its_generator() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(SMALL, **SIZES)
    nn.init.normal_(denoiser.unet.conv_out.weight, std=0.1)
    sampler = Sampler(SamplerConfig(steps=2), 0.5)
    arguments = (torch.rand(2, 2, 3, 16, 16), torch.rand(2, 2, 2), torch.rand(2, 3))

    def draw(seed: int) -> Tensor:
        torch.rand(3)  # torch's global generator plays no part
        return sampler.sample(denoiser, *arguments, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), draw(6))


@pytest.mark.parametrize("residual", [False, True])
def test_target_and_frame_are_inverse(residual: bool) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(dataclasses.replace(SMALL, residual=residual), **SIZES)
    frame, last = torch.rand(4, 3, 16, 16) * 2 - 1, torch.rand(4, 3, 16, 16) * 2 - 1
    target = denoiser.to_target(frame, last)
    torch.testing.assert_close(denoiser.to_frame(target, last), frame, rtol=0, atol=1e-6)
    assert torch.equal(target, frame) != residual
    assert float(denoiser.to_frame(target + 100, last).max()) == 1.0


def test_residual_is_scaled_to_sigma_data() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(SMALL, **SIZES)
    frames = torch.cumsum(0.05 * torch.randn(64, 4, 3, 16, 16), dim=1)
    denoiser.measure_residual(frames)
    assert float(denoiser.residual_std) == pytest.approx(0.05, rel=0.02)
    target = denoiser.to_target(frames[:, 1], frames[:, 0])
    assert float(target.std()) == pytest.approx(0.5, rel=0.02)
    assert "residual_std" in denoiser.state_dict()


def test_an_untrained_residual_model_copies_at_little_noise() -> None:
    """The network starts at zero, so D(x) = c_skip x, which is 0 for the residual 0."""
    denoiser = Denoiser(SMALL, **SIZES)
    noisy, sigma = torch.zeros(2, 3, 16, 16), torch.full((2,), 0.01)
    given = (torch.rand(2, 2, 3, 16, 16), torch.rand(2, 2, 2), torch.rand(2, 3))
    assert torch.equal(denoiser(noisy, sigma, *given), noisy)


class _Seen:
    """What a denoiser's network was given, and an answer in its place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, denoiser: Denoiser, answer: Any) -> None:
        def network(noisy: Tensor, c: Preconditioning, *_: Tensor) -> Tensor:
            self.noisy, self.c = noisy, c
            answered: Tensor = answer(noisy, c)
            return answered

        monkeypatch.setattr(denoiser, "_network", network)


def _each(coefficient: Tensor) -> Tensor:
    return coefficient[:, None, None, None]


def nothing(batch: int) -> tuple[Tensor, Tensor]:
    """Actions and proprioception of zeros."""
    return torch.zeros(batch, 2, 2), torch.zeros(batch, 3)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("predict_sample", [False, True])
def test_loss_is_zero_for_the_right_answer(
    monkeypatch: pytest.MonkeyPatch, residual: bool, predict_sample: bool
) -> None:
    """The answer is worked out from EDM's definition, not from the denoiser's own target."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, residual=residual, predict_sample=predict_sample)
    denoiser = Denoiser(config, **SIZES)
    frame, context = torch.rand(8, 3, 16, 16) * 2 - 1, torch.rand(8, 2, 3, 16, 16) * 2 - 1
    last = context[:, -1]
    clean = (frame - last) * 0.5 / 0.2 if residual else frame

    def right(noisy: Tensor, c: Preconditioning) -> Tensor:
        if predict_sample:
            return clean / 0.5
        return (clean - _each(c.c_skip) * noisy) / _each(c.c_out)

    _Seen(monkeypatch, denoiser, right)
    loss, denoised = denoiser.loss(frame, context, *nothing(8))
    assert float(loss) < 1e-6
    torch.testing.assert_close(denoised, frame, rtol=0, atol=1e-3)
    sigma = torch.tensor([3.0] * 8)
    again = denoiser(torch.randn(8, 3, 16, 16), sigma, context, *nothing(8))
    torch.testing.assert_close(again, clean, rtol=0, atol=1e-4)
    # And a wrong answer costs something.
    _Seen(monkeypatch, denoiser, lambda noisy, c: right(noisy, c) + 1.0)
    assert float(denoiser.loss(frame, context, *nothing(8))[0]) > 0.5


def test_training_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """ln s ~ N(-0.4, 1.2) within [0.002, 20], plus an offset of 0.3 per channel."""
    torch.manual_seed(0)
    denoiser = Denoiser(dataclasses.replace(SMALL, residual=False), **SIZES)
    seen = _Seen(monkeypatch, denoiser, lambda noisy, _: torch.zeros_like(noisy))
    count = 4000
    denoiser.loss(torch.zeros(count, 3, 16, 16), torch.zeros(count, 1, 1), *nothing(count))
    effective = (4 * seen.c.c_noise).exp()
    sigma = (effective**2 - 0.3**2).sqrt()
    assert float(sigma.min()) >= 2e-3 * 0.9
    assert float(sigma.max()) <= 20.001
    assert float(sigma.log().mean()) == pytest.approx(-0.4, abs=0.08)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=0.08)
    # Noise beside the offset has the level that the network is told.
    within = seen.noisy.var((-2, -1)).mean(1).sqrt()
    torch.testing.assert_close(within / sigma, torch.ones(count), rtol=0, atol=0.15)
    quiet = sigma < 0.5
    offset = seen.noisy.mean((-2, -1))[quiet]
    assert float(offset.std()) == pytest.approx(0.3, abs=0.02)
    # The offset is of its own for every channel.
    assert abs(float(torch.corrcoef(offset.T)[0, 1])) < 0.1


@pytest.mark.parametrize("what", ["context", "actions", "proprio", "sigma", "noisy"])
def test_every_condition_reaches_the_output(what: str) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(SMALL, **SIZES)
    nn.init.normal_(denoiser.unet.conv_out.weight, std=0.1)
    given = {
        "noisy": torch.randn(1, 3, 16, 16),
        "sigma": torch.tensor([0.7]),
        "context": torch.rand(1, 2, 3, 16, 16),
        "actions": torch.rand(1, 2, 2),
        "proprio": torch.rand(1, 3),
    }
    with torch.no_grad():
        before = denoiser(**given)
        after = denoiser(**{**given, what: given[what] + 0.5})
    assert float((after - before).abs().max()) > 1e-4


def test_context_noise_is_added_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels are even from 0 to the largest; the network is told each as a share of that."""
    torch.manual_seed(0)
    denoiser = Denoiser(dataclasses.replace(SMALL, context_noise=0.4, residual=False), **SIZES)
    seen: list[tuple[Tensor, Tensor]] = []

    def network(noisy: Tensor, _: Preconditioning, context: Tensor, conditions: Tensor) -> Tensor:
        seen.append((context, conditions))
        return torch.zeros_like(noisy)

    monkeypatch.setattr(denoiser, "_network", network)
    clean = torch.full((2000, 2, 3, 16, 16), 0.25)
    denoiser.loss(clean[:, 0], clean, *nothing(2000))
    context, conditions = seen[0]
    told = 0.4 * conditions[:, -1]
    measured = (context - 0.25).flatten(1).std(1)
    torch.testing.assert_close(measured, told, rtol=0.1, atol=0.002)
    assert float(told.min()) < 0.01 and float(told.max()) > 0.39
    assert float(told.mean()) == pytest.approx(0.2, abs=0.01)
    # What samples without noise is told so.
    denoiser(clean[:3, 0], torch.ones(3), clean[:3], *nothing(3))
    assert torch.equal(seen[1][0], clean[:3])
    assert not seen[1][1][:, -1].any()


def test_noise_of_the_context_is_to_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual is taken to the noisy frame, so the right answer leads to the clean one."""
    torch.manual_seed(0)
    denoiser = Denoiser(dataclasses.replace(SMALL, context_noise=0.5), **SIZES)
    frame, context = torch.rand(8, 3, 16, 16) - 0.5, torch.rand(8, 2, 3, 16, 16) - 0.5
    given: list[Tensor] = []

    def right(noisy: Tensor, c: Preconditioning, context: Tensor, _: Tensor) -> Tensor:
        given.append(context)
        clean = (frame - context[:, -1]) * 0.5 / 0.2
        return (clean - _each(c.c_skip) * noisy) / _each(c.c_out)

    monkeypatch.setattr(denoiser, "_network", right)
    loss, denoised = denoiser.loss(frame, context, *nothing(8))
    assert not torch.equal(given[0], context)
    assert float(loss) < 1e-6
    torch.testing.assert_close(denoised, frame, rtol=0, atol=1e-3)
