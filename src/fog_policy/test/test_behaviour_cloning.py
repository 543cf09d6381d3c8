"""Behaviour cloning: which episodes, on which features, and that it finds what was done there."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.behaviour_cloning import BehaviourCloning, best_episodes, filtered
from fog_policy.cloning_config import CloningConfig
from fog_policy.recurrent_controller import TorchController
from fog_world_model.data.episodes import ARRAYS, Episode, EpisodeStore, EpisodeWriter
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.task import TaskConfig

CONFIG = CloningConfig(share=0.5, batch=64, rate=2e-3, patience=8, device="cpu")
GAIN = np.array([[0.8, -0.5, 0.0], [0.3, 0.6, -0.9]], np.float32)
"""The known policy: action = tanh(proprioception GAIN)."""


@pytest.fixture(scope="module")
def driven_store(tmp_path_factory: pytest.TempPathFactory, tiny_task: TaskConfig) -> EpisodeStore:
    """Every other episode follows the known policy and is rewarded; the others do the opposite."""
    rng = np.random.default_rng(0)
    writer = EpisodeWriter(tmp_path_factory.mktemp("driven") / "driven.episodes", tiny_task)
    for i in range(40):
        n, good = 61, i % 2 == 0
        vector = rng.normal(size=(n, 2)).astype(np.float32)
        action = np.tanh(vector @ GAIN) * (1 if good else -1)
        # Better ones have more reward in all, the worse ones more at the end.
        reward = np.full(n, 0.8 if good else 0.1, np.float32) + 0.001 * i
        reward[-2:] = 0.2 if good else 0.9
        writer.append(
            Episode(
                image=np.zeros((n, 16, 16, 3), np.uint8),
                proprioception=vector,
                action=action.astype(np.float32),
                reward=reward,
                end=np.zeros(n, np.bool_),
                stamp_ns=np.arange(n, dtype=np.int64) * 200_000_000,
            ),
            source=f"driver#{i}",
        )
    return writer.finish(validation_fraction=0.25, report={}, seed=0)


def test_the_best_episodes_are_chosen(driven_store: EpisodeStore) -> None:
    training = [int(i) for i in driven_store.split("training")]
    good = [i for i in training if i % 2 == 0]
    by_return = best_episodes(driven_store, "training", rank="return", share=0.25)
    assert by_return == sorted(good, reverse=True)[: round(len(training) * 0.25)]
    by_end = best_episodes(driven_store, "training", rank="final", share=0.25)
    assert all(i % 2 == 1 for i in by_end)
    assert len(best_episodes(driven_store, "validation", rank="return", share=1e-6)) == 1


def test_finds_a_known_policy(driven_store: EpisodeStore, tiny_local: LocalModel) -> None:
    """On held-out episodes and with the deployed controller, from physical values."""
    given = copy.deepcopy(tiny_local.state_dict())
    made = BehaviourCloning(driven_store, tiny_local, CONFIG)
    first = made.update()
    for _ in range(39):
        log = made.update()
    assert log["best"] < first["best"] - 1
    assert log["action_error"] < 0.1
    assert made.imagined_steps == 0
    for model in (made.local_model, tiny_local):
        assert all(torch.equal(given[k], v) for k, v in model.state_dict().items())
    # The controller is given what the robot shows, in the order in which it shows it.
    held_out = next(int(i) for i in driven_store.split("validation") if i % 2 == 0)
    episode = driven_store.episode(held_out)
    controller = TorchController(
        made.local_model, made.actor, driven_store.normalisation, driven_store.task
    )
    previous, errors = np.zeros(3, np.float32), []
    for t in range(40):
        answer = controller.act(episode.image[t], episode.proprioception[t], previous)
        errors.append(answer - np.tanh(episode.proprioception[t] @ GAIN))
        previous = episode.action[t]
    assert float(np.sqrt(np.mean(np.square(errors)))) < 0.15


def test_features_are_the_controllers(
    tmp_path: Path, driven_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    """Two ways to the same states: episodes of different length abreast, and step by step."""
    writer = EpisodeWriter(tmp_path / "uneven.episodes", driven_store.task)
    lengths = [21, 5, 12]
    for i, n in enumerate(lengths):
        whole = driven_store.episode(i)
        cut = {name: getattr(whole, name)[:n] for name in ARRAYS}
        writer.append(Episode(**cut), source=f"driver#{i}")
    store = writer.finish(validation_fraction=0.0, report={}, seed=0)
    features, actions = filtered(tiny_local, store, [2, 0, 1], torch.device("cpu"))
    assert len(features) == len(actions) == 11 + 20 + 4
    actor = Actor(ActorCriticConfig(tiny_local.features_size, 3, hidden=16))
    controller = TorchController(tiny_local, actor, store.normalisation, store.task)
    row = 0
    for index in (2, 0, 1):
        episode, previous = store.episode(index), np.zeros(3, np.float32)
        controller.reset()
        for t in range(lengths[index] - 1):
            controller.act(episode.image[t], episode.proprioception[t], previous)
            torch.testing.assert_close(controller._state.features[0], features[row])
            np.testing.assert_array_equal(actions[row].numpy(), episode.action[t])
            previous, row = episode.action[t], row + 1


def test_stops_at_its_best(driven_store: EpisodeStore, tiny_local: LocalModel) -> None:
    """With a rate so high that held-out likelihood soon falls: the best policy is kept."""
    made = BehaviourCloning(driven_store, tiny_local, replace(CONFIG, rate=0.1, patience=2))
    seen = []
    for _ in range(200):
        seen.append(made.update())
        if made.finished:
            break
    assert made.finished
    held_out = [row["held_out"] for row in seen]
    assert int(np.argmin(held_out)) == len(held_out) - 3
    with torch.no_grad():
        kept = -float(made.actor.log_prob(*made._held_out).mean())
    assert kept == pytest.approx(min(held_out), rel=1e-6)
    before = copy.deepcopy(made.actor.state_dict())
    assert made.update()["finished"] == 1
    assert all(torch.equal(before[k], v) for k, v in made.actor.state_dict().items())


def test_the_average_of_the_weights_is_kept(
    driven_store: EpisodeStore, tiny_local: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the weights after every minibatch, less of it while there were few; or the last ones."""
    config = replace(CONFIG, actor_average=0.7)
    made = BehaviourCloning(driven_store, tiny_local, config)
    step, weights = made._optimiser.step, list[torch.Tensor]()

    def recorded() -> None:
        step()
        with torch.no_grad():
            weights.append(torch.cat([p.flatten().double() for p in made._fitted.parameters()]))

    monkeypatch.setattr(made._optimiser, "step", recorded)
    made.update()
    expected = weights[0]
    for count, value in enumerate(weights[1:], start=1):
        keep = min(0.7, (1 + count) / (10 + count))
        expected = keep * expected + (1 - keep) * value
    assert len(weights) > 10
    found = torch.cat([p.detach().flatten().double() for p in made.actor.parameters()])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert float((found - weights[-1]).abs().max()) > 1e-4
    plain = BehaviourCloning(driven_store, tiny_local, replace(config, actor_average=0.0))
    plain.update()
    for kept, fitted in zip(plain.actor.parameters(), plain._fitted.parameters(), strict=True):
        assert torch.equal(kept, fitted)


