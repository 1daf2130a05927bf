"""Latencies of operations: every place measured, resumed after a kill, refused if of others."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from choice_samples import all_candidates

from nas_encoder.cli.main import main
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.deploy import latency, timing
from nas_encoder.deploy.latency import BenchSettings, measure_table
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.search.gradient.objective import Objective
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.costs import CellCosts
from nas_encoder.spaces.cells.pieces import CellLatencies as LatencyTable
from nas_encoder.spaces.cells.pieces import CellNetwork
from nas_encoder.spaces.cells.space import KINDS

SPACE = get_space("asr_revised")
SIZE = {"layers": 5, "channels": 2, "input_size": 8, "output_size": 6}
FAST = ["--seconds", "0", "--repeats", "3", "--checks", "2"]
COMMAND = ["bench", "--operations", "--layers", "5", "--channels", "2", "--input-size", "8"]
COMMAND += ["--output-size", "6", "--frames", "40", *FAST]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "latency.yaml"
    assert main([*COMMAND, "--output", str(path)]) == 0
    return path


def test_every_piece_of_every_network_is_measured(table: Path) -> None:
    loaded = LatencyTable.load(table)
    network = CellNetwork(CellConfig(**SIZE), 40, SPACE)
    for seed in range(10):
        pieces = network.pieces_of(SPACE.sample(random.Random(seed)).architecture)
        assert all(loaded.milliseconds[piece] > 0 for piece in pieces)
    places = {(p.name, p.channels, p.bins, p.stride) for p in loaded.milliseconds}
    for op in SPACE.choices:
        for place in ((4, 8, 2), (4, 4, 1), (2, 8, 1), (8, 4, 2), (8, 2, 1)):
            assert (op, *place) in places
    assert loaded.complete and len(loaded.checks) == 2
    assert loaded.scale == pytest.approx(
        (
            loaded.checks[0]["network_ms"] / loaded.checks[0]["sum_ms"]
            * loaded.checks[1]["network_ms"] / loaded.checks[1]["sum_ms"]
        )
        ** 0.5
    )  # fmt: skip


def test_it_says_where_the_numbers_are_from(table: Path) -> None:
    document = read_yaml(table)
    assert document["settings"]["threads"] == 1 and document["settings"]["precision"] == "32-true"
    assert document["settings"]["device"] == "cpu" and document["settings"]["seed"] == 0
    assert document["environment"]["torch"] == torch.__version__
    assert {"commit", "version"} <= set(document["environment"])
    assert document["machine"] == document["environment"]["machine"]
    assert document["network"]["layers"] == 5 and document["frames"] == 40


def test_a_search_takes_its_latencies_from_it(table: Path) -> None:
    config = ObjectiveConfig(
        latency_ms=1e3, table=str(table), layers=5, channels=2, seconds=0.4, weight=2.0, margin=0.0
    )
    network = CellConfig(input_size=8, output_size=6)
    large = Objective.of(config, SPACE, network, 0.01)
    assert large is not None and isinstance(large.costs, CellCosts)
    costs = large.costs
    loaded = LatencyTable.load(table)
    # The slowest of some, so that a budget below it is still above the fastest network there is.
    drawn = [SPACE.sample(random.Random(seed)).architecture for seed in range(20)]
    architecture = max(drawn, key=lambda one: costs.of(one)["latency_ms"])
    pieces = costs.network.pieces_of(architecture)
    wanted = loaded.scale * sum(loaded.milliseconds[piece] for piece in pieces)
    assert costs.of(architecture)["latency_ms"] == pytest.approx(wanted)
    budget = 0.9 * wanted
    objective = Objective(dataclasses.replace(config, latency_ms=budget), costs)
    alive = all_candidates(SPACE)
    parameters = ArchitectureParameters(alive, torch.Generator().manual_seed(0))
    penalty = objective.penalty(parameters.weights(), alive, architecture)
    assert float(penalty.detach()) == pytest.approx(2.0 * torch.log(torch.tensor(wanted / budget)))
    penalty.backward()  # type: ignore[no-untyped-call]
    assert all(parameters.alphas[kind].grad.abs().sum() > 0 for kind in KINDS)


def test_another_network_is_refused(table: Path) -> None:
    config = ObjectiveConfig(latency_ms=80, table=str(table), layers=6, channels=2, seconds=0.5)
    with pytest.raises(ConfigError) as caught:
        Objective.of(config, get_space("darts"), CellConfig(input_size=8, output_size=6), 0.01)
    text = str(caught.value)
    for part in (
        "space: is 'asr_revised' in the table, the search has 'darts'",
        "network.layers: is 5 in the table, the search has 6",
        "frames: is 40 in the table, the search has 50",
        "make the table with: nas-encoder bench --operations --space darts --layers 6",
    ):
        assert part in text


class Stop(BaseException):
    """The process ends here."""


def test_it_goes_on_where_it_was_stopped(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "latency.yaml"
    network = CellNetwork(CellConfig(**SIZE), 40, SPACE)
    settings = BenchSettings(seconds=0.0, repeats=3, checks=2)
    done: list[Any] = []

    def stop_after(count: int) -> Any:
        def progress(items: list[Any], title: str) -> Iterator[Any]:
            for number, item in enumerate(items):
                if number == count and title == "pieces":
                    raise Stop
                done.append(item)
                yield item

        return progress

    with pytest.raises(Stop):
        measure_table(SPACE, CellConfig(**SIZE), 40, settings, path, stop_after(7))
    half = LatencyTable.load(path)
    assert len(half.milliseconds) == 7 and not half.complete
    with pytest.raises(ConfigError, match="38 pieces are not measured"):
        half.require(network, network.all_pieces(), "table", "command")
    whole = measure_table(SPACE, CellConfig(**SIZE), 40, settings, path, stop_after(10**6))
    assert len(done) == len(set(map(str, done))) == len(whole.milliseconds) + 2
    assert {p: whole.milliseconds[p] for p in half.milliseconds} == half.milliseconds
    assert whole == LatencyTable.load(path)
    assert whole.milliseconds.keys() == LatencyTable.load(table).milliseconds.keys()
    # Nothing is left to do.
    assert measure_table(SPACE, CellConfig(**SIZE), 40, settings, path, stop_after(0)) == whole
    # Other settings would mix two measurements.
    with pytest.raises(ConfigError, match="settings.repeats: is 3 in the file, now 4"):
        measure_table(
            SPACE, CellConfig(**SIZE), 40, BenchSettings(seconds=0.0, repeats=4, checks=2), path
        )


def test_latencies_are_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls warm up; of the rest one is slow because something else ran."""
    done: list[int] = []
    clock = iter([0, 1, 1, 101, 101, 102])
    monkeypatch.setattr(latency, "quiet_clock", lambda device: lambda: float(next(clock)))
    settings = BenchSettings(seconds=0.0, repeats=3)
    with latency.measuring(settings) as timed:
        assert timed(lambda: done.append(1)) == 1000.0
    assert len(done) == 6


