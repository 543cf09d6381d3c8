"""The demo's report, from made-up results."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fog_bringup import report_page, report_pictures
from fog_bringup.report import write_report
from fog_bringup.report_theme import LIGHT, Draw, Theme, png
from fog_bringup.report_verdict import claims, headline
from fog_world_model.errors import FogError
from fog_world_model.evaluation.open_loop import OpenLoop

VOID = {"meta", "img", "source", "br", "link"}


class Document(HTMLParser):
    """Checks that elements are balanced, and collects what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str]] = []
        self.sources: list[dict[str, str]] = []
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        assert tag != "script"
        if "id" in found:
            self.anchors.add(found["id"])
        if tag == "a":
            self.links.add(found["href"])
        if tag == "img":
            self.images.append(found)
        if tag == "source":
            self.sources.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words += data


def record(controller: str, level: float, episodes: int = 3, steps: int = 6) -> dict[str, Any]:
    """Episodes that earn about ``level`` per step."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(episodes):
        rewards = (level + 0.01 * rng.normal(size=steps)).tolist()
        base = np.cumsum(rng.normal(size=(steps + 1, 3)) / 5, axis=0).tolist()
        cube = [[1.0, 0.5, 0.1]] * (steps + 1)
        found.append(
            {
                "seed": seed,
                "rewards": rewards,
                "return": sum(rewards),
                "end": False,
                "base": base,
                "cube": cube,
                "goal": None if seed else [2.0, 0.0, 0.0],
                "commands": steps,
                "missed": 0,
            }
        )
    return {"controller": controller, "control_hz": 5.0, "max_steps": steps, "episodes": found}


def summary(mean: float) -> dict[str, Any]:
    return {"episodes": 20, "mean": mean, "low": mean - 1, "high": mean + 1}


@pytest.fixture
def content() -> dict[str, Any]:
    """A run in which everything went well."""
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (2, 16, 8, 8, 3), dtype=np.uint8)
    open_loop = OpenLoop(
        horizon=[1, 4, 8, 16],
        model_psnr=[27.0, 24.0, 22.0, 20.0],
        copy_last_psnr=[25.0, 21.0, 19.0, 18.0],
        local_psnr=[24.0, 22.0, 21.0, 19.0],
        model_psnr_per_window=[28.0, 25.0, 23.0, 21.0],
        copy_last_psnr_per_window=[27.0, 24.0, 22.0, 20.0],
        model_reward_correlation=[0.9, 0.8, 0.7, 0.6],
        local_reward_correlation=[0.9, 0.8, 0.7, -0.2],
        windows=64,
        real=real,
        imagined=real[::-1],
    )
    curve = [
        {"step": i, "seconds": i * 1.0, "total": 2.0 / i, "reward": 1.0 / i, "kl": 3.0}
        for i in range(1, 6)
    ]
    policy: list[dict[str, float]] = [
        {"reward": 0.1 * i, "imagined_steps": 100 * i, "seconds": i * 1.0} for i in range(1, 6)
    ]
    policy[3]["gradient_cosine"] = 0.5
    levels = {"policy": 0.6, "random": 0.2, "standing": 0.1}
    return {
        "json": {
            "task": {"name": "reach_cube", "hash": "ab12"},
            "closed_loop": {name: summary(60 * level) for name, level in levels.items()},
            "open_loop": open_loop.figures(),
            "control": {
                "declared_hz": 5.0,
                "achieved_hz": 5.01,
                "seconds": 72.0,
                "commands": 360,
                "missed_deadlines": 1,
                "latency_ms": {"p50": 24.0, "p99": 60.0, "max": 70.0},
                "inference_ms": {"p50": 3.0, "p99": 4.0, "max": 5.0},
                "stops": {"image": {"events": 2, "commands": 7}},
            },
            "seconds": {"record": 90.0, "world_models": 420.0, "total": 510.0},
            "steps": {"real": 17_000, "imagined": 51_000},
            "data": {
                "hash": "cd34",
                "episodes": 284,
                "transitions": 17_000,
                "breaks": {"marker": 283},
                "bags": [
                    {"topics": {"/odom": {"received": 10, "used": 9}}},
                    {"topics": {"/odom": {"received": 5, "used": 4}}},
                ],
            },
            "settings": {"horizon": 16},
            "versions": {"torch": "2.13.0"},
        },
        "frames": [real[0], real[1][:3]],
        "open_loop": open_loop,
        "curves": {"global": curve, "local": curve, "policy": policy},
        "closed_loop": {name: record(name, level) for name, level in levels.items()},
        "arena_m": 6.0,
    }


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: one dot for every picture."""
    buffer = io.BytesIO()
    Image.new("RGBA", (2, 2)).save(buffer, format="png")
    monkeypatch.setattr(report_page, "png", lambda draw, theme: buffer.getvalue())


