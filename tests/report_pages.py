"""Reads the page of a report as a browser would, and the figures that were drawn for it."""

from __future__ import annotations

import base64
import io
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.image import imread

from nas_encoder import build_encoder
from nas_encoder.cli.main import build_parser, main
from nas_encoder.genotype import load_genotype
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.report.build import build_report


class Page(HTMLParser):
    """What a browser would see; tags must be closed in order.

    Attributes:
        words: All text.
        tables: Heading of a section -> rows of cells, with the row of headings where it has one.
        texts: Heading of a section -> its preformatted texts.
        warnings: The warnings.
        figures: What a picture shows -> the figure, where the page was made by :func:`page_of`.
    """

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, list[str]] = {}
        self.warnings: list[str] = []
        self.figures: dict[str, Figure] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        heading = self.headings[-1] if self.headings else ""
        if tag == "h2":
            self.headings.append("")
        elif tag == "tr":
            self.tables.setdefault(heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[heading][-1].append("")
        elif tag == "pre":
            self.texts.setdefault(heading, []).append("")
        elif ("class", "warn") in attrs:
            self.warnings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        tag = self.open[-1] if self.open else ""
        if tag == "h2":
            self.headings[-1] += data
        elif tag in ("td", "th"):
            self.tables[self.headings[-1]][-1][-1] += data
        elif tag == "pre":
            self.texts[self.headings[-1]][-1] += data
        elif tag == "p" and self.tags[-1][1].get("class") == "warn":
            self.warnings[-1] += data

    @property
    def pictures(self) -> dict[str, str]:
        """What each picture shows -> its source."""
        found = [attributes for tag, attributes in self.tags if tag == "img"]
        return {str(attributes["alt"]): str(attributes["src"]) for attributes in found}

    def rows(self, heading: str) -> list[dict[str, str]]:
        """Return the rows of a section's table by the table's headings."""
        head, *rows = self.tables[heading]
        return [dict(zip(head, row, strict=True)) for row in rows]


def require_drawn(page: Page) -> None:
    """Check that every picture is part of the page, and that something is drawn in it."""
    for source in page.pictures.values():
        start, _, data = source.partition(",")
        assert start == "data:image/png;base64"
        pixels = imread(io.BytesIO(base64.b64decode(data)), format="png")
        assert min(pixels.shape[:2]) > 150
        assert pixels[..., :3].std() > 0.05


def require_full_tables(page: Page) -> None:
    """Check that every column of a table with headings has a cell that is not empty."""
    for heading, (head, *rows) in page.tables.items():
        if heading != "Provenance":
            for place, name in enumerate(head):
                assert any(row[place] for row in rows), f"{heading}: column '{name}' is empty"


def require_whole_numbers(page: Page) -> None:
    """Check that axes of epochs and trials are marked at whole numbers only."""
    for shows, figure in page.figures.items():
        for axes in figure.axes:
            if re.search(r"epoch|trial", axes.get_xlabel()):
                ticks = axes.get_xticks()
                assert np.array_equal(ticks, np.round(ticks)), f"{shows}: {ticks}"


def require_working_steps(page: Page) -> None:
    """Check that what to run next can be run: searches are only configured, the rest is done."""
    parser = build_parser()
    for text in page.texts["What to run next"]:
        if text.startswith("encoder:"):
            options = yaml.safe_load(text)["encoder_conf"]
            build_encoder(options.pop("genotype"), **{"input_size": 40} | options)
            continue
        program, *words = shlex.split(text)
        with tempfile.TemporaryDirectory() as folder:
            if program == "python":
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(folder)
                    exec(words[-1], {})  # 'python -c' would import everything again
                    load_genotype("random.yaml")
            elif program == "nas-encoder" and words[0] == "search":
                arguments = parser.parse_args(words)
                settings = [f"seeds={arguments.seeds}"] if arguments.seeds else []
                load_any_search_config(arguments.config, [*arguments.settings, *settings])
            elif program == "nas-encoder":
                place = next(i for i, word in enumerate(words) if word in ("--output", "--plot"))
                words[place + 1] = f"{folder}/{words[place + 1]}"
                with redirect_stdout(io.StringIO()):
                    assert main(words) == 0
                assert [*Path(folder).iterdir()]
            else:
                assert program == "optuna-dashboard"


@contextmanager
def saved_figures() -> Iterator[list[Figure]]:
    """Collect the figures that are written, each once."""
    found: list[Figure] = []
    original = Figure.savefig

    def saving(self: Figure, *args: Any, **kwargs: Any) -> None:
        found.append(self)
        original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", saving)
        yield found


def page_of(folder: Path) -> Page:
    """Make the report of a run folder and read it."""
    with saved_figures() as figures:
        assert build_report(RunFolder(folder)) == folder / "report.html"
    return read_page(folder, figures)


def read_page(folder: Path, figures: list[Figure]) -> Page:
    """Read the report of a run folder.

    Args:
        folder: The folder.
        figures: What was drawn while it was made.
    """
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    page.figures = dict(zip(page.pictures, figures, strict=True))
    return page
