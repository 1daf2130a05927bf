"""One training of one architecture by the recipe, resumable between any two steps.

B batch, T' output frames, V tokens.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas_encoder.common.seeding import derive_seed
from nas_encoder.data import AsrLoader, Batch
from nas_encoder.errors import DataError
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.tabular.config import Recipe
from nas_encoder.tabular.contents import Training
from nas_encoder.training.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.loaders import epoch_of
from nas_encoder.training.optimizers import exponential
from nas_encoder.training.steps import WeightSteps, ctc_loss, feasible, only_feasible
from nas_encoder.training.trainer import State, Trainer

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass
class TableLoaders:
    """The data of a training: one loader for each warm-up epoch, then the three sets."""

    warm_up: list[AsrLoader]
    train: AsrLoader
    valid: AsrLoader
    test: AsrLoader


@dataclass
class _Results:
    """Results of the epochs so far."""

    vals: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    tests: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    diverged: int | None = None


class RecipeTraining:
    """Trains one architecture with one seed (of weights, data order and dropout).

    Args:
        build: Builds the classifier; called with the weights' seed set.
        decode: Log-probabilities (T', V) -> tokens.
        spell: Tokens -> units to compare in scoring.
        checkpoint: File that a stopped training resumes from; ``key`` is its name there.
        checkpoint_seconds: Time between two checkpoints; 0 for every step.
    """

    def __init__(
        self,
        recipe: Recipe,
        build: Callable[[], CtcNetwork],
        loaders: TableLoaders,
        decode: Callable[[Tensor], list[int]],
        spell: Callable[[list[int]], list[str]],
        seed: int,
        fabric: Fabric,
        checkpoint: Path,
        key: str,
        checkpoint_seconds: float = 20.0,
    ) -> None:
        self.recipe, self.loaders, self.decode, self.spell = recipe, loaders, decode, spell
        self.checkpoint, self.key = checkpoint, f"{key} seed {seed}"
        torch.manual_seed(derive_seed(seed, 0))
        model = build().to(fabric.device)
        # TensorFlow's default, used for the published data.
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, eps=1e-7)
        self.kernels = [
            part.weight
            for part in model.modules()
            if isinstance(part, (nn.Conv1d, nn.Conv2d)) and recipe.l2
        ]
        self.steps = WeightSteps(fabric, model, optimizer, recipe.grad_clip, self._objective)
        self.trainer = Trainer(
            self.steps,
            len(loaders.warm_up) + recipe.epochs[-1],
            self._batches,
            lambda position: exponential(
                recipe.lr, recipe.decay, recipe.decay_from, self._number(position.epoch)
            ),
            seed=partial(derive_seed, seed, 1),
            write=self._save,
            step_seconds=checkpoint_seconds,
            epoch_seconds=checkpoint_seconds,
        )
        self.results = _Results()
        self._load()

    def run(self, step: Callable[[str], None] = lambda _: None) -> dict[int, Training]:
        """Train to the last target; return the training of each.

        ``step`` is called after each epoch with a short status.
        """
        results = self.results
        try:
            for position in self.trainer.run():
                began, number = time.perf_counter(), self._number(position.epoch)
                if number >= 1:
                    self._finish(number, self.error(self.loaders.valid))
                results.seconds += position.seconds + time.perf_counter() - began
                step(f"{results.vals[-1]:.3f}" if results.vals else "warm-up")
        except DivergedError:
            # From here on it recognizes nothing: as many errors as phones.
            results.diverged = max(1, self._number(self.trainer.position.epoch))
            results.seconds += self.trainer.position.seconds
            for number in range(results.diverged, self.recipe.epochs[-1] + 1):
                self._finish(number, 1.0)
        more: dict[str, Any] = {"seconds": round(results.seconds, 3)}
        if results.diverged is not None:
            more["diverged_in_epoch"] = results.diverged
        return {
            target: Training(tuple(results.vals[:target]), results.tests[target], dict(more))
            for target in self.recipe.epochs
        }

    def close(self) -> None:
        """Delete the checkpoints; call it once the result is stored elsewhere."""
        delete_checkpoint(self.checkpoint)

    # -- an epoch -----------------------------------------------------------------------------

    def _number(self, epoch: int) -> int:
        """Return the number of an epoch; those below 1 are warm-up and are not validated."""
        return epoch - len(self.loaders.warm_up) + 1

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        warm_up = self.loaders.warm_up
        loader = warm_up[epoch] if epoch < len(warm_up) else self.loaders.train
        return epoch_of(loader, epoch, start)

    def _objective(self, log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        """Return the loss per output frame, as in the published code.

        The data have what the finest network of the space can place; what is too much for this
        one is left out.
        """
        if not bool(feasible(lengths, batch).all()):
            log_probs, lengths, batch = only_feasible(log_probs, lengths, batch)
        if len(lengths):
            losses = ctc_loss(log_probs, lengths, batch, "none")
            loss = (losses / lengths.to(losses.dtype)).mean()
        else:
            loss = (0.0 * log_probs).sum()
        for kernel in self.kernels:
            loss = loss + self.recipe.l2 * kernel.square().sum()
        return loss

    def _finish(self, number: int, error: float) -> None:
        """Record an epoch's validation error; at a target, test the best epoch so far."""
        results, model = self.results, self.steps.network
        if not results.vals or error < min(results.vals):
            results.best = copy.deepcopy(model.state_dict())
        results.vals.append(error)
        if number in self.recipe.epochs:
            if results.diverged is not None and min(results.vals) >= 1.0:
                results.tests[number] = 1.0
                return
            present = copy.deepcopy(model.state_dict())
            model.load_state_dict(results.best)
            results.tests[number] = self.error(self.loaders.test)
            model.load_state_dict(present)

    def error(self, batches: Iterable[Batch]) -> float:
        """Return the token error rate: edits over tokens of all utterances, after folding."""
        score = self.steps.score(batches, self.decode, self.spell)
        if not score.tokens:
            raise DataError("scoring", ["the transcripts contain no tokens"])
        return score.edits / score.tokens

    # -- the checkpoint -----------------------------------------------------------------------

    def _save(self, state: State) -> None:
        results = dict(vars(self.results))
        save_checkpoint(self.checkpoint, {**state, "key": self.key, "results": results})

    def _load(self) -> None:
        saved = load_checkpoint(self.checkpoint, of="a table", unsealed=True)
        # Another key: a training that another process took over and finished.
        if saved is None or saved["key"] != self.key:
            return
        if "state" in saved:  # of the first version
            results = saved["state"]
            position = {"epoch": results.pop("epoch")}
            if results["diverged"] is not None:  # it kept counting epochs
                return
            saved |= {"position": position, "results": results, "random": []}
            saved |= {"network": saved["model"], "weights_optimizer": saved["optimizer"]}
        self.trainer.restore(saved)
        self.results = _Results(**saved["results"])
