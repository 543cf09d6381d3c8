"""The worlds in ``worlds/``: whole, of the shipped tasks, and better than a still picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fog_bringup.tasks import find_task
from fog_bringup.worlds import find_part, world_folders, world_names
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError
from fog_world_model.evaluation.open_loop import evaluate_open_loop
from fog_world_model.training.export import LARGEST_FILE
from fog_world_model.training.train_world_models import load_global, load_local

NAMES = ("push_cube", "pusht", "reach_cube")


def test_these_ship() -> None:
    assert set(NAMES) <= set(world_names())


@pytest.mark.parametrize("name", NAMES)
def test_world_fits_its_task_and_beats_a_still_picture(name: str) -> None:
    task = find_task(name)  # opening an artefact of another task, or damaged weights, is an error
    model, checkpoint = load_global(find_part(name, "global"), task)
    local, of_local = load_local(find_part(name, "local"), task)
    store = EpisodeStore(find_part(name, "episodes"), task)
    assert of_local.manifest["data_hash"] == checkpoint.manifest["data_hash"]
    assert store.data_hash != checkpoint.manifest["data_hash"], "not trained on what it starts from"
    store = store.normalised_as(checkpoint.normalisation)
    figures = evaluate_open_loop(model, store, local=local, horizons=(1, 4, 8), windows=24)
    for ours, still in zip(figures.model_psnr, figures.copy_last_psnr, strict=True):
        assert ours > still
    # The reward is foretold, not only the picture.
    assert min(figures.model_reward_correlation) > 0.3


@pytest.mark.parametrize("name", NAMES)
def test_manifest_says_how_it_was_made(name: str) -> None:
    for part in ("global", "local"):
        folder = find_part(name, part)  # type: ignore[arg-type]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["kind"] == part and manifest["seconds"] > 0 and manifest["step"] > 0
        assert manifest["commit"] and manifest["versions"]["torch"] and manifest["loop"]
        assert manifest["exported"]["precision"] == "float16"
    files = [p for p in (world_folders()[0] / name).rglob("*") if p.is_file()]
    assert max(p.stat().st_size for p in files) <= LARGEST_FILE


def test_a_path_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_part("pusht", "global") == world_folders()[0] / "pusht" / "global"
    (tmp_path / "pusht").mkdir()
    assert find_part("pusht", "global") == Path("pusht")
    with pytest.raises(FogError, match=r"nowhere: no such folder.*known are .*pusht"):
        find_part("nowhere", "global")
    with pytest.raises(FogError, match="no such folder"):
        find_part(tmp_path / "x" / "pusht", "global")  # a path, no name
