"""Contexts on the device: the right episodes, the right rows, in an order of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fog_world_model.context_bank import ContextBank, ContextFilter
from fog_world_model.data.episodes import EpisodeStore, EpisodeWriter
from fog_world_model.data.windows import WindowSampler
from fog_world_model.errors import FogError
from fog_world_model.global_model.global_model import GlobalModel
from fog_world_model.imagination import ImaginedEnv
from fog_world_model.task import TaskConfig


@pytest.fixture(scope="module")
def marked_store(
    tmp_path_factory: pytest.TempPathFactory, tiny_task: TaskConfig, coded_store: EpisodeStore
) -> EpisodeStore:
    """Six episodes of 10 steps with outcomes, from two bags; pixels are (number, step, 0)."""
    path = tmp_path_factory.mktemp("marked") / "marked.episodes"
    writer = EpisodeWriter(path, tiny_task)
    ten = coded_store.episode(5)
    for number, outcome in enumerate(["success", "failure", "", "success", "failure", ""]):
        image = ten.image.copy()
        image[..., 0] = number
        episode = replace(ten, image=image, stamp_ns=ten.stamp_ns + number * 10**12)
        writer.append(episode, source=f"day_{number // 3}#{number % 3}", outcome=outcome)
    return writer.finish(validation_fraction=0.0, report={})


def numbers(bank: ContextBank) -> set[int]:
    """Which episodes the contexts show (see conftest.py)."""
    image = bank.at(torch.arange(len(bank))).image
    return set(((image[:, 0, 0, 0, 0] + 1) * 127.5).round().int().tolist())


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (ContextFilter(), {0, 1, 2, 3, 4, 5}),
        (ContextFilter(episodes=[1, 4]), {1, 4}),
        (ContextFilter(outcome="success"), {0, 3}),
        (ContextFilter(outcome="unmarked"), {2, 5}),
        (ContextFilter(source="day_1"), {3, 4, 5}),
        (ContextFilter(source="day_1", outcome="failure"), {4}),
    ],
)
def test_only_chosen_episodes(
    marked_store: EpisodeStore, which: ContextFilter, expected: set[int]
) -> None:
    bank = ContextBank.load(marked_store, length=4, which=which)
    assert numbers(bank) == expected
    assert len(bank) == 7 * len(expected), "every place where a context fits, once"
    assert bank.episodes is not None
    assert set(bank.episodes.tolist()) == expected


def test_contexts_from_the_beginnings_of_episodes(marked_store: EpisodeStore) -> None:
    """Of 10 steps, contexts of 4 that end within the first 6: they begin at 0, 1 and 2."""
    bank = ContextBank.load(marked_store, length=4, within=6)
    image = bank.at(torch.arange(len(bank))).image
    steps = ((image[:, :, 1, 0, 0] + 1) * 127.5).round().int()
    first = steps[:, 0] - steps[:, 0].min()
    assert sorted(first.tolist()) == sorted([0, 1, 2] * 6)
    with pytest.raises(FogError, match=r"of 4 steps do not end within the first 3 .* at least 4"):
        ContextBank.load(marked_store, length=4, within=3)


def test_contexts_are_the_recorded_rows(coded_store: EpisodeStore) -> None:
    """Equal to windows read from the store, to the bit."""
    bank = ContextBank.load(coded_store, length=3, count=16, seed=4)
    sampler = WindowSampler(coded_store, length=3)
    drawn = bank.sample(5)
    for i in range(5):
        step = round(float((drawn.image[i, 0, 1, 0, 0] + 1) * 127.5))
        number = round(float((drawn.image[i, 0, 0, 0, 0] + 1) * 127.5))
        row = int(coded_store.starts[number]) + step
        expected = sampler.at(torch.tensor([row]).numpy())
        for name in ("image", "proprioception", "action", "reward", "end"):
            assert torch.equal(getattr(drawn, name)[i], getattr(expected, name)[0]), name


def test_held_out_episodes_stay_out(coded_store: EpisodeStore) -> None:
    training = ContextBank.load(coded_store, length=3)
    held_out = ContextBank.load(coded_store, length=3, which=ContextFilter(split="validation"))
    assert numbers(training) == set(coded_store.split("training").tolist())
    assert numbers(held_out) == set(coded_store.split("validation").tolist())


def test_order_is_a_function_of_the_seed(coded_store: EpisodeStore) -> None:
    bank = ContextBank.load(coded_store, length=3, seed=1)
    state = bank.generator_state
    first = bank.draw(20)
    assert not torch.equal(first, bank.draw(20))
    bank.generator_state = state
    assert torch.equal(first, bank.draw(20))
    bank.reseed(1)
    assert torch.equal(first, bank.draw(20))


def test_errors_say_what_was_asked_for(marked_store: EpisodeStore) -> None:
    with pytest.raises(FogError, match=r"no context of 11 steps .* 6 fit, the longest has 10"):
        ContextBank.load(marked_store, length=11)
    with pytest.raises(FogError, match=r"outcome lost.*: 0 fit"):
        ContextBank.load(marked_store, length=3, which=ContextFilter(outcome="lost"))
    with pytest.raises(FogError, match=r"episodes 0 to 5; asked for \[7\]"):
        ContextBank.load(marked_store, length=3, which=ContextFilter(episodes=[7]))


def test_environments_start_in_the_bank_as_the_model_would(
    coded_store: EpisodeStore, tiny_global: GlobalModel
) -> None:
    """The outcome head's state, which is computed once for the whole bank, is the right one."""
    bank = ContextBank.load(coded_store, length=4)
    env = ImaginedEnv(tiny_global.eval(), bank, environments=5, max_steps=9, seed=0)
    windows = env.restart()
    expected, state = tiny_global.start(windows), env.snapshot()[0]
    for name in ("frames", "actions", "proprioception", "recurrent"):
        torch.testing.assert_close(getattr(state, name), getattr(expected, name), msg=name)


def test_rewind_starts_the_ended_and_the_due(
    coded_store: EpisodeStore, tiny_global: GlobalModel
) -> None:
    bank = ContextBank.load(coded_store, length=4)
    env = ImaginedEnv(tiny_global.eval(), bank, environments=4, max_steps=8, seed=0)
    env.restart()
    for _ in range(2):
        env.step(torch.zeros(4, 2))
    before = env.observation[0].clone()  # ages are 2, 4, 6 and 8: the last is due
    which = env.rewind(torch.tensor([True, False, False, False]))
    assert which.tolist() == [True, False, False, True]
    assert env.age.tolist() == [0, 4, 6, 0]
    moved = (env.observation[0] != before).flatten(1).any(1)
    assert moved.tolist() == which.tolist()
    assert not env.rewind(torch.zeros(4, dtype=torch.bool)).any()
