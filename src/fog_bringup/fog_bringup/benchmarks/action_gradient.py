"""How well derivatives by an action point where the global model's rewards rise.

See :mod:`fog_policy.action_gradient`; here it is asked of checkpoints and recordings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fog_bringup.benchmarks.device_name import device_name
from fog_policy.action_gradient import action_gradients, agreement
from fog_policy.fog_config import FogConfig
from fog_policy.imagined_setup import load_contexts, set_up
from fog_policy.local_world import LatentWorld
from fog_policy.warm_start import open_start
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows
from fog_world_model.errors import FogError
from fog_world_model.training.train_world_models import load_worlds

_ORIGIN = ("kind", "method", "preset", "step", "updates", "data_hash", "commit")
_COSINES = {"decoupled": "decoupled", "local": "local alone", "gain": "gain"}
"""Name of a figure -> head of its column."""


@dataclass(frozen=True)
class ActionSetting:
    """What is measured."""

    store: Path
    """Episode store."""
    global_model: Path
    """Checkpoint."""
    local_model: Path
    """Checkpoint of a local model, or of a policy that holds one."""
    policy: Path
    """Bundle or checkpoint."""
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    contexts: int = 64
    context_within: int = 0
    step: float = 0.25
    """Half the difference of the actions."""
    sampling_steps: int = 0
    sample_prior: bool = False
    """Through a sample of the local model's prior, not its mean."""
    seed: int = 0
    threads: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            FogError: One cannot be.
        """
        if not self.horizons or min(self.horizons) < 1:
            raise FogError(f"--horizons {self.horizons}: expected one or more, each 1 or more")
        if not 0 < self.step < 1:
            raise FogError(f"--step {self.step}: expected more than 0 and less than 1")


class _Once:
    """Hands out a bank's contexts in their order, each of them once."""

    def __init__(self, bank: ContextBank) -> None:
        self._bank = bank
        self.generator_state = bank.generator_state

    def sample(self, batch: int, device: torch.device | str) -> Windows:
        return self._bank.at(torch.arange(batch, device=device))


def measure(setting: ActionSetting) -> dict[str, Any]:
    """Differentiate rollouts by their first actions, and compare.

    Args:
        setting: What is measured.

    Returns:
        ``horizons``; for each of ``decoupled``, ``local`` and ``gain`` (their difference) the
        ``value``, ``low`` and ``high`` by horizon, None where there is none; ``contexts`` that were
        counted by horizon; ``sizes``, root mean square of the derivatives; and where it came from.

    Raises:
        FogError: An artefact is missing or damaged, they do not go together, or a number cannot be.
    """
    before = torch.get_num_threads()
    try:
        return _measure(setting)
    finally:
        torch.set_num_threads(before)


def _measure(setting: ActionSetting) -> dict[str, Any]:
    (global_model, world), (local_model, local), store = load_worlds(
        setting.global_model, setting.local_model, EpisodeStore(setting.store)
    )
    policy = open_start(setting.policy, store.task)
    policy.require_local(local_model, local.normalisation, setting.local_model)
    config = FogConfig(
        environments=setting.contexts,
        contexts=setting.contexts,
        context_within=setting.context_within,
        sampling_steps=setting.sampling_steps,
        precision="float32",  # differences of what was rounded to 8 bits are noise
        seed=setting.seed,
        threads=setting.threads,
        device=setting.device,
    )
    bank = load_contexts(store, global_model, config)
    if len(bank) < setting.contexts:
        raise FogError(
            f"--contexts {setting.contexts}: episode store {store.path} has {len(bank)}; ask for "
            "at most so many, or import more recordings"
        )
    setup = set_up(global_model, local_model, _Once(bank), config)
    latent = LatentWorld(setup.local_model, sample_prior=setting.sample_prior)
    actor = policy.actor.to(setup.device).requires_grad_(False)
    with torch.no_grad():
        state = latent.start(setup.env.restart())
    horizons = tuple(sorted(set(setting.horizons)))
    generator = torch.Generator(device=setup.device).manual_seed(setting.seed)
    shape = (horizons[-1], setting.contexts, actor.config.action_size)
    noise = torch.randn(shape, generator=generator, device=setup.device)
    gradients = action_gradients(
        actor, setup.env, latent, state, noise, horizons=horizons, step=setting.step
    )
    found = agreement(gradients, episodes=bank.episodes, seed=setting.seed)
    return {
        "horizons": list(horizons),
        **{name: getattr(found, name).rounded() for name in _COSINES},
        "contexts": found.contexts,
        "sizes": found.sizes,
        "step": setting.step,
        "precision": setup.precision,
        "denoising_steps": global_model.sampler.config.steps,
        "context_within": setting.context_within,
        "sample_prior": setting.sample_prior,
        "seed": setting.seed,
        "store": {"data_hash": store.data_hash, "transitions": store.transitions},
        "made_from": {
            name: {key: manifest[key] for key in _ORIGIN if key in manifest}
            for name, manifest in (
                ("global", world.manifest), ("local", local.manifest), ("policy", policy.manifest),
            )
        },
        "device": device_name(setup.device),
        "torch": torch.__version__,
    }  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """A row per horizon.

    Args:
        result: As :func:`measure` gives it.
    """
    rows = [("steps", "contexts", *_COSINES.values())]
    for place, horizon in enumerate(result["horizons"]):
        cells = [_interval(result[name], place) for name in _COSINES]
        rows.append((str(horizon), str(result["contexts"][place]), *cells))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    asked = f"{result['step']:g} to either side, {result['denoising_steps']} denoising steps"
    lines = [f"cosine with central differences through the global model ({asked})"]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _interval(figure: Mapping[str, list[float | None]], place: int) -> str:
    value, low, high = (figure[name][place] for name in ("value", "low", "high"))
    if value is None:
        return "none"
    return f"{value:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
