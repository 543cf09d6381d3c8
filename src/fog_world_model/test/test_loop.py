"""The training loop: an interrupted run goes on as if nothing had happened; nothing bad is kept."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.windows import WindowSampler, to_uint8_image
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig, task_from_dict
from fog_world_model.training.checkpoint import open_checkpoint
from fog_world_model.training.loop import FitResult, LoopConfig, _schedule, fit
from fog_world_model.training.train_world_models import (
    load_global,
    load_local,
    train_global,
    train_local,
)

STEPS = 120
CONFIG = LoopConfig(
    max_steps=STEPS, batch_size=8, learning_rate=3e-2, warmup_steps=10, device="cpu"
)


class Numbers:
    """Draws batches of random numbers."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = np.random.default_rng(seed)

    @property
    def generator_state(self) -> dict[str, object]:
        return dict(self._generator.bit_generator.state)

    @generator_state.setter
    def generator_state(self, state: dict[str, object]) -> None:
        self._generator.bit_generator.state = state

    def sample(self, batch: int, device: torch.device | str, share: slice = slice(None)) -> Tensor:
        drawn = self._generator.normal(size=(batch, 3)).astype(np.float32)
        return torch.from_numpy(drawn)[share]

    def describe(self, rows: Sequence[int]) -> list[str]:
        return [f"numbers {row}" for row in rows]


