"""Known failures of gradient searches, detected in the record of an epoch.

The architecture parameters of Liu et al. 2019 can stay near their initial values, or favour
weight-free operations (Zela et al. 2020, "Understanding and Robustifying Differentiable
Architecture Search"; Chen et al. 2019, section 3.3): skip connections and pooling look good while
convolutions are not yet trained.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nas_encoder.genotype import Genotype
from nas_encoder.search.records import EpochRecord
from nas_encoder.spaces import SearchSpace

UNIFORM = 0.97  # of the entropy of a uniform choice: practically unchanged
HARDLY_LEARNED = 90.0  # token error rate in %
DOMINATES = 0.5  # of the probability
_EXCESS = 1.25  # times the probability of a uniform choice


@dataclass(frozen=True)
class Finding:
    """A warning to read before trusting the genotype."""

    kind: str  # ``uniform``, ``edges``, ``cheap``, ``none`` or ``unlearned``
    where: str  # the kind of cell or of blocks; empty for the whole network
    text: str  # a sentence or two


def findings(epoch: EpochRecord, genotype: Genotype | None, space: SearchSpace) -> list[Finding]:
    """Return the failures found in an epoch's record and the genotype derived from it."""
    chosen = {} if genotype is None else space.chosen(genotype.architecture)
    found = []
    for kind in epoch.probabilities:
        title = space.kinds[kind].title
        operations = epoch.relative_entropy(kind) or 0.0
        edges = (epoch.edge_entropy or {}).get(kind, 0.0)
        zero = _excess(epoch, kind, (space.zero,))
        if operations > UNIFORM:
            text = (
                f"The parameters of the {title} have hardly left the uniform choice (entropy "
                f"{100 * operations:.1f} % of uniform): its operations are little better than "
                "chance. More epochs, more data or a larger architecture.lr may help."
            )
            found.append(Finding("uniform", kind, text))
        if edges > UNIFORM:
            text = (
                f"The choice of edges in the {title} has hardly left the uniform one (entropy "
                f"{100 * edges:.1f} % of uniform): where its nodes take their inputs from is "
                "little better than chance. More epochs, more data or a larger architecture.lr may "
                "help."
            )
            found.append(Finding("edges", kind, text))
        taken = [operation for _, operation in chosen.get(kind, ())]
        if text := _weightless(epoch, kind, space, taken):
            found.append(Finding("cheap", kind, text))
        if zero:
            text = (
                f"'{space.zero}' has {100 * zero:.0f} % of the probability in the {title}: the "
                "search has little to say about the operations that a genotype can hold."
            )
            found.append(Finding("none", kind, text))
    if epoch.valid_ter > HARDLY_LEARNED:
        text = (
            f"The network's token error rate on the validation data is {epoch.valid_ter:.1f} %: "
            "it has hardly learned the task, so its preferences mean little. More epochs or more "
            "data may help."
        )
        found.append(Finding("unlearned", "", text))
    return found


def _weightless(epoch: EpochRecord, kind: str, space: SearchSpace, taken: Sequence[str]) -> str:
    title, names = space.kinds[kind].title, ", ".join(space.weightless)
    cheap = sum(operation in space.weightless for operation in taken)
    share = _excess(epoch, kind, space.weightless)
    if taken and 2 * cheap >= len(taken):
        text = f"{cheap} of {len(taken)} operations of the {title} have no weights ({names})."
    elif share:
        text = (
            f"Operations without weights ({names}) have {100 * share:.0f} % of the probability in "
            f"the {title}."
        )
    else:
        return ""
    remedy = "A longer warm-up (stages.N.warmup_epochs) lets those with weights learn first."
    if space.kinds[kind].limited:
        remedy = f"regularization.at_most limits how many of them the {title} may have."
    return f"{text} They look good early in a search, a known failure of DARTS. {remedy}"


def _excess(epoch: EpochRecord, kind: str, operations: Collection[str | None]) -> float:
    """Return the mean probability of some operations where they dominate; else 0."""
    share, uniform = 0.0, 0.0
    taken = epoch.taken(kind)
    for edge, counts in zip(epoch.probabilities[kind], taken, strict=True):
        share += counts * sum(p for op, p in edge.items() if op in operations)
        uniform += counts * sum(op in operations for op in edge) / len(edge)
    share, uniform = share / sum(taken), uniform / sum(taken)
    return share if share > max(DOMINATES, _EXCESS * uniform) else 0.0
