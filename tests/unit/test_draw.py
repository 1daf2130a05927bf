"""Cells as text and as pictures: nothing on top of anything else, files that can be compared."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from encoder_samples import ZOO
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from streaming_samples import causal

from nas_encoder.errors import GenotypeError, MissingDependencyError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.spaces import get_space
from nas_encoder.spaces.layered import layered_layout
from nas_encoder.spaces.picture import FORMATS, architecture_lines, draw, save_picture

OPS = ["max_pool_3x3", "avg_pool_3x3", "sep_conv_5x5", "dil_conv_3x3", "conv_7x1_1x7"]


def random_cell(generator: random.Random, nodes: int, edges: int) -> dict[str, Any]:
    listed = [
        [{"op": generator.choice(OPS), "from": generator.randrange(2 + node)} for _ in range(edges)]
        for node in range(nodes)
    ]
    return {"nodes": listed, "concat": list(range(2, 2 + nodes))}


def random_genotype(seed: int, nodes: int, edges: int) -> Genotype:
    generator = random.Random(seed)
    cells = {kind: random_cell(generator, nodes, edges) for kind in ("normal", "reduction")}
    return Genotype.from_dict({"schema": 1, "name": "any", "space": "asr_revised", **cells})


def test_text_names_every_operation_and_its_source() -> None:
    lines = architecture_lines(load_genotype("darts_v2"))
    assert lines[:6] == [
        "normal cell",
        "  2 = sep_conv_3x3(k-2) + sep_conv_3x3(k-1)",
        "  3 = sep_conv_3x3(k-2) + sep_conv_3x3(k-1)",
        "  4 = sep_conv_3x3(k-1) + skip_connect(k-2)",
        "  5 = skip_connect(k-2) + dil_conv_3x3(2)",
        "  k = concat(2, 3, 4, 5)",
    ]
    assert lines[6] == "reduction cell" and len(lines) == 12


def test_text_and_picture_say_where_cells_are_causal() -> None:
    genotype = causal("darts_v2", 3)
    assert any("3" in line and "causal" in line for line in architecture_lines(genotype))
    titles = [title for title, _ in get_space("darts").picture.graphs(genotype.architecture)]
    assert titles[0] == "normal cell, causal in time after 3 cells of the network"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[int, int], list[tuple[int, int]], dict[int, float]]:
    columns = draw(st.lists(st.integers(0, 5), min_size=2, max_size=12))
    column = dict(enumerate(columns))
    pairs = [(a, b) for a in column for b in column if column[a] < column[b]]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=15)) if pairs else []
    sizes = {vertex: draw(st.sampled_from([0.5, 1.0, 1.5])) for vertex in column}
    return column, edges, sizes


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(graphs())
def test_layout_gives_every_vertex_and_every_passing_edge_its_own_room(
    graph: tuple[dict[int, int], list[tuple[int, int]], dict[int, float]],
) -> None:
    column, edges, sizes = graph
    layout = layered_layout(column, edges, sizes)
    assert {vertex: place[0] for vertex, place in layout.position.items()} == column
    taken: dict[int, list[tuple[float, float]]] = {}
    for vertex, (number, y) in layout.position.items():
        taken.setdefault(number, []).append((y, sizes[vertex]))
    for (tail, head), points in zip(edges, layout.route, strict=True):
        assert points[0] == layout.position[tail] and points[-1] == layout.position[head]
        assert [number for number, _ in points] == list(range(column[tail], column[head] + 1))
        for number, y in points[1:-1]:
            taken[number] = [*taken.get(number, []), (y, 0.45)]
    for places in taken.values():
        places.sort()
        for (low, below), (high, above) in zip(places, places[1:], strict=False):
            assert high - low >= (below + above) / 2 - 1e-9


@pytest.mark.parametrize("name", [*ZOO, "deep", "wide"])
def test_labels_fit_and_lines_pass_no_box(name: str) -> None:
    made = {"deep": (5, 6, 2), "wide": (6, 3, 4)}
    genotype = random_genotype(*made[name]) if name in made else load_genotype(name)
    figure = draw(genotype)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axes, cell in zip(
        figure.axes,
        (genotype.architecture.normal, genotype.architecture.reduction),
        strict=True,
    ):
        boxes = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
        lines = [p for p in axes.patches if isinstance(p, FancyArrowPatch)]
        states = {edge.source for edge in cell.edges} | set(cell.concat)
        assert len(boxes) == len(cell.edges) + len(states) + 1
        assert len(lines) == 2 * len(cell.edges) + len(cell.concat)
        extents = [box.get_window_extent(renderer) for box in boxes]
        page = axes.get_window_extent(renderer)
        for index, extent in enumerate(extents):
            assert page.x0 < extent.x0 and extent.x1 < page.x1
            assert page.y0 < extent.y0 and extent.y1 < page.y1
            assert not any(extent.overlaps(other) for other in extents[index + 1 :])
        texts = [text.get_window_extent(renderer) for text in axes.texts]
        inside = [
            any(e.x0 < t.x0 and t.x1 < e.x1 and e.y0 < t.y0 and t.y1 < e.y1 for e in extents)
            for t in texts
        ]
        assert inside.count(True) == len(boxes)
        (title,) = [t for t, found in zip(texts, inside, strict=True) if not found]
        assert not any(title.overlaps(extent) for extent in extents)
        for line in lines:
            curve = line.get_transform().transform_path(line.get_path())
            corners = curve.to_polygons(closed_only=False)[0]
            for (x0, y0), (x1, y1) in zip(corners, corners[1:], strict=False):
                for step in range(11):
                    x, y = x0 + (x1 - x0) * step / 10, y0 + (y1 - y0) * step / 10
                    assert not any(
                        e.x0 + 2 < x < e.x1 - 2 and e.y0 + 2 < y < e.y1 - 2 for e in extents
                    ), (x, y)


@pytest.mark.parametrize("kind", FORMATS)
def test_files_are_whole_and_repeatable(tmp_path: Path, kind: str) -> None:
    genotype = load_genotype("asrnet_b")
    magic = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[kind]
    for name in ("one", "two"):
        save_picture(genotype, tmp_path / f"{name}.{kind}")
    data = (tmp_path / f"one.{kind}").read_bytes()
    assert data.startswith(magic)
    assert data == (tmp_path / f"two.{kind}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one.{kind}", f"two.{kind}"]


def test_a_reconstruction_says_so_in_the_picture() -> None:
    texts = [text.get_text() for text in draw(load_genotype("asrnet_a")).texts]
    assert any("reconstruction" in text for text in texts)


def test_bad_targets_are_refused(tmp_path: Path) -> None:
    genotype = load_genotype("asrnet_b")
    with pytest.raises(GenotypeError, match=r"must end in one of .*got '.jpeg'"):
        save_picture(genotype, tmp_path / "cells.jpeg")
    with pytest.raises(GenotypeError, match="cannot be written"):
        save_picture(genotype, tmp_path / "no" / "folder.svg")


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"nas_encoder\[plot\]"):
        save_picture(load_genotype("asrnet_b"), tmp_path / "cells.svg")
    assert not list(tmp_path.iterdir())
