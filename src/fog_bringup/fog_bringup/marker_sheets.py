"""Sheets with a task's fiducial markers, at the size at which they are to be printed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fog_world_model.data.labellers.marker_layout import FACES, Marker, MarkerLayout, marker_layout
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

DPI = 300
_MM = DPI / 25.4
_MARGIN_MM = 15.0
_RULER_MM = 100.0


def write_marker_sheets(task: TaskConfig, output: str | os.PathLike[str]) -> list[str]:
    """Draw every face that carries markers, one to a page.

    A page holds the face in its true size, a thin line around it to cut along, and below it what
    it is, which side is up, and a ruler of 100 mm to check the printer with.

    Args:
        task: Its labeller says which markers, how large.
        output: A ``.pdf`` file, or a folder for one PNG a face; it must not exist.

    Returns:
        One line a page: what it shows.

    Raises:
        FogError: The task's labeller uses no markers, the output exists or cannot be written.
    """
    path = Path(output)
    if task.labeller is None or task.labeller.name != "push_cube_markers":
        raise FogError(
            f"task '{task.name}': its labeller looks for no markers; there is nothing to print"
        )
    if path.suffix not in (".pdf", ""):
        raise FogError(f"{path}: give a .pdf file, or a folder (one PNG a face)")
    if path.exists():
        raise FogError(f"{path}: exists already; choose another output or move it away")
    layout = marker_layout(task.labeller)
    faces = [("cube", face, layout.cube(), layout.cube_size_m) for face in FACES]
    faces += [("post", face, layout.post(), layout.post_box_m) for face in FACES[:4]]
    pages = {f"{entry[0]}{entry[1]}": _page(layout, *entry) for entry in faces}
    part = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".pdf":
            first, *others = [page for page, _ in pages.values()]
            first.save(part, "PDF", resolution=DPI, save_all=True, append_images=others)
        else:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            for name, (page, _) in pages.items():
                page.save(part / f"{name}.png", dpi=(DPI, DPI))
        part.rename(path)
    except OSError as error:
        raise FogError(f"{path}: cannot be written ({error.strerror or error})") from error
    return [caption for _, caption in pages.values()]


def _page(
    layout: MarkerLayout, box: str, face: str, markers: tuple[Marker, ...], box_m: float
) -> tuple[Image.Image, str]:
    """A page in black and white, and its caption."""
    here = [m for m in markers if m.face == face]
    side, margin = round(box_m * 1000 * _MM), round(_MARGIN_MM * _MM)
    page = Image.new("L", (side + 2 * margin, side + 3 * margin), 255)
    picture = layout.draw_face(markers, face, box_m, side)
    page.paste(Image.fromarray(np.ascontiguousarray(picture)), (margin, margin))
    draw = ImageDraw.Draw(page)
    draw.rectangle([margin - 1, margin - 1, margin + side, margin + side], outline=0)
    numbers = [m.identifier for m in here]
    span = f"markers {min(numbers)}-{max(numbers)}" if len(numbers) > 1 else f"marker {numbers[0]}"
    up = "the +x face" if face[1] == "z" else "+z, the sky"
    caption = (
        f"{box} {face}: {span} of {layout.dictionary}, face {box_m * 1000:g} mm; "
        f"its upper edge is towards {up}"
    )
    font = ImageFont.load_default(size=round(4.0 * _MM))
    below = 2 * margin + side - round(9.0 * _MM)
    draw.text((margin, below), caption, fill=0, font=font)
    ruler = margin, below + round(9.0 * _MM)
    end = ruler[0] + round(_RULER_MM * _MM)
    draw.line([*ruler, end, ruler[1]], fill=0, width=3)
    for x in (ruler[0], end):
        draw.line([x, ruler[1] - round(2 * _MM), x, ruler[1] + round(2 * _MM)], fill=0, width=3)
    draw.text(
        (end + round(3 * _MM), ruler[1] - round(2 * _MM)),
        f"{_RULER_MM:g} mm when printed at 100 %",
        fill=0,
        font=font,
    )
    return page.convert("1", dither=Image.Dither.NONE), caption
