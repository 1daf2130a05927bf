"""The shape of genotypes and its correlation with the errors of trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas_encoder.genotype import Genotype
from nas_encoder.spaces import get_space

TITLES = {
    "depth": "most convolutions in a row",
    "inputs": "edges from the cell's two inputs",
    "pools": "poolings",
}


def shape(genotype: Genotype) -> dict[str, int]:
    """Return the numbers, if any, with which a space describes an architecture's shape."""
    return get_space(genotype.space).shape(genotype.architecture)


def relations(
    shapes: Sequence[Mapping[str, int]], errors: Sequence[float]
) -> list[tuple[str, float, float]]:
    """Return the title, Spearman's rho with the errors, and p of each number that varies."""
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
