"""What all figures share: colours of Okabe and Ito with a shape each, axes of counts, and files (PNG, PDF, SVG)."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from recbole_scale.files import whole_files
from recbole_scale.text import metric_name as metric_name
from recbole_scale.text import show_count

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
BLACK, GREY = "#000000", "#808080"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vPX"
WIDTH = 4.2  # inches; at this width 9-point text stays readable on a phone
ROOM = 0.6  # share of the measured range that a reference line may stretch an axis by
_LINE = 0.06  # of the axis: a line of text
NAMES = {
    "n_blocks": "parameters without embeddings, N",
    "n_blocks_exact": "parameters without embeddings (exact)",
    "n_parameters": "all parameters, embeddings included",
    "flops_total": "training FLOPs, item softmax included",
    "unique_interactions": "training interactions, D",
    "test_nll": "test loss (nats per interaction)",
    "best_valid_nll": "valid loss (nats per interaction)",
}
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a data set may be called $x
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "axes.titlesize": 9,
}
# what a page may recolour: the hex of a figure and the name of the page's variable
VARIABLES = {
    BLUE: "blue", VERMILLION: "vermillion", GREEN: "green", PURPLE: "purple", ORANGE: "orange", SKY: "sky",
    GREY: "grey", "#999999": "grey", "#666666": "grey", "#333333": "ink", "#FFFFFF": "bg",
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A figure with what it shows, or the sentence that says why there is none."""

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    skipped: str = ""


def style() -> AbstractContextManager[None]:
    """The context in which figures are made and saved."""
    context: AbstractContextManager[None] = matplotlib.rc_context(_STYLE)
    return context


def new_figure(height: float = 3.4, width: float = WIDTH) -> Figure:
    """An empty figure of ``width`` x ``height`` inches."""
    return Figure(figsize=(width, height), layout="constrained")


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the ``index``-th line: no two of the first 28 look the same in grey."""
    dashes = ("-", "--", "-.", ":")[index // len(PALETTE) % 4]
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)], "linestyle": dashes}


def count_axis(panel: Any, at: Sequence[float] = ()) -> None:
    """A log x axis whose ticks read 10K, 1M, ...; ``at`` puts them where the points are if these are few."""
    panel.set_xscale("log")
    places = _apart(sorted(set(at)))
    if 1 < len(places) <= 8:
        panel.xaxis.set_major_locator(FixedLocator(places))
        panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_count(value)))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(True, color=GREY, alpha=0.25, linewidth=0.6)


def _apart(places: Sequence[float]) -> list[float]:
    """Those of ``places`` (ascending) that leave room for their labels: an eleventh of the axis between them."""
    if not places or places[0] <= 0:
        return []
    step = max((places[-1] / places[0]) ** (1 / 11), 1.0)
    kept = [places[0]]
    for place in places[1:]:
        if place >= kept[-1] * step:
            kept.append(place)
    return kept


def draw_levels(panel: Any, levels: Mapping[str, float | None]) -> None:
    """Dotted lines at ``levels``; one too far off for the axis is named at its edge with an arrow."""
    low, high = panel.get_ylim()
    known = {name: v for name, v in levels.items() if v is not None}
    room = ROOM * (high - low)
    # where some are named at the edge, those just beyond it would lie on their names
    top = high if any(v > high + room for v in known.values()) else high + room
    bottom = low if any(v < low - room for v in known.values()) else low - room
    inside = {name: v for name, v in known.items() if bottom <= v <= top}
    above, below = (
        [name for name, v in known.items() if sign * v > sign * end] for sign, end in ((1, top), (-1, bottom))
    )
    span = high - low
    over, under = (_LINE * -(-len(far) // 2) for far in (above, below))  # room for names at the edge, two in a line
    panel.set_ylim(
        min([low, *inside.values()]) - (0.03 + under) * span, max([high, *inside.values()]) + (0.06 + over) * span
    )
    at = {"color": GREY, "fontsize": 8, "ha": "right", "transform": panel.get_yaxis_transform()}
    for name, value in inside.items():
        panel.axhline(value, color=GREY, linewidth=1.0, linestyle=":")
        panel.text(0.99, value, f"{name} {value:.3g}", va="bottom", **at)
    at |= {"color": BLACK, "transform": panel.transAxes}
    for edge, arrow, va, far in ((1.0, "\u2191", "top", above), (0.0, "\u2193", "bottom", below)):
        named = [f"{name} {known[name]:.3g}" for name in far]
        pairs = [", ".join(named[i : i + 2]) for i in range(0, len(named), 2)]
        if pairs:
            panel.text(0.99, edge, f"{arrow} " + ",\n".join(pairs), va=va, **at)


def save(figure: Figure, folder: Path, name: str) -> list[str]:
    """Write ``name.png`` and ``name.pdf`` to ``folder``; returns the two names."""
    with style():
        return write_figure(figure, folder, name)


def write_figure(figure: Figure, folder: Path, name: str) -> list[str]:
    """Write ``name.png`` and ``name.pdf`` in the style of the moment, both or none; returns the two names.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    names = [f"{name}.png", f"{name}.pdf"]
    with whole_files(*(folder / one for one in names), what="the figure") as files:
        for file, one in zip(files, names, strict=True):
            figure.savefig(file.handle, format=one.rpartition(".")[2], dpi=200)
    return names


def as_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element for a page: transparent, black drawn in the page's ink, colours as its variables.

    Args:
        figure: the figure
        name: unique on the page; prefixed to every id, so that figures do not take each other's parts
        label: what a screen reader says
    """
    buffer = io.StringIO()
    with style(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id=")([^"]+")', rf"\1{name}-\2", text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{name}-", text)
    text = _tags(text, _recolour)
    text = re.sub(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", text)  # for all elements: the root's attributes
    opening = f'<svg role="img" aria-label="{html.escape(label)}" stroke-linejoin="round" stroke-linecap="butt" '
    return re.sub(r'<svg ([^>]*?)(height|width)="[^"]*" (.*?)(height|width)="[^"]*"', rf"{opening}\1\3", text, count=1)


def _tags(text: str, change: Callable[[str], str]) -> str:
    """``text`` with ``change`` applied to its tags and not to what stands between them."""
    return re.sub(r"<[^>]*>", lambda found: change(found[0]), text)


def _recolour(tag: str) -> str:
    for colour, variable in VARIABLES.items():
        tag = re.sub(colour, f"var(--{variable})", tag, flags=re.IGNORECASE)
    tag = re.sub("#000000", "currentColor", tag)
    tag = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", tag)
    return re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), tag)


def _attributes(declarations: str) -> str:
    """A style as attributes of its element, which a page's policy need not admit."""
    pairs = [declaration.split(":", 1) for declaration in declarations.split(";") if declaration.strip()]
    return "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs)
