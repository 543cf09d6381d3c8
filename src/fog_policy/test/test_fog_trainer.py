"""The policy's training: what an update touches, what stops it, and that it improves a policy."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fog_policy.decoupled_gradient import Rollout
from fog_policy.fog_trainer import FogConfig, FogTrainer
from fog_policy.imagined_buffer import ImaginedBuffer, joined
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import Windows, WindowSampler, to_uint8_image
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel, WorldState, preset
from fog_world_model.global_model.outcome import Outcome
from fog_world_model.imagination import ImaginedStep
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.local_model.rssm import LatentState
from fog_world_model.task import task_from_dict
from fog_world_model.training.checkpoint import open_checkpoint

SIZES = {"height": 16, "width": 16, "action_size": 3, "proprioception_size": 2}
CONFIG = FogConfig(
    environments=4,
    horizon=3,
    imagined_episode=6,
    context=3,
    refresh_batch=2,
    refresh_steps=1,
    local_share=0.0,
    check_every=0,
    device="cpu",
)


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


def trainer(
    store: EpisodeStore,
    local: LocalModel,
    config: FogConfig = CONFIG,
    kind: type[GlobalModel] = GlobalModel,
) -> FogTrainer:
    torch.manual_seed(0)
    world = kind(preset("tiny", **SIZES)).requires_grad_(False)
    return FogTrainer(
        world,
        local,
        WindowSampler(store, length=config.context, seed=0),
        WindowSampler(store, length=config.horizon + 1, seed=1),
        config,
    )


def manifest(store: EpisodeStore) -> dict[str, Any]:
    return {
        "kind": "policy",
        "task": store.task.to_dict(),
        "normalisation": store.normalisation.to_dict(),
    }


def copied(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


def changed(before: list[Tensor], parameters: Iterable[Tensor]) -> bool:
    return any(not torch.equal(b, p) for b, p in zip(before, parameters, strict=True))


def test_an_update_touches_what_it_should(tiny_store: EpisodeStore, tiny_local: LocalModel) -> None:
    given = copied(tiny_local.parameters())
    made = trainer(tiny_store, tiny_local)
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


def test_nothing_is_refreshed_when_told_so(
    tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    made = trainer(tiny_store, tiny_local, replace(CONFIG, refresh_steps=0))
    before = copied(made.local_model.parameters())
    made.update()
    assert not changed(before, made.local_model.parameters())


def test_same_seed_same_updates(tiny_store: EpisodeStore, tiny_local: LocalModel) -> None:
    def logs(seed: int) -> list[dict[str, float]]:
        made = trainer(tiny_store, tiny_local, replace(CONFIG, seed=seed))
        return [made.update() for _ in range(2)]

    first = logs(0)
    assert first == logs(0)
    assert first != logs(1)


def test_environments_are_restarted_when_due(
    tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    """6 imagined steps at most, checked before each rollout of 3, so none gets beyond 8."""
    made = trainer(tiny_store, tiny_local)
    for _ in range(4):
        made.update()
        assert int(made.env.age.max()) <= 8


def test_improves_what_pays(tiny_store: EpisodeStore, tiny_local: LocalModel) -> None:
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
        CONFIG, environments=16, refresh_steps=0, actor_rate=3e-3, imagined_episode=30, horizon=4
    )
    made = trainer(tiny_store, tiny_local, config, PaidForActing)
    first = made.update()["reward"]
    for _ in range(25):
        last = made.update()
    with torch.no_grad():
        action = made.actor.mode(made.coupled.state.features)
    assert abs(first) < 0.3
    assert last["reward"] > first + 0.3
    assert float(action[:, 0].mean()) > 0.4
    assert float(action[:, 0].mean()) > float(action[:, 1:].abs().mean())


def test_a_local_model_that_is_not_finite_stops(
    tmp_path: Path, tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    """With the update and the norm in the message; the checkpoint of before is kept."""
    made = trainer(tiny_store, tiny_local, replace(CONFIG, max_updates=2))
    made.train(tmp_path / "policy", manifest(tiny_store))
    with torch.no_grad():
        made.local_model.rssm.cell.weight_ih[0, 0] = float("nan")
    made.config = replace(CONFIG, max_updates=4)
    actor = copied(made.actor.parameters())
    with pytest.raises(
        FogError, match=r"^update 2: the gradient of the actor is not finite \(norm nan"
    ):
        made.train(tmp_path / "policy", manifest(tiny_store))
    assert not changed(actor, made.actor.parameters())
    assert open_checkpoint(tmp_path / "policy", "policy").manifest["updates"] == 2


def test_errors_name_the_setting(tiny_store: EpisodeStore, tiny_local: LocalModel) -> None:
    made = trainer(tiny_store, tiny_local)
    for name, setting in (
        ("actor", "actor_rate"), ("critic", "critic_rate"), ("local", "refresh_rate"),
    ):  # fmt: skip
        module = {"actor": made.actor, "critic": made.critic, "local": made.local_model}[name]
        loss = next(module.parameters()).sum() * float("inf")
        with pytest.raises(
            FogError, match=rf"gradient of the {name} is not finite.*lower {setting}"
        ):
            made._descend(name, module, loss)
        assert hasattr(made.config, setting)


def test_checkpoint_and_resume(
    tmp_path: Path, tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    first = trainer(tiny_store, tiny_local, replace(CONFIG, max_updates=3))
    result = first.train(tmp_path / "policy", manifest(tiny_store))
    assert (result.updates, result.imagined_steps, result.interrupted) == (3, 36, False)
    assert [row["update"] for row in result.curve] == [1, 2, 3]

    second = trainer(tiny_store, tiny_local, replace(CONFIG, max_updates=3))
    assert changed(copied(first.actor.parameters()), second.actor.parameters())
    loaded = second.train(tmp_path / "policy", manifest(tiny_store), resume=True)
    assert loaded.updates == 3  # nothing was left to do
    for name in ("actor", "critic", "target", "local_model"):
        left, right = getattr(first, name), getattr(second, name)
        assert not changed(copied(left.parameters()), right.parameters()), name
    assert float(second.log_temperature) == pytest.approx(float(first.log_temperature))

    third = trainer(tiny_store, tiny_local, replace(CONFIG, max_updates=5))
    result = third.train(tmp_path / "policy", manifest(tiny_store), resume=True)
    assert (result.updates, result.imagined_steps) == (5, 60)
    assert [row["update"] for row in result.curve] == [1, 2, 3, 4, 5]


def test_states_after_a_resume_are_of_the_loaded_model(
    tmp_path: Path, tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    first = trainer(tiny_store, tiny_local, replace(CONFIG, max_updates=1))
    with torch.no_grad():
        for parameter in first.local_model.rssm.posterior_head.parameters():
            parameter.add_(0.1)  # as if it had been refreshed for long
    first.train(tmp_path / "policy", manifest(tiny_store))
    second = trainer(tiny_store, tiny_local, replace(CONFIG, max_updates=1))
    second.train(tmp_path / "policy", manifest(tiny_store), resume=True)
    state = second.coupled.state
    # They are what the loaded model makes of what the environments show.
    image, vector = second.env.observation
    with torch.no_grad():
        embedding = second.local_model.encoder(image, vector)
        posterior = second.local_model.rssm.posterior(state.deterministic, embedding)
    torch.testing.assert_close(posterior.mean, state.stochastic, rtol=0, atol=1e-5)


def test_another_task_is_not_resumed(
    tmp_path: Path, tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    made = trainer(tiny_store, tiny_local, replace(CONFIG, max_updates=1))
    made.train(tmp_path / "policy", manifest(tiny_store))
    other = task_from_dict({**tiny_store.task.to_dict(), "name": "other"})
    with pytest.raises(FogError, match="was made for task 'tiny'"):
        made.train(
            tmp_path / "policy", {**manifest(tiny_store), "task": other.to_dict()}, resume=True
        )


def test_sigterm_ends_with_a_whole_checkpoint(
    tmp_path: Path,
    tiny_store: EpisodeStore,
    tiny_local: LocalModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = trainer(tiny_store, tiny_local)
    update = made.update

    def stopped_in_the_second() -> dict[str, float]:
        if made.updates == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update()

    monkeypatch.setattr(made, "update", stopped_in_the_second)
    result = made.train(tmp_path / "policy", manifest(tiny_store))
    assert result.interrupted
    assert open_checkpoint(tmp_path / "policy", "policy").manifest["updates"] == result.updates == 2


def test_gradient_check_and_local_share(
    tmp_path: Path, tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    """The first half in the local model alone, without a frame; then in the global one."""
    config = replace(CONFIG, max_updates=4, local_share=0.5, check_every=1, check_directions=1)
    made = trainer(tiny_store, tiny_local, config)
    result = made.train(tmp_path / "policy", manifest(tiny_store))
    assert [row["local_steps"] for row in result.curve] == [12, 24, 24, 24]
    assert [row["imagined_steps"] for row in result.curve] == [0, 0, 12, 24]
    assert ["gradient_cosine" in row for row in result.curve] == [False, False, True, True]
    assert all(-1 <= row["gradient_cosine"] <= 1 for row in result.curve[2:])


def test_first_frame_after_an_end_is_that_of_the_new_context(
    tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    """With rollouts of one step that always end, every trajectory begins with a recorded frame."""
    config = replace(CONFIG, horizon=1, imagined_episode=100)
    made = trainer(tiny_store, tiny_local, config, AlwaysEnding)
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


def hand_made(ends: list[list[int]], number: float = 0.0) -> tuple[Tensor, Tensor, Rollout]:
    """A rollout, ``ends[time][env]``; images say the time, rewards are 10 env + time."""
    end = torch.tensor(ends)
    time, environments = end.shape

    def image(t: int) -> Tensor:
        return torch.full((environments, 3, 2, 2), t / 127.5 - 1)

    def vector(t: int) -> Tensor:
        return torch.stack([torch.arange(environments) + number, torch.full((environments,), t)], 1)

    steps = [
        ImaginedStep(image(t + 1), vector(t + 1), torch.arange(environments) * 10.0 + t, end[t] > 0)
        for t in range(time)
    ]
    actions = torch.arange(time)[:, None, None] * torch.ones(1, environments, 2)
    nothing = torch.zeros(time, environments)
    flow = Rollout(
        nothing[..., None], nothing[..., None], actions, nothing, nothing, end.float(), steps,
        LatentState(torch.zeros(environments, 1), torch.zeros(environments, 1)),
    )  # fmt: skip
    return image(0), vector(0), flow


def test_buffer_keeps_only_whole_trajectories() -> None:
    """An end on the way means a restart there; an end with the last step is part of the story."""
    buffer = ImaginedBuffer(10, seed=0)
    buffer.add(*hand_made([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]))
    assert len(buffer) == 2
    windows = buffer.sample(40)
    assert set(windows.proprioception[:, 0, 0].tolist()) == {0.0, 2.0}
    assert windows.image.shape == (40, 4, 3, 2, 2)
    assert ((windows.image[:, :, 0, 0, 0] + 1) * 127.5).round().tolist() == [[0, 1, 2, 3]] * 40
    assert windows.proprioception[0, :, 1].tolist() == [0, 1, 2, 3]
    # a_t, r_t and d_t lie beside o_t; the last row's are unused.
    assert windows.action[0, :, 0].tolist() == [0, 1, 2, 0]
    for i in range(40):
        e = float(windows.proprioception[i, 0, 0])
        assert windows.reward[i].tolist() == [10 * e, 10 * e + 1, 10 * e + 2, 0]
        assert windows.end[i].tolist() == [0, 0, float(e == 0), 0]


def test_buffer_forgets_the_oldest() -> None:
    buffer = ImaginedBuffer(3, seed=0)
    for number in range(5):
        buffer.add(*hand_made([[0], [0]], number=number))
    assert len(buffer) == 3
    assert set(buffer.sample(100).proprioception[:, 0, 0].tolist()) == {2.0, 3.0, 4.0}


def test_joined_takes_the_shorter_length() -> None:
    def windows(batch: int, time: int, value: float) -> Windows:
        return Windows(
            torch.full((batch, time, 3, 2, 2), value),
            torch.full((batch, time, 2), value),
            torch.full((batch, time, 2), value),
            torch.full((batch, time), value),
            torch.full((batch, time), value),
        )

    both = joined(windows(2, 5, 1.0), windows(3, 4, 2.0))
    assert both.image.shape == (5, 4, 3, 2, 2)
    assert both.reward.tolist() == [[1.0] * 4] * 2 + [[2.0] * 4] * 3
    np.testing.assert_array_equal(both.action[:, 0, 0], [1, 1, 2, 2, 2])
