"""Known failures of gradient searches, told from the record of an epoch.

Liu et al. 2019's architecture parameters can stay where they began, or prefer what has no weights
(Zela et al. 2020, "Understanding and Robustifying Differentiable Architecture Search"; Chen et al.
2019, section 3.3): skip connections and pooling look good while convolutions are not yet trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nas_encoder.genotype import Genotype
from nas_encoder.search.records import EpochRecord
from nas_encoder.spaces.cells.architecture import Cell, CellArchitecture

UNIFORM = 0.97  # of the entropy of a uniform choice: as good as not moved
HARDLY_LEARNED = 90.0  # token error rate in %
DOMINATES = 0.5  # of the probability
_EXCESS = 1.25  # times what a uniform choice gives
_CHEAP = ("pool", "skip_connect")
_NONE = ("none", "zero")  # of edges, of NAS-Bench-ASR's nodes


@dataclass(frozen=True)
class Finding:
    """Something that a reader should know before trusting the genotype.

    Attributes:
        kind: ``uniform``, ``edges``, ``cheap``, ``none`` or ``unlearned``.
        where: The kind of cell or of blocks; empty for the whole network.
        text: A sentence or two.
    """

    kind: str
    where: str
    text: str


def is_cheap(operation: str) -> bool:
    """Whether an operation has (next to) no weights."""
    return any(part in operation for part in _CHEAP)


def findings(epoch: EpochRecord, genotype: Genotype | None) -> list[Finding]:
    """Return what is wrong after an epoch.

    Args:
        epoch: Its record.
        genotype: What was derived from it.
    """
    found = []
    cells = cells_of(genotype)
    for kind, table in epoch.probabilities.items():
        share = epoch.relative_entropy(kind)
        title = f"{kind} cell" if kind in ("normal", "reduction") else kind
        if share is not None and share > UNIFORM:
            text = (
                f"The parameters of the {title} have hardly left the uniform choice (entropy "
                f"{100 * share:.1f} % of uniform): its operations are little better than chance. "
                "More epochs, more data or a larger architecture.lr may help."
            )
            found.append(Finding("uniform", kind, text))
        edges = (epoch.edge_entropy or {}).get(kind)
        if edges is not None and edges > UNIFORM:
            text = (
                f"The choice of edges in the {title} has hardly left the uniform one (entropy "
                f"{100 * edges:.1f} % of uniform): where its nodes take their inputs from is "
                "little better than chance."
            )
            found.append(Finding("edges", kind, text))
        taken = epoch.taken(kind)
        text = _dominance(title, table, cells.get(kind), taken)
        if text:
            found.append(Finding("cheap", kind, text))
        none, uniform = _share(table, lambda op: op in _NONE, taken)
        if none > DOMINATES and none > _EXCESS * uniform:
            text = (
                f"'{_none_of(table)}' has {100 * none:.0f} % of the probability in the {title}: "
                "the search has little to say about the operations that a genotype can hold."
            )
            found.append(Finding("none", kind, text))
    if epoch.valid_ter > HARDLY_LEARNED:
        text = (
            f"The network's token error rate on the validation data is {epoch.valid_ter:.1f} %: "
            "it has hardly learned the task, so its preferences mean little."
        )
        found.append(Finding("unlearned", "", text))
    return found


def cells_of(genotype: Genotype | None) -> dict[str, Cell]:
    """Return the cells of a genotype by kind; none for other architectures."""
    architecture = genotype.architecture if genotype is not None else None
    if not isinstance(architecture, CellArchitecture):
        return {}
    return {"normal": architecture.normal, "reduction": architecture.reduction}


def _none_of(table: Any) -> str:
    found: str = next(op for edge in table for op in edge if op in _NONE)
    return found


def _dominance(title: str, table: Any, cell: Cell | None, taken: Sequence[float]) -> str:
    why = (
        "They have no weights and so look good early in a search, a known failure of DARTS; "
        "regularization.at_most limits them in the normal cell."
    )
    if cell is not None:
        cheap = sum(is_cheap(edge.op) for edge in cell.edges)
        if 2 * cheap >= len(cell.edges):
            return (
                f"{cheap} of {len(cell.edges)} edges of the {title} are pooling or skip "
                f"connections. {why}"
            )
    share, uniform = _share(table, is_cheap, taken)
    if share > DOMINATES and share > _EXCESS * uniform:
        return (
            f"Pooling and skip connections have {100 * share:.0f} % of the probability in the "
            f"{title}. {why}"
        )
    return ""


def _share(table: Any, chosen: Any, taken: Sequence[float]) -> tuple[float, float]:
    """Return the mean probability of some operations, and what a uniform choice would give.

    Args:
        table: Edge -> operation -> probability.
        chosen: Says which operations.
        taken: How much each edge counts.
    """
    total, uniform = 0.0, 0.0
    for edge, share in zip(table, taken, strict=True):
        total += share * sum(p for op, p in edge.items() if chosen(op))
        uniform += share * sum(map(chosen, edge)) / len(edge)
    return total / sum(taken), uniform / sum(taken)