def decoded(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    return image


def test_report_is_one_whole_page(content: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(content["json"])
    write_report(tmp_path / "new" / "run", content)
    folder = tmp_path / "new" / "run"
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json"]
    assert json.loads((folder / "report.json").read_text()) == before == content["json"]

    text = (folder / "report.html").read_text()
    page = Document(text)
    # Frames, strips, errors, losses, policy, returns, paths, latency and costs.
    assert len(page.images) == len(page.sources) == 9
    for image, source in zip(page.images, page.sources, strict=True):
        light, dark = decoded(image["src"]), decoded(source["srcset"])
        assert light.size == dark.size
        assert light.width == pytest.approx(2 * int(image["width"]), abs=1)
        assert light.height == pytest.approx(2 * int(image["height"]), abs=1)
        # Something is drawn, and not the same for a light and a dark page.
        assert np.asarray(light)[..., 3].any()
        assert light.tobytes() != dark.tobytes()
        assert len(image["alt"]) > 30
        assert "dark" in source["media"]
    assert page.links == {f"#{anchor}" for anchor in page.anchors}
    assert len(page.links) == 7
    # Nothing is fetched from anywhere.
    assert not re.search(r"(src|href|srcset)=\"(?!data:|#)|url\(|@import", text)
    assert "All 3 checks hold." in page.words
    for expected in ("reach_cube", "ab12", "cd34", "17,000", "51,000", "2.13.0", "8 min 30 s"):
        assert expected in page.words, expected
    assert "image: 2" in page.words
    assert re.search(r"/odom\s*15\s*13", page.words), "the account of the bags is not summed up"


def test_verdict_follows_the_figures(content: dict[str, Any]) -> None:
    report = content["json"]
    assert [c.holds for c in claims(report)] == [True, True, True]
    assert headline(claims(report)) == "All 3 checks hold."

    worse = copy.deepcopy(report)
    worse["closed_loop"]["policy"], worse["closed_loop"]["random"] = (
        report["closed_loop"]["random"],
        report["closed_loop"]["policy"],
    )
    policy = claims(worse)[0]
    assert policy.holds is False
    assert "clearly below random commands" in policy.detail
    assert "clearly above standing still" in policy.detail
    assert headline(claims(worse)).startswith("2 of 3 checks hold. Not shown: the policy does")

    close = copy.deepcopy(report)
    close["closed_loop"]["standing"] = summary(34.5)  # mean below the policy's, intervals touch
    assert claims(close)[0].holds is False
    assert "not separated from standing still" in claims(close)[0].detail

    blurred = copy.deepcopy(report)
    blurred["open_loop"]["model_psnr"][3] = 17.9
    model = claims(blurred)[1]
    assert model.holds is False
    assert model.figure == "-0.1 dB at 16 steps"
    assert "are closer at 8 steps (22.0 dB against 19.0 dB)" in model.detail
    assert "not closer at 16 steps (17.9 dB against 18.0 dB)" in model.detail

    # The other way to average disagrees: it still holds, but the reader is told.
    mixed = copy.deepcopy(report)
    mixed["open_loop"]["copy_last_psnr_per_window"][2] = 23.5
    assert claims(mixed)[1].holds is True
    assert "they are not closer at 8 (23.0 against 23.5 dB) steps" in claims(mixed)[1].detail
    assert "they are not" not in claims(report)[1].detail


@pytest.mark.parametrize(
    ("change", "holds", "words"),
    [
        ({"achieved_hz": 4.85}, False, "4.85 Hz of 5 Hz"),
        ({"achieved_hz": 5.15}, False, "5.15 Hz of 5 Hz"),
        ({"missed_deadlines": 4}, False, "4 of 364 deadlines"),
        ({"missed_deadlines": 3}, True, "3 of 363 deadlines"),
        ({"latency_ms": {"p50": None, "p99": None, "max": None}}, False, "no command of the"),
        ({"seconds": 30.0}, True, "Watched for only 30 s"),
        ({"achieved_hz": None}, None, "No control rate"),
    ],
)
def test_verdict_on_control(
    change: dict[str, Any], holds: bool | None, words: str, content: dict[str, Any]
) -> None:
    content["json"]["control"].update(change)
    claim = claims(content["json"])[2]
    assert claim.holds is holds
    assert words in claim.detail


def test_what_was_not_measured_is_not_claimed(content: dict[str, Any]) -> None:
    report = content["json"]
    del report["closed_loop"]["random"]
    report["open_loop"]["horizon"] = [1, 4, 8, 12]
    report["control"] = {}
    judged = claims(report)
    assert [c.holds for c in judged] == [None, None, None]
    assert headline(judged).startswith("0 of 3 checks hold. Not measured: the policy")
    assert claims({})[0].holds is None
    report["open_loop"].update(horizon=[1, 4, 8, 16], model_psnr=[1.0, 1.0, float("nan"), 1.0])
    assert claims(report)[1].holds is None


def test_few_episodes_are_said_to_be_few(content: dict[str, Any]) -> None:
    content["json"]["closed_loop"]["policy"]["episodes"] = 2
    detail = claims(content["json"])[0].detail
    assert "over 2 episodes" in detail
    assert "So few episodes" in detail


@pytest.mark.usefixtures("quick")
def test_special_characters_are_escaped(content: dict[str, Any], tmp_path: Path) -> None:
    nasty = '<script>alert("1")</script> & ümlaut'
    content["json"]["task"]["name"] = nasty
    content["json"]["settings"][nasty] = nasty
    content["json"]["data"]["breaks"] = {nasty: 1}
    content["json"]["control"]["stops"] = {nasty: {"events": 1}}
    write_report(tmp_path, content)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    page = Document(text)
    # Title, heading, origin, break, twice in the settings, stop; and in the figures as JSON.
    assert page.words.count(nasty) >= 7
    assert json.loads((tmp_path / "report.json").read_text())["task"]["name"] == nasty


def test_a_short_run_has_a_report_too(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny preset trains for less than one logging interval, and may drive nowhere."""

    def in_light_only(draw: Draw, theme: Theme) -> bytes:
        return png(draw, theme) if theme == LIGHT else b""

    monkeypatch.setattr(report_page, "png", in_light_only)
    content["curves"] = {"global": [], "local": [{"step": 1, "seconds": 1.0, "total": 3.0}]}
    content["frames"] = []
    control = content["json"]["control"]
    control.update(latency_ms={"p50": None, "p99": None, "max": None}, inference_ms={})
    content["json"]["open_loop"]["model_psnr"][0] = float("nan")
    for name in ("policy", "random"):
        for episode in content["closed_loop"][name]["episodes"]:
            episode.update(cube=[], goal=None, base=episode["base"][:1], rewards=[0.0] * 6)
    write_report(tmp_path, content)
    assert len(Document((tmp_path / "report.html").read_text()).images) == 8
    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert written["open_loop"]["model_psnr"][0] is None


@pytest.mark.usefixtures("quick")
def test_different_start_states_are_admitted(content: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path, content)
    assert "the same 3 start states" in (tmp_path / "report.html").read_text()
    content["closed_loop"]["random"]["episodes"][0]["seed"] = 99
    write_report(tmp_path, content)
    assert "start states differ" in (tmp_path / "report.html").read_text()


def test_nothing_is_half_written_when_a_picture_fails(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("report.json", "report.html"):
        (tmp_path / file).write_text("older")

    def fail(*_: Any) -> None:
        raise RuntimeError("no picture")

    monkeypatch.setattr(report_pictures, "strips", fail)
    with pytest.raises(RuntimeError, match="no picture"):
        write_report(tmp_path, content)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "report.json": "older",
        "report.html": "older",
    }


@pytest.mark.usefixtures("quick")
def test_full_disk_leaves_the_older_report(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.json").write_text("older")
    write = Path.write_text

    def fill_up(path: Path, text: str, **options: Any) -> int:
        if path.name.startswith("report.html"):
            write(path, text[:100], **options)
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", fill_up)
    with pytest.raises(FogError, match="No space left on device"):
        write_report(tmp_path, content)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"report.json": "older"}


def test_frames_are_enlarged_without_blur(content: dict[str, Any]) -> None:
    """Each of the camera's pixels is a square of one colour in the sheet."""
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    frames[0, 0, 0] = (255, 0, 0)
    frames[0, 1, 1] = (0, 0, 255)
    sheet = png(lambda theme: report_pictures.contact_sheet([frames], 5.0, theme), LIGHT)
    pixels = np.asarray(Image.open(io.BytesIO(sheet)))
    red = np.argwhere((pixels == (255, 0, 0, 255)).all(-1))
    blue = np.argwhere((pixels == (0, 0, 255, 255)).all(-1))
    side = round(len(red) ** 0.5)
    assert side > 20
    assert len(red) == len(blue) == side**2
    np.testing.assert_array_equal(red.max(0) - red.min(0), side - 1)
    np.testing.assert_array_equal(blue.min(0) - red.min(0), side)


def test_pictures_larger_than_their_place_are_thinned(content: dict[str, Any]) -> None:
    frames = np.zeros((12, 480, 640, 3), np.uint8)
    sheet = png(lambda theme: report_pictures.contact_sheet([frames], 5.0, theme), LIGHT)
    assert Image.open(io.BytesIO(sheet)).width == 2000


def test_shown_horizons_hold_the_measured_ones(content: dict[str, Any]) -> None:
    assert report_pictures.shown_horizons(content["open_loop"]) == [1, 2, 4, 6, 8, 10, 12, 14, 16]
