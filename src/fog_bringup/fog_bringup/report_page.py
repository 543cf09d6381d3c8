"""HTML of the report: one page that needs nothing but itself."""

from __future__ import annotations

import base64
import contextlib
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from fog_bringup.report_theme import DARK, DPI, LIGHT, Draw, png
from fog_bringup.report_verdict import Claim
from fog_world_model.errors import FogError

_CSS_PIXELS_PER_INCH = 100
_MARKS = {
    True: ("yes", "✓", "shown"),
    False: ("no", "✗", "not shown"),
    None: ("na", "–", "not measured"),
}

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --muted: #59636e;
  --line: #d8dee4; --card: #f6f8fa; --blue: #0b62c4; --yes: #1a7f4b; --no: #b42318; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e6edf3; --muted: #9aa4af;
  --line: #333a42; --card: #1c2127; --blue: #62aeff; --yes: #4cc38a; --no: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui,
  -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1064px; margin: 0 auto; padding: 40px 32px 80px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 3.2rem 0 .3rem; padding-top: 1.1rem;
  border-top: 1px solid var(--line); }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.lead { color: var(--muted); }
.verdict { font-size: 1.1rem; font-weight: 600; margin: 1.6rem 0 .8rem; max-width: none; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-left-width: 5px;
  border-radius: 8px; padding: 14px 16px; }
.card.yes { border-left-color: var(--yes); } .card.no { border-left-color: var(--no); }
.card.na { border-left-color: var(--muted); }
.card h3 { font-size: .95rem; line-height: 1.35; margin: 0; }
.card .figure { font-size: 1.5rem; font-weight: 650; margin: .35rem 0; }
.card p:last-child { font-size: .87rem; color: var(--muted); margin: 0; }
.mark { font-weight: 700; } .yes .mark { color: var(--yes); } .no .mark { color: var(--no); }
nav { font-size: .9rem; margin: 1.2rem 0 0; } nav a { margin-right: 1.1rem; white-space: nowrap; }
a { color: var(--blue); }
figure { margin: 1rem 0 1.6rem; } figure img { display: block; max-width: 100%; height: auto; }
figcaption, .note { color: var(--muted); font-size: .87rem; margin-top: .5rem; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; margin: .6rem 0 1.4rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { text-align: left; padding: 4px 18px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
thead th { color: var(--muted); font-weight: 500; }
tbody th { font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; white-space: nowrap; }
.side { display: flex; flex-wrap: wrap; gap: 0 56px; }
code, pre { font: .82rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px;
  overflow: auto; max-height: 480px; }
summary { cursor: pointer; color: var(--blue); }
@media print { .card, figure { break-inside: avoid; } nav { display: none; } }
"""


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """A whole document; ``body`` is HTML, ``style`` CSS beyond that of all pages."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def require_writable(folder: Path) -> None:
    """Find out before long work whether a report can be written into a folder afterwards.

    Raises:
        FogError: The folder, or the nearest one above it that is there, is none or is read-only.
    """
    found = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not found.is_dir():
        raise FogError(f"report {folder}: cannot be written ({found} is not a folder)")
    if not os.access(found, os.W_OK | os.X_OK):
        raise FogError(f"report {folder}: cannot be written (no permission in {found})")


def write_together(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files of a report; older ones stay until all are whole.

    Args:
        folder: Where to write; made if it is not there.
        texts: Name of a file -> its content.

    Raises:
        FogError: One cannot be written.
    """
    parts = {name: folder / f"{name}.part" for name in texts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            parts[name].write_text(text, encoding="utf-8")
        for name, part in parts.items():
            part.replace(folder / name)
    except BaseException as error:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise FogError(f"report {folder}: cannot be written ({error.strerror})") from error


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph of a CSS class."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def heading(anchor: str, text: str) -> str:
    """Of a section that can be linked to."""
    return f'<h2 id="{escape(anchor)}">{escape(text)}</h2>'


def contents(sections: Iterable[tuple[str, str]]) -> str:
    """Links to sections, given as (anchor, text)."""
    links = [f'<a href="#{escape(a)}">{escape(t)}</a>' for a, t in sections]
    return f'<nav aria-label="Sections">{" ".join(links)}</nav>'


def cards(claims: Sequence[Claim]) -> str:
    """The verdict, a card for each claim."""
    found = []
    for claim in claims:
        kind, mark, words = _MARKS[claim.holds]
        found.append(
            f'<div class="card {kind}">'
            f'<h3><span class="mark" role="img" aria-label="{words}">{mark}</span> '
            f"{escape(claim.title)}</h3>"
            f'<p class="figure">{escape(claim.figure)}</p>'
            f"<p>{escape(claim.detail)}</p></div>"
        )
    return f'<div class="cards">{"".join(found)}</div>'


def picture(draw: Draw, alt: str, caption: str) -> str:
    """A figure in both themes, of which the browser shows the one that it prefers.

    Args:
        draw: Draws it.
        alt: What is to be seen, for those who cannot see it.
        caption: What one should see in it.
    """
    light, dark = (png(draw, theme) for theme in (LIGHT, DARK))
    width, height = struct.unpack(">II", light[16:24])  # of the PNG's header
    size = [round(n * _CSS_PIXELS_PER_INCH / DPI) for n in (width, height)]
    return (
        "<figure><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{_data(dark)}">'
        f'<img src="{_data(light)}" width="{size[0]}" height="{size[1]}" alt="{escape(alt)}">'
        f"</picture><figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(
    caption: str,
    rows: Iterable[Sequence[object]],
    header: Sequence[str] = (),
    *,
    numbers: bool = False,
) -> str:
    """A table whose first column names the rows.

    Args:
        caption: Above it.
        rows: Cells, as plain text.
        header: Names of the columns.
        numbers: The other columns are numbers, aligned to the right.
    """
    kind = _class("number" if numbers else "")

    def row(cells: Sequence[object], tag: str) -> str:
        first, *rest = (escape(str(c)) for c in cells)
        scope = "col" if tag == "th" else "row"
        others = "".join(f"<{tag}{kind}>{c}</{tag}>" for c in rest)
        return f'<tr><th scope="{scope}">{first}</th>{others}</tr>'

    head = f"<thead>{row(header, 'th')}</thead>" if header else ""
    body = "".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>{head}'
        f"<tbody>{body}</tbody></table></div>"
    )


def beside(parts: Iterable[str]) -> str:
    """Tables side by side, where there is room."""
    return f'<div class="side">{"".join(parts)}</div>'


def folded(summary: str, text: str) -> str:
    """Text that is shown on request."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _data(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