class Toy(nn.Module):
    """Learns the sum of three numbers; dropout makes it depend on torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1)
        )
        self.calls = 0
        self.at_call: dict[int, Callable[[], None]] = {}
        self.factor = 1.0

    def loss(self, batch: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        self.at_call.get(self.calls, lambda: None)()
        error = (self.body(batch).squeeze(-1) - batch.sum(-1)).square().mean()
        return {"error": error, "total": self.factor * error}


def manifest(task: TaskConfig, kind: str = "local") -> dict[str, Any]:
    return {
        "kind": kind,
        "task": task.to_dict(),
        "normalisation": {"mean": [0.0], "std": [1.0]},
    }


def train(
    toy: Toy,
    path: Path,
    task: TaskConfig,
    config: LoopConfig = CONFIG,
    *,
    resume: bool = False,
    kind: str = "local",
) -> FitResult:
    return fit(
        toy,
        toy.loss,
        Numbers(),
        config,
        path,
        manifest(task, kind),
        description="toy",
        resume=resume,
    )


def content(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def without_time(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in curve]


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_run_equals_an_uninterrupted_one(
    tmp_path: Path, tiny_task: TaskConfig
) -> None:
    """Losses, weights and averaged weights, bit for bit; interrupted twice, once by SIGTERM."""
    whole = Toy()
    expected = train(whole, tmp_path / "whole", tiny_task)
    assert expected.step == STEPS
    assert not expected.interrupted
    assert [row["step"] for row in expected.curve] == [50, 100]

    handler = signal.getsignal(signal.SIGTERM)
    first = Toy()
    first.at_call[30] = stop
    part = train(first, tmp_path / "part", tiny_task)
    assert part.interrupted
    assert part.step == 30
    assert signal.getsignal(signal.SIGTERM) is handler
    checkpoint = open_checkpoint(tmp_path / "part", "local", tiny_task)
    assert checkpoint.manifest["step"] == 30
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == [
        "part", "part.tensorboard",
    ]  # fmt: skip

    second = Toy()
    second.at_call[41] = lambda: signal.raise_signal(signal.SIGINT)
    assert train(second, tmp_path / "part", tiny_task, resume=True).step == 71
    third = Toy()
    torch.rand(17)  # what happened to torch's generator in between does not matter
    result = train(third, tmp_path / "part", tiny_task, resume=True)
    assert third.calls == STEPS - 71
    assert result.step == STEPS
    assert without_time(result.curve) == without_time(expected.curve)
    assert result.losses == expected.losses
    for name in ("model", "ema", "training"):
        left = open_checkpoint(tmp_path / "whole", "local").tensors(name)
        right = open_checkpoint(tmp_path / "part", "local").tensors(name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[k], right[k]) for k in left), name
    for mine, theirs in zip(whole.parameters(), third.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_it_learns_and_ends_with_the_averaged_weights(
    tmp_path: Path, tiny_task: TaskConfig
) -> None:
    toy = Toy()
    result = train(toy, tmp_path / "toy", tiny_task)
    assert result.curve[-1]["error"] < 0.7 * result.curve[0]["error"]
    checkpoint = open_checkpoint(tmp_path / "toy", "local")
    averaged, last = checkpoint.tensors("ema"), checkpoint.tensors("model")
    assert not toy.training
    for key, value in toy.state_dict().items():
        assert torch.equal(value, averaged[key])
    assert not torch.equal(averaged["body.0.weight"], last["body.0.weight"])
    assert averaged["body.1.num_batches_tracked"] == STEPS


def test_another_seed_is_another_run(tmp_path: Path, tiny_task: TaskConfig) -> None:
    short = dataclasses.replace(CONFIG, max_steps=5)
    losses = [
        train(Toy(), tmp_path / str(seed), tiny_task, dataclasses.replace(short, seed=seed)).losses
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("step", "done", "expected"),
    [
        (0, 0.0, 0.01),  # the first of 100 steps of warm-up
        (49, 0.0, 0.5),
        (99, 0.0, 1.0),
        (500, 0.5, 0.525),  # half of the cosine: 0.05 + 0.95 / 2
        (1000, 1.0, 0.05),
        (2000, 2.0, 0.05),
    ],
)
def test_learning_rate_by_hand(step: int, done: float, expected: float) -> None:
    assert _schedule(step, done, warmup=100) == pytest.approx(expected)


def test_the_learning_rate_follows_the_steps_when_they_are_given(
    tmp_path: Path, tiny_task: TaskConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[float] = []

    def spy(step: int, done: float, warmup: int) -> float:
        places.append(done)
        return 1.0

    monkeypatch.setattr("fog_world_model.training.loop._schedule", spy)
    train(Toy(), tmp_path / "a", tiny_task, dataclasses.replace(CONFIG, max_steps=4))
    assert places == [0.0, 0.25, 0.5, 0.75]
    places.clear()
    timed = dataclasses.replace(CONFIG, max_steps=None, time_budget_s=0.3)
    result = train(Toy(), tmp_path / "b", tiny_task, timed)
    assert result.step == len(places) > 1
    assert places == sorted(places)
    assert 0.5 < places[-1] < 1.0


def test_a_loss_that_is_not_finite_stops(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """The weights of the seven good steps are kept, and a lower rate may go on from them."""
    path = tmp_path / "toy"
    train(Toy(), path, tiny_task, dataclasses.replace(CONFIG, max_steps=5))
    toy = Toy()

    def spoil() -> None:
        toy.factor = float("nan")

    toy.at_call[3] = spoil
    seven = dataclasses.replace(CONFIG, max_steps=8)
    with pytest.raises(
        FogError,
        match=r"^training step 7: the loss is not finite \(error [\d.]+, total nan\); "
        r"no window alone is at fault of: numbers 0; .* and 3 more\. "
        rf"{path} holds the weights from before it\.",
    ):
        train(toy, path, tiny_task, seven, resume=True)
    checkpoint = open_checkpoint(path, "local")
    assert checkpoint.manifest["step"] == 7
    assert checkpoint.manifest["stopped"].startswith("step 7: the loss is not finite")
    assert all(torch.isfinite(v).all() for v in checkpoint.tensors("model").values())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(FogError, match=r"learning_rate was 0\.03, is 0\.06\. Give the options"):
        train(Toy(), path, tiny_task, dataclasses.replace(seven, learning_rate=6e-2), resume=True)
    lower = dataclasses.replace(seven, learning_rate=1e-3)
    assert train(Toy(), path, tiny_task, lower, resume=True).step == 8
    assert "stopped" not in open_checkpoint(path, "local").manifest


class Plain(nn.Module):
    """Without a layer that needs several rows: each row can be looked at alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)

    def loss(self, batch: Tensor) -> dict[str, Tensor]:
        root = batch.clamp_min(0).sum(-1).sqrt()  # no number for the row with a bad value
        return {"total": (self.line(batch).squeeze(-1) - root).square().mean()}


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_windows_at_fault_are_named(
    accumulate: int, tmp_path: Path, tiny_task: TaskConfig
) -> None:
    class Spoiled(Numbers):
        batches = 0

        def sample(
            self, batch: int, device: torch.device | str, share: slice = slice(None)
        ) -> Tensor:
            drawn = super().sample(batch, device, share)
            self.batches += 1
            if self.batches == 4:
                drawn[5, 1] = float("nan")
            return drawn

    config = dataclasses.replace(CONFIG, max_steps=9, accumulate=accumulate)
    model = Plain()
    with pytest.raises(FogError, match=r"step 3: .*; windows at fault: numbers 5\. "):
        fit(
            model, model.loss, Spoiled(), config, tmp_path / "a", manifest(tiny_task),
            description="a",
        )  # fmt: skip
    assert open_checkpoint(tmp_path / "a", "local").manifest["step"] == 3


