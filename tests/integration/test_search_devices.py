"""Several processes share every batch and give what one gives."""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from choice_samples import all_candidates, ctc_supernet
from lightning.fabric import Fabric
from preloaded import fork
from search_samples import quick_config, tone_corpus
from torch import Tensor

from nas_encoder.data import Batch
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.search import SearchConfig, run_search
from nas_encoder.search.config.gradient import dump
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.steps import Steps, StepsContext
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.training.devices import any_process, of_all_processes, synchronize_norms
from nas_encoder.training.diverged import DivergedError

LENGTHS = (24, 20, 17, 16, 9)


def whole_batch(seed: int, rows: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Batch:
    """Return utterances of one batch of five, as numbers that depend on the utterance alone."""
    features = []
    for row in rows:
        generator = torch.Generator().manual_seed(100 * seed + row)
        x = torch.randn(LENGTHS[row], 8, generator=generator, dtype=torch.float64)
        features.append(x)
    lengths = torch.tensor([LENGTHS[row] for row in rows])
    return Batch(
        features=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
        feature_lengths=lengths,
        targets=torch.tensor([[1 + row % 3, 2] for row in rows]),
        target_lengths=torch.tensor([2 if row % 2 else 1 for row in rows]),
        ids=[f"u{row}" for row in rows],
        texts=["x"] * len(rows),
        total=None if len(rows) == len(LENGTHS) else len(LENGTHS),
    )


def make_steps(fabric: Fabric) -> Steps:
    torch.manual_seed(0)
    space = get_space("asr_revised")
    alive = all_candidates(space)
    network = ctc_supernet(alive, CellConfig(8, 1, 3, 6), space.nodes, 4).double()
    parameters = ArchitectureParameters(alive, torch.Generator().manual_seed(0)).double()
    if fabric.world_size > 1:
        synchronize_norms(network)
    return Steps(
        StepsContext(
            fabric,
            network,
            parameters,
            torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-4),
            torch.optim.SGD(parameters.parameters(), lr=1.0),
            grad_clip=5.0,
            stage=StageConfig(),
            seed=0,
        )
    )


def run_steps(fabric: Fabric, rows: tuple[int, ...]) -> dict[str, Any]:
    """Take steps of both kinds; return losses and everything that has moved."""
    steps = make_steps(fabric)
    losses = []
    for number in range(2):
        losses.append(steps.architecture_step(whole_batch(2 * number, rows), 0.0)[0])
        batches = [whole_batch(2 * number + 1, rows), whole_batch(7 + number, rows)]
        losses.append(steps.weight_step(batches, 0.1, 0.0))
    state = {**steps.network.state_dict(), **steps.parameters.state_dict()}
    return {"losses": losses, "state": {k: v.tolist() for k, v in state.items()}}


def in_a_process(rank: int, port: int, output: str) -> None:
    """Be one of two processes."""
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    assert fabric.world_size == 2 and fabric.global_rank == rank
    found = run_steps(fabric, ((0, 2, 4), (1, 3))[rank])
    assert any_process(fabric, rank == 1) and not any_process(fabric, False)
    found["ranks"] = of_all_processes(fabric, {"rank": rank})
    # What one process cannot go on with stops both, or the other would wait for ever.
    steps = make_steps(fabric)
    if rank == 1:
        torch.nn.init.constant_(steps.network.classifier.bias, float("nan"))
    try:
        steps.weight_step(whole_batch(0, ((0, 2, 4), (1, 3))[rank]), 0.1, 0.0)
    except DivergedError as error:
        found["diverged"] = str(error)
    Path(output, f"rank{rank}.json").write_text(json.dumps(found))


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """Parts of unequal size, padding in each, two batches for a step: equal to rounding."""
    port, one = free_port(), "test_search_devices:in_a_process"
    processes = [fork(one, rank, port, str(tmp_path)) for rank in range(2)]
    expected = run_steps(Fabric(accelerator="cpu", devices=1), (0, 1, 2, 3, 4))
    for process in processes:
        process.join(timeout=240)
        assert process.exitcode == 0
    for rank in range(2):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-9)
        assert found["state"].keys() == expected["state"].keys()
        for name, value in expected["state"].items():
            ours, theirs = torch.tensor(found["state"][name]), torch.tensor(value)
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9, msg=name)
        assert found["ranks"] == [{"rank": 0}, {"rank": 1}]
        assert "the loss is" in found["diverged"]


