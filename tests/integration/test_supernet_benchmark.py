"""The benchmark of the supernet: its plain side computes the same, and its output is complete."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from choice_samples import ctc_supernet
from torch import Tensor, nn

from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.space import KINDS

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture()
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("supernet")


def kernels(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.dim() == 4]


@pytest.mark.parametrize("one_path", [False, True])
def test_both_sides_compute_the_same(benchmark: ModuleType, one_path: bool) -> None:
    alive = benchmark.choices("asr_revised", 4)
    torch.manual_seed(0)
    ours: Any = ctc_supernet(alive, CellConfig(8, 8, 3, 5), 4, 7).double()
    plain = benchmark.PlainSupernet(alive, 4, 8, 8, 3, 5, 7).double()
    encoder = ours.encoder
    same = [(encoder.stem, plain.stem), (encoder.head, plain.head)]
    same.append((ours.classifier, plain.classifier))
    for kind, cell, other in zip(encoder.kinds, encoder.cells, plain.cells, strict=True):
        same += [(cell.preprocess0, other.pre0), (cell.preprocess1, other.pre1)]
        for row, edge in enumerate(other.edges):
            own = cell.edge_kernels(row)
            for name, operation in zip(alive[kind][row], edge, strict=True):
                for mine, theirs in zip(own.get(name, []), kernels(operation), strict=True):
                    theirs.data.copy_(mine)
    for module, copy in same:
        for mine, theirs in zip(module.parameters(), copy.parameters(), strict=True):
            theirs.data.copy_(mine)
    paths = {kind: torch.arange(14) % 4 for kind in KINDS} if one_path else None
    results = []
    for network in (ours, plain):
        weights = {kind: torch.linspace(0.1, 0.9, 56).view(14, 4).double() for kind in KINDS}
        if paths is not None:
            weights = {kind: torch.eye(4).double()[paths[kind]] for kind in KINDS}
        weights = {kind: w.requires_grad_() for kind, w in weights.items()}
        x = torch.linspace(-1, 1, 2 * 12 * 8).sin().view(2, 12, 8).double()
        if network is plain:
            y = plain(x, weights, 0.0, paths)
        else:
            y, lengths = ours(x, torch.tensor([12, 12]), weights, 0.0)
            assert lengths.tolist() == [3, 3]
        (y * torch.sin(torch.arange(y.numel()) + 1.0).view_as(y)).sum().backward()
        results.append([y, *(weights[kind].grad for kind in KINDS)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_our_forward_pass_is_captured_as_one_graph(benchmark: ModuleType) -> None:
    """As on a GPU, where CUDA graphs and compilers meet it; dynamo alone shows breaks."""
    alive = benchmark.choices("darts", 8)
    network = ctc_supernet(alive, CellConfig(8, 2, 3, 5), 4, 7, benchmark.REGULARIZED).train()
    forward = importlib.import_module("supernet_sides").Forward(network, 0.0, False, False)
    weights = [torch.full((14, 8), 0.125, requires_grad=True) for _ in KINDS]
    arguments = (torch.randn(2, 12, 8), torch.tensor([12, 12]), *weights)
    captured = torch.compile(forward, backend="eager", fullgraph=True)
    torch.manual_seed(1)
    result = captured(*arguments)
    result.sum().backward()
    assert all(bool(torch.isfinite(w.grad).all()) for w in weights)
    torch.manual_seed(1)
    torch.testing.assert_close(result, forward(*arguments), rtol=1e-4, atol=1e-4)


def test_hours_of_the_papers_search(benchmark: ModuleType) -> None:
    """45 epochs of weight steps, 27 of architecture steps, 3 seeds, 15,012.25 steps an epoch."""
    stage = {
        "weight": {"ours": {"seconds": 2.0}},
        "architecture": {"ours": {"seconds": 1.0}},
    }
    args = SimpleNamespace(frames=225, batch=2)
    hours = benchmark.paper_hours([stage] * 3, "ours", args)
    assert hours == pytest.approx(3 * 15012.25 * (45 * 2.0 + 27 * 1.0) * 4 / 3600)


def test_what_a_step_keeps_and_launches(benchmark: ModuleType) -> None:
    layer, x = nn.Linear(4, 3, bias=False), torch.ones(5, 4)

    def step() -> None:
        (layer(x).relu() * 2.0).sum().backward()

    # The input and what ReLU gives; parameters are not counted.
    assert benchmark.saved_bytes(step, layer) == 4 * (5 * 4 + 5 * 3)
    count, rows = benchmark.launches(step, torch.device("cpu"))
    assert 5 <= count <= 20
    assert sum(share for _, _, share in rows) <= 1.01


@pytest.mark.slow
def test_its_last_line_is_one_object(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = "--frames 8 --bins 8 --channels 8 --batch 2 --stages 1".split()
    arguments = [*size, *"--repeats 1 --warmup 0 --quick --json --device cpu".split()]
    monkeypatch.setattr(sys, "argv", [str(FOLDER / "supernet.py"), *arguments])
    assert benchmark.main() == 0
    said = capsys.readouterr().out
    result = json.loads(said.splitlines()[-1])
    assert set(result["schedule"]) == {"speedup", "memory_ratio"}
    for case in ("stage1", "st_nas"):
        for kind in ("weight", "architecture"):
            for side in ("plain", "ours"):
                assert result[case][kind][side]["seconds"] > 0
    if not torch.cuda.is_available():
        assert "no GPU" in said


def test_a_folder_without_the_public_code_is_refused(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "genotypes.py").write_text("PRIMITIVES = []\n")
    arguments = ["--public", str(tmp_path), "--stages", "1", "--frames", "8"]
    monkeypatch.setattr(sys, "argv", [str(FOLDER / "supernet.py"), *arguments])
    with pytest.raises(SystemExit, match=r"no operations\.py, model_search\.py; give a checkout"):
        benchmark.main()