def test_bad_weights_do_not_replace_good_ones(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """Every window is at fault: the checkpoint of three steps stays, marked, for a lower rate."""
    path, model = tmp_path / "a", Plain()

    def train_plain(steps: int, rate: float = 3e-2, **options: bool) -> FitResult:
        config = dataclasses.replace(CONFIG, max_steps=steps, learning_rate=rate)
        said = manifest(tiny_task)
        return fit(model, model.loss, Numbers(), config, path, said, description="a", **options)

    with pytest.raises(FogError, match=r"every window .* is at fault: .*no checkpoint was written"):
        train_plain(3, rate=1e30)
    assert not path.exists()
    model = Plain()
    train_plain(3)
    before = content(path)
    model = Plain()
    calls = iter(range(100))

    def loss(batch: Tensor) -> dict[str, Tensor]:
        if next(calls) == 2:
            with torch.no_grad():
                model.line.weight.fill_(3e38)
        return Plain.loss(model, batch)

    model.loss = loss  # type: ignore[method-assign]
    with pytest.raises(FogError, match=rf"step 5: .* {path} keeps the checkpoint from before"):
        train_plain(9, resume=True)
    after = content(path)
    assert {k: v for k, v in after.items() if k != "manifest.json"} == {
        k: v for k, v in before.items() if k != "manifest.json"
    }
    assert open_checkpoint(path, "local").manifest["stopped"].startswith("step 5: ")
    model = Plain()
    assert train_plain(9, rate=1e-3, resume=True).step == 9


def test_a_gradient_that_is_not_finite_stops(tmp_path: Path, tiny_task: TaskConfig) -> None:
    """The root has an infinite slope at 0, where its value is fine: no weight may see it."""
    toy = Toy()
    true_loss = toy.loss

    def loss(batch: Tensor) -> dict[str, Tensor]:
        losses = true_loss(batch)
        if toy.calls == 4:
            losses["total"] = losses["total"] + (next(toy.parameters()) * 0).sum().sqrt()
        return losses

    config = dataclasses.replace(CONFIG, max_steps=10, checkpoint_every_s=0.0)
    with pytest.raises(FogError, match=r"^training step 3: the gradient is not finite \(norm nan"):
        fit(toy, loss, Numbers(), config, tmp_path / "toy", manifest(tiny_task), description="toy")
    checkpoint = open_checkpoint(tmp_path / "toy", "local")
    assert checkpoint.manifest["step"] == 3
    assert all(torch.isfinite(v).all() for v in checkpoint.tensors("model").values())


def test_a_checkpoint_of_another_kind_or_task_is_not_resumed(
    tmp_path: Path, tiny_task: TaskConfig
) -> None:
    path = tmp_path / "toy"
    short = dataclasses.replace(CONFIG, max_steps=3)
    train(Toy(), path, tiny_task, short, kind="global")
    with pytest.raises(FogError, match=rf"checkpoint {path}: kind is 'global', expected 'local'"):
        train(Toy(), path, tiny_task, resume=True)
    other = task_from_dict({**tiny_task.to_dict(), "name": "other"})
    with pytest.raises(FogError, match=rf"checkpoint {path} was made for task 'tiny'"):
        train(Toy(), path, other, resume=True, kind="global")
    with pytest.raises(FogError, match=r"nothing: has no manifest\.json .*fog train local"):
        train(Toy(), tmp_path / "nothing", tiny_task, resume=True)
    assert open_checkpoint(path, "global").manifest["step"] == 3


def test_world_models_are_trained_and_loaded(tmp_path: Path, coded_store: EpisodeStore) -> None:
    """Of both kinds: what is loaded computes what was trained."""
    loop = LoopConfig(max_steps=2, batch_size=2, device="cpu")
    train_global(coded_store, tmp_path / "global", loop, preset="tiny")
    train_local(coded_store, tmp_path / "local", loop, preset="tiny", window=5)
    task = coded_store.task
    world, checkpoint = load_global(tmp_path / "global", task)
    assert checkpoint.manifest["data_hash"] == coded_store.data_hash
    np.testing.assert_array_equal(checkpoint.normalisation.mean, coded_store.normalisation.mean)
    assert world.config.denoiser.channels == (16, 32)
    assert float(world.denoiser.residual_std) != pytest.approx(0.2)  # it was measured
    assert not any(p.requires_grad for p in world.parameters())
    averaged = checkpoint.tensors("ema")
    assert all(torch.equal(v, averaged[k]) for k, v in world.state_dict().items())
    local, checkpoint = load_local(tmp_path / "local", task)
    averaged = checkpoint.tensors("ema")
    assert all(torch.equal(v, averaged[k]) for k, v in local.state_dict().items())
    other = task_from_dict({**task.to_dict(), "name": "other"})
    for load in (load_global, load_local):
        with pytest.raises(FogError, match="was made for task 'tiny'"):
            load(tmp_path / load.__name__.removeprefix("load_"), other)
    with pytest.raises(FogError, match="kind is 'local', expected 'global'"):
        load_global(tmp_path / "local")
    more = dataclasses.replace(loop, max_steps=3)
    with pytest.raises(FogError, match=r"preset was tiny, is small; config\.depth was 8, is 16"):
        train_local(coded_store, tmp_path / "local", more, preset="small", window=5, resume=True)


def test_options_that_do_not_exist(tmp_path: Path, coded_store: EpisodeStore) -> None:
    loop = LoopConfig(max_steps=1, device="cpu")
    with pytest.raises(FogError, match="--preset huge: known are tiny, small"):
        train_global(coded_store, tmp_path / "x", loop, preset="huge")
    with pytest.raises(FogError, match="--preset huge: known are tiny, small"):
        train_local(coded_store, tmp_path / "x", loop, preset="huge")
    wrong = dataclasses.replace(loop, device="abacus")
    with pytest.raises(FogError, match="--device abacus: not available here"):
        train_local(coded_store, tmp_path / "x", wrong, preset="tiny", window=5)
    with pytest.raises(FogError, match="no training episode has 50 steps"):
        train_local(coded_store, tmp_path / "x", loop, preset="tiny", window=50)
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_batch_are_the_whole(tmp_path: Path, coded_store: EpisodeStore) -> None:
    """Accumulated over 4 parts, with the same random numbers: equal but for rounding."""
    loop = LoopConfig(max_steps=50, batch_size=8, device="cpu")
    parts = dataclasses.replace(loop, accumulate=4)
    for train_model, options in ((train_global, {}), (train_local, {"window": 5})):
        whole = train_model(coded_store, tmp_path / "a", loop, preset="tiny", **options)
        found = train_model(coded_store, tmp_path / "b", parts, preset="tiny", **options)
        assert found.losses == pytest.approx(whole.losses, rel=1e-4)
        assert found.curve[0]["step"] == 50


def test_a_batch_says_where_it_comes_from(coded_store: EpisodeStore) -> None:
    """Episode and step are in the pixels, too; a share holds the same windows as the whole."""
    whole = WindowSampler(coded_store, length=5, seed=3)
    part = WindowSampler(coded_store, length=5, seed=3)
    for _ in range(4):
        data, share = whole.sample(12), part.sample(12, share=slice(4, 8))
        assert torch.equal(data.image[4:8], share.image)
        assert torch.equal(data.reward[4:8], share.reward)
        assert whole.describe(range(12)) == part.describe(range(12))
        number, step = (to_uint8_image(data.image)[:, 0, 0, 0, c] for c in (0, 1))
        assert whole.describe(range(12)) == [
            f"episode {n} (coded#{n}) steps {s} to {s + 4}"
            for n, s in zip(number, step, strict=True)
        ]


def test_a_batch_that_cannot_be_divided(tmp_path: Path, tiny_task: TaskConfig) -> None:
    with pytest.raises(FogError, match=r"^--batch-size 8: .*1 process\(es\) and 3 part\(s\) .* 3$"):
        train(Toy(), tmp_path / "a", tiny_task, dataclasses.replace(CONFIG, accumulate=3))


def test_bf16_is_used_and_learns_the_same(tmp_path: Path, tiny_task: TaskConfig) -> None:
    seen = []
    toy = Toy()
    toy.body[3].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    config = dataclasses.replace(CONFIG, precision="bf16")
    found = train(toy, tmp_path / "bf16", tiny_task, config)
    expected = train(Toy(), tmp_path / "float32", tiny_task)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in toy.parameters())
    assert found.curve[-1]["error"] == pytest.approx(expected.curve[-1]["error"], rel=0.1)
    assert found.losses != expected.losses
    assert open_checkpoint(tmp_path / "bf16", "local").manifest["precision"] == "bf16"
    with pytest.raises(FogError, match="--precision int8: expected auto, bf16 or no"):
        train(Toy(), tmp_path / "x", tiny_task, dataclasses.replace(CONFIG, precision="int8"))


