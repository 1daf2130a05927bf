"""Several seeds: the derived network that validates best is the result.

He et al. 2020 repeat their search 3 times with different seeds because the outcome depends on
chance (sections 3.2 and 4.3). So do Liu et al. 2019 and Chen et al. 2019, who train each derived
network briefly and keep the best one on validation data.
"""

from __future__ import annotations

from dataclasses import replace

from nas_encoder.genotype import Genotype
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.config.sections import StageConfig


def one_seed(config: SearchConfig) -> SearchConfig:
    """Return the configuration of each seed's own search.

    With a ``selection``, a last stage trains the derived network from scratch, so that the last
    validation figures are those of the network that is compared.
    """
    stages = config.stages
    selection = config.selection
    if selection is not None and stages[-1].phase != "retrain":
        stages += (
            StageConfig(
                phase="retrain",
                layers=selection.layers or stages[-1].layers,
                channels=selection.channels or stages[-1].channels,
                operations=stages[-1].operations,
                epochs=selection.epochs,
                warmup_epochs=0,
                dropout=selection.dropout,
            ),
        )
    return replace(config, seeds=(), selection=None, stages=stages)


def choose(found: dict[int, Genotype]) -> Genotype:
    """Return the best of the genotypes, with all of them in its provenance."""
    ranked = sorted(found, key=lambda seed: (*score_of(found[seed]), list(found).index(seed)))
    best = found[ranked[0]]
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
