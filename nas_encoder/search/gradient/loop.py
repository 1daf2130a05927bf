"""A gradient search: stages that pass on their choices, resumable between any two steps."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.contrib.logging import logging_redirect_tqdm

from nas_encoder.common.choices import Candidates
from nas_encoder.errors import StoppedError
from nas_encoder.genotype import Genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search.config.sections import OptimizationConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.loaders import SearchLoaders
from nas_encoder.search.gradient.objective import Objective
from nas_encoder.search.gradient.progress import Progress
from nas_encoder.search.gradient.recorder import Recorder
from nas_encoder.search.gradient.stage import SearchPosition, Stage
from nas_encoder.search.gradient.steps import (
    Penalty,
    Steps,
    StepsContext,
    architecture_optimizer,
)
from nas_encoder.search.gradient.strategies.base import Strategy
from nas_encoder.search.records import EpochRecord
from nas_encoder.training.devices import synchronize_norms, use_deterministic_algorithms
from nas_encoder.training.diverged import DivergedError, save_batch
from nas_encoder.training.optimizers import weights_optimizer
from nas_encoder.training.random_state import part_seed
from nas_encoder.training.trainer import Trainer

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class GradientSearch:
    """Runs all stages of a gradient strategy."""

    strategy: Strategy
    config: OptimizationConfig  # optimizers and trainer
    accumulate: int  # batches per step
    loaders: SearchLoaders
    seed: int  # seed of all randomness except the order of the data, which the loaders own
    folder: RunFolder  # where checkpoints go
    recorder: Recorder
    fabric: Fabric
    objective: Objective | None  # costs and budgets; None where costs are unknown
    candidates: Candidates = field(init=False)  # the choices of the current stage
    # State of its best epoch if it can stop early; the search then derives from it.
    best: dict[str, Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.stages = self.strategy.config.stages
        # Epochs differ by a batch or two; planning all of them for a bar would take too long.
        self.progress = Progress(
            self.strategy, lambda stage: self.loaders.of_stage(stage).num_batches(0)
        )
        self.candidates = self.strategy.first_candidates()

    # -- the loop -----------------------------------------------------------------------------

    def run(self, resume: dict[str, Any] | None = None) -> Any:
        """Run the rest of the search from a checkpoint; return the last epoch's architecture.

        Raises:
            DivergedError: The loss became NaN or infinite; the batch is saved in the run folder.
        """
        use_deterministic_algorithms(self.config.trainer, self.fabric)
        torch.manual_seed(self.seed)
        position = SearchPosition()
        if resume is not None:
            position = SearchPosition.from_dict(resume["position"])
            alive = resume["alive"].items()
            self.candidates = {kind: tuple(tuple(edge) for edge in edges) for kind, edges in alive}
            self.best = resume["best"]
        place = position.stage, position.epoch, position.step
        bar = self.progress.bar(*place, hidden=not self.fabric.is_global_zero)
        steps: Steps | None = None
        architecture: Any = None
        with bar, logging_redirect_tqdm():
            for index in range(position.stage, len(self.stages)):
                steps = self._steps(index, steps, resume)
                stage = self._stage(steps, SearchPosition(stage=index), bar)
                if resume is not None:
                    stage.trainer.restore({**resume, "network": _prefixed(resume["network"])})
                    resume = None
                try:
                    architecture = self._run_stage(stage, bar)
                except DivergedError as error:
                    save_batch(error, self.folder.path, self.fabric)
                    raise
                self._finish_stage(steps, index)
        return architecture

    def _stage(self, steps: Steps, position: SearchPosition, bar: Any) -> Stage:
        config = self.config

        def show(batches: int) -> None:
            now = stage.position
            bar.update(batches * self.progress.step(stage.config, now.epoch))
            bar.set_postfix_str(f"loss {now.mean('loss'):.3f}")

        own, before = self.stages[position.stage], self.stages[: position.stage]
        epochs_before = sum(earlier.epochs for earlier in before)
        stage = Stage(steps, own, self.strategy, self.loaders, config.weights, epochs_before)
        stage.trainer = Trainer(
            steps,
            own.epochs,
            stage.batches,
            stage.rate,
            stage.step,
            own.stop,
            self.accumulate,
            write=lambda state: self._save(steps, state),
            step_seconds=60 * config.trainer.checkpoint_minutes,
            show=show,
            position=position,
            where=f" of stage {position.stage + 1}",
        )
        return stage

    def _run_stage(self, stage: Stage, bar: Any) -> Any:
        architecture: Any = None
        parameters = stage.steps.parameters
        for _ in stage.trainer.run():
            architecture = self._finish_epoch(stage)
        if stage.position.stopping.stopped:
            logger.info("stage %d stops early", stage.position.stage + 1)
            done = stage.position.epoch
            bar.update((stage.config.epochs - done) * self.progress.epoch(stage.config, done))
        if self.best is not None:
            parameters.load_state_dict(self.best)
            architecture = None
        return architecture or self.strategy.derive(parameters)

    def _finish_epoch(self, stage: Stage) -> Any:
        began = time.monotonic()
        steps, position = stage.steps, stage.position
        architecture = self.strategy.derive(steps.parameters)
        # All processes have this value, but their decisions need it to agree bit for bit.
        try:
            score = self.fabric.broadcast(steps.score(iter(self.loaders.score)))
        except StoppedError:
            stage.trainer.save()  # after the last step; the score is taken again
            raise
        moved = position.sums.get("arch_steps")
        edges = costs = None
        if self.strategy.config.learns_edges:
            edges = steps.parameters.edge_probabilities()
        if self.objective is not None:
            with torch.no_grad():
                present = steps.parameters.weights(), self.candidates, architecture
                costs = self.objective.report(*present, steps.parameters.edges())
        record = EpochRecord(
            stage=position.stage + 1,
            epoch=position.epoch + 1,
            phase=stage.config.phase,
            steps=int(position.sums["steps"]),
            train_loss=position.mean("loss"),
            architecture_loss=position.mean("arch_loss", "arch_steps") if moved else None,
            penalty=position.mean("penalty", "arch_steps") if moved else None,
            valid_loss=score.loss,
            valid_utterance_loss=score.utterance_loss,
            valid_ter=score.ter,
            dropout=stage.dropout,
            entropy=steps.parameters.entropy(),
            uniform_entropy={kind: math.log(len(own[0])) for kind, own in self.candidates.items()},
            seconds=round(position.seconds + time.monotonic() - began, 3),
            probabilities=steps.parameters.probabilities(),
            edges=edges,
            edge_entropy=None if edges is None else steps.parameters.edge_entropy(),
            costs=costs,
            genotype=self._genotype(architecture).hash,
        )
        self.recorder(record, architecture)
        if stage.trainer.see(score.utterance_loss) and stage.config.phase == "search":
            state = steps.parameters.state_dict()
            self.best = {name: value.clone() for name, value in state.items()}
        return architecture

    def _finish_stage(self, steps: Steps, index: int) -> None:
        if index + 1 < len(self.stages) and self.stages[index + 1].phase == "search":
            self.candidates = self.strategy.next_candidates(index, steps.parameters.probabilities())
        self.best = None

    # -- building and restoring ---------------------------------------------------------------

    def _steps(self, index: int, previous: Steps | None, state: dict[str, Any] | None) -> Steps:
        """Build the steps of a stage (from 0): after the ``previous`` stage's, or resumed.

        Of a resumed stage, the trainer restores the network's weights.
        """
        config, stage = self.config, self.stages[index]
        # The initial state of a stage depends only on the seed and its number.
        seed = part_seed(self.seed, index)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        learned = self.strategy.config.learns_edges
        parameters = ArchitectureParameters(self.candidates, generator, learned)
        # Inherit the choice of the previous stage, or else only its pruning.
        goes_on = index > 0 and self.stages[index - 1].phase == "warmup"
        if state is not None:
            parameters.load_state_dict(state["architecture"])
        elif previous is not None:
            if goes_on or stage.phase == "retrain":
                parameters.load_state_dict(previous.parameters.state_dict())
            else:
                # Stages prune operations but never edges, so the edge strengths carry over.
                strengths = previous.parameters.strengths.state_dict()
                parameters.strengths.load_state_dict(strengths)
        if stage.phase == "retrain":
            genotype = self._genotype(self.strategy.derive(parameters))
            encoder = build_encoder(genotype, **asdict(self.strategy.network(stage)))
            network: nn.Module = CtcNetwork(encoder, self.loaders.vocabulary)
        else:
            network = self.strategy.supernet(self.candidates, stage, self.loaders.vocabulary)
        if self.fabric.world_size > 1 and config.trainer.sync_batchnorm:
            synchronize_norms(network)
        network.to(self.fabric.device)
        parameters.to(self.fabric.device)
        context = StepsContext(
            fabric=self.fabric,
            network=network,
            parameters=parameters,
            weights=weights_optimizer(config.weights, network),
            architecture=architecture_optimizer(config.architecture, parameters),
            grad_clip=config.weights.grad_clip,
            stage=stage,
            seed=seed,
            penalty=self._penalty() if stage.phase == "search" else None,
        )
        steps = self.strategy.steps(context)
        rank = self.fabric.global_rank
        if rank:  # processes share the network, but not its dropout
            torch.manual_seed(part_seed(self.seed, index, rank))
        sizes = stage.layers, stage.channels, stage.operations, stage.epochs
        logger.info(
            "stage %d of %d: %d cells, %d channels, %d operations on an edge, %d epochs",
            *(index + 1, len(self.stages), *sizes),
        )
        if state is not None:
            steps.architecture.load_state_dict(state["architecture_optimizer"])
            steps.load_state(state["steps"])
        elif previous is not None and goes_on and stage.phase == "search":
            steps.network.load_state_dict(previous.network.state_dict())
            steps.optimizer.load_state_dict(previous.optimizer.state_dict())
        return steps

    def _genotype(self, architecture: Any) -> Genotype:
        config = self.strategy.config
        return Genotype(config.name, config.space, architecture, {"kind": "search"})

    def _save(self, steps: Steps, state: dict[str, Any]) -> None:
        alive = {kind: [list(edge) for edge in edges] for kind, edges in self.candidates.items()}
        self.folder.save_checkpoint(
            {
                **state,
                "records": self.recorder.rows(),
                "alive": alive,
                "best": self.best,
                "architecture": steps.parameters.state_dict(),
                "architecture_optimizer": steps.architecture.state_dict(),
                "steps": steps.state(),
            }
        )

    def _penalty(self) -> Penalty | None:
        objective = self.objective
        if objective is None or not objective.config.budgets:
            return None
        return lambda present: objective.penalty(
            present.weights(), self.candidates, self.strategy.derive(present), present.edges()
        )


def _prefixed(network: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's state; convert it if saved when supernets had their own CTC layer."""
    known = ("encoder.", "classifier.")
    return {k if k.startswith(known) else f"encoder.{k}": value for k, value in network.items()}
