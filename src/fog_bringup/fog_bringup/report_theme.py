"""Colours of the report's figures, in light and dark, and how a figure becomes a PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

WIDTH_IN = 10.0
"""Width of a figure: that of the page's text, at 100 CSS pixels per inch."""
DPI = 200
"""Two pixels of the PNG for one of the page: sharp on dense screens as well."""


@dataclass(frozen=True)
class Theme:
    """One set of colours; backgrounds are transparent, the page's shows through."""

    ink: str
    muted: str
    grid: str
    fill: str
    """Quiet areas, such as the floor of the arena."""
    blue: str
    """The policy and the global world model: what this is about."""
    orange: str
    """Random commands, copying: what it has to beat."""
    green: str
    """The local world model."""
    ramp: tuple[str, str, str]
    """From little to much."""

    @property
    def grey(self) -> str:
        """Standing still."""
        return self.muted

    @property
    def colormap(self) -> LinearSegmentedColormap:
        """Of rewards."""
        return LinearSegmentedColormap.from_list("reward", list(self.ramp))


LIGHT = Theme(
    ink="#1f2328",
    muted="#68717b",
    grid="#dfe3e8",
    fill="#f3f5f7",
    blue="#0b62c4",
    orange="#c4560a",
    green="#1a7f4b",
    ramp=("#c2cad3", "#4d93e0", "#06306b"),
)
DARK = Theme(
    ink="#e6edf3",
    muted="#9aa4af",
    grid="#333a42",
    fill="#1c2127",
    blue="#62aeff",
    orange="#f2994a",
    green="#4cc38a",
    ramp=("#4d5761", "#3d8fe8", "#d8ecff"),
)

VARIABLES = Theme(
    ink="#f0f001",
    muted="#f0f002",
    grid="#f0f003",
    fill="#f0f004",
    blue="#f0f005",
    orange="#f0f006",
    green="#f0f007",
    ramp=("#f0f008", "#f0f009", "#f0f00a"),
)
"""Stands for the page's own colours, see :func:`svg`."""
_CSS = {
    VARIABLES.ink: "--ink",
    VARIABLES.muted: "--muted",
    VARIABLES.grid: "--line",
    VARIABLES.fill: "--card",
    VARIABLES.blue: "--blue",
    VARIABLES.orange: "--orange",
    VARIABLES.green: "--green",
}

Draw = Callable[[Theme], Figure]
"""Draws a figure in the colours of a theme."""


def png(draw: Draw, theme: Theme, *, background: str | None = None) -> bytes:
    """Draw a figure in a theme; nothing of matplotlib's global state is changed.

    Args:
        draw: Draws it.
        theme: Its colours.
        background: A colour, for a picture that stands alone; None: transparent.
    """
    with mpl.rc_context():
        mpl.rcParams.update(_settings(theme))
        figure = draw(theme)
        if not isinstance(figure.canvas, FigureCanvasAgg):
            FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        clear = background is None
        colour = {} if clear else {"facecolor": background}
        figure.savefig(buffer, format="png", dpi=DPI, transparent=clear, **colour)
    return buffer.getvalue()


def svg(draw: Draw, alt: str) -> str:
    """Draw a figure as SVG for a page of which it takes the colours, light or dark.

    Args:
        draw: Draws it.
        alt: What is to be seen, for those who cannot see it.

    Returns:
        An element to put into HTML; it is as wide as there is room. The page has to define
        ``--orange`` and ``--green`` beside the colours of ``report_page``.
    """
    with mpl.rc_context():
        # Text stays text, and equal figures are equal files.
        mpl.rcParams.update({**_settings(VARIABLES), "svg.fonttype": "none", "svg.hashsalt": "fog"})
        figure = draw(VARIABLES)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = {*re.findall(r"url\(#([^)]*)\)", text), *re.findall(r'href="#([^"]*)"', text)}
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # hundredths of a point are enough
    for color, variable in _CSS.items():
        text = text.replace(color, f"var({variable})")
    return f'<svg {box[0]} role="img" aria-label="{escape(alt)}">{text}'


def axes(
    height_in: float, columns: int = 1, *, width_in: float = WIDTH_IN, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """A row of axes.

    Args:
        height_in: Height of the figure, inches.
        columns: Number of axes.
        width_in: Width of the figure, inches.
        **grid: More arguments of ``Figure.subplots``.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.05)
    figure = Figure(figsize=(width_in, height_in), layout=layout)
    found = figure.subplots(1, columns, squeeze=False, **grid)
    return figure, list(found[0])


def legend(axes: Axes, **options: Any) -> None:
    """A legend where there is something to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, **options)


def _settings(theme: Theme) -> dict[str, Any]:
    return {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.grid,
        "axes.titlecolor": theme.ink,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.use_mathtext": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.grid,
        "ytick.color": theme.grid,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "lines.linewidth": 2.0,
        "lines.solid_capstyle": "round",
    }
