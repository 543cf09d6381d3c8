"""``fog benchmark action-gradient``: its figures are those of the derivatives that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fog_bringup.benchmarks import action_gradient as module
from fog_bringup.cli import main
from fog_policy.action_gradient import ActionGradients
from fog_world_model.data.episodes import EpisodeStore

COSINES = ("decoupled", "local", "gain")


@pytest.fixture
def command(long_store: EpisodeStore, models: list[str], cloned: Path) -> list[str]:
    """On hardly trained worlds and the policy that was cloned in them."""
    return [
        "benchmark", "action-gradient", "--store", str(long_store.path), *models, "--policy",
        f"{cloned}.bundle", "--contexts", "6", "--threads", "1",
    ]  # fmt: skip


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[ActionGradients]:
    """The derivatives that were compared."""
    calls: list[ActionGradients] = []
    compute = module.action_gradients

    def spy(*arguments: Any, **named: Any) -> ActionGradients:
        calls.append(compute(*arguments, **named))
        return calls[-1]

    monkeypatch.setattr(module, "action_gradients", spy)
    return calls


def test_json_and_table(
    command: list[str], seen: list[ActionGradients], capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    horizons = ["--horizons", "4", "1", "2"]
    assert main([*command, *horizons, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert torch.get_num_threads() == threads
    assert figures["horizons"] == [1, 2, 4]
    assert figures["precision"] == "float32"
    assert figures["made_from"]["policy"]["method"] == "bc"
    (gradients,) = seen
    assert gradients.measured.shape == (3, 6, 2)
    for place, whole in enumerate(gradients.whole):
        assert figures["contexts"][place] == int(whole.sum())
        if not bool(whole.any()):
            continue
        rows = {name: getattr(gradients, name)[place][whole].flatten() for name in figures["sizes"]}
        for name in ("decoupled", "local"):
            cosine = torch.cosine_similarity(rows[name], rows["measured"], dim=0)
            assert figures[name]["value"][place] == pytest.approx(float(cosine), abs=1e-4)
        size = float(rows["measured"].square().sum().div(whole.sum()).sqrt())
        assert figures["sizes"]["measured"][place] == pytest.approx(size, rel=1e-4)
    # The same command, the same contexts and noise, the same figures, as text.
    assert main([*command, *horizons]) == 0
    head, columns, *rows = capsys.readouterr().out.splitlines()
    assert "0.25 to either side" in head
    assert columns.split() == ["steps", "contexts", "decoupled", "local", "alone", "gain"]
    for place, row in enumerate(rows):
        value = figures["decoupled"]["value"][place]
        expected = "none" if value is None else f"{value:.2f}"
        assert re.split(r"\s{2,}", row.strip())[2].startswith(expected)
    assert len(rows) == 3


def test_a_sample_of_the_prior_changes_only_what_the_local_model_says(
    command: list[str], seen: list[ActionGradients]
) -> None:
    for options in ([], ["--sample-prior"]):
        assert main([*command, "--horizons", "2", *options, "--json"]) == 0
    mean, sample = seen
    assert torch.equal(mean.measured, sample.measured)
    assert not torch.equal(mean.decoupled, sample.decoupled)
    assert not torch.equal(mean.local, sample.local)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--horizons", "0"], "expected one or more, each 1 or more"),
        (["--step", "1"], "--step 1.0: expected more than 0 and less than 1"),
        (["--contexts", "9999"], "--contexts 9999: episode store"),
    ],
)
def test_what_cannot_be(
    command: list[str], options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *options]) == 2
    assert said in capsys.readouterr().err


def test_the_policy_goes_with_its_local_model(
    command: list[str], cloned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out, it is the one in the policy's checkpoint, which a bundle does not have."""
    at = command.index("--local-model")
    without = [*command[:at], *command[at + 2 :], "--horizons", "1"]
    assert main(without) == 2
    assert "a bundle holds what runs on the robot" in capsys.readouterr().err
    without[without.index("--policy") + 1] = str(cloned)
    assert main([*without, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made_from"]["local"]["kind"] == "policy"
