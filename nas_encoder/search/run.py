"""From speech data to a genotype: everything around a strategy."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from nas_encoder.common.provenance import environment
from nas_encoder.deploy.latency import LatencyTable
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.folder import open_folder
from nas_encoder.search.gradient.loop import GradientSearch
from nas_encoder.search.gradient.objective import Objective, build_costs
from nas_encoder.search.gradient.recorder import Recorder
from nas_encoder.search.gradient.seeds import search_seeds
from nas_encoder.search.report.build import write_report
from nas_encoder.training.devices import open_fabric
from nas_encoder.training.loaders import open_streams

logger = logging.getLogger(__name__)


def run_search(
    config: SearchConfig,
    train: str | Path,
    output: str | Path,
    valid: str | Path | None = None,
    seed: int | None = None,
    resume: bool = False,
    config_name: str = "",
    fabric: Fabric | None = None,
) -> Genotype:
    """Search a genotype.

    Args:
        config: The checked configuration.
        train: Kaldi/ESPnet folder, NeMo manifest or lhotse cuts.
        output: The run folder.
        valid: Data of the same kinds that the score is measured on; with
            ``architecture_data: valid`` the architecture learns from it too. Without it, the
            half of the training data that the architecture learns from serves.
        seed: Of everything random; by default the configuration's seeds, each in turn, or 0.
        resume: Go on where a run in ``output`` was stopped; begin where there is none.
        config_name: Recorded in the genotype.
        fabric: The devices, where the caller has opened them already.

    Returns:
        The genotype; it is ``genotype.yaml`` in the run folder too.

    Raises:
        ConfigError: A budget needs a table of latencies, or there is no such device.
        DataError: The data cannot be used; all problems found are listed, before any training.
        CheckpointError: The run folder holds another run, or cannot be written.
    """
    if seed is None and config.seeds:
        return search_seeds(config, train, output, valid, resume, config_name)
    objective = build_objective(config)
    seed = seed or 0
    folder = open_folder(output)
    run: dict[str, Any] = {
        "seed": seed,
        "train": str(train),
        "valid": str(valid) if valid is not None else None,
        "config": config_name,
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "devices": config.trainer.devices,
        **environment(),
    }
    folder.begin(config.to_dict(), run, resume)
    if config.objective.table is not None:
        folder.keep_table(LatencyTable.load(config.objective.table).to_dict(), resume)
    # Only now: what can fail early has not started other processes.
    fabric = fabric or open_fabric(config.trainer)
    fabric.barrier()
    state = folder.load_checkpoint() if resume else None
    streams = open_streams(
        config,
        train,
        valid,
        seed,
        folder,
        resumed=state is not None,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        pinned=fabric.device.type == "cuda",
    )
    recorder = Recorder(folder, config, {**run, **folder.run()}, state)
    search = GradientSearch(config, streams, seed, folder, recorder, fabric, objective)
    architecture = search.run(state)
    genotype = recorder.genotype(architecture)
    folder.save_result(genotype)
    recorder.close()
    if folder.writes:
        write_report(folder)
    logger.info("genotype %s is %s", genotype.hash, folder.path / "genotype.yaml")
    return genotype


def build_objective(config: SearchConfig) -> Objective | None:
    """Return the costs of what can be found, and the budgets; None where costs are not known.

    Raises:
        ConfigError: A budget needs what is not there.
    """
    objective = config.objective
    network = config.encoder_config(config.stages[-1])
    costs = build_costs(objective, config.space, network, config.features.frame_shift)
    if costs is not None:
        return Objective(objective, costs)
    if objective.budgets:
        raise ConfigError(
            "objective", [f"the costs of networks of the space '{config.space}' are not known"]
        )
    return None
