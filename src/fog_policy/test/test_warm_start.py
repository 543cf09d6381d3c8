"""Learning that begins with a policy: with its very actions, and only on its own local model."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fog_policy import fog_trainer as module
from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.behaviour_cloning import BehaviourCloning
from fog_policy.bundle import export_bundle, load_bundle, write_bundle
from fog_policy.cloning_config import CloningConfig
from fog_policy.decoupled_gradient import Rollout
from fog_policy.fog_config import FogConfig
from fog_policy.fog_trainer import FogTrainer
from fog_policy.local_alone import LocalAloneLearner
from fog_policy.policy_training import PolicyLoopConfig, train_learner
from fog_policy.ppo_baseline import PpoLearner
from fog_policy.ppo_config import PpoConfig
from fog_policy.warm_start import open_start, own_local_model, stuck_spread
from fog_world_model.context_bank import ContextBank
from fog_world_model.data.episodes import EpisodeStore, Normalisation
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import LocalModel
from fog_world_model.training.train_world_models import load_local


@pytest.fixture
def cloned(
    tmp_path: Path, tiny_store: EpisodeStore, tiny_local: LocalModel, manifest: dict[str, Any]
) -> Path:
    """A bundle of behaviour cloning on the tiny local model."""
    learner = BehaviourCloning(tiny_store, tiny_local, CloningConfig(device="cpu", rate=3e-3))
    loop = PolicyLoopConfig(time_budget_s=1e9, max_updates=3)
    train_learner(learner, loop, tmp_path / "cloned", {**manifest, "method": "bc"})
    export_bundle(tmp_path / "cloned", tmp_path / "cloned.bundle")
    return tmp_path / "cloned.bundle"


@pytest.fixture(params=["fog", "fog, four passes", "ppo", "local"])
def make(
    request: pytest.FixtureRequest,
    make_trainer: Callable[..., FogTrainer],
    make_ppo: Callable[..., PpoLearner],
    tiny_store: EpisodeStore,
    tiny_local: LocalModel,
    tiny_config: FogConfig,
    tiny_ppo: PpoConfig,
) -> Callable[[int], Any]:
    """Makes a learner of each kind that can start from a policy, given ``critic_first``."""

    def local(first: int) -> LocalAloneLearner:
        contexts = ContextBank.load(tiny_store, length=3, count=50, seed=0)
        recordings = WindowSampler(tiny_store, length=4, seed=1)
        config = replace(tiny_config, critic_first=first)
        return LocalAloneLearner(tiny_local, contexts, recordings, config)

    return {
        "fog": lambda first: make_trainer(replace(tiny_config, critic_first=first)),
        "fog, four passes": lambda first: make_trainer(
            replace(tiny_config, critic_first=first, actor_passes=4)
        ),
        "ppo": lambda first: make_ppo(replace(tiny_ppo, critic_first=first)),
        "local": local,
    }[request.param]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def no_ends(learner: Any) -> None:
    """Let an untrained global model hold no step for an end, so that trajectories are whole."""
    outcome = getattr(learner.env.model, "outcome", None)
    if outcome is not None:
        with torch.no_grad():
            outcome.heads[-1].bias[outcome.config.bins] = -100.0


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("first", [0, 2])
def test_the_first_rollout_is_that_of_the_policy(
    cloned: Path,
    make: Callable[[int], Any],
    first: int,
    tiny_store: EpisodeStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Action by action, to the bit, and nothing else about the learner is different."""
    _, actor = load_bundle(cloned, tiny_store.task).networks()
    learner, other = make(first), make(first)
    open_start(cloned, tiny_store.task).place(learner)
    seen: list[tuple[Tensor, Tensor]] = []
    if isinstance(learner, PpoLearner):
        act = learner.ppo.act

        def watch(observed: Any) -> Tensor:
            before = torch.get_rng_state()
            raw = act(observed)
            after = torch.get_rng_state()
            torch.set_rng_state(before)
            noise = torch.randn_like(raw)
            torch.set_rng_state(after)
            seen.append((raw.tanh(), actor(observed["features"], noise)[0]))
            return raw

        monkeypatch.setattr(learner.ppo, "act", watch)
        learner.update()
        assert len(seen) == 6
    else:
        rollout = module.rollout

        def spy(policy: Any, world: Any, local: Any, state: Any, noise: Tensor) -> Rollout:
            flow = rollout(policy, world, local, state, noise)
            for step, features in enumerate(flow.features):
                seen.append((flow.actions[step], actor(features, noise[step])[0]))
            return flow

        monkeypatch.setattr(module, "rollout", spy)
        learner.update()
        assert len(seen) == 3
    for acted, expected in seen:
        assert torch.equal(acted, expected)
    drawn, values = other.state()
    assert not same(weights(actor), weights(other.actor)), "random weights are others"
    assert same(weights(other.critic), weights(make(first).critic))
    assert values["updates"] == 0 and "training" in drawn


