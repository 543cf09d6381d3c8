"""``fog train policy``: what the options become, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fog_policy.train_policy
import fog_world_model.data.episodes
from fog_bringup.cli import main
from fog_bringup.cli_train_policy import horizons
from fog_policy.fog_config import FogConfig
from fog_policy.methods import Sources
from fog_policy.policy_training import PolicyLoopConfig
from fog_world_model.errors import FogError

ARGUMENTS = ["train", "policy", "store", "out", "--global-model", "g", "--local-model", "l"]


def test_horizons() -> None:
    assert horizons("16") == (16, 16)
    assert horizons(" 16:64 ") == (16, 64)
    for text in ("0", "16:", ":16", "16:0", "a", "1.5", "16:32:64", "-4"):
        with pytest.raises(
            FogError, match=r"^--horizon .*: expected steps, such as 16, or a sched"
        ):
            horizons(text)


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the command calls, in place of a training, where the folders exist."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.chdir(tmp_path)
    for name in ("store", "g", "l"):
        (tmp_path / name).mkdir()

    def train(*arguments: Any, start_from: Any, resume: bool) -> SimpleNamespace:
        calls.append((*arguments, start_from, resume))
        return SimpleNamespace(updates=3, imagined_steps=48, interrupted=len(calls) > 1)

    monkeypatch.setattr(fog_policy.train_policy, "train_policy", train)
    monkeypatch.setattr(fog_world_model.data.episodes, "EpisodeStore", lambda path, images: path)
    return calls


def test_defaults_are_those_of_the_settings(
    called: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(ARGUMENTS) == 0
    assert called == [
        (
            "fog", Sources(Path("store"), Path("g"), Path("l")), FogConfig(),
            PolicyLoopConfig(time_budget_s=360.0), Path("out"), Path("out.bundle"), None, False,
        )
    ]  # fmt: skip
    assert capsys.readouterr().out == "out.bundle: 3 updates, 48 imagined steps\n"


def test_options_reach_their_settings_and_an_interrupted_run_says_so(
    called: list[tuple[Any, ...]],
) -> None:
    main(ARGUMENTS)
    options = {
        "--environments": 64, "--imagined-episode": 40, "--contexts": 300, "--sampling-steps": 2,
        "--precision": "float32", "--gamma": 0.99, "--entropy-target": -0.5, "--local-share": 0.25,
        "--refresh-steps": 2, "--buffer-steps": 5000, "--check-every": 10, "--seed": 4,
        "--device": "cpu", "--threads": 1, "--critic-first": 5,
    }  # fmt: skip
    given = [str(part) for pair in options.items() for part in pair]
    status = main(
        [*ARGUMENTS, *given, "--horizon", "16:32", "--sample-prior", "--resume", "--max-updates",
         "7", "--max-imagined-steps", "1000", "--time-budget", "2h", "--checkpoint-every", "5m"]
    )  # fmt: skip
    assert status == 130
    expected = {name.removeprefix("--").replace("-", "_"): v for name, v in options.items()}
    _, _, config, loop, *_, start_from, resume = called[1]
    assert config == FogConfig(horizon=16, horizon_end=32, sample_prior=True, **expected)
    assert loop == PolicyLoopConfig(7200.0, 7, 1000, 300.0)
    assert start_from is None and resume


def test_a_setting_with_an_option_of_its_own_and_others(
    called: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is set both ways is refused; what cannot be is set with --options."""
    others = ["--options", "fog.horizon_end=24", "fog.actor_rate=1e-4"]
    assert main([*ARGUMENTS, *others]) == 0
    assert called[0][2] == FogConfig(horizon_end=24, actor_rate=1e-4)
    assert main([*ARGUMENTS, "--options", "fog.gamma=0.9"]) == 2
    assert "fog.gamma: has an option of its own; give --gamma" in capsys.readouterr().err
    assert len(called) == 1


def test_a_run_that_starts_from_a_policy_gives_the_critic_a_lead(
    called: list[tuple[Any, ...]],
) -> None:
    assert main([*ARGUMENTS, "--start-from", "b"]) == 0
    assert main([*ARGUMENTS, "--start-from", "b", "--critic-first", "3"]) == 130
    for call, updates in zip(called, (20, 3), strict=True):
        assert call[2] == FogConfig(critic_first=updates)
        assert call[6] == Path("b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--horizon", "x"], "--horizon x: expected steps"),
        (["--entropy-target", "1"], "entropy_target is 1.0; expected less than 0"),
        (["--checkpoint-every", "soon"], "--checkpoint-every soon: expected a duration"),
        (["--start-from", "out"], "--start-from out: would be replaced by the result"),
        (["--start-from", "./out.bundle"], "would be replaced by the result; give another OUTPUT"),
        (["--start-from", "b", "--method", "bc"], "--start-from b: behaviour cloning begins anew"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(
    called: list[tuple[Any, ...]],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*ARGUMENTS, *options]) == 2
    assert message in capsys.readouterr().err
    assert called == []


def test_without_a_local_model_there_has_to_be_a_policy_that_has_one(
    called: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(ARGUMENTS[:-2]) == 2
    assert "--local-model: not given; name the local model, or" in capsys.readouterr().err
    assert main([*ARGUMENTS[:-2], "--start-from", str(tmp_path / "nothing")]) == 2
    assert "nothing: no such folder, and no shipped policy of that name" in capsys.readouterr().err
    assert called == []


def test_a_shipped_world_is_meant_by_its_name(called: list[tuple[Any, ...]]) -> None:
    arguments = ["train", "policy", "pusht", "out", "--global-model", "pusht"]
    assert main([*arguments, "--local-model", "pusht"]) == 0
    _, sources, _, _, output, *_ = called[0]
    places = (sources.store, sources.global_model, sources.local_model)
    assert [p.parts[-2:] for p in places] == [
        ("pusht", "episodes"),
        ("pusht", "global"),
        ("pusht", "local"),
    ]
    assert output == Path("out")
