"""The training loop: the same result however often it is interrupted, and its checkpoints."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from search_samples import Stop, require_same
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.errors import CheckpointError, MissingDependencyError
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.training.checkpoint import load_checkpoint, save_checkpoint
from nas_encoder.training.config import StopConfig, TrainerConfig, WeightsConfig
from nas_encoder.training.devices import open_fabric
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.optimizers import cosine, exponential, one_cycle, weights_optimizer
from nas_encoder.training.steps import WeightSteps
from nas_encoder.training.trainer import Position, State, Trainer

EPOCHS, BATCHES = 3, 5


class Encoder(nn.Module):
    """A layer with dropout, so that random numbers matter."""

    output_size = 6

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.dropout(self.layer(x), 0.3, self.training), lengths


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    size = 1 + number % 3
    return Batch(
        features=torch.randn(size, 8, 4, generator=generator),
        feature_lengths=torch.full((size,), 8),
        targets=torch.tensor([[1, 2]] * size),
        target_lengths=torch.full((size,), 2),
        ids=[f"u{number}-{row}" for row in range(size)],
        texts=["ab"] * size,
    )


def batches(epoch: int, start: int) -> Iterator[Batch]:
    return (batch(BATCHES * epoch + place) for place in range(start, BATCHES))


def make(write: Callable[[State], None] | None = None, **options: Any) -> Trainer:
    torch.manual_seed(0)
    network = CtcNetwork(Encoder(), 3)
    config = WeightsConfig(optimizer="adam", lr=0.02)
    steps = WeightSteps(
        Fabric(accelerator="cpu", devices=1), network, weights_optimizer(config, network), 1.0
    )
    settings: dict[str, Any] = {"accumulate": 2, "step_seconds": 0.0}
    return Trainer(
        steps,
        EPOCHS,
        batches,
        lambda now: cosine(config, (now.epoch + now.step / BATCHES) / EPOCHS),
        write=write,
        **settings | options,
    )


def run(trainer: Trainer) -> list[tuple[float, float]]:
    """Return each epoch's training loss and score."""
    return [
        (position.mean("loss"), trainer.steps.score(batches(9, 0)).loss)
        for position in trainer.run()
    ]


def result(trainer: Trainer) -> State:
    state = trainer.state()
    state["position"].pop("seconds")
    return state


@pytest.mark.parametrize("seed", [None, lambda epoch: 7 + epoch], ids=["one stream", "by epoch"])
def test_an_interrupted_training_gives_the_same(
    tmp_path: Path, seed: Callable[[int], int] | None
) -> None:
    whole = make(seed=seed)
    course = run(whole)
    assert len(course) == EPOCHS and course[-1][1] < course[0][1]
    # 5 batches by two are 3 steps; with the end of an epoch they are 4 checkpoints.
    for count in range(1, EPOCHS * 4 + 1):
        path, written = tmp_path / f"{count}.ckpt", 0

        def write(state: State, path: Path = path, count: int = count) -> None:
            nonlocal written
            save_checkpoint(path, state)
            written += 1
            if written == count:
                raise Stop

        with pytest.raises(Stop):
            run(make(write, seed=seed))
        again = make(seed=seed)
        state = load_checkpoint(path, of="a test")
        assert state is not None
        torch.manual_seed(99)
        again.restore(state)
        # What is done is not done again; a score belongs to its epoch.
        left = run(again)
        assert left == course[len(course) - len(left) :]
        require_same(result(again), result(whole))


def test_early_stopping_ends_the_epochs_and_lowers_the_rate() -> None:
    stop = StopConfig(min_epochs=0, patience=1, min_gain=0.0, factor=0.5, decays=1)
    rates: list[float] = []
    trainer = make(stop=stop)
    trainer.epochs, trainer.rate = 9, lambda now: 0.01
    move = trainer.steps.weight_step
    trainer.step = lambda group, lr: {"loss": move(group, lr), "lr": rates.append(lr) or lr}
    seen = [trainer.see(loss) for _, loss in zip(trainer.run(), [3.0, 3.5, 3.6], strict=False)]
    assert seen == [True, False, False] and trainer.position.stopping.stopped
    assert rates == [0.01] * 6 + [0.005] * 3
    assert not make().see(1.0)
    old = {"epoch": 2, "watch": {"best": 1.5, "since": 1, "decays": 0, "stopped": False}}
    assert Position.from_dict(old).stopping.best == 1.5


def test_what_a_step_has_ruined_reaches_no_checkpoint() -> None:
    written: list[State] = []
    trainer = make(lambda state: written.append(copy.deepcopy(state)))
    move = trainer.steps.weight_step

    def ruining(group: list[Batch], lr: float) -> dict[str, float]:
        loss = move(group, lr)
        if trainer.position.epoch == 1:
            next(trainer.steps.network.parameters()).data[0] = float("nan")
        return {"loss": loss, "steps": 1}

    trainer.step, trainer.where = ruining, " of a test"
    with pytest.raises(DivergedError, match="step 2 of epoch 2 of a test, whose last batch"):
        run(trainer)
    assert len(written) == 4
    tensors = written[-1]["network"].values()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_a_checkpoint_without_checksum_is_read_where_earlier_versions_wrote_one(
    tmp_path: Path,
) -> None:
    path, buffer = tmp_path / "t.ckpt", io.BytesIO()
    torch.save({"key": "k", "weights": torch.arange(50.0)}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="is damaged, or no checkpoint of a table"):
        load_checkpoint(path, of="a table")
    state = load_checkpoint(path, of="a table", unsealed=True)
    assert state is not None and state["key"] == "k"
    path.write_bytes(buffer.getvalue()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path, of="a table", unsealed=True)
    # Of the present ones, a flipped bit or a cut is told as everywhere.
    save_checkpoint(path, {"key": "k", "weights": torch.arange(50.0)})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (bytes(flipped), whole[:-64], whole[:-1], b""):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            load_checkpoint(path, of="a table", unsealed=True)


def test_rates() -> None:
    assert [exponential(1.0, 0.5, 2, epoch) for epoch in (0, 2, 3, 4)] == [1.0, 1.0, 0.5, 0.25]
    rates = one_cycle(0.1, 10, rising=0.2)
    assert len(rates) == 10 and max(rates) == pytest.approx(0.1) == rates[1]
    assert rates[0] < rates[1] and rates[1:] == sorted(rates[1:], reverse=True)


def test_lightning_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    with pytest.raises(MissingDependencyError, match=r"nas_encoder\[search\]"):
        open_fabric(TrainerConfig())
