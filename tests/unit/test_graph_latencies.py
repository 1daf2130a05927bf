"""Latencies of exported graphs: pieces that compute what torch computes, tables, refusals."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_encoder.cli.main import main
from nas_encoder.common.documents import read_yaml
from nas_encoder.deploy import latency
from nas_encoder.deploy.latency import BenchSettings, measure_table
from nas_encoder.errors import ConfigError
from nas_encoder.export.timed import GraphTimer
from nas_encoder.network import build_encoder
from nas_encoder.spaces import get_space
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.pieces import BlockLatencies, BlockPieces
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.pieces import CellNetwork

BLOCKS: Any = get_space("blocks")
CELLS: Any = get_space("asr_revised")
OPTIONS = BlocksConfig(input_size=16)
SIZE = CellConfig(input_size=8, output_size=6, layers=5, channels=2)
FRAMES = 40
ONLY = {"widths": [32], "rates": [4], "modules": ["feed-forward 2", "memory -5+5"]}
INT8 = BenchSettings(seconds=0.0, repeats=3, checks=1, runtime="onnx-int8")


def kinds(pieces: list[Any]) -> list[Any]:
    """Return one piece of each kind."""
    return list({piece.name.partition(" ")[0]: piece for piece in pieces}.values())


@pytest.mark.slow
@pytest.mark.parametrize("space", ["blocks", "cells"])
def test_graphs_compute_what_torch_does(space: str) -> None:
    only = {"widths": [32, 48], "modules": ["attention", "convolution 7", "memory -5+5"]}
    network: Any = CellNetwork(SIZE, FRAMES, CELLS)
    if space == "blocks":
        network = BlockPieces(OPTIONS, FRAMES, BLOCKS, {**only, "fronts": ["conv2d", "stack"]})
    timer = GraphTimer(1, eight_bits=False)
    tried = 0
    for piece in kinds(network.all_pieces()):
        torch.manual_seed(0)
        part = network.build(piece, masked=True)
        with torch.inference_mode():
            wanted = part()
        found = timer.part(part)()[0]
        wanted = wanted.value if hasattr(wanted, "value") else wanted
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        torch.testing.assert_close(
            torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4, msg=str(piece)
        )
        tried += 1
    assert tried >= 10


@pytest.mark.slow
def test_a_table_of_graphs_in_8_bits(tmp_path: Path) -> None:
    path = tmp_path / "int8.yaml"
    only = {**ONLY, "fronts": ["stack"]}
    arguments = (BLOCKS, OPTIONS, FRAMES, INT8, path)
    table = measure_table(*arguments, only=only, graphs=GraphTimer(1, eight_bits=True))
    assert read_yaml(path)["settings"]["runtime"] == "onnx-int8" and table.complete
    listed = BlockPieces(OPTIONS, FRAMES, BLOCKS, only).all_pieces()
    assert BlockLatencies.load(path).milliseconds.keys() == set(listed)
    with pytest.raises(ConfigError, match="settings.runtime: is 'onnx-int8' in the file"):
        measure_table(BLOCKS, OPTIONS, FRAMES, replace(INT8, runtime="torch"), path, only=only)


def test_products_have_8_bits() -> None:
    network = BlockPieces(OPTIONS, FRAMES, BLOCKS, {**ONLY, "fronts": ["stack"]})
    piece = next(one for one in network.all_pieces() if one.name == "feed-forward 2")
    torch.manual_seed(0)
    part = network.build(piece, masked=True)
    exact, rough = (GraphTimer(1, bits).part(part)()[0] for bits in (False, True))
    assert 1e-5 < abs(exact - rough).max() < 0.2  # it is another graph, of the same function


@pytest.mark.slow
def test_wide_front_ends_are_no_checks_in_8_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports quantize their convolutions, which no piece has; other networks are drawn."""
    wide, narrow = "conv2d 128 channels, 4x", "stacked frames -4+4, 4x"
    timer, x = GraphTimer(1, eight_bits=True), torch.randn(1, FRAMES, 16)
    networks = {}
    for front in (wide, narrow):
        network = BlockPieces(OPTIONS, FRAMES, BLOCKS, {**ONLY, "fronts": [front]})
        genotype = network.sample(random.Random(0))
        networks[front] = build_encoder(genotype, **asdict(OPTIONS)).eval()
    assert "matrix products before all" in str(timer.problem(networks[wide], x))
    assert timer.problem(networks[narrow], x) is None
    assert GraphTimer(1, eight_bits=False).problem(networks[wide], x) is None
    only = {**ONLY, "modules": ["memory -5+5"], "fronts": [wide, narrow]}
    network = BlockPieces(OPTIONS, FRAMES, BLOCKS, only)
    fronts = [network.sample(random.Random(s)).architecture.front.text() for s in range(3)]
    assert wide in fronts  # else this shows nothing
    settings = replace(INT8, checks=3)
    table = measure_table(
        BLOCKS, OPTIONS, FRAMES, settings, tmp_path / "t.yaml", only=only, graphs=timer
    )
    drawn = {s: network.sample(random.Random(s)) for s in range(40)}
    kinds = {g.hash: g.architecture.front.text() for g in drawn.values()}
    assert [kinds[str(check["hash"])] for check in table.checks] == [narrow] * 3
    monkeypatch.setattr(latency, "_OTHERS", 2)
    path = tmp_path / "wide.yaml"
    with pytest.raises(ConfigError, match="matrix products before all"):
        only = {**ONLY, "fronts": [wide]}
        measure_table(BLOCKS, OPTIONS, FRAMES, INT8, path, only=only, graphs=timer)
    with pytest.raises(ConfigError, match="runtime: 'onnx-int8' is not what runs the pieces"):
        measure_table(BLOCKS, OPTIONS, FRAMES, INT8, path, only=only)
    assert not path.exists()


@pytest.mark.slow
def test_cells_in_8_bits_are_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_OTHERS", 2)
    path = tmp_path / "cells.yaml"
    sizes = "--layers 5 --channels 2 --input-size 8 --output-size 6 --frames 40 --seconds 0"
    command = ["bench", "--operations", *sizes.split(), "--output", str(path)]
    assert main([*command, "--runtime", "onnx-int8"]) == 2
    said = capsys.readouterr().err
    assert "parts in 8 bits are measured for networks that are matrix products before all" in said
    assert not path.exists()
    assert main(["bench", "asrnet_a", "--runtime", "onnx"]) == 2
    assert "--runtime: goes with --operations" in capsys.readouterr().err
    problems = replace(INT8, precision="bf16-mixed").problems()
    assert problems == [
        "runtime: 'onnx-int8' is measured with device cpu and precision 32-true, got cpu and "
        "bf16-mixed"
    ]
