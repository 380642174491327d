"""The parts of a page: escaped text, tables that scroll on a phone, figures that follow the theme, and the frame.

Whatever comes from rows passes through :func:`text`; only this module and the figures write markup.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from recbole_scale.drawing import Drawn, as_svg

_CSS = """
:root { color-scheme: light dark; --bg: #fff; --ink: #1b1d21; --muted: #5a616d; --line: #d8dce2; --card: #f5f6f8;
  --blue: #0072b2; --vermillion: #d55e00; --green: #00815d; --purple: #b4558a; --orange: #b27a00; --sky: #2b8cc4;
  --grey: #808080; }
@media screen and (prefers-color-scheme: dark) { :root { --bg: #14161a; --ink: #e5e7eb; --muted: #a2a9b5;
  --line: #353a43; --card: #1d2026; --blue: #5aaee6; --vermillion: #ff8a4c; --green: #2ec79b; --purple: #e39cc4;
  --orange: #f2b134; --sky: #9ad6fa; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.2rem 1rem 3rem; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.15rem; font-weight: 600; color: var(--muted); margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead { font-size: 1.3rem; line-height: 1.45; max-width: none; margin: 0 0 .8rem; }
.muted, .caption, figcaption { color: var(--muted); font-size: .87rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.15rem; font-weight: 600; }
.card span { display: block; font-size: .82rem; color: var(--muted); }
figure { margin: 1rem 0; max-width: 38rem; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); font-family: system-ui, sans-serif; }
figure svg text { fill: currentColor; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr)); gap: 0 1.5rem; }
.figures figure { margin: .4rem 0 1rem; }
figure.wide { max-width: 50rem; }
.wide svg { min-width: 34rem; }
.scroll { overflow-x: auto; margin: .2rem 0 1rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
.caption { margin: 1rem 0 0; break-after: avoid; }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--muted); white-space: normal; overflow-wrap: normal; vertical-align: bottom; }
th:first-child, td:first-child, td.left, th.left { text-align: left; padding-left: 0; }
td.left { white-space: normal; min-width: 24rem; padding-left: .6rem; }
code { font: .85em ui-monospace, monospace; }
li { margin: .25rem 0; max-width: 46rem; }
@media (max-width: 32rem) { body { padding: .9rem .8rem 2rem; } .lead { font-size: 1.12rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: .5rem; } .card b { font-size: 1rem; } }
@media print { .wide svg { min-width: 0; } body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  figure, svg, .card, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } table { font-size: 7.5pt; }
  th, td { padding: .1rem .25rem; } td.left { min-width: 0; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # a browser loads nothing from anywhere


def text(value: Any) -> str:
    """``value`` as text that cannot be markup; a dash for None and nan."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return html.escape(str(value)).replace(" %", "\u00a0%")  # a number and its sign stay on one line


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", left: Sequence[int] = ()) -> str:
    """A table that scrolls sideways where it is too wide; columns in ``left`` hold text that may wrap."""
    if not rows:
        return ""

    def cells(tag: str, values: Sequence[Any]) -> str:
        return "".join(
            f'<{tag} class="left">{text(value)}</{tag}>' if index in left else f"<{tag}>{text(value)}</{tag}>"
            for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    title = paragraph(caption, "caption") if caption else ""
    return (
        f'{title}<div class="scroll" tabindex="0"><table><thead><tr>{cells("th", head)}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def figures(drawn: Sequence[Drawn]) -> str:
    """Figures side by side where there is room, each with its title; a sentence for each one left out."""
    shown, left_out = [], []
    for one in drawn:
        if one.figure is None:
            left_out.append(f"{one.title}: {one.skipped}")
            continue
        svg = as_svg(one.figure, one.name, f"{one.title}. {one.caption}")
        caption = f"<figcaption>{text(one.caption)}</figcaption>"
        shown.append(f"<figure><h3>{text(one.title)}</h3>{svg}{caption}</figure>")
    grid = f'<div class="figures">{"".join(shown)}</div>\n' if shown else ""
    return grid + bullets(left_out, "muted")


def wide_figure(drawn: Drawn) -> str:
    """A figure of several panels over the whole width; on a phone it scrolls sideways."""
    assert drawn.figure is not None
    svg = as_svg(drawn.figure, drawn.name, f"{drawn.title}. {drawn.caption}")
    caption = f"<figcaption>{text(drawn.caption)}</figcaption>"
    return (
        f'<h3>{text(drawn.title)}</h3><figure class="wide"><div class="scroll" tabindex="0">{svg}</div>{caption}'
        "</figure>\n"
    )


def paragraph(content: str, style: str = "") -> str:
    """A paragraph."""
    return f'<p class="{style}">{text(content)}</p>\n' if style else f"<p>{text(content)}</p>\n"


def bullets(lines: Sequence[str], style: str = "") -> str:
    """A list; nothing where there is nothing to list."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<ul class="{style}">{items}</ul>\n' if lines else ""


def cards(pairs: Sequence[tuple[str, str]]) -> str:
    """Small boxes of a figure and what it is."""
    boxes = "".join(f'<div class="card"><b>{text(value)}</b><span>{text(name)}</span></div>' for value, name in pairs)
    return f'<div class="cards">{boxes}</div>\n'


def section(title: str, *parts: str) -> str:
    """A section with its heading; nothing where all its parts are empty."""
    return f"<section><h2>{text(title)}</h2>\n{''.join(parts)}</section>\n" if any(parts) else ""


def page(title: str, *parts: str) -> str:
    """A whole page that needs no other file and no network."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_CSS}</style></head>\n"
        f"<body><main>\n<h1>{text(title)}</h1>\n{''.join(parts)}</main></body></html>\n"
    )
