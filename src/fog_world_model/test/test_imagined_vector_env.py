"""The imagined worlds as Gymnasium environments: its checks, and a loop as libraries write it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import nn

from fog_world_model.context_bank import ContextBank
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.imagined_vector_env import ImaginedVectorEnv, Observation


def make(
    store: EpisodeStore, model: GlobalModel, *, end: float = -100.0, **options: Any
) -> ImaginedVectorEnv:
    """Four environments whose episodes end with a logit."""
    last = model.outcome.heads[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight[model.config.outcome.bins].zero_()
        last.bias[model.config.outcome.bins] = end
    settings: dict[str, Any] = {"environments": 4, "max_steps": 5} | options
    return ImaginedVectorEnv(model.eval(), ContextBank.load(store, length=3), **settings)


class OneOfThem(gymnasium.Env[Observation, Any]):
    """A single environment, which Gymnasium's checker is for."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, env: ImaginedVectorEnv) -> None:
        self.env = env
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        observation, info = self.env.reset(seed=seed)
        return {k: v[0] for k, v in observation.items()}, info

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action[None])
        over = terminated[0] or truncated[0]
        shown = info["final_obs"][0] if over else {k: v[0] for k, v in observation.items()}
        return shown, float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}


@pytest.mark.parametrize("images", ["uint8", "float32"])
@pytest.mark.filterwarnings("ignore")
def test_gymnasium_checks_one_of_them(
    coded_store: EpisodeStore, tiny_global: GlobalModel, images: str
) -> None:
    """Spaces, seeding, repeatable steps, and that returned arrays are not written to later."""
    env = make(coded_store, tiny_global, environments=1, images=images)
    check_env(OneOfThem(env), skip_render_check=True)


@pytest.mark.parametrize("images", ["uint8", "float32"])
def test_spaces_of_the_batch(
    coded_store: EpisodeStore, tiny_global: GlobalModel, images: str
) -> None:
    env = make(coded_store, tiny_global, images=images)
    shape = (4, 16, 16, 3) if images == "uint8" else (4, 3, 16, 16)
    observation, _ = env.reset(seed=1)
    assert observation["image"].shape == shape
    assert observation in env.observation_space
    env.action_space.seed(0)
    observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (4,)
    assert reward.dtype == np.float32
    assert terminated.dtype == truncated.dtype == np.bool_
    assert [f.shape for f in env.render()] == [(16, 16, 3)] * 4


def test_reset_shows_recorded_observations(
    coded_store: EpisodeStore, tiny_global: GlobalModel
) -> None:
    """The coded pixels say which episode and step it is: the third of a context or later."""
    env = make(coded_store, tiny_global)
    image = env.reset(seed=3)[0]["image"]
    for number, step, blue in image[:, 0, 0]:
        assert number in coded_store.split("training")
        assert 2 <= step < coded_store.lengths[number]
        assert blue == 0


def test_episodes_are_truncated_and_reset_in_the_same_step(
    coded_store: EpisodeStore, tiny_global: GlobalModel
) -> None:
    env = make(coded_store, tiny_global, max_steps=3)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.reset(seed=0)
    action = np.zeros((4, 2), np.float32)
    for _ in range(2):
        observation, _, terminated, truncated, info = env.step(action)
        assert not terminated.any() and not truncated.any() and not info
    observation, _, terminated, truncated, info = env.step(action)
    assert not terminated.any()
    assert truncated.all()
    assert info["_final_obs"].all()
    # The first of the next episode is a recorded one, the last of this one is not.
    assert (observation["image"][..., 2] == 0).all()
    final = np.stack([f["image"] for f in info["final_obs"]])
    assert not np.array_equal(final, observation["image"])
    assert not env.step(action)[3].any(), "it begins anew"


def test_terminated_is_not_truncated(coded_store: EpisodeStore, tiny_global: GlobalModel) -> None:
    env = make(coded_store, tiny_global, end=100.0, max_steps=1)
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(np.zeros((4, 2), np.float32))
    assert terminated.all()
    assert not truncated.any()
    assert info["_final_obs"].all()


def test_seeds(coded_store: EpisodeStore, tiny_global: GlobalModel) -> None:
    """The same seed repeats everything, resets within included, whatever came before."""
    env = make(coded_store, tiny_global, end=-1.0)

    def run(seed: int) -> list[Any]:
        rows = [env.reset(seed=seed)[0]]
        actions = np.random.default_rng(0).uniform(-1, 1, (7, 4, 2)).astype(np.float32)
        for action in actions:
            observation, *rest = env.step(action)
            rows += [observation, {"r": rest[0], "t": rest[1], "c": rest[2]}]
        return rows

    def equal(left: list[Any], right: list[Any]) -> bool:
        return all(np.array_equal(a[k], b[k]) for a, b in zip(left, right, strict=True) for k in a)

    first = run(7)
    assert not equal(first, run(8))
    assert equal(first, run(7))


def test_mask_resets_only_the_chosen(coded_store: EpisodeStore, tiny_global: GlobalModel) -> None:
    env = make(coded_store, tiny_global)
    env.reset(seed=0)
    before, *_ = env.step(np.zeros((4, 2), np.float32))
    mask = np.asarray([True, False, False, True])
    after, _ = env.reset(options={"reset_mask": mask})
    same = [np.array_equal(a, b) for a, b in zip(before["image"], after["image"], strict=True)]
    assert same == [False, True, True, False]


def test_a_loop_as_libraries_write_it(coded_store: EpisodeStore, tiny_global: GlobalModel) -> None:
    """With Gymnasium's statistics around it, and returns bootstrapped from the last observation."""
    env = RecordEpisodeStatistics(make(coded_store, tiny_global, end=-2.0, max_steps=6))
    observation, _ = env.reset(seed=5)
    steps = episodes = 0
    total = np.zeros(4)
    for _ in range(20):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        steps += 4
        total += reward
        over = terminated | truncated
        if over.any():
            assert (info["_final_obs"] == over).all()
            final = [info["final_obs"][i]["image"] for i in over.nonzero()[0]]
            assert all(image.shape == (16, 16, 3) for image in final)
            returns = info["episode"]["r"][over]
            np.testing.assert_allclose(returns, total[over], rtol=1e-4, atol=1e-5)
            assert (info["episode"]["l"][over] <= 6).all()
            total[over] = 0
            episodes += int(over.sum())
    assert episodes == env.episode_count > 4
    assert observation["image"].shape[0] == 4
    env.close()


def test_errors(coded_store: EpisodeStore, tiny_global: GlobalModel) -> None:
    env = make(coded_store, tiny_global)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros((4, 2), np.float32))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(4, 2\)"):
        env.step(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="finite"):
        env.step(np.full((4, 2), np.nan, np.float32))
