"""Policies by name, and the copy of a bundle that goes into a repository."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fog_policy.actor_critic import Actor, ActorCriticConfig
from fog_policy.bundle import Bundle, load_bundle, write_bundle
from fog_policy.bundle_copy import copy_bundle
from fog_policy.shipped_policies import find_bundle, policy_folders, policy_names
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.local_model.local_model import PRESETS, LocalModel, LocalModelConfig
from fog_world_model.task import TaskConfig


def untrained(task: TaskConfig, folder: Path) -> Bundle:
    torch.manual_seed(3)
    config = LocalModelConfig(**task.sizes, **PRESETS["tiny"])
    local = LocalModel(config)
    sizes = ActorCriticConfig(features=local.features_size, action_size=task.action_size, hidden=16)
    actor = Actor(sizes)
    for layer in actor.body:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    size = task.proprioception_size
    manifest = {
        "task": task.to_dict(),
        "task_hash": task.hash,
        "normalisation": {"mean": [0.0] * size, "std": [1.0] * size},
        "local_config": vars(config),
        "actor_critic": vars(sizes),
        "method": "none",
        "commit": "0123abc",
        "versions": {"torch": "1.0"},
    }
    return write_bundle(local, actor, folder, manifest)


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of nothing but policies, which is looked into first but for the sources."""
    prefix = tmp_path / "prefix"
    (prefix / "share" / "fog_bringup" / "policies").mkdir(parents=True)
    before = os.environ.get("AMENT_PREFIX_PATH", "")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}{os.pathsep}{before}")
    return prefix


def test_a_path_comes_before_a_name(
    tiny_store: EpisodeStore, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = prefix / "share" / "fog_bringup" / "policies"
    assert policies in policy_folders()
    for name in ("walks", "an_other"):
        untrained(tiny_store.task, policies / name)
    (policies / "no_bundle").mkdir()
    assert {"walks", "an_other"} <= set(policy_names()) and "no_bundle" not in policy_names()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert find_bundle("walks") == policies / "walks"
    assert load_bundle(find_bundle(Path("walks")), tiny_store.task).manifest["method"] == "none"
    (tmp_path / "here" / "walks").mkdir()
    assert find_bundle("walks") == Path("walks")
    unknown = r"bundle {}: no such folder, and no shipped .* known are .*an_other.*walks.*fog train"
    for wrong in ("no_bundle", "nowhere", "models/walks", "walks/manifest.json"):
        with pytest.raises(FogError, match=unknown.format(wrong)):
            find_bundle(wrong)


def test_the_look_up_is_light() -> None:
    """A launch file and the operator's page use it, and PyTorch takes seconds."""
    code = "import fog_policy.shipped_policies, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_copy_is_the_same_policy(tiny_store: EpisodeStore, tmp_path: Path) -> None:
    first = untrained(tiny_store.task, tmp_path / "first")
    copy = copy_bundle(tmp_path / "first", tmp_path / "copy")
    assert copy.manifest == first.manifest, "the same weights, made by the same version"
    one, other = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("first", "copy"))
    assert one == other

    halved = copy_bundle(tmp_path / "first", tmp_path / "halved", precision="float16")
    assert halved.manifest["exported"] == {"precision": "float16"}
    assert halved.manifest["weights_sha256"] != first.manifest["weights_sha256"]
    assert halved.manifest["commit"] == "0123abc"
    halves = load_file(tmp_path / "halved" / "weights.safetensors")
    wholes = load_file(tmp_path / "first" / "weights.safetensors")
    for name, value in halves.items():
        assert value.dtype == (torch.float16 if value.dim() > 1 else torch.float32), name
        torch.testing.assert_close(value.float(), wholes[name], rtol=2**-11, atol=1e-7)
    episode = tiny_store.episode(0)
    answers = []
    for bundle in (first, halved):
        controller = bundle.controller()
        previous = np.zeros(tiny_store.task.action_size, np.float32)
        answers.append(
            [controller.act(i, p, previous) for i, p in zip(
                episode.image[:5], episode.proprioception[:5], strict=True)]
        )  # fmt: skip
    difference = np.abs(np.subtract(*answers)).max()
    assert 0 < difference < 0.02, "another policy, if only slightly"


def test_what_is_not_copied(tiny_store: EpisodeStore, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    untrained(tiny_store.task, bundle)
    size = sum(f.stat().st_size for f in bundle.iterdir())
    copy_bundle(bundle, tmp_path / "fits", largest=size)
    with pytest.raises(FogError, match=r"MB are more than .*--precision float16.*evaluate"):
        copy_bundle(bundle, tmp_path / "x", largest=size - 1)
    copy_bundle(bundle, tmp_path / "rounded", largest=size - 1, precision="float16")
    with pytest.raises(FogError, match="a smaller local model"):
        copy_bundle(bundle, tmp_path / "x", largest=100, precision="float16")
    with pytest.raises(FogError, match="known are float16, bfloat16"):
        copy_bundle(bundle, tmp_path / "x", precision="int4")
    with pytest.raises(FogError, match="is the bundle itself"):
        copy_bundle(bundle, tmp_path / "x" / ".." / "bundle")

    file = bundle / "weights.safetensors"
    weights = load_file(file)
    name = next(k for k, v in weights.items() if v.dim() == 1)
    weights[name][0] = float("nan")
    save_file(weights, file)
    with pytest.raises(FogError, match="not the file that was exported"):
        copy_bundle(bundle, tmp_path / "x")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["weights_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FogError, match=f"weight {name} is not finite"):
        copy_bundle(bundle, tmp_path / "x")
    assert not (tmp_path / "x").exists()
