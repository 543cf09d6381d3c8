"""The benchmark of the imagination: like is compared with like, and one JSON object comes out."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from fog_bringup.benchmarks import imagination
from fog_bringup.benchmarks.diamond_network import SIGMAS, DiamondNetwork
from fog_bringup.cli import main
from fog_world_model.global_model.denoiser import preconditioning
from fog_world_model.global_model.sampler import Sampler, SamplerConfig


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)  # tiny networks: more threads only get into each other's way
    monkeypatch.setattr(imagination, "SIDE", 16)
    monkeypatch.setattr(imagination, "REFERENCE_BATCHES", (1, 2))
    monkeypatch.setattr(
        imagination, "_peak", lambda *_: {p: {"x": 100.0} for p in ("float32", "bfloat16")}
    )


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["benchmark", "imagination", "--json", "--seconds", "0.01", "--presets", "tiny"]
    command += ["--batches", "1", "3", "--compile-seconds", "0", "--device", "cpu"]
    assert main(command) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["device"]
    tiny = figures["presets"]["tiny"]
    assert tiny["parameters"] > tiny["denoiser_parameters"] > 1000
    assert set(tiny["batch"]) == {"1", "3"}
    for batch, row in tiny["batch"].items():
        assert row["eager_fps"] >= row["float32_fps"] > 0
        assert row["compiled_fps"] is None
        assert "used up" in tiny["skipped"][f"{batch} compiled"]
        assert row["share_of_peak"] == pytest.approx(
            tiny["gflop_per_frame"] * row["eager_fps"] / 100.0
        )
    reference = figures["reference"]
    ratios = [row["ours_over_reference"] for row in reference["batch"].values()]
    assert reference["ours_over_reference"] == min(ratios)
    assert reference["enough"] == (min(ratios) >= 1.5)


def test_reference_has_the_size_of_diamond() -> None:
    """4,406,851 as published, of which 18 x 64 are the embedding of discrete actions."""
    count = sum(p.numel() for p in DiamondNetwork(action_size=2).parameters())
    assert count - (2 * 64 + 64) == 4_406_851 - 18 * 64


def test_reference_runs_as_many_forwards_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at the same noise levels; a network that knows the frame makes the loop give it."""
    assert Sampler(SamplerConfig(), 0.5).sigmas.tolist() == pytest.approx(SIGMAS, rel=1e-4)
    network = DiamondNetwork(action_size=2)
    frame = torch.rand(2, 3, 16, 16) * 2 - 1
    levels: list[float] = []

    def knows(noisy: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        sigma = SIGMAS[len(levels)]
        c = preconditioning(torch.tensor([sigma]), 0.5, 0.3)
        torch.testing.assert_close(c_noise[:1], c.c_noise)
        levels.append(sigma)
        return (frame - c.c_skip * noisy / c.c_in) / c.c_out

    monkeypatch.setattr(network, "forward", knows)
    imagined = network.imagine(torch.rand(2, 12, 16, 16), torch.zeros(2, 4, 2))
    torch.testing.assert_close(imagined, frame, rtol=0, atol=1e-4)
    assert len(levels) == 3


def test_reference_looks_at_everything() -> None:
    torch.manual_seed(0)
    network = DiamondNetwork(action_size=2).eval()
    given = [torch.randn(1, 3, 16, 16), torch.zeros(1), torch.rand(1, 12, 16, 16)]
    given.append(torch.rand(1, 4, 2))
    with torch.no_grad():
        before = network(*given)
        assert before.shape == (1, 3, 16, 16)
        for i in range(4):
            changed = [g + 0.5 * (i == j) for j, g in enumerate(given)]
            assert float((network(*changed) - before).abs().max()) > 1e-5, i


def test_operations_are_counted() -> None:
    """Of the tiny model by hand: its first convolution alone, twice for two denoising steps."""
    device = torch.device("cpu")
    model = imagination._model("tiny", device)
    first = model.denoiser.unet.conv_in
    assert isinstance(first, nn.Conv2d)
    once = 2 * first.weight.numel() * (16 // 4) ** 2
    total = imagination._gflop_per_frame(model, device) * 1e9
    assert total > 2 * once
    # Every weight of a convolution or matrix is used at one place at least.
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert total > 2 * weights


def test_turns_are_medians() -> None:
    calls: list[str] = []
    steps = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    times = imagination._in_turns(steps, 0.001, torch.device("cpu"))
    assert set(times) == {"a", "b"}
    assert calls[:4] == ["a", "b", "a", "b"], "one after the other, so that both meet the same"
