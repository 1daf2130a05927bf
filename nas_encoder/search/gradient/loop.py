"""The loop of a gradient search: stages of epochs of steps, resumable between any two steps.

The loop is Lightning Fabric's kind (our own control flow; its devices, precision and
backward): a search rebuilds its network between stages and moves two sets of parameters on two
streams of data, which a Trainer's fit has no room for.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.fabric import Fabric
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nas_encoder.data import AsrLoader, Batch
from nas_encoder.genotype import CellArchitecture
from nas_encoder.search.config import SearchConfig, StageConfig
from nas_encoder.search.gradient import STRATEGIES
from nas_encoder.search.gradient.choices import KINDS, Alive, ArchitectureParameters
from nas_encoder.search.gradient.supernet import Supernet
from nas_encoder.search.gradient.training import (
    DivergedError,
    Steps,
    architecture_optimizer,
    cosine,
    random_state,
    set_random_state,
    weights_optimizer,
)
from nas_encoder.search.runfolder import RunFolder
from nas_encoder.spaces import get_space

logger = logging.getLogger(__name__)


@dataclass
class Streams:
    """The data of a search.

    Attributes:
        weights: Batches that the weights learn from.
        architecture: Batches that the architecture learns from.
        score: Batches that the score is measured on.
        vocabulary: V, tokens with the blank.
    """

    weights: AsrLoader
    architecture: AsrLoader
    score: AsrLoader
    vocabulary: int


@dataclass
class Position:
    """Where the loop is: everything up to this step is done."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    architecture_batches: int = 0  # drawn so far in this stage
    sums: dict[str, float] = field(
        default_factory=lambda: {"loss": 0.0, "arch_loss": 0.0, "steps": 0.0, "arch_steps": 0.0}
    )
    seconds: float = 0.0  # spent in this epoch


# Called after each epoch with the row for metrics.jsonl and the architecture derived.
EpochEnd = Callable[[dict[str, Any], CellArchitecture], None]