def test_only_the_critic_learns_at_first(make: Callable[[int], Any]) -> None:
    learner = make(2)
    no_ends(learner)
    before = {name: weights(getattr(learner, name)) for name in ("actor", "critic", "local_model")}
    temperature = getattr(learner, "log_temperature", torch.zeros(())).detach().clone()
    for _ in range(2):
        log = learner.update()
        assert all(math.isfinite(value) for value in log.values())
    assert same(before["actor"], weights(learner.actor))
    assert same(before["local_model"], weights(learner.local_model))
    assert not same(before["critic"], weights(learner.critic))
    assert torch.equal(temperature, getattr(learner, "log_temperature", temperature))
    if isinstance(learner, FogTrainer) and not isinstance(learner, LocalAloneLearner):
        assert len(learner.buffer) == 8, "what was imagined is kept to refresh the local model on"
    learner.update()
    assert not same(before["actor"], weights(learner.actor))


def test_the_schedule_of_ppo_is_left_alone_meanwhile(
    make_ppo: Callable[..., PpoLearner], tiny_ppo: PpoConfig
) -> None:
    """Two policies that differ by rounding are closer than any KL that is wanted."""
    learner = make_ppo(replace(tiny_ppo, critic_first=2, schedule="adaptive"))
    learner.update()
    assert learner.update()["learning_rate"] == tiny_ppo.learning_rate


def test_what_is_seen_does_not_depend_on_who_learns(
    make_trainer: Callable[..., FogTrainer], tiny_config: FogConfig
) -> None:
    """The first rollout and its log are the same, with the gradient and without."""
    logs = []
    for first in (0, 1):
        made = make_trainer(replace(tiny_config, critic_first=first))
        no_ends(made)
        logs.append(made.update())
    with_it, without = logs
    assert {"gradient_norm", "clipped", "local_loss"} == set(with_it) - set(without)
    assert without == {name: with_it[name] for name in without}


def test_the_clipped_share_counts_every_step_of_the_actor(
    make_trainer: Callable[..., FogTrainer],
    tiny_config: FogConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three steps per update the norms 0.5, 2 and 3 are clipped at 1 two times in three."""
    made = make_trainer(replace(tiny_config, actor_passes=3))
    norms = iter([0.5, 2.0, 3.0, 0.5, 0.25, 1.0])

    def descend(name: str, network: nn.Module, loss: Tensor) -> float:
        return next(norms) if name == "actor" else 0.0

    monkeypatch.setattr(made, "_descend", descend)
    log = made.update()
    assert (log["gradient_norm"], log["clipped"]) == (0.5, pytest.approx(2 / 3))
    assert made.update()["clipped"] == 0.0
    assert made.clipped == [2, 6]


def test_another_local_model_is_refused(
    cloned: Path, tiny_store: EpisodeStore, tiny_local: LocalModel
) -> None:
    start, scale = open_start(cloned, tiny_store.task), tiny_store.normalisation
    start.require_local(tiny_local, scale, "models/local")
    other = copy.deepcopy(tiny_local)
    with torch.no_grad():
        for parameter in other.reward_head.parameters():
            parameter.add_(1.0)
    start.require_local(other, scale, "models/local")  # the actor does not see that
    with torch.no_grad():
        next(other.rssm.parameters()).view(-1)[0] += 1e-6
    for local, normalisation in (
        (other, scale),
        (tiny_local, Normalisation.from_dict({"mean": [0.0, 0.0], "std": [1.0, 2.0]})),
    ):
        with pytest.raises(
            FogError,
            match=r"^bundle .*cloned.bundle: its actor reads the states of another local model "
            r"than models/local \(method bc.*--start-from \S*cloned\)$",
        ):
            start.require_local(local, normalisation, "models/local")


def test_going_on_from_a_refreshed_local_model(
    tmp_path: Path,
    make_trainer: Callable[..., FogTrainer],
    tiny_config: FogConfig,
    tiny_store: EpisodeStore,
    tiny_local: LocalModel,
    manifest: dict[str, Any],
) -> None:
    """The bundle of FoG does not go with the model that FoG began with; its checkpoint has both."""
    path = tmp_path / "policy"
    trainer = make_trainer(tiny_config)
    no_ends(trainer)
    train_learner(trainer, PolicyLoopConfig(1e9, max_updates=2), path, manifest)
    export_bundle(path, tmp_path / "policy.bundle")
    assert len(trainer.buffer) and not same(weights(tiny_local), weights(trainer.local_model))
    for given in (path, tmp_path / "policy.bundle"):
        start = open_start(given, tiny_store.task)
        with pytest.raises(FogError, match="another local model than l"):
            start.require_local(tiny_local, tiny_store.normalisation, "l")
        local, checkpoint = load_local(path, tiny_store.task)
        start.require_local(local, checkpoint.normalisation, path)
        assert same(weights(local), weights(trainer.local_model)), "whole, with the reward"
    assert own_local_model(path) == path
    with pytest.raises(FogError, match=r"--start-from .*: a bundle holds what runs on the robot"):
        own_local_model(tmp_path / "policy.bundle")


def test_a_shipped_policy_has_no_local_model_to_go_on_with(
    tmp_path: Path, cloned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up by its name, as :func:`open_start` does."""
    policies = tmp_path / "prefix" / "share" / "fog_bringup" / "policies"
    shutil.copytree(cloned, policies / "waits")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))
    with pytest.raises(FogError, match=r"^--start-from waits: a bundle holds what runs on the"):
        own_local_model("waits")
    with pytest.raises(FogError, match=r"no shipped policy of that name; known are .*waits"):
        own_local_model("runs")


