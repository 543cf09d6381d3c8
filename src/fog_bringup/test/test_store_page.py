"""The page about a store: whole, self-contained, and showing what is in the store."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fog_bringup import store_figures
from fog_bringup.cli import main
from fog_bringup.report_theme import LIGHT, VARIABLES, svg
from fog_bringup.store_page import choose, write_store_page
from fog_bringup.store_page_episodes import FRAMES
from fog_bringup.store_page_summary import remarks
from fog_world_model.data.episodes import Episode, EpisodeStore, EpisodeWriter
from fog_world_model.errors import FogError
from fog_world_model.task import task_from_dict

VOID = {"meta", "img", "br"}


class Document(HTMLParser):
    """Checks that elements are balanced, and collects what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.images: list[dict[str, str]] = []
        self.sections: dict[str, str] = {}
        self.section = ""
        self.addresses: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        assert tag != "script"
        if "id" in found and "svg" not in self.open:
            self.ids.append(found["id"])
        if tag in ("h2", "section"):
            self.section = found["id"]
            self.sections[self.section] = ""
        if tag == "a":
            self.links.add(found["href"])
        if tag == "img":
            self.images.append({**found, "section": self.section})
        self.addresses |= {v for k, v in found.items() if k in ("src", "href", "xlink:href")}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Of SVG."""
        self.addresses |= {v or "" for k, v in attrs if k in ("src", "href", "xlink:href")}

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.section and "style" not in self.open:
            self.sections[self.section] += data


@pytest.fixture(scope="module")
def text(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("page") / "page.html"
    assert write_store_page(store, output) == [0, 1, 2, 3, 4]
    return output.read_text()


def test_needs_nothing_but_itself(text: str) -> None:
    document = Document(text)
    outside = {a for a in document.addresses if not a.startswith(("data:", "#"))}
    assert not outside
    assert "@import" not in text and "url(http" not in text
    assert len(set(document.ids)) == len(document.ids)
    assert {link[1:] for link in document.links} <= set(document.ids)


def test_shows_the_frames_themselves(store: EpisodeStore, text: str) -> None:
    """Decoded by another library, each picture is the step that stands below it."""
    images = Document(text).images
    for index, length in enumerate(store.lengths):
        shown = [i for i in images if i["section"] == f"episode-{index}"]
        steps = [int(i["alt"].removeprefix("step ")) for i in shown]
        assert steps == list(range(length))  # short enough for all
        for step, image in zip(steps, shown, strict=True):
            data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
            pixels = np.asarray(Image.open(io.BytesIO(data)))
            np.testing.assert_array_equal(pixels, store.episode(index).image[step])
            assert image["loading"] == "lazy"


def test_says_what_the_episodes_are(store: EpisodeStore, text: str) -> None:
    sections = Document(text).sections
    for index, entry in enumerate(store.episodes):
        words = sections[f"episode-{index}"]
        total = store.episode(index).reward.sum()
        assert entry.source in words  # though it looks like an element
        assert ("validation" if entry.held_out else "training") in words
        assert (entry.outcome or "no outcome") in words
        assert f"{entry.length} steps" in words and f"return {total:.4g}" in words
        for topic in ("/cmd_vel", "/imu", "/odom", "Reward", "Time between images"):
            assert topic in words
        assert f"{total:.4g}" in sections["table"]
    assert "angular_velocity.z" in sections["fields"]


def test_what_the_import_said_is_on_top(
    store_of: Callable[..., EpisodeStore], tmp_path: Path
) -> None:
    account = {"received": 1200, "staleness_ms": {"p50": 1.5, "max": 99.5}}
    bags = [
        {
            "bag": "b1",
            "warnings": ["<b>41</b> equal images"],
            "notes": ["no account"],
            "topics": {"/odom": account},
            "camera": {"sizes": ["64x48 rgb8"], "rate_hz": 29.97},
        },
        {"bag": "b2", "warnings": [], "notes": [], "topics": {"/odom": {"received": 34}}},
    ]
    steps = {"kept": 9, "broken": {"stale /odom": 7}}
    store = store_of(tmp_path / "store", (6, 7), bags=bags, warnings=1, steps=steps)
    write_store_page(store, tmp_path / "page.html")
    sections = Document((tmp_path / "page.html").read_text()).sections
    assert "b1: <b>41</b> equal images" in sections["warnings"]
    assert "b1: no account" in sections["warnings"]
    assert "b2" not in sections["warnings"]
    for words in ("1,234", "99.5", "29.97", "64x48 rgb8", "stale /odom"):
        assert words in sections["import"]


def test_remarks_wherever_they_are() -> None:
    report: dict[str, Any] = {
        "warnings": 3,
        "parts": [{"bags": [{"bag": "b", "warnings": ["one"]}]}, {"warnings": ["two"]}],
    }
    assert list(remarks(report, "warnings")) == ["b: one", "two"]
    assert not list(remarks(report, "notes"))


def test_many_episodes_stay_a_small_page(
    store_of: Callable[..., EpisodeStore], tmp_path: Path
) -> None:
    store = store_of(tmp_path / "store", (40,) * 120)
    shown = write_store_page(store, tmp_path / "page.html", limit=3)
    assert shown == [0, 60, 119]
    text = (tmp_path / "page.html").read_text()
    document = Document(text)
    assert len(document.images) == 3 * FRAMES
    assert "3 of 120 are shown" in document.sections["episodes"]
    assert "--limit" in document.sections["episodes"]
    assert {f"#episode-{i}" for i in shown} <= document.links
    assert all(f"bag<{i}>#0" in document.sections["table"] for i in range(120))
    assert len(text) < 10**6
    first = [i["alt"] for i in document.images[:FRAMES]]
    assert (first[0], first[-1]) == ("step 0", "step 39")


def test_which_episodes() -> None:
    assert choose(9, (), 3) == [0, 4, 8]
    assert choose(2, (), 24) == [0, 1]
    assert choose(9, (), 0) == []
    assert choose(9, (7, 2, 2), 1) == [2, 7]
    with pytest.raises(FogError, match="--episodes -1 9: the store has episodes 0 to 8"):
        choose(9, (9, 3, -1), 1)
    with pytest.raises(FogError, match="--limit -1"):
        choose(9, (), -1)


def test_large_images_are_jpeg(store: EpisodeStore, tmp_path: Path) -> None:
    content = store.task.to_dict()
    content["image"].update(height=96, width=128)
    episode = store.episode(0)
    large = episode.image.repeat(4, axis=1).repeat(4, axis=2)
    values = {**vars(episode), "image": large}
    with EpisodeWriter(tmp_path / "store", task_from_dict(content)) as writer:
        writer.append(Episode(**values), source="large")
        large_store = writer.finish(validation_fraction=0.0, report={})
    write_store_page(large_store, tmp_path / "page.html")
    sources = [i["src"] for i in Document((tmp_path / "page.html").read_text()).images]
    assert all(s.startswith("data:image/jpeg;base64,") for s in sources)
    first = Image.open(io.BytesIO(base64.b64decode(sources[0].split(",")[1])))
    assert np.abs(np.asarray(first, np.int64) - large[0]).mean() < 6


def test_figures_take_the_colours_of_the_page() -> None:
    """SVG that parses, in none but the page's variables, and without names that clash."""
    values = np.arange(12.0).reshape(6, 2)
    drawn = svg(lambda theme: store_figures.course(values, theme, ends=[4]), "two & more")
    root = ET.fromstring(drawn.replace("<svg", '<svg xmlns:xlink="x"', 1))
    assert root.attrib["aria-label"] == "two & more"
    for variable in ("--blue", "--orange", "--line", "--muted"):
        assert f"var({variable})" in drawn
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    named = {e.attrib["id"] for e in root.iter() if "id" in e.attrib}
    assert not {n for n in named if re.match(r"(figure|axes|line2d|text)_", n)}