def test_gradients_of_several_batches_add_up() -> None:
    """Each utterance weighs the same, however many its batch has."""
    fabric = Fabric(accelerator="cpu", devices=1)
    first, second = whole_batch(1, (0, 1, 2)), whole_batch(2, (3, 4))
    first.total = second.total = None
    moved: list[list[Tensor]] = []
    for batches, part in (((first, second), None), ((first,), 0.6), ((second,), 0.4)):
        steps = make_steps(fabric)
        steps.grad_clip = 0.0
        before = [p.detach().clone() for p in steps.network.parameters()]
        steps.weights = torch.optim.SGD(steps.network.parameters(), lr=1.0)
        loss = steps.weight_step(batches, 1.0, 0.0)
        change = [p.detach() - b for p, b in zip(steps.network.parameters(), before, strict=True)]
        moved.append([x if part is None else part * x for x in change])
        if part is None:
            total = loss
        else:
            total -= part * loss
    assert total == pytest.approx(0.0, abs=1e-12)
    for both, one, other in zip(*moved, strict=True):
        torch.testing.assert_close(both, one + other)


def as_a_module(words: list[str]) -> None:
    """Be ``python -m nas_encoder``, which Lightning starts again for the second device."""
    sys.modules["__main__"].__spec__ = find_spec("nas_encoder.__main__")
    for name in ("LOCAL_RANK", "RANK"):  # this test's own run may have said something else
        os.environ.pop(name, None)


@pytest.mark.slow
def test_a_search_on_two_devices_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started by Lightning: the same course as on one, to the rounding of float32."""
    train = str(tone_corpus(tmp_path / "train", 12, seed=1, seconds=0.6))
    valid = str(tone_corpus(tmp_path / "valid", 4, seed=2, seconds=0.6))
    stage = {"layers": 3, "channels": 1, "operations": 8, "epochs": 2, "warmup_epochs": 0}
    config = quick_config(batch={"max_utterances": 4}, weights={"optimizer": "sgd", "lr": 0.01})
    document = config.to_dict() | {"stages": [stage | {"dropout": 0.0}]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    words = ["search", "--config", str(path), "--train", train, "--valid", valid]
    words += ["--output", str(tmp_path / "two"), "--seed", "3", "--set", "trainer.devices=2"]
    said, own = tmp_path / "said", "test_search_devices:as_a_module"
    process = fork("preloaded:command_line", words, own, said=said)
    process.join(timeout=500)
    assert process.exitcode == 0, said.read_text()
    assert (tmp_path / "two" / "report.html").is_file()
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)  # again
    run_search(SearchConfig.from_dict(document), train, tmp_path / "one", valid=valid, seed=3)
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    for ours, theirs in zip(two.rows(), one.rows(), strict=True):
        for name in ("train_loss", "architecture_loss", "valid_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
        for kind, edges in theirs["probabilities"].items():
            for edge, other in zip(ours["probabilities"][kind], edges, strict=True):
                assert edge == pytest.approx(other, abs=5e-3)
    assert len(two.load_checkpoint()["random"]) == 2  # type: ignore[index]
    assert two.run()["devices"] == 2 and dump(config) != ""
    # It can be resumed on one device.
    done = run_search(
        SearchConfig.from_dict(document | {"trainer": {**document["trainer"], "devices": 2}}),
        train,
        tmp_path / "two",
        valid=valid,
        seed=3,
        resume=True,
        fabric=Fabric(accelerator="cpu", devices=1),
    )
    assert done == two.result()
