"""``fog evaluate global``: what the command writes, and what its page says of the figures."""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fog_bringup import evaluation_page
from fog_bringup.cli import main
from fog_bringup.evaluation_verdict import claims, interval
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.evaluation import evaluate_global
from fog_world_model.evaluation.calibration import predict_outcomes
from fog_world_model.evaluation.horizon_errors import COPY, LOCAL
from fog_world_model.training.loop import LoopConfig
from fog_world_model.training.train_world_models import train_global, train_local

FEW = ["--windows", "6", "--batch-size", "4", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def models(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two global models and a local one that have hardly been trained."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        loop = LoopConfig(max_steps=2, batch_size=3, device="cpu", threads=1, seed=seed)
        train_global(store, folder / f"global{seed}", loop, preset="tiny")
    train_local(store, folder / "local", loop, preset="tiny", window=5)
    return folder


@pytest.fixture(scope="module")
def written(store: EpisodeStore, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    output = tmp_path_factory.mktemp("page") / "new" / "folder"
    status = main(
        [
            "evaluate",
            "global",
            str(models / "global0"),
            str(store.path),
            *FEW,
            "--compare",
            str(models / "global1"),
            "--local",
            str(models / "local"),
            "--output",
            str(output),
        ]
    )
    assert status == 0
    return output


@pytest.fixture
def figures(written: Path) -> dict[str, Any]:
    """The figures, to be changed at will."""
    content: dict[str, Any] = json.loads((written / "evaluation.json").read_text())
    return content


def test_json(figures: dict[str, Any], store: EpisodeStore) -> None:
    def values(content: Any) -> Iterator[Any]:
        if isinstance(content, (dict, list)):
            for part in content.values() if isinstance(content, dict) else content:
                yield from values(part)
        else:
            yield content

    assert all(math.isfinite(v) for v in values(figures) if isinstance(v, float))
    assert list(figures["models"]) == ["global0", "global1"]
    assert list(figures["baselines"]) == [COPY, LOCAL]
    held_out = store.lengths[store.split("validation")]
    last = int(held_out.max()) - 5
    assert figures["horizon"] == list(range(1, last + 1)), "as far as the episodes allow"
    data = figures["data"]
    assert data["hash"] == store.data_hash
    # Of episodes as short as these there is one window each.
    assert data["windows_by_horizon"][0] == data["windows"] == len(held_out)
    assert data["episodes_by_horizon"] == [
        int((held_out - 5 >= h).sum()) for h in figures["horizon"]
    ]
    for name, content in {**figures["models"], **figures["baselines"]}.items():
        for key in ("psnr", "ssim", "perceptual_distance", "reward_error"):
            found = content["figures"][key]
            assert set(found) == {"value", "low", "high"}
            assert len(found["value"]) == last
            pairs = zip(found["low"], found["value"], found["high"], strict=True)
            assert all(a is None or a <= b <= c for a, b, c in pairs), (name, key)
    model = figures["models"]["global0"]
    assert model["training"]["steps"] == 2
    assert model["training"]["samples"] == 6
    assert model["training"]["seconds"] > 0
    assert model["training"]["same_data"] is True
    assert len(model["figures"]["action_sensitivity"]["value"]) == last
    assert sum(model["calibration"]["end"]["count"]) == sum(model["calibration"]["reward"]["count"])
    assert figures["baselines"][LOCAL]["training"]["steps"] == 2


class _Document(HTMLParser):
    """Elements are balanced; collects anchors and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag != "script"
        self.anchors |= {found["id"] or ""} if "id" in found else set()
        self.links |= {found["href"] or ""} if "href" in found else set()
        if tag not in ("meta", "img", "source", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_page(written: Path, figures: dict[str, Any]) -> None:
    text = (written / "evaluation.html").read_text()
    document = _Document(text)
    assert document.links
    assert {link.removeprefix("#") for link in document.links} <= document.anchors
    assert not re.search(r'(?:src|srcset|href)="(?!data:|#)', text), "needs nothing but itself"
    assert "3 recorded frames" not in text
    assert "5 recorded frames" in text
    shown = interval(figures["models"]["global1"]["figures"], "psnr", 1)
    assert f">{shown}</td>" in text
    assert text.count("<figure>") >= 6
    # Pictures of 32x24, five beside each other with two pixels between, a frame for each step.
    films = re.findall(r'class="film" src="data:image/webp;base64,([^"]*)"', text)
    assert films
    with Image.open(io.BytesIO(base64.b64decode(films[0]))) as film:
        assert film.size == (5 * 32 + 4 * 2, 24)
        assert 1 <= film.n_frames <= figures["horizon"][-1]
        film.seek(film.n_frames - 1)
        film.load()
        assert film.info["duration"] == 200


def test_it_prints_a_summary_and_is_repeatable(
    written: Path,
    store: EpisodeStore,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A single checkpoint; by default beside it. Its figures do not depend on others'."""
    checkpoint = tmp_path / "global0"
    checkpoint.symlink_to(models / "global0")
    assert main(["evaluate", "global", str(checkpoint), str(store.path), *FEW]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "held-out episodes" in printed[0]
    assert printed[1].split()[0] == "global0"
    assert printed[-1] == str(tmp_path / "global0.evaluation" / "evaluation.html")
    again = json.loads((tmp_path / "global0.evaluation" / "evaluation.json").read_text())
    before = json.loads((written / "evaluation.json").read_text())
    before_figures = before["models"]["global0"]["figures"]
    for key, found in again["models"]["global0"]["figures"].items():
        assert found == before_figures[key], key
    assert "psnr_gain_over_local" not in again["models"]["global0"]["figures"]


def test_nothing_is_half_written(
    store: EpisodeStore, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    command = ["evaluate", "global", str(models / "global0"), str(store.path), *FEW]
    assert main([*command, "--output", str(output)]) == 0
    before = {p: p.read_bytes() for p in output.iterdir()}
    from fog_world_model.evaluation import horizon_errors

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(horizon_errors, "structural_similarity", interrupted)
    assert main([*command, "--output", str(output)]) == 130
    monkeypatch.undo()
    monkeypatch.setattr(evaluation_page, "_cost", interrupted)
    assert main([*command, "--output", str(output)]) == 130
    assert {p: p.read_bytes() for p in output.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--horizon", "0"], "--horizon 0"),
        (["--windows", "-3"], "--windows -3"),
        (["--compare", "{models}/global0"], "given twice"),
        (["--compare", "{models}/local"], "kind is 'local', expected 'global'"),
        (["--local", "{models}/nothing"], "nothing: no such folder"),
        (["--output", "{models}/local/manifest.json"], "cannot be written"),
    ],
)
def test_what_it_refuses(
    arguments: list[str],
    expected: str,
    store: EpisodeStore,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["evaluate", "global", str(models / "global0"), str(store.path), *FEW]
    command += ["--output", str(tmp_path / "out")] if "--output" not in arguments else []
    assert main([*command, *(a.format(models=models) for a in arguments)]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_store_that_was_trained_on_otherwise_is_named(
    models: Path,
    store: EpisodeStore,
    tmp_path: Path,
    store_of: Callable[..., EpisodeStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same task, other episodes: what is held out here may have been seen in training.

    Proprioception stays on the scale that the model knows.
    """
    scales = []

    def spy(model: Any, view: EpisodeStore, **more: Any) -> Any:
        scales.append(view.normalisation.mean)
        return predict_outcomes(model, view, **more)

    monkeypatch.setattr(evaluate_global, "predict_outcomes", spy)
    other = store_of(tmp_path / "other", (9, 9, 11, 12, 13, 14))
    output = tmp_path / "out"
    command = ["evaluate", "global", str(models / "global0"), str(other.path), *FEW]
    assert main([*command, "--output", str(output)]) == 0
    assert "may have been seen in its training" in (output / "evaluation.html").read_text()
    assert scales[0] == pytest.approx(store.normalisation.mean, rel=1e-5)
    assert other.normalisation.mean != pytest.approx(store.normalisation.mean, rel=1e-2)


def _set(content: dict[str, Any], key: str, value: float, low: float, high: float) -> None:
    figures = content["models"]["global0"]["figures"]
    last = content["horizon"][-1]
    figures[key] = {"value": [value] * last, "low": [low] * last, "high": [high] * last}


def test_claims_follow_from_the_figures(figures: dict[str, Any]) -> None:
    figures["object"] = {"name": "block", "horizons": [1], "seen": [1.0]}
    _set(figures, "psnr_gain", 1.0, 0.2, 1.5)
    _set(figures, "psnr_gain_over_local", 1.0, -0.2, 1.5)
    _set(figures, "object_error_px", 2.0, 1.5, 2.9)
    _set(figures, "object_lost", 0.05, 0.0, 0.1)
    _set(figures, "action_sensitivity", 4.0, 3.1, 5.0)
    _set(figures, "colour_shift", 2.0, 1.0, 3.0)
    _set(figures, "sharpness", 0.9, 0.8, 1.0)
    judged = claims(figures)
    assert [c.holds for c in judged] == [True, False, True, True, True]
    assert judged[0].figure == "+1.00 dB"
    for key, worse in {
        "psnr_gain": (1.0, -0.1, 1.5),
        "object_error_px": (2.0, 1.5, 3.1),
        "object_lost": (0.2, 0.1, 0.3),
        "action_sensitivity": (4.0, 2.9, 5.0),
        "colour_shift": (6.0, 5.0, 7.0),
        "sharpness": (0.5, 0.4, 0.6),
    }.items():
        changed = copy.deepcopy(figures)
        _set(changed, key, *worse)
        differing = [
            before.title
            for before, after in zip(judged, claims(changed), strict=True)
            if before.holds != after.holds
        ]
        assert len(differing) == 1, key
    # Without an interval nothing can be told from chance.
    alone = copy.deepcopy(figures)
    found = alone["models"]["global0"]["figures"]["psnr_gain"]
    found["low"] = found["high"] = [None] * len(found["value"])
    assert claims(alone)[0].holds is False
    # A block that is never seen in imagination has no position, and is no success.
    gone = copy.deepcopy(figures)
    del gone["models"]["global0"]["figures"]["object_error_px"]
    _set(gone, "object_lost", 1.0, 1.0, 1.0)
    assert claims(gone)[2].holds is False
