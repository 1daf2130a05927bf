"""Pieces of a self-contained HTML page; whatever text they are given stays text."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2329; max-width: 62rem;
       margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: 0.2rem; } h2 { margin-top: 2.2rem; font-size: 1.25rem; }
p.sub { color: #55606b; margin-top: 0; } img { max-width: 100%; height: auto; }
pre { background: #f3f5f7; padding: 0.8rem 1rem; overflow-x: auto; border-radius: 4px; }
table { border-collapse: collapse; } td, th { padding: 0.2rem 0.8rem 0.2rem 0; text-align: left;
       vertical-align: top; border-bottom: 1px solid #e3e7ea; font-variant-numeric: tabular-nums; }
.warn { border-left: 4px solid #d55e00; background: #fdf1e8; padding: 0.6rem 1rem;
        margin: 0.6rem 0; } .note { color: #55606b; }
"""


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def section(title: str, text: str, png: bytes) -> str:
    """Return a heading, how to read the picture, and the picture."""
    return f'<h2>{escape(title)}</h2>\n<p class="note">{escape(text)}</p>\n' + image(png, title)


def image(png: bytes, what: str) -> str:
    """Return a picture that is part of the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{data}">'


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table; without a heading where all of its cells are empty."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head) if any(head) else ""
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>\n" for line in lines
    )
    return f"<table>\n{f'<tr>{top}</tr>' if top else ''}\n{rows}</table>"


def commands(title: str, steps: Iterable[tuple[str, str]]) -> list[str]:
    """Return a heading and, for each step, what it is for and what to type."""
    parts = [f"<h2>{escape(title)}</h2>"]
    for text, command in steps:
        parts += [f"<p>{escape(text)}</p>", f"<pre>{escape(command)}</pre>"]
    return parts


def escape(value: object) -> str:
    """Return text that cannot become HTML."""
    return html.escape(str(value), quote=True)


def number(value: float | None, digits: int) -> str:
    """Return a number, or nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