class GradientSearch:
    """Runs all stages of a gradient strategy.

    Args:
        config: The checked configuration.
        streams: The data.
        seed: Of everything random but the data's order, which the streams own.
        folder: For checkpoints.
        on_epoch: Called after each epoch.
    """

    def __init__(
        self,
        config: SearchConfig,
        streams: Streams,
        seed: int,
        folder: RunFolder,
        on_epoch: EpochEnd,
    ) -> None:
        self.config = config
        self.streams = streams
        self.seed = seed
        self.folder = folder
        self.on_epoch = on_epoch
        self.strategy = STRATEGIES[config.strategy](config)
        self.space = get_space(config.space)
        trainer = config.trainer
        self.fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=1,
            precision=trainer.precision,  # type: ignore[arg-type]
        )
        self.position = Position()
        self.alive: Alive = self.strategy.first_alive()
        self._saved = time.monotonic()

    # -- the loop -----------------------------------------------------------------------------

    def run(self, resume: dict[str, Any] | None = None) -> CellArchitecture:
        """Run what is left of the search; return the architecture of the last epoch.

        Args:
            resume: The checkpoint to go on from.

        Raises:
            DivergedError: The loss became NaN or infinite; the batch is saved beside the
                checkpoint.
        """
        torch.use_deterministic_algorithms(
            self.config.trainer.deterministic,
            # On CUDA the CTC loss has no deterministic form: say so, do not stop.
            warn_only=self.fabric.device.type == "cuda",
        )
        torch.manual_seed(self.seed)
        if resume is not None:
            self._restore_position(resume)
        bar = self._progress_bar()
        architecture: CellArchitecture | None = None
        with bar, logging_redirect_tqdm():
            while self.position.stage < len(self.config.stages):
                steps = self._build_stage(resume)
                resume = None
                architecture = self._run_stage(steps, bar)
                self._finish_stage(steps)
        if architecture is None:
            raise RuntimeError("the checkpoint is behind the last stage")
        return architecture

    def _run_stage(self, steps: Steps, bar: Any) -> CellArchitecture:
        stage = self.config.stages[self.position.stage]
        architecture: CellArchitecture | None = None
        while self.position.epoch < stage.epochs:
            self._run_epoch(steps, stage, bar)
            architecture = self._finish_epoch(steps, stage)
        return architecture or self.strategy.derive(steps.parameters)

    def _run_epoch(self, steps: Steps, stage: StageConfig, bar: Any) -> None:
        position = self.position
        began = time.monotonic() - position.seconds
        moves = self.strategy.moves_architecture(stage, position.epoch)
        dropout = self.strategy.operation_dropout(stage, position.epoch)
        number = self._epoch_number(position.stage, position.epoch)
        self.streams.weights.set_epoch(number)
        batches = self.streams.weights.num_batches(number)
        architecture_batches = self._architecture_batches() if moves else iter(())
        for batch in self.streams.weights.iterate(start=position.step):
            try:
                if moves:
                    loss = self._on_device(
                        steps.architecture_step, next(architecture_batches), dropout
                    )
                    position.architecture_batches += 1
                    position.sums["arch_loss"] += loss
                    position.sums["arch_steps"] += 1
                progress = (position.epoch + position.step / batches) / stage.epochs
                lr = cosine(self.config.weights, progress)
                loss = self._on_device(steps.weight_step, batch, lr, dropout)
            except DivergedError as error:
                self._save_diverged(error, batch)
                raise
            position.sums["loss"] += loss
            position.sums["steps"] += 1
            position.step += 1
            position.seconds = time.monotonic() - began
            bar.update(self._cost(stage, moves))
            bar.set_postfix_str(f"loss {position.sums['loss'] / position.sums['steps']:.3f}")
            if time.monotonic() - self._saved > 60 * self.config.trainer.checkpoint_minutes:
                self._save(steps)

    def _on_device(self, step: Callable[..., float], batch: Batch, *rest: float) -> float:
        return step(batch.to(self.fabric.device), *rest)

    def _finish_epoch(self, steps: Steps, stage: StageConfig) -> CellArchitecture:
        position = self.position
        began = time.monotonic()
        sums = position.sums
        architecture = self.strategy.derive(steps.parameters)
        score = steps.score(iter(self.streams.score))
        entropy = steps.parameters.entropy()
        row: dict[str, Any] = {
            "stage": position.stage + 1,
            "epoch": position.epoch + 1,
            "steps": int(sums["steps"]),
            "train_loss": sums["loss"] / max(1.0, sums["steps"]),
            "architecture_loss": (
                sums["arch_loss"] / sums["arch_steps"] if sums["arch_steps"] else None
            ),
            "valid_loss": score["loss"],
            "valid_ter": score["ter"],
            "dropout": self.strategy.operation_dropout(stage, position.epoch),
            "entropy": entropy,
            "uniform_entropy": math.log(stage.operations),
            "seconds": round(position.seconds + time.monotonic() - began, 3),
            "probabilities": {
                kind: [dict(edge) for edge in edges]
                for kind, edges in steps.parameters.probabilities().items()
            },
        }
        self.on_epoch(row, architecture)
        self.position = Position(
            position.stage,
            position.epoch + 1,
            architecture_batches=position.architecture_batches,
        )
        self._save(steps)
        return architecture

    def _finish_stage(self, steps: Steps) -> None:
        stage = self.position.stage
        if stage + 1 < len(self.config.stages):
            self.alive = self.strategy.next_alive(stage, steps.parameters.probabilities())
        self.position = Position(stage + 1)

    # -- building and restoring ---------------------------------------------------------------

    def _build_stage(self, resume: dict[str, Any] | None) -> Steps:
        stage = self.config.stages[self.position.stage]
        # Each stage starts from a state that depends on the seed and its number alone.
        torch.manual_seed(self.seed * 1000 + self.position.stage)
        generator = torch.Generator().manual_seed(self.seed * 1000 + self.position.stage)
        parameters = ArchitectureParameters(self.alive, generator)
        network = Supernet(
            self.alive,
            self.config.encoder_config(stage),
            self.space.nodes,
            self.streams.vocabulary,
            self.config.regularization.operations,
        )
        network.to(self.fabric.device)
        parameters.to(self.fabric.device)
        weights = weights_optimizer(self.config.weights, network)
        architecture = architecture_optimizer(self.config.architecture, parameters)
        if resume is not None:
            network.load_state_dict(resume["network"])
            parameters.load_state_dict(resume["architecture"])
            weights.load_state_dict(resume["weights_optimizer"])
            architecture.load_state_dict(resume["architecture_optimizer"])
            set_random_state(resume["random"])
        logger.info(
            "stage %d of %d: %d cells, %d channels, %d operations on an edge, %d epochs",
            self.position.stage + 1,
            len(self.config.stages),
            stage.layers,
            stage.channels,
            stage.operations,
            stage.epochs,
        )
        return Steps(
            self.fabric, network, parameters, weights, architecture, self.config.weights.grad_clip
        )

    def _restore_position(self, state: dict[str, Any]) -> None:
        self.position = Position(**state["position"])
        self.alive = {kind: tuple(tuple(edge) for edge in state["alive"][kind]) for kind in KINDS}

    def _save(self, steps: Steps) -> None:
        self.folder.save_checkpoint(
            {
                "position": dict(vars(self.position)),
                "alive": {kind: [list(edge) for edge in self.alive[kind]] for kind in KINDS},
                "network": steps.network.state_dict(),
                "architecture": steps.parameters.state_dict(),
                "weights_optimizer": steps.weights.state_dict(),
                "architecture_optimizer": steps.architecture.state_dict(),
                "random": random_state(),
            }
        )
        self._saved = time.monotonic()

    def _save_diverged(self, error: DivergedError, batch: Batch) -> None:
        path = self.folder.path / "diverged_batch.pt"
        torch.save({**vars(batch)}, path)
        error.args = (f"{error.args[0]}; the batch of the weights is saved as {path}",)

    # -- data ---------------------------------------------------------------------------------

    def _epoch_number(self, stage: int, epoch: int) -> int:
        return sum(s.epochs for s in self.config.stages[:stage]) + epoch

    def _architecture_batches(self) -> Iterator[Batch]:
        """Yield the architecture's batches from where it is, epoch after epoch of its own."""
        loader = self.streams.architecture
        base = 10_000 * (self.position.stage + 1)
        epoch, skip = 0, self.position.architecture_batches
        while skip >= (count := loader.num_batches(base + epoch)):
            epoch, skip = epoch + 1, skip - count
        while True:
            loader.set_epoch(base + epoch)
            yield from loader.iterate(start=skip)
            epoch, skip = epoch + 1, 0

    # -- progress -----------------------------------------------------------------------------

    def _cost(self, stage: StageConfig, moves: bool) -> float:
        """Return a step's cost in units that make the remaining time of all stages foreseeable."""
        return stage.layers * stage.channels * stage.operations * (2.0 if moves else 1.0)

    def _progress_bar(self) -> Any:
        total, done = 0.0, 0.0
        # Epochs differ by a batch or two; planning all of them for a bar would take too long.
        batches = self.streams.weights.num_batches(0)
        for index, stage in enumerate(self.config.stages):
            for epoch in range(stage.epochs):
                cost = self._cost(stage, self.strategy.moves_architecture(stage, epoch))
                total += batches * cost
                position = (self.position.stage, self.position.epoch)
                if (index, epoch) < position:
                    done += batches * cost
                elif (index, epoch) == position:
                    done += self.position.step * cost
        return tqdm(
            total=total,
            initial=done,
            desc="search",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
            # Into a log file, a line now and then is enough.
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
        )
