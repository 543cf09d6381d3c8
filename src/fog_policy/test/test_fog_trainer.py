"""The policy's update: what it touches, what stops it, and that it improves a policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.policy_training import PolicyLoopConfig, train_learner
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler, to_uint8_image
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel, WorldState
from fog_world_model.global_model.outcome import Outcome
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.training.checkpoint import open_checkpoint

Make = Callable[..., FogTrainer]


class PaidForActing(GlobalModel):
    """Nothing ever changes; the reward is the first field of the action."""

    def step(
        self, state: WorldState, action: Tensor, generator: torch.Generator
    ) -> tuple[WorldState, Outcome]:
        reward = action[:, 0]
        return state, Outcome(reward, torch.zeros_like(reward), state.proprioception)


class AlwaysEnding(GlobalModel):
    """Every step is an end, and shows a frame that no recording has."""

    def step(
        self, state: WorldState, action: Tensor, generator: torch.Generator
    ) -> tuple[WorldState, Outcome]:
        frames = torch.cat([state.frames[:, 1:], torch.full_like(state.frames[:, :1], 0.123)], 1)
        after = replace(state, frames=frames, proprioception=state.proprioception + 100)
        one = torch.ones(len(action))
        return after, Outcome(one, one, after.proprioception)


def copied(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


def changed(before: list[Tensor], parameters: Iterable[Tensor]) -> bool:
    return any(not torch.equal(b, p) for b, p in zip(before, parameters, strict=True))


def test_an_update_touches_what_it_should(
    make_trainer: Make, tiny_config: FogConfig, tiny_local: LocalModel
) -> None:
    given = copied(tiny_local.parameters())
    made = make_trainer(tiny_config)
    outcome = made.env.model.outcome
    last = outcome.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias[outcome.config.bins] = -100.0  # no ends: all trajectories are whole
    parts: dict[str, nn.Module] = {
        "actor": made.actor, "critic": made.critic, "target": made.target,
        "local": made.local_model, "global": made.env.model,
    }  # fmt: skip
    before = {name: copied(part.parameters()) for name, part in parts.items()}
    log = made.update()
    touched = {name for name, part in parts.items() if changed(before[name], part.parameters())}
    assert touched == {"actor", "critic", "target", "local"}
    assert not changed(given, tiny_local.parameters()), "the caller's model is copied"
    assert all(math.isfinite(v) for v in log.values())
    assert {"reward", "objective", "gradient_norm", "critic_loss", "local_loss"} <= set(log)
    assert made.updates == 1
    assert made.env.steps == 4 * 3
    # The target critic moves a fifth of the way.
    for old, new, target in zip(
        before["target"], made.critic.parameters(), made.target.parameters(), strict=True
    ):
        torch.testing.assert_close(target, old + 0.2 * (new - old))


def test_nothing_is_refreshed_when_told_so(make_trainer: Make, tiny_config: FogConfig) -> None:
    made = make_trainer(replace(tiny_config, refresh_steps=0))
    before = copied(made.local_model.parameters())
    made.update()
    assert not changed(before, made.local_model.parameters())


def test_same_seed_same_updates(make_trainer: Make, tiny_config: FogConfig) -> None:
    def logs(seed: int) -> list[dict[str, float]]:
        made = make_trainer(replace(tiny_config, seed=seed))
        return [made.update() for _ in range(2)]

    first = logs(0)
    assert first == logs(0)
    assert first != logs(1)


def test_more_passes_move_the_actor_on_and_nothing_else_in_the_world(
    make_trainer: Make, tiny_config: FogConfig
) -> None:
    """The rollout, its log and where the environments are stay those of one pass."""

    def after(passes: int) -> tuple[dict[str, float], list[Tensor], Tensor]:
        made = make_trainer(replace(tiny_config, actor_passes=passes, refresh_steps=0))
        log = made.update()
        return log, copied(made.actor.parameters()), made.phase.state.features

    log, once, state = after(1)
    log_again, thrice, state_again = after(3)
    assert log == log_again
    assert torch.equal(state, state_again)
    assert changed(once, thrice)


def test_environments_are_restarted_when_due(make_trainer: Make, tiny_config: FogConfig) -> None:
    """6 imagined steps at most, checked before each rollout of 3, so none gets beyond 8."""
    made = make_trainer(tiny_config)
    for _ in range(4):
        made.update()
        assert int(made.env.age.max()) <= 8


def test_improves_what_pays(
    make_trainer: Make, tiny_config: FogConfig, tiny_local: LocalModel, tiny_store: EpisodeStore
) -> None:
    """The reward is the first action field. The local model is taught that, then the policy learns.

    An untrained policy acts around zero; gradients of a wrong sign would drive it to -1.
    """
    optimiser = torch.optim.Adam(tiny_local.parameters(), lr=3e-3)
    sampler = WindowSampler(tiny_store, length=5, seed=5)
    for _ in range(60):
        windows = sampler.sample(16)
        losses = tiny_local.loss(replace(windows, reward=windows.action[..., 0]))
        optimiser.zero_grad()
        losses["reward"].backward()
        optimiser.step()
    config = replace(
        tiny_config,
        environments=16,
        refresh_steps=0,
        actor_rate=3e-3,
        imagined_episode=30,
        horizon=4,
    )
    made = make_trainer(config, PaidForActing)
    first = made.update()["reward"]
    for _ in range(25):
        last = made.update()
    with torch.no_grad():
        action = made.actor.mode(made.phase.state.features)
    assert abs(first) < 0.3
    assert last["reward"] > first + 0.3
    assert float(action[:, 0].mean()) > 0.4
    assert float(action[:, 0].mean()) > float(action[:, 1:].abs().mean())


def test_a_local_model_that_is_not_finite_stops(
    tmp_path: Path, make_trainer: Make, tiny_config: FogConfig, manifest: dict[str, Any]
) -> None:
    """With the update and the norm in the message; the checkpoint of before is kept."""
    made = make_trainer(tiny_config)
    path = tmp_path / "policy"
    train_learner(made, PolicyLoopConfig(max_updates=2), path, manifest)
    with torch.no_grad():
        made.local_model.rssm.cell.weight_ih[0, 0] = float("nan")
    actor = copied(made.actor.parameters())
    with pytest.raises(
        FogError,
        match=r"^update 2: the local model's next state is not finite at step 0 of the rollout, in "
        r"4 of 4 environments; lower refresh_rate",
    ):
        train_learner(made, PolicyLoopConfig(max_updates=4), path, manifest)
    assert not changed(actor, made.actor.parameters())
    assert open_checkpoint(path, "policy").manifest["updates"] == 2


def test_errors_name_the_setting(make_trainer: Make, tiny_config: FogConfig) -> None:
    made = make_trainer(tiny_config)
    for name, setting in (
        ("actor", "actor_rate"), ("critic", "critic_rate"),
    ):  # fmt: skip
        module = {"actor": made.actor, "critic": made.critic}[name]
        loss = next(module.parameters()).sum() * float("inf")
        with pytest.raises(
            FogError, match=rf"gradient of the {name} is not finite.*lower {setting}"
        ):
            made._descend(name, module, loss)
        assert hasattr(made.config, setting)


def test_first_frame_after_an_end_is_that_of_the_new_context(
    make_trainer: Make, tiny_config: FogConfig, tiny_store: EpisodeStore
) -> None:
    """With rollouts of one step that always end, every trajectory begins with a recorded frame."""
    config = replace(tiny_config, horizon=1, imagined_episode=100)
    made = make_trainer(config, AlwaysEnding)
    for _ in range(3):
        made.update()
    recorded = {frame.tobytes() for frame in tiny_store.load("image")}
    windows = made.buffer.sample(50)
    assert len(made.buffer) == 12
    first = to_uint8_image(windows.image)[:, 0]
    assert all(frame.tobytes() in recorded for frame in first)
    assert (windows.proprioception[:, 0] < 50).all()
    assert (windows.proprioception[:, 1] > 50).all()
    torch.testing.assert_close(windows.image[:, 1], torch.full_like(windows.image[:, 1], 0.123),
                               rtol=0, atol=1 / 255)  # fmt: skip
