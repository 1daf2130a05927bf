"""The loop of a gradient search: stages of epochs of steps, resumable between any two steps.

The loop is Lightning Fabric's kind (our own control flow; its devices, precision and
backward): a search rebuilds its network between stages and moves two sets of parameters on two
streams of data, which a Trainer's fit has no room for.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from tqdm.contrib.logging import logging_redirect_tqdm

from nas_encoder.data import AsrLoader, Batch
from nas_encoder.genotype import Genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.choices.parameters import Alive, ArchitectureParameters
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.objective import Objective
from nas_encoder.search.gradient.position import EpochEnd, Position, Streams
from nas_encoder.search.gradient.progress import Progress
from nas_encoder.search.gradient.steps import (
    Penalty,
    Steps,
    StepsContext,
    architecture_optimizer,
)
from nas_encoder.search.gradient.strategies.base import GradientStrategy
from nas_encoder.search.records import Cost, EpochRecord
from nas_encoder.tables import STRATEGIES
from nas_encoder.training.devices import (
    any_process,
    of_all_processes,
    open_fabric,
    synchronize_norms,
)
from nas_encoder.training.diverged import DivergedError, require_finite, save_batch
from nas_encoder.training.early_stopping import EarlyStopping
from nas_encoder.training.optimizers import cosine, weights_optimizer
from nas_encoder.training.random_state import part_seed, random_state, set_random_state

logger = logging.getLogger(__name__)


class GradientSearch:
    """Runs all stages of a gradient strategy.

    Args:
        config: The checked configuration.
        streams: The data.
        seed: Of everything random but the data's order, which the streams own.
        folder: For checkpoints.
        on_epoch: Called after each epoch.
        fabric: The devices; by default those of the configuration.
        objective: What can be found costs so much; None where that is not known.
    """

    def __init__(
        self,
        config: SearchConfig,
        streams: Streams,
        seed: int,
        folder: RunFolder,
        on_epoch: EpochEnd,
        fabric: Fabric | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.config = config
        self.streams = streams
        self.seed = seed
        self.folder = folder
        self.on_epoch = on_epoch
        self.strategy: GradientStrategy = STRATEGIES[config.strategy].load()(config)
        self.fabric = fabric or open_fabric(config.trainer)
        self.objective = objective
        # Epochs differ by a batch or two; planning all of them for a bar would take too long.
        self.progress = Progress(
            config.stages, self.strategy, lambda stage: self._loader(stage).num_batches(0)
        )
        self.position = Position()
        self.alive: Alive = self.strategy.first_alive()
        # Of the stage's best epoch where it stops early, from which the search derives.
        self.best: dict[str, Tensor] | None = None
        self._previous: Steps | None = None
        self._strengths: dict[str, Tensor] = {}  # of the last searching stage's edges
        self._last_group: list[Batch] = []
        self._saved = time.monotonic()

    # -- the loop -----------------------------------------------------------------------------

    def run(self, resume: dict[str, Any] | None = None) -> Any:
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
        place = (self.position.stage, self.position.epoch, self.position.step)
        bar = self.progress.bar(*place, hidden=not self.fabric.is_global_zero)
        architecture: Any = None
        with bar, logging_redirect_tqdm():
            while self.position.stage < len(self.config.stages):
                steps = self._build_stage(resume)
                resume = None
                try:
                    architecture = self._run_stage(steps, bar)
                except DivergedError as error:
                    save_batch(error, self.folder.path, self.fabric)
                    raise
                self._finish_stage(steps)
        if architecture is None:
            raise RuntimeError("the checkpoint is behind the last stage")
        return architecture

    def _run_stage(self, steps: Steps, bar: Any) -> Any:
        stage = self.config.stages[self.position.stage]
        architecture: Any = None
        while self.position.epoch < stage.epochs and not self._stopping().stopped:
            self._run_epoch(steps, stage, bar)
            architecture = self._finish_epoch(steps, stage)
        if self._stopping().stopped:
            logger.info("stage %d stops early", self.position.stage + 1)
            missing = stage.epochs - self.position.epoch
            bar.update(missing * self.progress.epoch(stage, self.position.epoch))
        if self.best is not None:
            steps.parameters.load_state_dict(self.best)
            architecture = None
        return architecture or self.strategy.derive(steps.parameters)

    def _stopping(self) -> EarlyStopping:
        return EarlyStopping(**self.position.watch)

    def _run_epoch(self, steps: Steps, stage: StageConfig, bar: Any) -> None:
        position = self.position
        began = time.monotonic() - position.seconds
        moves = self.strategy.moves_architecture(stage, position.epoch)
        dropout = self.strategy.operation_dropout(stage, position.epoch)
        rate = self._stopping().rate(stage.stop)
        number = self._epoch_number(position.stage, position.epoch)
        loader = self._loader(stage)
        loader.set_epoch(number)
        batches = loader.num_batches(number)
        architecture_batches: Iterator[Batch] = iter(())
        if moves:
            architecture_batches = self.streams.architecture_from(
                position.stage, position.architecture_batches
            )
        for group in self._groups(loader.iterate(start=position.step)):
            progress = (position.epoch + position.step / batches) / stage.epochs
            lr = rate * cosine(self.config.weights, progress)
            if moves:
                others = [self._on_device(next(architecture_batches)) for _ in group]
                loss = steps.architecture_step(others, dropout, group, lr)
                position.architecture_batches += len(others)
                position.sums["arch_loss"] += loss
                position.sums["penalty"] += steps.last_penalty
                position.sums["arch_steps"] += 1
            loss = steps.weight_step(group, lr, dropout)
            self._last_group = group
            position.sums["loss"] += loss
            position.sums["steps"] += 1
            position.step += len(group)
            position.seconds = time.monotonic() - began
            bar.update(len(group) * self.progress.step(stage, position.epoch))
            bar.set_postfix_str(f"loss {position.sums['loss'] / position.sums['steps']:.3f}")
            overdue = time.monotonic() - self._saved > 60 * self.config.trainer.checkpoint_minutes
            if any_process(self.fabric, overdue):
                self._save(steps)

    def _groups(self, batches: Iterator[Batch]) -> Iterator[list[Batch]]:
        """Yield, on the device, the batches whose gradients are added up for one step."""
        while group := list(itertools.islice(batches, self.config.batch.accumulate)):
            yield [self._on_device(batch) for batch in group]

    def _on_device(self, batch: Batch) -> Batch:
        return batch.to(self.fabric.device, non_blocking=True)

    def _loader(self, stage: StageConfig) -> AsrLoader:
        if stage.phase == "retrain" and self.streams.retrain is not None:
            return self.streams.retrain
        return self.streams.weights

    def _finish_epoch(self, steps: Steps, stage: StageConfig) -> Any:
        position = self.position
        began = time.monotonic()
        sums = position.sums
        self._require_finite(steps)
        architecture = self.strategy.derive(steps.parameters)
        # Every process has the same; but what they decide by it must be the same bit for bit.
        score = self.fabric.broadcast(steps.score(iter(self.streams.score)))
        edges = costs = None
        if self.config.learns_edges:
            edges = steps.parameters.edge_probabilities()
        if self.objective is not None:
            with torch.no_grad():
                present = steps.parameters.weights(), self.alive, architecture
                report = self.objective.report(*present, steps.parameters.edges())
            costs = {name: Cost(**cost) for name, cost in report.items()}
        record = EpochRecord(
            stage=position.stage + 1,
            epoch=position.epoch + 1,
            phase=stage.phase,
            steps=int(sums["steps"]),
            train_loss=sums["loss"] / max(1.0, sums["steps"]),
            architecture_loss=(
                sums["arch_loss"] / sums["arch_steps"] if sums["arch_steps"] else None
            ),
            penalty=sums["penalty"] / sums["arch_steps"] if sums["arch_steps"] else None,
            valid_loss=score["loss"],
            valid_utterance_loss=score["utterance_loss"],
            valid_ter=score["ter"],
            dropout=self.strategy.operation_dropout(stage, position.epoch),
            entropy=steps.parameters.entropy(),
            uniform_entropy={kind: math.log(len(own[0])) for kind, own in self.alive.items()},
            seconds=round(position.seconds + time.monotonic() - began, 3),
            probabilities=steps.parameters.probabilities(),
            edges=edges,
            edge_entropy=None if edges is None else steps.parameters.edge_entropy(),
            costs=costs,
            genotype=self._genotype(architecture).hash,
        )
        self.on_epoch(record, architecture)
        stopping = self._stopping()
        if stage.stop is not None:
            better = stopping.see(stage.stop, position.epoch + 1, score["utterance_loss"])
            if better and stage.phase == "search":
                state = steps.parameters.state_dict()
                self.best = {name: value.clone() for name, value in state.items()}
        self.position = Position(
            position.stage,
            position.epoch + 1,
            architecture_batches=position.architecture_batches,
            watch=dict(vars(stopping)),
        )
        self._save(steps)
        return architecture

    def _finish_stage(self, steps: Steps) -> None:
        following = self.position.stage + 1
        stages = self.config.stages
        if following < len(stages) and stages[following].phase == "search":
            probabilities = steps.parameters.probabilities()
            self.alive = self.strategy.next_alive(self.position.stage, probabilities)
        if stages[self.position.stage].phase == "search":
            self._strengths = steps.parameters.strengths.state_dict()
        self.position = Position(following)
        self.best = None
        if following < len(stages) and self._goes_on(stages[following]):
            self._previous = steps

    # -- building and restoring ---------------------------------------------------------------

    def _build_stage(self, resume: dict[str, Any] | None) -> Steps:
        stage = self.config.stages[self.position.stage]
        # Each stage starts from a state that depends on the seed and its number alone.
        seed = part_seed(self.seed, self.position.stage)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        parameters = ArchitectureParameters(self.alive, generator, self.config.learns_edges)
        previous, self._previous = self._previous, None
        if resume is not None:
            parameters.load_state_dict(resume["architecture"])
        elif previous is not None and self._goes_on(stage):
            parameters.load_state_dict(previous.parameters.state_dict())
        elif self._strengths and self.config.learns_edges:
            # Operations are pruned between stages, edges never: what is known of them stays.
            parameters.strengths.load_state_dict(self._strengths)
        network = self._build_network(stage, parameters)
        if self.fabric.world_size > 1 and self.config.trainer.sync_batchnorm:
            synchronize_norms(network)
        network.to(self.fabric.device)
        parameters.to(self.fabric.device)
        weights = weights_optimizer(self.config.weights, network)
        architecture = architecture_optimizer(self.config.architecture, parameters)
        steps = self.strategy.steps(
            StepsContext(
                self.fabric,
                network,
                parameters,
                weights,
                architecture,
                self.config.weights.grad_clip,
                stage,
                seed,
            )
        )
        if stage.phase == "search":
            steps.penalty = self._penalty(parameters)
        rank = self.fabric.global_rank
        if rank:  # the same network in every process, but each its own dropout
            torch.manual_seed(part_seed(self.seed, self.position.stage, rank))
        if resume is not None:
            network.load_state_dict(resume["network"])
            weights.load_state_dict(resume["weights_optimizer"])
            architecture.load_state_dict(resume["architecture_optimizer"])
            steps.load_state(resume["steps"])
            if rank < len(resume["random"]):
                set_random_state(resume["random"][rank])
        elif previous is not None and stage.phase == "search" and self._goes_on(stage):
            network.load_state_dict(previous.network.state_dict())
            weights.load_state_dict(previous.weights.state_dict())
        logger.info(
            "stage %d of %d: %d cells, %d channels, %d operations on an edge, %d epochs",
            self.position.stage + 1,
            len(self.config.stages),
            stage.layers,
            stage.channels,
            stage.operations,
            stage.epochs,
        )
        return steps

    def _goes_on(self, stage: StageConfig) -> bool:
        """Whether a stage takes over the choice of the one before it, and not only its pruning."""
        before = self.config.stages[self.position.stage - 1].phase if self.position.stage else None
        return stage.phase == "retrain" or before == "warmup"

    def _build_network(self, stage: StageConfig, parameters: ArchitectureParameters) -> nn.Module:
        if stage.phase != "retrain":
            return self.strategy.supernet(self.alive, stage, self.streams.vocabulary)
        genotype = self._genotype(self.strategy.derive(parameters))
        encoder = build_encoder(genotype, **asdict(self.config.encoder_config(stage)))
        return CtcNetwork(encoder, self.streams.vocabulary)

    def _genotype(self, architecture: Any) -> Genotype:
        return Genotype(self.config.name, self.config.space, architecture, {"kind": "search"})

    def _restore_position(self, state: dict[str, Any]) -> None:
        self.position = Position(**state["position"])
        self.alive = {
            kind: tuple(tuple(edge) for edge in edges) for kind, edges in state["alive"].items()
        }
        self.best = state["best"]

    def _require_finite(self, steps: Steps) -> None:
        """Stop before a checkpoint or an epoch's record holds what the last step has ruined."""
        if self._last_group:
            now = self.position
            place = f"step {now.step} of epoch {now.epoch + 1} of stage {now.stage + 1}"
            modules = (steps.network, steps.parameters)
            require_finite(self.fabric, modules, self._last_group[-1], place)

    def _save(self, steps: Steps) -> None:
        self._require_finite(steps)
        self.folder.save_checkpoint(
            {
                "position": dict(vars(self.position)),
                "alive": {
                    kind: [list(edge) for edge in edges] for kind, edges in self.alive.items()
                },
                "best": self.best,
                "network": steps.network.state_dict(),
                "architecture": steps.parameters.state_dict(),
                "weights_optimizer": steps.weights.state_dict(),
                "architecture_optimizer": steps.architecture.state_dict(),
                "steps": steps.state(),
                "random": of_all_processes(self.fabric, random_state()),
            }
        )
        self._saved = time.monotonic()

    def _penalty(self, parameters: ArchitectureParameters) -> Penalty | None:
        objective = self.objective
        if objective is None or not objective.config.budgets:
            return None
        return lambda present: objective.penalty(
            present.weights(), self.alive, self.strategy.derive(parameters), present.edges()
        )

    # -- data ---------------------------------------------------------------------------------

    def _epoch_number(self, stage: int, epoch: int) -> int:
        return sum(s.epochs for s in self.config.stages[:stage]) + epoch
