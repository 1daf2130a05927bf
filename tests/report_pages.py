"""Reads the page of a report as a browser would, and the figures that were drawn for it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from nas_encoder.genotype import load_genotype
from nas_encoder.network.budgets import UNITS, readable
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.report.build import build_report
from nas_encoder.spaces import get_space
from nas_encoder.spaces.picture import architecture_lines


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
        path = build_report(RunFolder(folder))
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    page.figures = dict(zip(page.pictures, figures, strict=True))
    return page


def line(axes: Axes, label: str) -> np.ndarray:
    """Return the points (n, 2) of a line over the epochs, which is in pieces, one a stage."""
    colour = next(found.get_color() for found in axes.get_lines() if found.get_label() == label)
    pieces = [
        np.asarray(found.get_xydata())
        for found in axes.get_lines()
        if found.get_color() == colour and found.get_marker() == "o"
    ]
    return np.concatenate(pieces)


def check_search_page(folder: Path, page: Page) -> None:
    """Check what the page of a finished gradient search shows against metrics.jsonl as it is."""
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    searching = [row for row in rows if row["phase"] == "search"]
    genotype = load_genotype(folder / "genotype.yaml")
    space = get_space(genotype.space)
    kinds = list(rows[0]["probabilities"])
    require_drawn(page)
    assert f": finished, {len(rows)} of " in page.words

    # The result, with its hash and its text.
    heading = f"Genotype {genotype.name}"
    assert page.texts[heading] == ["\n".join(architecture_lines(genotype))]
    assert f"Hash {genotype.hash}." in page.words
    assert "the genotype" in page.figures

    # Every epoch, as numbers and in the curves.
    table = page.rows("Epochs")
    assert [(row["stage"], row["epoch"]) for row in table] == [
        (f"{row['stage']} {row['phase']}", str(row["epoch"])) for row in rows
    ]
    for shown, row in zip(table, rows, strict=True):
        assert shown["training loss"] == f"{row['train_loss']:.3f}"
        assert shown["validation loss"] == f"{row['valid_loss']:.3f}"
        assert shown["token error rate, %"] == f"{row['valid_ter']:.1f}"
        assert shown["genotype"] == row["genotype"]
        shares = [100 * row["entropy"][kind] / row["uniform_entropy"][kind] for kind in kinds]
        cell = shown[f"entropy, % of uniform ({', '.join(kinds)})"]
        assert cell == ", ".join(f"{share:.1f}" for share in shares)
    losses, errors, entropy = page.figures["Training"].axes
    epochs = np.arange(1, len(rows) + 1)
    for axes, label, key in (
        (losses, "training", "train_loss"),
        (losses, "validation", "valid_loss"),
        (losses, "architecture's data", "architecture_loss"),
        (errors, "validation", "valid_ter"),
    ):
        values = [np.nan if row[key] is None else row[key] for row in rows]
        np.testing.assert_array_equal(line(axes, label), np.stack([epochs, values], 1))
    for kind in kinds:
        label = space.kinds[kind].title
        values = [row["entropy"][kind] / row["uniform_entropy"][kind] for row in rows]
        np.testing.assert_array_equal(line(entropy, label), np.stack([epochs, values], 1))
        if "edge_entropy" in rows[0]:
            values = [row["edge_entropy"][kind] for row in rows]
            np.testing.assert_array_equal(line(entropy, f"{label}, its edges")[:, 1], values)

    # The probabilities of every operation on every edge, and what is taken.
    for axes in page.figures["Operations over time"].axes:
        heights = np.array([[bar.get_height() for bar in bars] for bars in axes.containers])
        np.testing.assert_allclose(heights.sum(0), np.ones(len(searching)))
    for stage in {row["stage"] for row in searching}:
        last = [row for row in searching if row["stage"] == stage][-1]
        figure = page.figures[f"Edges after epoch {last['epoch']} of stage {stage}"]
        derived = load_genotype(
            folder / "genotypes" / f"stage{stage}_epoch{last['epoch']:03d}.yaml"
        )
        for kind, axes in zip(kinds, figure.axes, strict=False):
            names = [tick.get_text() for tick in axes.get_xticklabels()]
            (image,) = axes.get_images()
            values = np.ma.filled(image.get_array(), np.nan)
            expected = [
                [edge.get(op, np.nan) for op in names] for edge in last["probabilities"][kind]
            ]
            np.testing.assert_allclose(values, expected)
            chosen = dict(space.chosen(derived.architecture)[kind])
            framed = {
                round(patch.get_y() + 0.5): names[round(patch.get_x() + 0.5)]
                for patch in axes.patches
            }
            assert framed == chosen
    for kind in kinds:
        (axes,) = page.figures[f"Every edge of the {space.kinds[kind].title} over time"].axes
        places = dict(space.chosen(genotype.architecture)[kind])
        shown = {text.get_text(): text.get_fontweight() for text in axes.texts}
        assert shown == {
            f"{name}: {places[place]}" if place in places else name: (
                "bold" if place in places else "normal"
            )
            for place, name in enumerate(space.kinds[kind].names)
        }

    # Costs against budgets.
    costs = rows[-1]["costs"]
    assert [row["genotype"] for row in page.rows("Cost against budget")] == [
        readable(name, cost["derived"]) for name, cost in costs.items()
    ]
    for (name, cost), row in zip(costs.items(), page.rows("Cost against budget"), strict=True):
        budget = cost.get("budget")
        assert row["budget"] == ("" if budget is None else readable(name, budget))
        over = budget is not None and cost["derived"] > budget
        assert any(f"than the budget of {row['budget']}" in w for w in page.warnings) == over
    for (name, _), axes in zip(
        costs.items(), page.figures["Cost against budget"].axes, strict=True
    ):
        values = [UNITS[name][1] * row["costs"][name]["derived"] for row in rows]
        np.testing.assert_allclose(line(axes, "of the genotype derived")[:, 1], values)

    assert f"nas-encoder show {folder}/genotype.yaml" in page.words
    assert page.texts["Configuration"] == [(folder / "config.yaml").read_text()]


def check_trials_page(folder: Path, page: Page) -> None:
    """Check what the page of a finished search by trials shows against metrics.jsonl as it is."""
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    complete = [row for row in rows if row["state"] == "complete"]
    genotype = load_genotype(folder / "genotype.yaml")
    require_drawn(page)
    count = len(rows)
    assert f": finished, {count} of {count} trials ({count - len(complete)} pruned)" in page.words
    best = min(row["error"] for row in complete)
    assert page.texts[f"Genotype {genotype.name}"] == ["\n".join(architecture_lines(genotype))]
    assert f"Hash {genotype.hash}, error {best:.2f} %." in page.words

    table = page.rows("Trials")
    assert sorted(int(row["trial"]) for row in table) == [row["trial"] for row in rows]
    ranked = [rows[int(row["trial"]) - 1] for row in table]
    assert ranked == sorted(ranked, key=lambda row: (row["state"] != "complete", row["error"]))
    for shown, row in zip(table, ranked, strict=True):
        assert (shown["state"], shown["genotype"]) == (row["state"], row["genotype"])
        assert (shown["error, %"], shown["epochs"]) == (f"{row['error']:.2f}", str(row["epochs"]))
        assert shown["multiply-adds, G"] == f"{row['macs'] / 1e9:.4g}"

    (axes,) = page.figures["Search history"].axes
    points = {found.get_label(): np.asarray(found.get_xydata()) for found in axes.get_lines()}
    for state in {row["state"] for row in rows}:
        expected = [(row["trial"], row["error"]) for row in rows if row["state"] == state]
        np.testing.assert_array_equal(points[state], expected)
    errors = [row["error"] if row["state"] == "complete" else np.inf for row in rows]
    course = np.minimum.accumulate(errors)
    np.testing.assert_array_equal(
        points["best so far"][:, 1], np.where(course < np.inf, course, np.nan)
    )
    (axes,) = page.figures["Epochs of the trials"].axes
    for found, row in zip(axes.get_lines(), rows, strict=True):
        np.testing.assert_array_equal(found.get_ydata(), row["errors"])

    front = folder / "front.json"
    if not front.exists():
        assert not [name for name in page.pictures if name.startswith("Front")]
        return
    members = json.loads(front.read_text())["front"]
    table = page.rows("Front: error and multiply-adds")
    assert [(row["trial"], row["genotype"]) for row in table] == [
        (str(member["trial"]), member["hash"]) for member in members
    ]
    (axes,) = page.figures["Front: error and multiply-adds"].axes
    drawn = next(found for found in axes.get_lines() if found.get_label() == "Pareto front")
    expected = sorted((member["macs"] / 1e9, member["error"]) for member in members)
    np.testing.assert_allclose(np.asarray(drawn.get_xydata()), expected)