def test_another_architecture_is_refused(
    tmp_path: Path,
    cloned: Path,
    tiny_store: EpisodeStore,
    tiny_local: LocalModel,
    make_trainer: Callable[..., FogTrainer],
    tiny_config: FogConfig,
) -> None:
    sizes = ActorCriticConfig(tiny_local.features_size, 3, hidden=8)
    found = {**load_bundle(cloned).manifest, "actor_critic": vars(sizes)}
    write_bundle(tiny_local, Actor(sizes), tmp_path / "narrow", found)
    made = make_trainer(tiny_config)
    before = weights(made.actor)
    with pytest.raises(FogError, match=r"narrow: .* architecture: hidden is 8, not 256; start"):
        open_start(tmp_path / "narrow", tiny_store.task).place(made)
    assert same(before, weights(made.actor))


@pytest.mark.parametrize(("raw", "said"), [(-9.0, "lower"), (9.0, "upper"), (0.0, ""), (-2.0, "")])
def test_a_spread_that_is_stuck_is_said(
    raw: float,
    said: str,
    cloned: Path,
    tiny_store: EpisodeStore,
    tiny_local: LocalModel,
    make_trainer: Callable[..., FogTrainer],
    tiny_config: FogConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sigmoid between the bounds -3 and 0.5 is within 0.0002 of them at 9, and moves no more.

    At -2 it is 0.12 of the way from the lower bound, and is as good as anywhere.
    """
    start = open_start(cloned, tiny_store.task)
    last = start.actor.body[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight[3:].zero_()
        last.bias[3:] = raw
    made = make_trainer(tiny_config)
    start.place(made)
    err = capsys.readouterr().err
    if said:
        at = "0.05" if said == "lower" else "1.65"
        assert f"is at its {said} bound ({at} before squashing) in 100% of the states" in err
    else:
        assert err == ""
        assert stuck_spread(made.actor, made.features) == ""


def test_a_run_of_before_is_gone_on_with(
    tmp_path: Path,
    make_trainer: Callable[..., FogTrainer],
    tiny_config: FogConfig,
    manifest: dict[str, Any],
) -> None:
    """Its settings say nothing of the critic's lead, and it had none."""
    now = {**manifest, "config": asdict(tiny_config)}
    before = {k: v for k, v in asdict(tiny_config).items() if k != "critic_first"}
    path, loop = tmp_path / "policy", PolicyLoopConfig(1e9, max_updates=1)
    train_learner(make_trainer(tiny_config), loop, path, {**manifest, "config": before})
    longer = PolicyLoopConfig(1e9, max_updates=2)
    assert train_learner(make_trainer(tiny_config), longer, path, now, resume=True).updates == 2
    led = {**manifest, "config": asdict(replace(tiny_config, critic_first=3))}
    train_learner(make_trainer(tiny_config), loop, path, {**manifest, "config": before})
    with pytest.raises(FogError, match=r"config\.critic_first was 0, is 3"):
        train_learner(make_trainer(tiny_config), longer, path, led, resume=True)
