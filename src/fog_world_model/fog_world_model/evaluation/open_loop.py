"""Open-loop error by horizon: imagine along recorded actions, compare with what was recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler, to_uint8_image
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState


@dataclass(frozen=True)
class OpenLoop:
    """Figures on held-out episodes; every list has one value per horizon."""

    horizon: list[int]
    model_psnr: list[float]
    """Peak signal-to-noise ratio of the global model's frames, dB, of the squared error averaged
    over all windows. (The mean over windows of each one's own ratio, given below, is dominated by
    windows in which nothing moves, where repeating the last frame is nearly without error.)"""
    copy_last_psnr: list[float]
    """The same for repeating the last context frame."""
    local_psnr: list[float]
    """The same for the local model's decoder (empty without a local model)."""
    model_psnr_per_window: list[float]
    """Mean over windows of each window's own ratio, dB."""
    copy_last_psnr_per_window: list[float]
    model_reward_correlation: list[float]
    """Correlation of the predicted reward with the recorded one."""
    local_reward_correlation: list[float]
    windows: int
    real: npt.NDArray[np.uint8]
    """``[window, horizon, height, width, 3]``: a few examples."""
    imagined: npt.NDArray[np.uint8]
    """``[window, horizon, height, width, 3]``: the same moments, imagined."""

    def figures(self) -> dict[str, object]:
        """Everything but the pictures, as JSON values."""
        return {k: v for k, v in vars(self).items() if k not in ("real", "imagined")}


_ROWS = ("model", "copy", "model_each", "copy_each", "local", "reward", "latent")


def psnr(left: Tensor, right: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], ``[batch, c, h, w] -> [batch]``.

    The peak is the range of the values, 2; equal images count as 100 dB.
    """
    error = (left - right).square().mean((-3, -2, -1))
    return 10 * torch.log10(4.0 / error.clamp_min(4e-10))


def pooled_psnr(left: Tensor, right: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of the squared error averaged over a batch, a scalar."""
    return psnr(left.flatten(0, 1)[None], right.flatten(0, 1)[None]).squeeze(0)


@torch.no_grad()
def evaluate_open_loop(
    model: GlobalModel,
    store: EpisodeStore,
    *,
    local: LocalModel | None = None,
    horizons: tuple[int, ...] = (1, 4, 8, 16),
    context: int = 5,
    windows: int = 64,
    examples: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> OpenLoop:
    """Imagine held-out windows.

    Args:
        model: The global model.
        store: Its ``validation`` episodes are used.
        local: Compared with too when given.
        horizons: Steps ahead at which figures are taken, ascending.
        context: Recorded observations before the first imagined one.
        windows: Largest number of windows, evenly spread over the held-out episodes.
        examples: Windows whose pictures are returned, evenly spread from first to last.
        seed: Seed of the imagination.
        device: Where the models are.

    Raises:
        FogError: No held-out episode is long enough.
    """
    context = max(context, model.context_frames)
    sampler = WindowSampler(store, length=context + horizons[-1], split="validation", seed=seed)
    places = sampler.every(max(1, len(sampler) // windows))[:windows]
    if not len(places):
        raise FogError(f"episode store {store.path}: no held-out window to evaluate on")
    data = sampler.at(places, device)
    generator = torch.Generator(device=device).manual_seed(seed)
    state = model.start(_first(data, context))
    latent = _filtered(local, _first(data, context)) if local is not None else None
    last = data.image[:, context - 1]
    rows: dict[str, list[float]] = {k: [] for k in _ROWS}
    imagined = []
    shown = torch.linspace(0, len(places) - 1, min(examples, len(places))).long()
    for t in range(horizons[-1]):
        action, real = data.action[:, context - 1 + t], data.image[:, context + t]
        state, outcome = model.step(state, action, generator)
        frame = state.frames[:, -1]
        imagined.append(frame[shown])
        if latent is not None and local is not None:
            latent = local.imagine(latent, action)
        if t + 1 not in horizons:
            continue
        reward = data.reward[:, context - 1 + t]
        rows["model"].append(float(pooled_psnr(frame, real)))
        rows["copy"].append(float(pooled_psnr(last, real)))
        rows["model_each"].append(float(psnr(frame, real).mean()))
        rows["copy_each"].append(float(psnr(last, real).mean()))
        rows["reward"].append(correlation(outcome.reward, reward))
        if latent is not None and local is not None:
            decoded = local.decoder(latent.features)[0].clamp(-1, 1)
            rows["local"].append(float(pooled_psnr(decoded, real)))
            rows["latent"].append(correlation(local.reward(latent), reward))
    return OpenLoop(
        horizon=list(horizons),
        model_psnr=rows["model"],
        copy_last_psnr=rows["copy"],
        local_psnr=rows["local"],
        model_psnr_per_window=rows["model_each"],
        copy_last_psnr_per_window=rows["copy_each"],
        model_reward_correlation=rows["reward"],
        local_reward_correlation=rows["latent"],
        windows=len(places),
        real=to_uint8_image(data.image[shown, context:]),
        imagined=to_uint8_image(torch.stack(imagined, 1)),
    )


def correlation(left: Tensor, right: Tensor) -> float:
    """Pearson's correlation; 0 when one side does not vary."""
    left, right = left - left.mean(), right - right.mean()
    scale = left.norm() * right.norm()
    return float((left * right).sum() / scale) if float(scale) > 0 else 0.0


def _first(data: Windows, count: int) -> Windows:
    return Windows(
        data.image[:, :count],
        data.proprioception[:, :count],
        data.action[:, :count],
        data.reward[:, :count],
        data.end[:, :count],
    )


def _filtered(local: LocalModel, data: Windows) -> LatentState:
    states, _, _ = local.filter(data, sample=False)
    return LatentState(states.deterministic[:, -1], states.stochastic[:, -1])