def test_courses_are_drawn_as_they_are() -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    place = store_figures.course(values, LIGHT, ends=[7]).axes[0]
    for field in range(2):
        np.testing.assert_array_equal(place.lines[field].get_ydata(), values[:, field])
        np.testing.assert_array_equal(place.lines[field].get_xdata(), np.arange(50))
    assert list(place.lines[2].get_xdata()) == [7, 7]


def test_long_courses_keep_their_extremes() -> None:
    values = np.zeros((100_000, 1))
    values[54_321], values[77_777] = 9.0, -4.0
    line = store_figures.course(values, LIGHT).axes[0].lines[0]
    assert len(line.get_ydata()) <= store_figures.MAX_POINTS
    drawn = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert (drawn[54_321], drawn[77_777]) == (9.0, -4.0)


def test_histogram_counts_shares() -> None:
    """Two of three at 1, one at 4; and one value alone, which has no width."""
    figure = store_figures.histogram(np.array([1.0, 1.0, 4.0]), np.array([]), LIGHT, whole=True)
    (patch,) = figure.axes[0].patches
    shares = patch.get_data().values
    np.testing.assert_allclose(shares[np.nonzero(shares)], [200 / 3, 100 / 3])
    assert store_figures.histogram(np.array([2.0]), np.array([2.0]), LIGHT).axes[0].patches


def test_twelve_fields_look_different() -> None:
    styles = {store_figures.line_style(i, VARIABLES) for i in range(12)}
    assert len(styles) == 12


def test_an_older_page_survives_a_failure(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "page.html"
    output.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FogError, match=r"--output .*page.html: cannot be written \(No space"):
        write_store_page(store, output, limit=1)
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_command(store: EpisodeStore, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ["data", "view", str(store.path)]
    assert main([*arguments, "--output", str(page), "--episodes", "1", "3"]) == 0
    assert capsys.readouterr().out == f"{page}: 2 of 5 episodes with pictures\n"
    assert main([*arguments, "--limit", "1"]) == 0
    assert store.path.with_name("made_up.html").exists()
    assert main([*arguments, "--episodes", "5"]) == 2
    assert "the store has episodes 0 to 4" in capsys.readouterr().err
