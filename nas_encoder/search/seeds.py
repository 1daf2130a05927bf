"""Several seeds, because the outcome of a search depends on chance: the best is the result.

He et al. 2020 (sections 3.2 and 4.3), Liu et al. 2019 and Chen et al. 2019 repeat theirs too.
"""

from __future__ import annotations

from nas_encoder.genotype import Genotype


def choose(found: dict[int, Genotype]) -> Genotype:
    """Return the best genotype, with all of them in its provenance."""
    best = min(found.values(), key=score_of)
    candidates = [
        {"seed": seed, "hash": genotype.hash, "validation": genotype.provenance.get("validation")}
        for seed, genotype in found.items()
    ]
    provenance = {**best.provenance, "candidates": candidates}
    return Genotype(best.name, best.space, best.architecture, provenance)


def score_of(genotype: Genotype) -> tuple[float, float]:
    """Return the token error rate and the loss on the validation data; lower is better."""
    validation = genotype.provenance.get("validation") or {}
    values = (validation.get("token_error_rate"), validation.get("loss"))
    error_rate, loss = (float("inf") if value is None else float(value) for value in values)
    return error_rate, loss
