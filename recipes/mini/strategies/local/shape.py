"""The shape of a genotype of 2-D cells, and how it goes with the errors of trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas_encoder.genotype import Genotype
from nas_encoder.spaces.cells.architecture import INPUT_STATES, Cell, CellArchitecture

# Convolutions of an operation, one after the other; the others have none.
_CONVOLUTIONS = {
    "sep_conv_3x3": 2,
    "sep_conv_5x5": 2,
    "conv_7x1_1x7": 2,
    "dil_conv_3x3": 1,
    "dil_conv_5x5": 1,
}
TITLES = {
    "depth": "most convolutions in a row",
    "inputs": "edges from the cell's two inputs",
    "pools": "poolings",
}


def shape(genotype: Genotype) -> dict[str, int]:
    """Return numbers of both cells by ``normal depth``, ``reduction pools``, ...; else nothing."""
    architecture = genotype.architecture
    if not isinstance(architecture, CellArchitecture):
        return {}
    found = {}
    for kind in ("normal", "reduction"):
        cell: Cell = getattr(architecture, kind)
        edges = list(cell.edges)
        found[f"{kind} depth"] = depth(cell)
        found[f"{kind} inputs"] = sum(edge.source < INPUT_STATES for edge in edges)
        found[f"{kind} pools"] = sum("pool" in edge.op for edge in edges)
    return found


def depth(cell: Cell) -> int:
    """Return the most convolutions on a way from a cell's inputs to one of its nodes."""
    depths = [0] * INPUT_STATES
    for node in cell.nodes:
        depths.append(max(depths[edge.source] + _CONVOLUTIONS.get(edge.op, 0) for edge in node))
    return max(depths)


def relations(
    shapes: Sequence[Mapping[str, int]], errors: Sequence[float]
) -> list[tuple[str, float, float]]:
    """Return for each number that varies its title, Spearman's rho with the errors, and p."""
    from scipy.stats import spearmanr

    found = []
    for name in shapes[0] if shapes else ():
        values = [shape.get(name) for shape in shapes]
        if None in values or len(set(values)) < 2:
            continue
        kind, number = name.split()
        result = spearmanr(values, errors)
        title = f"{TITLES[number]}, {kind} cell"
        found.append((title, float(result.statistic), float(result.pvalue)))
    return sorted(found, key=lambda relation: relation[2])
