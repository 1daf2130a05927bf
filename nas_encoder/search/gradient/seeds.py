"""A search with several seeds: the best derived network by validation is the result.

He et al. 2020 repeat their search 3 times with different seeds because the outcome depends on
chance (sections 3.2 and 4.3); so do Liu et al. 2019 and Chen et al. 2019, who train each derived
network for a short time and keep the best on validation data.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nas_encoder.common.provenance import environment
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.folder import open_folder
from nas_encoder.search.report.build import write_report
from nas_encoder.training.devices import open_fabric

logger = logging.getLogger(__name__)


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


def search_seeds(
    config: SearchConfig,
    train: str | Path,
    output: str | Path,
    valid: str | Path | None = None,
    resume: bool = False,
    config_name: str = "",
) -> Genotype:
    """Search with each of ``config.seeds``, in a run folder of its own below ``output``.

    Args:
        config: The checked configuration.
        train: As for :func:`~nas_encoder.search.run.run_search`.
        output: The run folder of all; ``genotype.yaml`` in it is the winner.
        valid: As for :func:`~nas_encoder.search.run.run_search`.
        resume: Go on where the searches were stopped.
        config_name: Recorded in the genotypes.

    Returns:
        The winner: the lowest token error rate on the validation data, of equals the lowest
        loss, of equals the first. Its provenance names the others.

    Raises:
        DataError: As there.
        CheckpointError: As there.
    """
    from nas_encoder.search.run import run_search

    folder = open_folder(output)
    run: dict[str, Any] = {
        "seeds": list(config.seeds),
        "train": str(train),
        "valid": str(valid) if valid is not None else None,
        "config": config_name,
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **environment(),
    }
    folder.begin(config.to_dict(), run, resume)
    own = one_seed(config)
    fabric = open_fabric(config.trainer)
    found: dict[int, Genotype] = {}
    for place, seed in enumerate(config.seeds):
        logger.info("seed %d, %d of %d", seed, place + 1, len(config.seeds))
        path = folder.seed_path(seed)
        done = open_folder(path).result()
        if done is None:
            # A search that was begun is gone on with; one that was not is begun.
            done = run_search(own, train, path, valid, seed, True, config_name, fabric)
        found[seed] = done
    result = choose(found)
    folder.save_result(result)
    if folder.writes:
        write_report(folder)
    logger.info("genotype %s, of seed %s", result.hash, result.provenance["seed"])
    return result


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