def test_actions_at_their_bounds_have_a_likelihood(
    tiny_store: EpisodeStore, tiny_local: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = tiny_store.episode

    def at_the_bounds(index: int) -> Episode:
        episode = load(index)
        return replace(episode, action=np.sign(episode.action))

    monkeypatch.setattr(tiny_store, "episode", at_the_bounds)
    made = BehaviourCloning(tiny_store, tiny_local, CONFIG)
    assert all(math.isfinite(value) for value in made.update().values())


def test_what_is_not_finite_stops(driven_store: EpisodeStore, tiny_local: LocalModel) -> None:
    made = BehaviourCloning(driven_store, tiny_local, CONFIG)
    before = copy.deepcopy(made.actor.state_dict())
    with torch.no_grad():
        next(made._fitted.parameters())[0, 0] = float("nan")
    with pytest.raises(FogError, match=r"^update 0: the gradient of the actor is not finite"):
        made.update()
    assert all(torch.equal(before[k], v) for k, v in made.actor.state_dict().items())
    with torch.no_grad():
        tiny_local.rssm.cell.weight_ih[0, 0] = float("nan")
    with pytest.raises(FogError, match="the local model's state is not finite on the training"):
        BehaviourCloning(driven_store, tiny_local, CONFIG)


def test_needs_held_out_episodes(
    tmp_path: Path, driven_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    writer = EpisodeWriter(tmp_path / "one.episodes", driven_store.task)
    writer.append(driven_store.episode(0), source="driver#0")
    store = writer.finish(validation_fraction=0.0, report={}, seed=0)
    with pytest.raises(FogError, match="no validation episode to imitate"):
        BehaviourCloning(store, tiny_local, CONFIG)


def test_another_run_is_not_gone_on_with(
    driven_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    made = BehaviourCloning(driven_store, tiny_local, CONFIG)
    state = made.state()
    other = BehaviourCloning(driven_store, tiny_local, replace(CONFIG, rank="final"))
    with pytest.raises(FogError, match="imitated other episodes"):
        other.load_state(*state)
    with torch.no_grad():
        tiny_local.rssm.cell.weight_ih.add_(0.1)
    with pytest.raises(FogError, match="features of another local model"):
        BehaviourCloning(driven_store, tiny_local, CONFIG).load_state(*state)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(FogError, match=r"share is 1\.5; expected at most 1"):
        CloningConfig(share=1.5)
    with pytest.raises(FogError, match="limit is 1"):
        CloningConfig(limit=1.0)
    with pytest.raises(FogError, match=r"actor_average is 1\.0; expected 0 or more, below 1"):
        CloningConfig(actor_average=1.0)
