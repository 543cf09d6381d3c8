"""``fog train policy --method``: the baselines by the same command, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from fog_bringup.cli import main
from fog_policy.bundle import load_bundle
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.training.checkpoint import open_checkpoint

SMALL = {
    "ppo": ["ppo.environments=4", "ppo.horizon=8", "ppo.segment=4", "ppo.refresh_batch=2"],
    "local": ["local.environments=4", "local.horizon=4"],
    "bc": ["bc.share=1", "bc.rank=final"],
}


@pytest.mark.parametrize("method", SMALL)
def test_a_baseline_is_trained_and_gone_on_with(
    method: str,
    long_store: EpisodeStore,
    models: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "policy"
    command = ["train", "policy", str(long_store.path), str(output), *models,
               "--method", method, "--options", *SMALL[method]]  # fmt: skip
    assert main([*command, "--max-updates", "1"]) == 0
    assert main([*command, "--max-updates", "2", "--resume"]) == 0
    assert f"{output}.bundle: 2 updates" in capsys.readouterr().out
    found = open_checkpoint(output, "policy", long_store.task).manifest
    assert found["method"] == method
    assert [row["update"] for row in found["curve"]] == [1, 2]
    bundle = load_bundle(f"{output}.bundle", long_store.task)
    assert bundle.manifest["method"] == method
    bundle.controller()
    # A setting that differs makes it another run.
    assert main([*command[:-1], f"{method}.seed=1"]) == 2
    assert main([*command, "--max-updates", "2", "--resume", "--seed", "3"]) == 2
    assert "config.seed was 0, is 3" in capsys.readouterr().err


def test_cloning_ends_by_itself(
    long_store: EpisodeStore, models: list[str], tmp_path: Path
) -> None:
    """Long before the time is over: likelihood on held-out episodes has stopped rising."""
    command = ["train", "policy", str(long_store.path), str(tmp_path / "policy"), *models]
    given = ["bc.share=1", "bc.patience=1", "bc.rate=0.3"]
    assert main([*command, "--method", "bc", "--options", *given, "--time-budget", "2h"]) == 0
    curve = open_checkpoint(tmp_path / "policy", "policy").manifest["curve"]
    assert [row["finished"] for row in curve] == [0.0] * (len(curve) - 1) + [1.0]


FEW = {
    "fog": ["--environments", "4", "--horizon", "4", "--check-every", "0"],
    "ppo": ["--method", "ppo", "--options", *SMALL["ppo"], "ppo.critic_first=1"],
    "local": ["--method", "local", "--options", *SMALL["local"]],
}


@pytest.mark.parametrize("method", FEW)
def test_a_method_starts_from_a_cloned_policy_and_is_gone_on_with(
    method: str,
    cloned: Path,
    long_store: EpisodeStore,
    models: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, bundle = tmp_path / "policy", Path(f"{cloned}.bundle")
    command = ["train", "policy", str(long_store.path), str(output), *models, *FEW[method]]
    start = ["--start-from", str(bundle)]
    assert main([*command, *start, "--max-updates", "1"]) == 0
    assert main([*command, *start, "--max-updates", "2", "--resume"]) == 0
    found = open_checkpoint(output, "policy", long_store.task)
    assert found.manifest["config"]["critic_first"] == (1 if method == "ppo" else 20)
    origin = found.manifest["made_from"]["started_from"]
    assert (origin["kind"], origin["method"], origin["updates"]) == ("bundle", "bc", 2)
    assert load_bundle(f"{output}.bundle").manifest["made_from"]["started_from"] == origin
    weights = load_bundle(bundle).checkpoint.tensors("weights")
    digest = hashlib.sha256()
    for name in sorted(weights):
        if name.startswith("actor."):
            digest.update(name.removeprefix("actor.").encode() + weights[name].numpy().tobytes())
    assert origin["actor_sha256"] == digest.hexdigest()
    unchanged = all(
        torch.equal(value, weights[f"actor.{name}"])
        for name, value in found.tensors("actor").items()
    )
    assert unchanged == (method != "ppo"), "PPO has learned in its second update"
    capsys.readouterr()
    assert main([*command, "--max-updates", "3", "--resume"]) == 2
    assert "does not belong to this run" in capsys.readouterr().err


def test_what_learns_in_no_global_model_needs_none(
    long_store: EpisodeStore, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = models.index("--global-model")
    local = [*models[:at], *models[at + 2 :]]
    train = ["train", "policy", str(long_store.path), str(tmp_path / "policy"), *local,
             "--max-updates", "1"]  # fmt: skip
    for method in ("fog", "ppo"):
        assert main([*train, *FEW[method]]) == 2
        assert f"not given, and --method {method} learns in it" in capsys.readouterr().err
    assert main([*train, *FEW["local"]]) == 0
    made_from = load_bundle(tmp_path / "policy.bundle").manifest["made_from"]
    assert made_from["global"] is None and made_from["local"]["step"] > 0
    assert main([*train, "--method", "bc", "--options", "bc.share=1"]) == 0


def test_only_with_its_own_local_model(
    cloned: Path,
    long_store: EpisodeStore,
    models: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Given another one it is refused; given none, the one in the policy's checkpoint is taken."""
    other = ["--preset", "tiny", "--batch-size", "2", "--device", "cpu", "--max-steps", "2"]
    assert main(["train", "local", str(long_store.path), str(tmp_path / "other"), *other]) == 0
    train = ["train", "policy", str(long_store.path), str(tmp_path / "policy"), *FEW["fog"],
             "--max-updates", "1", *models]  # fmt: skip
    at = train.index("--local-model")
    wrong = [*train[: at + 1], str(tmp_path / "other"), *train[at + 2 :]]
    bundle = f"{cloned}.bundle"
    assert main([*wrong, "--start-from", bundle]) == 2
    said = capsys.readouterr().err
    assert (
        "reads the states of another local model than" in said and f"--start-from {cloned}" in said
    )
    without = [*train[:at], *train[at + 2 :]]
    assert main([*without, "--start-from", bundle]) == 2
    assert "a bundle holds what runs on the robot" in capsys.readouterr().err
    assert not (tmp_path / "policy").exists()
    assert main([*without, "--start-from", str(cloned)]) == 0
    found = open_checkpoint(tmp_path / "policy", "policy").manifest["made_from"]
    assert found["local"]["kind"] == "policy" and found["local"]["method"] == "bc"
    assert found["started_from"]["kind"] == "policy"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "ppo", "--gamma", "0.9"], "--gamma 0.9: a setting of fog"),
        (["--method", "ppo", "--options", "bc.share=1"], "expected ppo.SETTING=VALUE"),
        (["--method", "bc", "--options", "bc.horizon=3"], "bc has no setting 'horizon'"),
        (["--options", "fog.anchor=0.1"], "there is no policy that it begins with"),
        (["--options", "ppo.horizon=16"], "expected fog.SETTING=VALUE"),
    ],
)
def test_settings_of_another_method_are_refused(
    options: list[str],
    said: str,
    long_store: EpisodeStore,
    models: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "policy"
    assert main(["train", "policy", str(long_store.path), str(path), *models, *options]) == 2
    assert said in capsys.readouterr().err
    assert not path.exists()
