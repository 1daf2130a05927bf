"""Known failures of gradient searches, told from the record of an epoch.

Liu et al. 2019's architecture parameters can stay where they began, or prefer what has no weights
(Zela et al. 2020, "Understanding and Robustifying Differentiable Architecture Search"; Chen et al.
2019, section 3.3): skip connections and pooling look good while convolutions are not yet trained.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from nas_encoder.genotype import Genotype
from nas_encoder.search.records import EpochRecord
from nas_encoder.spaces import SearchSpace
from nas_encoder.spaces.base import Kind

UNIFORM = 0.97  # of the entropy of a uniform choice: as good as not moved
HARDLY_LEARNED = 90.0  # token error rate in %
DOMINATES = 0.5  # of the probability
_EXCESS = 1.25  # times what a uniform choice gives


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


def findings(epoch: EpochRecord, genotype: Genotype | None, space: SearchSpace) -> list[Finding]:
    """Return what is wrong after an epoch.

    Args:
        epoch: Its record.
        genotype: What was derived from it.
        space: That is searched.
    """
    found = []
    chosen = {} if genotype is None else space.chosen(genotype.architecture)
    for kind, table in epoch.probabilities.items():
        share = epoch.relative_entropy(kind)
        title = space.kinds[kind].title
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
        text = _dominance(space.kinds[kind], space.weightless, table, chosen.get(kind, ()), taken)
        if text:
            found.append(Finding("cheap", kind, text))
        none, uniform = _share(table, {space.zero}, taken)
        if none > DOMINATES and none > _EXCESS * uniform:
            text = (
                f"'{space.zero}' has {100 * none:.0f} % of the probability in the {title}: "
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


def _dominance(
    kind: Kind,
    weightless: Collection[str],
    table: Any,
    chosen: Sequence[tuple[int, str]],
    taken: Sequence[float],
) -> str:
    why = (
        "They have no weights and so look good early in a search, a known failure of DARTS; "
        "regularization.at_most limits them in the normal cell."
    )
    cheap = sum(operation in weightless for _, operation in chosen)
    if chosen and 2 * cheap >= len(chosen):
        return (
            f"{cheap} of {len(chosen)} edges of the {kind.title} are pooling or skip "
            f"connections. {why}"
        )
    share, uniform = _share(table, weightless, taken)
    if share > DOMINATES and share > _EXCESS * uniform:
        return (
            f"Pooling and skip connections have {100 * share:.0f} % of the probability in the "
            f"{kind.title}. {why}"
        )
    return ""


def _share(
    table: Any, operations: Collection[str | None], taken: Sequence[float]
) -> tuple[float, float]:
    """Return the mean probability of some operations, and what a uniform choice would give.

    Args:
        table: Edge -> operation -> probability.
        operations: Which ones.
        taken: How much each edge counts.
    """
    total, uniform = 0.0, 0.0
    for edge, share in zip(table, taken, strict=True):
        total += share * sum(p for op, p in edge.items() if op in operations)
        uniform += share * sum(op in operations for op in edge) / len(edge)
    return total / sum(taken), uniform / sum(taken)
