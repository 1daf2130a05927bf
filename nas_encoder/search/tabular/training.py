"""One training of one architecture by the recipe, stopped and gone on with at any epoch.

B batch, T' output frames, V tokens.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.common.seeding import derive_seed
from nas_encoder.data import AsrLoader, Batch, TokenSet
from nas_encoder.data.phones import FOLDINGS, fold
from nas_encoder.deploy.timing import measure
from nas_encoder.errors import DataError
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search.config.table import Measuring, TableConfig
from nas_encoder.search.tabular.table import Training
from nas_encoder.training.checkpoint import load_checkpoint, save_checkpoint
from nas_encoder.training.decoding import greedy, prefix_beam
from nas_encoder.training.optimizers import exponential


@dataclass
class Streams:
    """The data of a training: one loader for each warm-up epoch, then the three sets."""

    warm_up: list[AsrLoader]
    train: AsrLoader
    valid: AsrLoader
    test: AsrLoader


@dataclass
class _State:
    """What a training goes on from."""

    epoch: int = 0
    vals: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    tests: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    diverged: int | None = None


class Trainer:
    """Trains one architecture with one seed.

    Args:
        config: The recipe and how errors are counted.
        build: Makes the classifier; called with the weights' seed set.
        streams: The data.
        tokens: The V tokens.
        seed: Of weights, order and dropout.
        device: Where it is computed.
        checkpoint: File that a stopped training goes on from.
        key: Identifies the training in that file.
        checkpoint_seconds: Time between two writes of it; 0 for every epoch.
    """

    def __init__(
        self,
        config: TableConfig,
        build: Callable[[], CtcNetwork],
        streams: Streams,
        tokens: TokenSet,
        seed: int,
        device: torch.device,
        checkpoint: Path,
        key: str,
        checkpoint_seconds: float = 20.0,
    ) -> None:
        self.config, self.recipe, self.streams, self.tokens = config, config.recipe, streams, tokens
        self.seed, self.device = seed, device
        self.checkpoint, self.key = checkpoint, f"{key} seed {seed}"
        self.checkpoint_seconds = checkpoint_seconds
        self._written = time.monotonic()
        torch.manual_seed(derive_seed(seed, 0))
        self.model = build().to(device)
        # As TensorFlow's default, with which the published data were made.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.recipe.lr, eps=1e-7)
        self.kernels = [
            part.weight
            for part in self.model.modules()
            if isinstance(part, (nn.Conv1d, nn.Conv2d)) and self.recipe.l2
        ]
        self.folding = FOLDINGS[config.folding] if config.folding else {}
        self.state = self._load()

    def run(self, step: Callable[[str], None] = lambda _: None) -> dict[int, Training]:
        """Train to the last target; return the training of each.

        Args:
            step: Called after each epoch with a word on it.
        """
        warm_up = len(self.streams.warm_up)
        while self.state.epoch < warm_up + self.recipe.epochs[-1]:
            began = time.perf_counter()
            self._epoch(self.state.epoch - warm_up + 1)
            self.state.seconds += time.perf_counter() - began
            self.state.epoch += 1
            self._save()
            last = f"{self.state.vals[-1]:.3f}" if self.state.vals else "warm-up"
            step(last)
        more: dict[str, Any] = {"seconds": round(self.state.seconds, 3)}
        if self.state.diverged is not None:
            more["diverged_in_epoch"] = self.state.diverged
        return {
            target: Training(tuple(self.state.vals[:target]), self.state.tests[target], dict(more))
            for target in self.recipe.epochs
        }

    def close(self) -> None:
        """Delete the checkpoint; to be called when the result is safe elsewhere."""
        self.checkpoint.unlink(missing_ok=True)

    # -- an epoch -----------------------------------------------------------------------------

    def _epoch(self, number: int) -> None:
        """Run one epoch; those before 1 warm up and are not validated."""
        # Every epoch has random numbers of its own, so a resumed one has the same.
        torch.manual_seed(derive_seed(self.seed, 1, self.state.epoch))
        for group in self.optimizer.param_groups:
            group["lr"] = exponential(
                self.recipe.lr, self.recipe.decay, self.recipe.decay_from, number
            )
        warm = number < 1
        loader = self.streams.warm_up[self.state.epoch] if warm else self.streams.train
        loader.set_epoch(self.state.epoch)
        if self.state.diverged is None:
            self.model.train()
            for batch in loader:
                if not self._step(batch.to(self.device)):
                    self.state.diverged = max(number, 1)
                    break
        if warm:
            return
        # What has diverged recognizes nothing: as many errors as phones.
        error = 1.0 if self.state.diverged is not None else self.error(self.streams.valid)
        if not self.state.vals or error < min(self.state.vals):
            self.state.best = copy.deepcopy(self.model.state_dict())
        self.state.vals.append(error)
        if number in self.recipe.epochs:
            self.state.tests[number] = self._test()

    def _step(self, batch: Batch) -> bool:
        """Move the weights; return whether the loss was finite."""
        log_probs, lengths = self.model(batch.features, batch.feature_lengths)
        losses = F.ctc_loss(
            log_probs.transpose(0, 1),
            batch.targets,
            lengths,
            batch.target_lengths,
            reduction="none",
        )
        # Per output frame, as in the published code.
        loss = (losses / lengths.to(losses.dtype)).mean()
        for kernel in self.kernels:
            loss = loss + self.recipe.l2 * kernel.square().sum()
        if not bool(torch.isfinite(loss)):
            return False
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.grad_clip)
        self.optimizer.step()
        return True

    def _test(self) -> float:
        """Return the test error of the best checkpoint so far."""
        if self.state.diverged is not None and min(self.state.vals) >= 1.0:
            return 1.0
        present = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.state.best)
        error = self.error(self.streams.test)
        self.model.load_state_dict(present)
        return error

    @torch.no_grad()
    def error(self, batches: Iterable[Batch]) -> float:
        """Return the token error rate: edits over tokens of all utterances, after folding."""
        from kaldialign import edit_distance

        self.model.eval()
        errors = total = 0
        for host_batch in batches:
            batch = host_batch.to(self.device)
            log_probs, lengths = self.model(batch.features, batch.feature_lengths)
            log_probs = log_probs.cpu()
            for row, frames in enumerate(lengths.tolist()):
                count = int(host_batch.target_lengths[row])
                reference = self._words(host_batch.targets[row, :count].tolist())
                hypothesis = self._words(self._decode(log_probs[row, :frames]))
                errors += int(edit_distance(reference, hypothesis)["total"])
                total += count
        if not total:
            raise DataError("scoring", ["there is no token in the transcripts"])
        return errors / total

    def _decode(self, log_probs: Tensor) -> list[int]:
        if self.config.beam == 1:
            return greedy(log_probs)
        return prefix_beam(log_probs, self.config.beam)

    def _words(self, ids: list[int]) -> list[str]:
        return fold([self.tokens.tokens[i] for i in ids], self.folding)

    # -- the checkpoint -----------------------------------------------------------------------

    def _save(self) -> None:
        if time.monotonic() - self._written < self.checkpoint_seconds:
            return
        save_checkpoint(
            self.checkpoint,
            {
                "key": self.key,
                "state": dict(vars(self.state)),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )
        self._written = time.monotonic()

    def _load(self) -> _State:
        saved = load_checkpoint(self.checkpoint, of="a table", unsealed=True)
        # One of another key is of a training that another process took over and finished.
        if saved is None or saved["key"] != self.key:
            return _State()
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        return _State(**saved["state"])


def latency(model: nn.Module, features: Tensor, settings: Measuring) -> float:
    """Return the wall time of the forward pass of one utterance, in seconds.

    Args:
        model: In whatever mode; it is put into evaluation mode.
        features: (1, T, F), where the model is.
        settings: How many calls count, and which of them is the result.
    """
    lengths = torch.tensor([features.size(1)], device=features.device)
    model.eval()
    with torch.inference_mode():
        calls = {"forward": lambda: model(features, lengths)}
        found = measure(calls, settings.repeats, warm_up=3)["forward"]
    return min(found.times) if settings.statistic == "min" else found.median
