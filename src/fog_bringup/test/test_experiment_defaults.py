"""What an experiment does unless it is told otherwise, and that telling counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tyro
from rich.console import Console

from fog_bringup import experiment as module
from fog_bringup import experiment_sources
from fog_bringup.cli import main
from fog_bringup.cli_training import Train, TrainGlobal, TrainLocal
from fog_bringup.experiment_defaults import FoundGood, found_good
from fog_bringup.experiment_settings import ExperimentSettings, require_same
from fog_bringup.method_options import configuration
from fog_bringup.tasks import find_task
from fog_policy.methods import METHODS
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[ExperimentSettings]:
    """What the command would run."""
    calls: list[ExperimentSettings] = []

    def take(output: Path, settings: ExperimentSettings) -> int:
        calls.append(settings)
        return 0

    monkeypatch.setattr(module, "experiment", take)
    return calls


def test_what_was_found_good_is_set_and_what_is_given_counts(
    settings: list[ExperimentSettings],
) -> None:
    assert main(["experiment", "pusht_easy"]) == 0
    more = [
        "--global-preset",
        "tiny",
        "--steps",
        "500",
        "--world-model-time",
        "90s",
        "--options",
        "ppo.gamma=0.9",
    ]
    assert main(["experiment", "pusht_easy", *more]) == 0
    plain, given = settings
    assert (plain.global_preset, plain.steps, plain.world_model_s) == ("medium", 60_000, 2700.0)
    assert (given.global_preset, given.steps, given.world_model_s) == ("tiny", 500, 90.0)
    for name, expected in (("fog", (64, 1, 24)), ("ppo", (64, 1, 24))):
        config = configuration(name, plain.options, seed=0)
        assert (config.environments, config.sampling_steps, config.imagined_episode) == expected
    assert configuration("fog", plain.options, seed=0).actor_passes == 2
    gammas = [configuration("ppo", s.options, seed=0).gamma for s in settings]
    assert gammas == [0.95, 0.9]


def test_other_tasks_are_as_the_methods_are(settings: list[ExperimentSettings]) -> None:
    assert main(["experiment", "pusht"]) == 0
    assert settings[0] == ExperimentSettings(task="pusht")
    assert found_good(find_task("pusht")) == FoundGood()


def test_everything_that_is_set_is_known() -> None:
    """To the methods, and to the commands that train the world models."""
    found = found_good(find_task("pusht_easy"))
    for name in METHODS:
        configuration(name, found.options, seed=0)
    plain = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
    given = ["global", "store", "out", *found.global_options]
    train = tyro.cli(Train, args=given, config=plain)
    assert isinstance(train.what, TrainGlobal)
    assert (train.what.moving_windows, train.what.batch_size) == (0.6, 16)
    train = tyro.cli(Train, args=["local", "store", "out", *found.local_options], config=plain)
    assert isinstance(train.what, TrainLocal)
    assert train.what.reward_std == 0.03


def test_each_world_model_is_trained_with_its_own_options(
    long_store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: dict[str, Any] = {}

    def run(given: dict[str, Any], logs: Path) -> dict[str, Any]:
        commands.update(given)
        return {}

    monkeypatch.setattr(experiment_sources, "run_side_by_side", run)
    settings = ExperimentSettings(
        store=long_store.path,
        global_preset="medium",
        global_options=("--moving-windows", "0.6"),
        local_options=("--reward-std", "0.03"),
    )
    experiment_sources.make_sources(long_store.task, settings, tmp_path, Console(quiet=True))
    world, local = commands["global model"], commands["local model"]
    assert world[world.index("--preset") + 1] == "medium"
    assert world[world.index("--moving-windows") + 1] == "0.6"
    assert "--moving-windows" not in local and "--reward-std" not in world
    assert local[local.index("--reward-std") + 1] == "0.03"


def test_an_experiment_of_before_is_gone_on_with(tmp_path: Path) -> None:
    """Its note says nothing of further options, and it had none."""
    now = ExperimentSettings().to_dict()
    later = ("global_options", "local_options")
    before = {key: value for key, value in now.items() if key not in later}
    (tmp_path / "settings.json").write_text(json.dumps(before))
    require_same(tmp_path, "settings", now)
    with pytest.raises(FogError, match="global_options was"):
        require_same(tmp_path, "settings", {**now, "global_options": ["--moving-windows", "0.6"]})