def on_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("use", [lambda: torch.empty(2**58), lambda: np.empty(2**58), on_gpu])
def test_out_of_memory_says_what_to_lower(
    use: Callable[[], None], tmp_path: Path, tiny_task: TaskConfig
) -> None:
    toy = Toy()
    toy.at_call[3] = use
    config = dataclasses.replace(CONFIG, checkpoint_every_s=0.0)
    with pytest.raises(
        FogError,
        match=r"^out of CPU memory with 8 windows at a time \(--batch-size 8 in 1 process\(es\) of "
        r"1 part\(s\)\): raise --accumulate to 2 .* lower --batch-size, or .* smaller --preset",
    ):
        train(toy, tmp_path / "a", tiny_task, config)
    assert open_checkpoint(tmp_path / "a", "local").manifest["step"] == 2


def test_another_error_is_not_called_out_of_memory(tmp_path: Path, tiny_task: TaskConfig) -> None:
    toy = Toy()
    toy.at_call[3] = lambda: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        train(toy, tmp_path / "a", tiny_task)


def test_more_time_goes_on_at_the_rate_of_the_longer_run(
    tmp_path: Path, tiny_task: TaskConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 4 of 4 steps, 8 are asked for: the fifth is at half of the cosine."""
    places: list[float] = []

    def spy(step: int, done: float, warmup: int) -> float:
        places.append(done)
        return 1.0

    monkeypatch.setattr("fog_world_model.training.loop._schedule", spy)
    train(Toy(), tmp_path / "a", tiny_task, dataclasses.replace(CONFIG, max_steps=4))
    again = dataclasses.replace(CONFIG, max_steps=8, time_budget_s=1000.0)
    assert train(Toy(), tmp_path / "a", tiny_task, again, resume=True).step == 8
    assert places == [0.0, 0.25, 0.5, 0.75, 0.5, 0.625, 0.75, 0.875]
    places.clear()
    assert train(Toy(), tmp_path / "a", tiny_task, again, resume=True).step == 8
    assert places == []  # nothing is left to do


def test_the_time_of_earlier_runs_counts(tmp_path: Path, tiny_task: TaskConfig) -> None:
    timed = dataclasses.replace(CONFIG, max_steps=None, time_budget_s=0.4)
    first = train(Toy(), tmp_path / "a", tiny_task, timed)
    assert first.seconds >= 0.4
    more = dataclasses.replace(timed, time_budget_s=0.9)
    second = train(Toy(), tmp_path / "a", tiny_task, more, resume=True)
    assert second.step > first.step
    assert second.seconds >= 0.9
    assert train(Toy(), tmp_path / "a", tiny_task, more, resume=True).step == second.step


def test_a_folder_that_cannot_be_written_is_found_at_once(
    tmp_path: Path, tiny_task: TaskConfig
) -> None:
    (tmp_path / "file").write_text("")
    toy = Toy()
    with pytest.raises(FogError, match=r"file/a: cannot be written: Not a directory; choose"):
        train(toy, tmp_path / "file" / "a", tiny_task)
    assert toy.calls == 0
