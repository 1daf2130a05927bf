"""The page of a report: sections laid out by a template, self-contained, all text escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


@dataclass(frozen=True)
class Section:
    """A part of a page; its attributes are in the order of display."""

    title: str
    note: str = ""  # how to read it
    png: bytes = b""
    alt: str = ""  # alternative text of the picture; by default the title
    text: str = ""  # preformatted
    head: Sequence[str] = ()  # of a table
    rows: Sequence[Sequence[object]] = ()  # of that table; None for an empty cell
    steps: Iterable[tuple[str, str]] = ()  # (purpose, command) pairs

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        """The head and the rows, without columns that have nothing but a heading."""
        if not self.head:
            return self.head, self.rows
        columns = zip(self.head, *self.rows, strict=True)
        kept = [column for column in columns if any(cell not in (None, "") for cell in column[1:])]
        return [column[0] for column in kept], list(zip(*(c[1:] for c in kept), strict=True))


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    state: str  # progress of the search
    warnings: Iterable[str]  # to read before trusting the result
    sections: Iterable[Section]


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: "" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template("page.html")


def render(page: Page) -> str:
    """Return a page as HTML."""
    return _template().render(page=page)


def provenance_section(run: Mapping[str, Any]) -> Section:
    """Return the content of run.yaml as a section."""
    return Section("Provenance", rows=list(run.items()))


def number(value: float | None, digits: int) -> str | None:
    """Return a number with this many decimals; None stays None."""
    return None if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return a readable duration: ``2 h 05 min``, ``4 min 06 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
