"""What a figure shows where: the values behind its marks in SVG units, for the page's script to tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from recbole_scale.drawing import Figure
from recbole_scale.text import show_count

_MOST = 60  # values told along a line without marks
Mark = tuple[float, float, str]  # x, y, what to say


def marks(figure: Figure) -> list[Mark]:
    """Every value of a figure that has been drawn: points, lines at up to 60 places, ends of bars."""
    return [mark for panel in figure.axes if panel.get_visible() for mark in _marks_of(figure, panel)]


def panels(figure: Figure) -> list[dict[str, Any]]:
    """Box and limits of each panel, from which a script finds the place of a value."""
    found = []
    for panel in figure.axes:
        low, high = panel.transAxes.transform([(0.0, 0.0), (1.0, 1.0)])
        (left, bottom), (right, top) = _svg(figure, low), _svg(figure, high)
        found.append({
            "box": [left, bottom, right, top], "x": list(map(float, panel.get_xlim())),
            "y": list(map(float, panel.get_ylim())), "log": panel.get_xscale() == "log",
        })  # fmt: skip
    return found


def _marks_of(figure: Figure, panel: Any) -> Iterator[Mark]:
    names = {id(line): group.get_label() for group in panel.containers for line in group if hasattr(line, "get_xydata")}
    head = panel.get_title().split("\n")[0] if len(figure.axes) > 2 else ""
    y_name, x_name = head or panel.get_ylabel().replace("\n", " "), panel.get_xlabel() or _shared_label(figure)
    series = [(_label(names.get(id(line)) or line.get_label()), line.get_xydata()) for line in panel.lines
              if line.get_transform().contains_branch(panel.transData) and _in_data(line, panel)]  # fmt: skip
    series += [(_label(drawn.get_label()), drawn.get_offsets()) for drawn in panel.collections
               if type(drawn).__name__ == "PathCollection"]  # fmt: skip
    series += [("", [(bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height()) for bar in panel.patches])]
    for label, values in series:
        for x, y in _thinned(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)):
            if not (np.isfinite(x) and np.isfinite(y)):
                continue
            at = _svg(figure, panel.transData.transform((x, y)))
            ticks = _category(panel, x)
            place = ticks or f"{_short(x_name)} {_number(x)}"
            yield (*at, f"{label + ': ' if label else ''}{_short(y_name)} {y:.4g} at {place}")


def _in_data(line: Any, panel: Any) -> bool:
    """Whether both coordinates are data: a line across the panel is not."""
    return bool(line.get_transform() == panel.transData)


def _svg(figure: Figure, at: Any) -> tuple[float, float]:
    """Display coordinates in SVG units, 72 to the inch, from the top left."""
    scale = 72.0 / figure.dpi
    return round(float(at[0]) * scale, 1), round(float(figure.get_figheight() * 72.0 - at[1] * scale), 1)


def _thinned(values: Any) -> Any:
    if len(values) <= _MOST:
        return values
    return values[np.linspace(0, len(values) - 1, _MOST).round().astype(int)]


def _category(panel: Any, x: float) -> str:
    """Name of the tick at ``x`` where ticks are names."""
    for place, tick in zip(panel.get_xticks(), panel.get_xticklabels(), strict=False):
        text = tick.get_text()
        if abs(place - x) < 0.5 and text and not any(character.isdigit() for character in text[:1]):
            return str(text)
    return ""


def _label(text: Any) -> str:
    return "" if str(text).startswith("_") else str(text)


def _shared_label(figure: Figure) -> str:
    shared = getattr(figure, "_supxlabel", None)
    lowest = [panel.get_xlabel() for panel in figure.axes if panel.get_xlabel()]
    return shared.get_text() if shared is not None else lowest[-1] if lowest else "x"


def _short(name: str) -> str:
    """The letter or the first words of an axis: N, D, test loss."""
    return name.rsplit(", ", 1)[-1] if ", " in name else name.split(" (")[0]


def _number(value: float) -> str:
    return show_count(value) if abs(value) >= 1000 else f"{value:.4g}"
