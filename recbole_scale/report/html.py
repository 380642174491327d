"""The parts of a page, made by the templates beside this module: whatever comes from rows is escaped by jinja2.

Style and script are files of their own; the page's policy admits these two, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recbole_scale.drawing import Drawn, as_svg
from recbole_scale.report.hover import marks, panels


def text(value: Any) -> str:
    """``value`` as a cell shows it: a dash for None and nan; a number and its signs stay on one line."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return str(value).replace(" %", "\u00a0%").replace("± ", "±\u00a0")


@cache
def _environment() -> Environment:
    loader = PackageLoader("recbole_scale.report")
    made = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=False,
    )  # fmt: skip
    made.filters |= {"cell": text, "compact": lambda value: json.dumps(value, separators=(",", ":"))}
    return made


def _part(name: str, *values: Any, **named: Any) -> str:
    """A macro of ``parts.html``."""
    return Markup(getattr(_environment().get_template("parts.html").module, name)(*values, **named))


def table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", left: Sequence[int] = (), file: str = ""
) -> str:
    """A table that sorts by a click on its head and scrolls sideways where it is too wide.

    Args:
        head, rows: cells; their values are escaped.
        caption: a sentence above it.
        left: columns of text, which may wrap.
        file: name of a CSV file; given, the table can be filtered and saved.
    """
    return _part("table", head, rows, caption, left, file) if rows else Markup("")


def figures(drawn: Sequence[Drawn]) -> str:
    """Figures side by side where there is room, each with its title; a sentence for each one left out."""
    shown = [_figure(one) for one in drawn if one.figure is not None]
    left_out = [f"{one.title}: {one.skipped}" for one in drawn if one.figure is None]
    return Markup(_part("figures", shown) if shown else "") + bullets(left_out, "muted")


def wide_figure(drawn: Drawn) -> str:
    """A figure of several panels over the whole width; on a phone it scrolls sideways."""
    return _part("wide_figure", _figure(drawn))


def _figure(drawn: Drawn) -> dict[str, Any]:
    """What the template needs of a figure; its values are read off after it has been laid out."""
    assert drawn.figure is not None
    svg = Markup(as_svg(drawn.figure, drawn.name, f"{drawn.title}. {drawn.caption}"))
    return {"drawn": drawn, "svg": svg, "marks": marks(drawn.figure), "panels": panels(drawn.figure)}


def paragraph(content: str, style: str = "") -> str:
    """A paragraph."""
    return _part("paragraph", content, style)


def bullets(lines: Sequence[str], style: str = "") -> str:
    """A list; nothing where there is nothing to list."""
    return _part("bullets", lines, style) if lines else Markup("")


def cards(pairs: Sequence[tuple[str, str]]) -> str:
    """Small boxes of a figure and what it is."""
    return _part("cards", pairs)


def commands(lines: Sequence[tuple[str, str]]) -> str:
    """Commands to copy, each with a sentence on what it gives."""
    return _part("commands", lines) if lines else Markup("")


def details(title: str, *parts: str) -> str:
    """Parts behind a line to click on; nothing where all are empty."""
    return _part("details", title, Markup("").join(map(Markup, parts))) if any(parts) else Markup("")


def section(title: str, *parts: str) -> str:
    """A section with its heading; nothing where all its parts are empty."""
    return _part("section", title, Markup("").join(map(Markup, parts))) if any(parts) else Markup("")


def template(name: str, **values: Any) -> str:
    """A template of its own, such as the verdict's."""
    return Markup(_environment().get_template(name).render(values))


def page(title: str, *parts: str) -> str:
    """A whole page that needs no other file and no network."""
    style, script = _source("page.css"), _source("page.js")
    return template(
        "page.html", title=title, body=Markup("").join(map(Markup, parts)), style=Markup(style), script=Markup(script),
        style_hash=_hash(style), script_hash=_hash(script),
    )  # fmt: skip


def _hash(content: str) -> str:
    """What a page's policy knows an element by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _source(name: str) -> str:
    """A file of the templates' folder as it is."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
