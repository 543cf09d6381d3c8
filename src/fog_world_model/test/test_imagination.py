"""The imagined environment: repeatable, and each environment on its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.imagination import ImaginedEnv, ImaginedStep


def actions(count: int, environments: int = 4) -> Tensor:
    return torch.rand(count, environments, 2, generator=torch.Generator().manual_seed(7)) * 2 - 1


def run(env: ImaginedEnv, count: int = 4) -> list[ImaginedStep]:
    return [env.step(a) for a in actions(count, env.environments)]


def same(left: list[ImaginedStep], right: list[ImaginedStep]) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(left, right, strict=True)
        for name in ("image", "proprioception", "reward", "end")
    )


def environment(
    store: EpisodeStore, model: GlobalModel, *, seed: int, contexts: int = 0, max_steps: int = 8
) -> ImaginedEnv:
    sampler = WindowSampler(store, length=3, seed=contexts)
    env = ImaginedEnv(model, sampler, environments=4, max_steps=max_steps, seed=seed)
    env.restart()
    return env


def test_same_seed_and_actions_give_the_same_steps(
    coded_store: EpisodeStore, tiny_global: GlobalModel
) -> None:
    first = run(environment(coded_store, tiny_global, seed=1))
    assert same(first, run(environment(coded_store, tiny_global, seed=1)))
    assert not same(first, run(environment(coded_store, tiny_global, seed=2)))
    assert not same(first, run(environment(coded_store, tiny_global, seed=1, contexts=5)))
    assert first[0].image.shape == (4, 3, 16, 16)
    assert first[0].end.dtype == torch.bool


def test_snapshot_and_restore(coded_store: EpisodeStore, tiny_global: GlobalModel) -> None:
    """Steps, restarts, ages and counts after going back are those of the first time."""
    env = environment(coded_store, tiny_global, seed=1)
    run(env, 2)
    before = env.snapshot()
    mask = torch.tensor([True, False, True, False])

    def go_on() -> tuple[list[ImaginedStep], Tensor, Tensor, int]:
        steps = run(env, 2)
        contexts = env.restart(mask)
        return [*steps, *run(env, 3)], contexts.image, env.age, env.steps

    first = go_on()
    env.restore(before)
    second = go_on()
    assert same(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])
    assert first[3] == second[3] == 4 * 7


def test_restart_touches_only_the_chosen_ones(tiny_env: ImaginedEnv) -> None:
    tiny_env.restart()
    run(tiny_env, 3)
    image, vector = tiny_env.observation
    state, age = tiny_env.snapshot()[0], tiny_env.age
    mask = torch.tensor([False, True, True, False])
    contexts = tiny_env.restart(mask)
    after = tiny_env.snapshot()[0]
    for name in ("frames", "actions", "proprioception", "recurrent"):
        old, new = getattr(state, name), getattr(after, name)
        assert torch.equal(old[~mask], new[~mask]), name
        assert not torch.equal(old[mask], new[mask]), name
    assert tiny_env.age.tolist() == [int(age[0]), 0, 0, int(age[3])]
    # What it shows now is what it stopped at, or the end of the new context.
    now_image, now_vector = tiny_env.observation
    assert torch.equal(now_image[~mask], image[~mask])
    assert torch.equal(now_vector[~mask], vector[~mask])
    assert torch.equal(now_image[mask], contexts.image[mask, -1])
    assert torch.equal(now_vector[mask], contexts.proprioception[mask, -1])


def test_a_restart_does_not_change_the_imagination_of_the_others(
    coded_store: EpisodeStore, tiny_global: GlobalModel
) -> None:
    left, right = (environment(coded_store, tiny_global, seed=1) for _ in range(2))
    run(left, 2)
    run(right, 2)
    mask = torch.tensor([True, False, False, False])
    left.restart(mask)
    for a, b in zip(run(left, 3), run(right, 3), strict=True):
        torch.testing.assert_close(a.image[~mask], b.image[~mask])
        torch.testing.assert_close(a.reward[~mask], b.reward[~mask])
        assert not torch.allclose(a.image[mask], b.image[mask])


def test_due(coded_store: EpisodeStore, tiny_global: GlobalModel) -> None:
    """Ages are staggered over max_steps, so one of four becomes due every second step."""
    env = environment(coded_store, tiny_global, seed=0, max_steps=8)
    assert env.age.tolist() == [0, 2, 4, 6]
    assert not env.due.any()
    run(env, 2)
    assert env.due.tolist() == [False, False, False, True]
    env.restart(env.due)
    assert not env.due.any()
    run(env, 2)
    assert env.due.tolist() == [False, False, True, False]
    assert env.steps == 16


@pytest.mark.parametrize(
    ("logit", "share"), [(-100.0, 0.0), (0.0, 0.5), (1.0986123, 0.75), (100.0, 1.0)]
)
def test_ends_come_with_their_probability(
    coded_store: EpisodeStore, tiny_global: GlobalModel, logit: float, share: float
) -> None:
    last = tiny_global.outcome.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight[tiny_global.config.outcome.bins].zero_()
        last.bias[tiny_global.config.outcome.bins] = logit
    sampler = WindowSampler(coded_store, length=3)
    env = ImaginedEnv(tiny_global, sampler, environments=64, max_steps=100, seed=0)
    env.restart()
    ends = torch.stack([s.end for s in run(env, 8)]).float()
    assert float(ends.mean()) == pytest.approx(share, abs=0.06)
    # Drawn for each environment on its own.
    if 0 < share < 1:
        assert 0 < float(ends.mean(0).std()) < 0.4


def test_step_before_restart(tiny_env: ImaginedEnv) -> None:
    with pytest.raises(RuntimeError, match=r"before ImaginedEnv\.restart"):
        tiny_env.step(torch.zeros(4, 2))
    with pytest.raises(RuntimeError, match=r"before ImaginedEnv\.restart"):
        _ = tiny_env.observation


def test_nothing_has_a_gradient(coded_store: EpisodeStore, tiny_global: GlobalModel) -> None:
    env = environment(coded_store, tiny_global, seed=0)
    step = env.step(torch.zeros(4, 2, requires_grad=True))
    assert not step.image.requires_grad
    assert not step.reward.requires_grad
