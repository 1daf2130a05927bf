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
from nas_encoder.search.folder import RunFolder, open_folder
from nas_encoder.search.gradient.loop import GradientSearch
from nas_encoder.search.gradient.objective import Objective, build_costs
from nas_encoder.search.gradient.seeds import search_seeds
from nas_encoder.search.report.build import write_report
from nas_encoder.search.report.findings import findings
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


class Recorder:
    """Writes down what each epoch gives.

    Args:
        folder: Of the run.
        config: Of the search.
        run: What run.yaml holds.
        state: The checkpoint that the search goes on from, or None.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: SearchConfig,
        run: dict[str, Any],
        state: dict[str, Any] | None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.run = run
        position = state["position"] if state else {"stage": 0, "epoch": 0}
        reached = (position["stage"] + 1, position["epoch"])
        # An epoch that was recorded but not checkpointed will be run, and recorded, again.
        self.rows = [row for row in folder.rows() if (row["stage"], row["epoch"]) <= reached]
        folder.write_rows(self.rows)
        self.board: Any = self._open_board() if folder.writes else None
        self._warned: set[tuple[Any, ...]] = set()

    def _open_board(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.warning(
                "no TensorBoard events are written: pip install 'nas_encoder[search]' has it"
            )
            return None
        return SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=len(self.rows))

    def __call__(self, row: dict[str, Any], architecture: Any) -> None:
        """Record an epoch and the architecture that is derived after it."""
        self.rows.append(row)
        genotype = self.genotype(architecture)
        row["genotype"] = genotype.hash
        self.folder.save_genotype(genotype, row["stage"] - 1, row["epoch"] - 1)
        self.folder.write_rows(self.rows)
        if not self.folder.writes:
            return
        edges = list((row.get("edge_entropy") or {}).values())
        logger.info(
            "stage %d epoch %d: loss %.3f, valid loss %.3f, token error rate %.1f %%, "
            "entropy %.3f of %.3f%s, %.0f s",
            row["stage"],
            row["epoch"],
            row["train_loss"],
            row["valid_loss"],
            row["valid_ter"],
            sum(row["entropy"].values()) / len(row["entropy"]),
            sum(row["uniform_entropy"].values()) / len(row["uniform_entropy"]),
            f", of edges {sum(edges) / len(edges):.3f} of 1" if edges else "",
            row["seconds"],
        )
        self._warn(row, genotype)
        if self.board is not None:
            self._draw(row)

    def _warn(self, row: dict[str, Any], genotype: Genotype) -> None:
        """Tell of a failing search, once a stage, when half of its epochs are done."""
        stage = self.config.stages[row["stage"] - 1]
        if stage.phase != "search" or 2 * row["epoch"] < stage.epochs + stage.warmup_epochs:
            return
        for finding in findings(row, genotype):
            key = (row["stage"], finding.kind, finding.where)
            if key not in self._warned:
                self._warned.add(key)
                logger.warning("%s", finding.text)

    def _draw(self, row: dict[str, Any]) -> None:
        names = ("train_loss", "architecture_loss", "penalty", "valid_loss", "valid_ter", "dropout")
        for name in names:
            if row.get(name) is not None:
                self.board.add_scalar(name, row[name], len(self.rows))
        self.board.add_scalars("entropy", row["entropy"], len(self.rows))
        if row.get("edge_entropy"):
            self.board.add_scalars("edge_entropy", row["edge_entropy"], len(self.rows))
        for name, costs in (row.get("costs") or {}).items():
            self.board.add_scalars(name, costs, len(self.rows))
        self.board.flush()

    def genotype(self, architecture: Any) -> Genotype:
        """Return the architecture with its provenance."""
        last = self.rows[-1] if self.rows else {}
        provenance = {
            "kind": "search",
            "strategy": self.config.strategy,
            "config": self.run["config"],
            "seed": self.run["seed"],
            "data": self.run["train"],
            "version": self.run["version"],
            "commit": self.run["commit"],
            "machine": self.run["machine"],
            "stage": last.get("stage"),
            "epoch": last.get("epoch"),
            "validation": {
                "loss": last.get("valid_loss"),
                "token_error_rate": last.get("valid_ter"),
            },
        }
        return Genotype(self.config.name, self.config.space, architecture, provenance)

    def close(self) -> None:
        """Close what is open."""
        if self.board is not None:
            self.board.close()
