"""The record of a gradient search: metrics, genotypes, TensorBoard events, log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from nas_encoder.common.documents import plain
from nas_encoder.common.sealed import ANEW
from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.sections import StageConfig, StrategyConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.findings import findings
from nas_encoder.search.records import EpochRecord
from nas_encoder.spaces import get_space
from nas_encoder.training.holding import CHECKPOINT

logger = logging.getLogger(__name__)

_CURVES = ("train_loss", "architecture_loss", "penalty", "valid_loss", "valid_ter", "dropout")


class Recorder:
    """Records the outcome of each epoch.

    ``run`` is the content of run.yaml, ``state`` the checkpoint to resume from, or None.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: StrategyConfig,
        run: dict[str, Any],
        state: dict[str, Any] | None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.run = run
        self.epochs = [] if state is None else recorded_before(folder, state, config.stages)
        folder.write_records(self.epochs)
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
        return SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=len(self.epochs))

    def __call__(self, epoch: EpochRecord, architecture: Any) -> None:
        """Record an epoch and the architecture derived after it."""
        self.epochs.append(epoch)
        genotype = self.genotype(architecture)
        self.folder.save_genotype(genotype, *epoch.place)
        self.folder.write_records(self.epochs)
        if not self.folder.writes:
            return
        edges = epoch.edge_entropy
        logger.info(
            "stage %d epoch %d: loss %.3f, valid loss %.3f, token error rate %.1f %%, "
            "entropy %.3f of %.3f%s, %.0f s",
            *epoch.place,
            epoch.train_loss,
            epoch.valid_loss,
            epoch.valid_ter,
            fmean(epoch.entropy.values()),
            fmean(epoch.uniform_entropy.values()),
            f", of edges {fmean(edges.values()):.3f} of 1" if edges else "",
            epoch.seconds,
        )
        self._warn(epoch, genotype)
        if self.board is not None:
            self._draw(epoch)

    def _warn(self, epoch: EpochRecord, genotype: Genotype) -> None:
        """Warn of a failing search, once per stage, after half of its epochs."""
        stage = self.config.stages[epoch.stage - 1]
        if stage.phase != "search" or 2 * epoch.epoch < stage.epochs + stage.warmup_epochs:
            return
        for finding in findings(epoch, genotype, get_space(self.config.space)):
            key = (epoch.stage, finding.kind, finding.where)
            if key not in self._warned:
                self._warned.add(key)
                logger.warning("%s", finding.text)

    def _draw(self, epoch: EpochRecord) -> None:
        number = len(self.epochs)
        for name in _CURVES:
            if (value := getattr(epoch, name)) is not None:
                self.board.add_scalar(name, value, number)
        self.board.add_scalars("entropy", epoch.entropy, number)
        if epoch.edge_entropy:
            self.board.add_scalars("edge_entropy", epoch.edge_entropy, number)
        for name, costs in epoch.to_row().get("costs", {}).items():
            self.board.add_scalars(name, costs, number)
        self.board.flush()

    def rows(self) -> list[dict[str, Any]]:
        """Return the record, for a checkpoint."""
        return plain([epoch.to_row() for epoch in self.epochs])  # type: ignore[no-any-return]

    def genotype(self, architecture: Any) -> Genotype:
        """Return an architecture derived after the last epoch, with its provenance."""
        last = self.epochs[-1]
        provenance = {
            "kind": "search",
            "strategy": self.config.strategy,
            **{name: self.run[name] for name in ("config", "seed")},
            "data": self.run["train"],
            **{name: self.run[name] for name in ("version", "commit", "machine")},
            "stage": last.stage,
            "epoch": last.epoch,
            "validation": {"loss": last.valid_loss, "token_error_rate": last.valid_ter},
        }
        return Genotype(self.config.name, self.config.space, architecture, provenance)

    def close(self) -> None:
        """Close the open files."""
        if self.board is not None:
            self.board.close()


def recorded_before(
    folder: RunFolder, state: Mapping[str, Any], stages: Sequence[StageConfig]
) -> list[EpochRecord]:
    """Return the epochs done before a checkpoint, as it recorded them.

    An epoch recorded later is run, and recorded, again. The checkpoints of earlier versions hold no
    records; then metrics.jsonl must hold all.

    Raises:
        CheckpointError: It does not.
    """
    position = state["position"]
    reached = (position["stage"] + 1, position["epoch"])
    if "records" in state:
        kept = [EpochRecord.from_row(row, CHECKPOINT) for row in state["records"]]
        kept = [epoch for epoch in kept if epoch.place <= reached]
        try:
            found = folder.records(EpochRecord)
        except CheckpointError as error:
            logger.warning("%s; it is rebuilt from the checkpoint", error)
            return kept
        if found[: len(kept)] != kept:
            logger.warning("%s: does not fit; it is rebuilt from the checkpoint", folder.metrics)
        return kept
    found = [epoch for epoch in folder.records(EpochRecord) if epoch.place <= reached]
    last: dict[int, int] = {}
    for epoch in found:
        if epoch.epoch != last.get(epoch.stage, 0) + 1:
            break
        last[epoch.stage] = epoch.epoch
    else:
        done = [stage.epochs for stage in stages[: reached[0] - 1]] + [reached[1]] * bool(
            reached[1]
        )
        # A stage may have stopped early.
        complete = [
            count == last.get(number, 0)
            or (number < reached[0] and bool(stages[number - 1].stop) and number in last)
            for number, count in enumerate(done, 1)
        ]
        if all(complete) and len(last) == len(done):
            return found
    raise CheckpointError(
        str(folder.metrics),
        [
            f"lacks epochs that {CHECKPOINT} goes on from (stage {reached[0]}, {reached[1]} epochs "
            f"done); {ANEW}"
        ],
    )
