"""Sheets of markers: are they as large on paper as the labeller believes?"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fog_bringup.cli import main
from fog_bringup.marker_sheets import write_marker_sheets
from fog_bringup.tasks import find_task
from fog_world_model.data.labellers.fiducials import MarkerDetector
from fog_world_model.data.labellers.marker_layout import FACES, marker_layout
from fog_world_model.errors import FogError
from fog_world_model.task import LabellerConfig


def test_every_marker_has_its_size_and_place_on_paper(tmp_path: Path) -> None:
    task = find_task("push_cube_markers")
    layout = marker_layout(task.labeller)
    captions = write_marker_sheets(task, tmp_path / "sheets")
    files = sorted((tmp_path / "sheets").iterdir())
    names = {f"cube{f}.png" for f in FACES} | {f"post{f}.png" for f in FACES[:4]}
    assert {f.name for f in files} == names and len(captions) == len(names)
    detector = MarkerDetector(layout.opencv())
    boxes = {"cube": (layout.cube(), 300.0), "post": (layout.post(), 360.0)}
    for file in files:
        box, face = file.stem[:4], file.stem[4:]
        with Image.open(file) as picture:
            mm = 25.4 / float(picture.info["dpi"][0])
            pixels = np.asarray(picture.convert("RGB").reduce(4))
        markers, side = boxes[box]
        found = detector.find(pixels)
        there = {m.identifier: m for m in markers if m.face == face}
        assert found.keys() == there.keys()
        for identifier, corners in found.items():
            paper = (corners + 0.5) * 4 * mm - 15.0  # the face begins 15 mm from the page's edges
            centre = (paper.mean(0) - side / 2) * (1, -1)
            marker = there[identifier]
            expected = np.array([marker.right_m, marker.up_m]) * 1000
            np.testing.assert_allclose(centre, expected, atol=0.4)
            width = np.linalg.norm(paper[1] - paper[0])
            assert width == pytest.approx(marker.size_m * 1000, abs=0.6)
            assert paper[1][0] > paper[0][0]  # stands upright


def test_pages_of_the_pdf_have_the_size_of_paper(tmp_path: Path) -> None:
    assert main(["data", "markers", "--output", str(tmp_path / "sheets.pdf")]) == 0
    boxes = re.findall(
        rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", (tmp_path / "sheets.pdf").read_bytes()
    )
    sizes = [(float(w) / 72 * 25.4, float(h) / 72 * 25.4) for w, h in boxes]
    expected = [(330.0, 345.0)] * 6 + [(390.0, 405.0)] * 4
    np.testing.assert_allclose(sizes, expected, atol=0.2)


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    task = find_task("push_cube_markers")
    with pytest.raises(FogError, match="'pusht': its labeller looks for no markers"):
        write_marker_sheets(find_task("pusht"), tmp_path / "a.pdf")
    with pytest.raises(FogError, match=r"give a \.pdf file, or a folder"):
        write_marker_sheets(task, tmp_path / "a.docx")
    (tmp_path / "b.pdf").write_text("mine")
    with pytest.raises(FogError, match=r"b\.pdf: exists already"):
        write_marker_sheets(task, tmp_path / "b.pdf")
    assert (tmp_path / "b.pdf").read_text() == "mine"
    large = LabellerConfig("push_cube_markers", options={"cube_marker_m": 0.5})
    with pytest.raises(FogError, match="cube_marker_m must be positive and below"):
        write_marker_sheets(dataclasses.replace(task, labeller=large), tmp_path / "c.pdf")
    assert {p.name for p in tmp_path.iterdir()} == {"b.pdf"}