def test_calls_take_turns_until_each_has_its_time() -> None:
    said: list[str] = []
    clock = iter(range(1000))
    found = timing.measure(
        {"one": lambda: said.append("1"), "two": lambda: said.append("2")},
        repeats=2,
        seconds=3.0,
        clock=lambda: float(next(clock)),
    )
    assert "".join(said) == "12" * 4  # one to warm up, then 3 s of calls of 1 s
    assert {name: measured.times for name, measured in found.items()} == {
        "one": [1.0] * 3,
        "two": [1.0] * 3,
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 2}, "schema: must be 1, got 2"),
        ({"pieces": [{"name": "stem", "ms": 1}]}, "pieces[0].channels: is missing"),
        ({"checks": [{"sum_ms": 0, "network_ms": "x"}]}, "checks[0].sum_ms: must be a number"),
        ({"frames": None}, "frames: is missing"),
    ],
)
def test_a_damaged_table_is_named(
    table: Path, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    document = {k: v for k, v in (read_yaml(table) | change).items() if v is not None}
    write_yaml(tmp_path / "bad.yaml", document)
    with pytest.raises(ConfigError) as caught:
        LatencyTable.load(tmp_path / "bad.yaml")
    assert problem in str(caught.value)


def test_a_latency_that_is_no_number_is_named(table: Path, tmp_path: Path) -> None:
    document = read_yaml(table)
    document["pieces"][3]["ms"] = -1
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=r"pieces\[3\].ms: must be a number above 0, got -1"):
        LatencyTable.load(tmp_path / "bad.yaml")


def test_whole_networks(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--layers", "3", "--channels", "1", "--input-size", "8", "--frames", "20"]
    assert main(["bench", "asrnet_b", "asrnet_a", *sizes, *FAST, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["genotype"] for row in result["networks"]] == ["asrnet_b", "asrnet_a"]
    assert all(row["ms"] > 0 for row in result["networks"])


@pytest.mark.parametrize("command", [["bench", "--frames", "6"], ["show", "--seconds", "0.14"]])
def test_too_few_frames_for_a_front_end_without_padding(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = {"kind": "conv2d", "channels": 4, "padded": False, "factor": 8}
    stage = {"width": 8, "modules": [{"kind": "feed_forward"}]}
    document = {"schema": 1, "name": "bare", "space": "blocks", "front": front, "stages": [stage]}
    path = tmp_path / "bare.yaml"
    Genotype.from_dict(document).save(path)
    assert main([command[0], str(path), *command[1:]]) == 2
    assert "at least 15 are needed for one output frame" in capsys.readouterr().err


def test_the_size_of_a_search_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latency.yaml"
    settings = ["--set", "objective.layers=4", "--set", "objective.channels=1"]
    settings += ["--set", "objective.seconds=0.3"]
    command = ["bench", "--operations", "--config", "tiny", *settings, "--output", str(path), *FAST]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["frames"] == 30 and document["space"] == "asr_revised"
    assert document["network"]["output_size"] == 64 and document["network"]["layers"] == 4
    assert document["network"]["stem_stride"] == [1, 2] and document["complete"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "either --operations or encoders"),
        (["asrnet_b", "--operations"], "either --operations or encoders"),
        (["--operations", "--set", "objective.layers=3"], "give --config too"),
        (["--operations", "--frames", "2"], "frames: must be in 4..1000000, got 2"),
        (["--operations", "--threads", "0"], "threads: must be in 1..1024, got 0"),
        (["--operations", "--layers", "1"], "layers: must be in 2..1024, got 1"),
        (["--operations", "--output", "gone/x.yaml"], "--output: there is no folder 'gone'"),
        (["--operations", "--space", "dart"], "did you mean 'darts'"),
    ],
)
def test_bad_options(
    capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert main(["bench", *arguments]) == 2
    assert problem in capsys.readouterr().err
