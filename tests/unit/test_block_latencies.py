"""Latencies of block encoders: pieces that add up, tables of a part of the space, predictions."""

from __future__ import annotations

import json
import random
import runpy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nas_encoder.cli.main import main
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.deploy import latency
from nas_encoder.deploy.latency import BenchSettings, measure_table
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.search.config.sections import MeasureConfig
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.trials.costs import TrialCosts
from nas_encoder.spaces import get_space
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.front_parts import Conv2dFront
from nas_encoder.spaces.blocks.parts import Convolution, FeedForward
from nas_encoder.spaces.blocks.pieces import BlockLatencies, BlockPieces

SPACE: Any = get_space("blocks")
OPTIONS = BlocksConfig(input_size=16)
FRAMES = 160
FAST = BenchSettings(seconds=0.0, repeats=3, checks=2)
ONLY = {
    "widths": [32, 48],
    "rates": [4, 8],
    "modules": ["memory -5+5", "convolution 7", "feed-forward 2"],
    "fronts": ["stack", "conv2d 8 channels, 4x"],
}
OPTION = "bench --operations --space blocks --input-size 16 --frames 160".split()
QUICK = ["--seconds", "0", "--repeats", "3", "--checks", "2"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "latency.yaml"
    measure_table(SPACE, OPTIONS, FRAMES, FAST, path, only=ONLY)
    return path


def restricted() -> BlockPieces:
    return BlockPieces(OPTIONS, FRAMES, SPACE, ONLY)


def test_every_piece_of_every_network_is_listed() -> None:
    config = replace(OPTIONS, output_size=40)
    for options, only in ((OPTIONS, {}), (config, {}), (OPTIONS, ONLY)):
        network = BlockPieces(options, FRAMES, SPACE, only)
        listed = set(network.all_pieces())
        needed = set()
        for seed in range(40):
            needed |= set(network.pieces_of(network.sample(random.Random(seed)).architecture))
        assert needed <= listed
    assert len(set(restricted().all_pieces())) < 60


@pytest.mark.slow
def test_checks_are_of_networks_of_the_given_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, only = tmp_path / "sized.yaml", {**ONLY, "modules": ["memory -5+5", "feed-forward 2"]}
    settings = replace(FAST, checks=3, check_parameters=(8000, 20000))
    table = measure_table(SPACE, OPTIONS, FRAMES, settings, path, only=only)
    network = BlockPieces(OPTIONS, FRAMES, SPACE, only)
    counts = {}
    for seed in range(60):
        genotype = network.sample(random.Random(seed))
        encoder = build_encoder(genotype, **asdict(OPTIONS))
        counts[genotype.hash] = count_parameters(encoder)
    assert len(table.checks) == 3
    assert all(8000 <= counts[str(check["hash"])] <= 20000 for check in table.checks)
    assert read_yaml(path)["settings"]["check_parameters"] == [8000, 20000]
    assert measure_table(SPACE, OPTIONS, FRAMES, settings, path, only=only) == table  # as written
    with pytest.raises(ConfigError, match=r"check_parameters: is \[8000, 20000\] in the file"):
        wider = replace(settings, check_parameters=(8000, 30000))
        measure_table(SPACE, OPTIONS, FRAMES, wider, path, only=only)
    monkeypatch.setattr(latency, "_DRAWS", 50)
    with pytest.raises(ConfigError, match="0 of 50 random networks have 1 to 2 parameters, 3"):
        none = replace(settings, check_parameters=(1, 2))
        measure_table(SPACE, OPTIONS, FRAMES, none, tmp_path / "none.yaml", only=only)
    assert not (tmp_path / "none.yaml").exists()  # before an hour's work
    problems = BenchSettings(check_parameters=(5, 3)).problems()
    assert problems == ["check_parameters: must rise, got [5, 3]"]


def test_restricted_networks_are_drawn() -> None:
    network, rng = restricted(), random.Random(0)
    kinds, rates = set(), set()
    for _ in range(60):
        found = network.sample(rng).architecture
        assert {stage.width for stage in found.stages} <= {32, 48}
        kinds |= {module.text() for stage in found.stages for module in stage.modules}
        kinds.add(found.front.text())
        rates |= {4 * stage.reduction for stage in found.stages}
    # Each candidate by its text; halved feed-forward has a text of its own.
    assert kinds == {
        "memory -5+5", "convolution 7", "feed-forward 2", "conv2d 8 channels, 4x",
        "stacked frames -4+4, 4x",
    }  # fmt: skip
    assert rates == {4, 8}


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", [False, True])
def test_counted_costs_are_those_of_the_network(conditioning: bool) -> None:
    """Of all kinds of front ends and norms: a piece that is missing, or too many, shows exactly."""
    taps = (1,) * conditioning
    config = replace(OPTIONS, channels=64, output_size=40, conditioning=conditioning, taps=taps)
    costs, seen = SPACE.costs.build(SPACE, config, FRAMES), set()
    for seed in range(12):
        own = SPACE.sample(random.Random(seed)).architecture
        stages = tuple(replace(stage, blocks=2) for stage in own.stages)
        if conditioning:  # a tap needs the output's width and rate
            stages = tuple(replace(stages[-1], reduction=1) for _ in stages)
        own = replace(own, stages=stages)
        encoder = build_encoder(Genotype("own", "blocks", own), **asdict(config))
        seen |= {own.front.kind, getattr(own.front, "padded", True), own.stages[0].norm}
        assert costs.of(own) == {
            "parameters": count_parameters(encoder),
            "macs": count_macs(encoder, FRAMES, 16),
        }
    assert {"conv2d", "depthwise", "searched", True, False, "before", "after"} <= seen


def test_a_latency_is_the_scaled_sum_of_its_pieces(table: Path) -> None:
    loaded, network = BlockLatencies.load(table), restricted()
    assert loaded.complete and len(loaded.checks) == 2
    costs = SPACE.costs.build_with_latency(SPACE, OPTIONS, FRAMES, str(table))
    plain = SPACE.costs.build(SPACE, OPTIONS, FRAMES)
    assert costs.quantities == ["parameters", "macs", "latency_ms"]
    least = costs.cheapest("latency_ms")
    for seed in range(10):
        genotype = network.sample(random.Random(seed))
        found = costs.of(genotype.architecture)
        pieces = network.pieces_of(genotype.architecture)
        total = sum(loaded.milliseconds[piece] for piece in pieces)
        assert found["latency_ms"] == pytest.approx(loaded.scale * total)  # of two checks only
        assert found.items() > plain.of(genotype.architecture).items()
        # The cheapest has equal widths and modules; noise can make a mixture cheaper.
        assert 0 < least < 1.5 * found["latency_ms"]


def test_what_each_piece_costs_besides_is_found() -> None:
    """Whole networks tell the factor of the sums and the constant; too few only the factor."""
    piece = restricted().all_pieces()[0]
    checks = [
        {"pieces": count, "sum_ms": total, "network_ms": 1.1 * total + 0.02 * count}
        for count, total in zip(
            range(10, 90, 10), (3.0, 9.0, 4.0, 7.0, 20.0, 5.0, 8.0, 6.0), strict=True
        )
    ]
    found = BlockLatencies({piece: 2.0}, {}, tuple(checks))
    assert found.factors == pytest.approx((1.1, 0.02))
    assert found.predict([piece] * 3) == pytest.approx(1.1 * 6.0 + 0.06)
    few = BlockLatencies({piece: 2.0}, {}, tuple(checks[:7]))
    assert few.factors == (few.scale, 0.0) and few.predict([piece] * 3) == 6.0 * few.scale
    alike = BlockLatencies({piece: 2.0}, {}, (checks[0],) * 9)
    assert alike.factors == (alike.scale, 0.0)
    faster = [{**check, "network_ms": check["sum_ms"] - 0.01 * check["pieces"]} for check in checks]
    none = BlockLatencies({piece: 2.0}, {}, tuple(faster))
    assert none.factors == (none.scale, 0.0)


def test_more_blocks_cost_as_many_pieces_more() -> None:
    network, few = restricted(), Stage(32, 1, 2, (FeedForward(2.0), Convolution(7)))
    more = replace(few, blocks=5)
    front = Conv2dFront(4, 8)
    one, two = (
        network.pieces_of(BlockArchitecture(front, stages=(stage,))) for stage in (few, more)
    )
    assert len(two) - len(one) == 3 * 3  # two modules and the final norm
    assert set(one) == set(two)


@pytest.mark.slow
def test_the_cheapest_counted_network_is_not_beaten() -> None:
    costs = SPACE.costs.build(SPACE, OPTIONS, FRAMES)
    least = {name: costs.cheapest(name) for name in ("parameters", "macs")}
    for seed in range(10):
        found = costs.of(SPACE.sample(random.Random(seed)).architecture)
        assert all(0 < least[name] <= found[name] for name in least)


def test_what_is_not_measured_is_named_with_the_command(table: Path) -> None:
    costs = SPACE.costs.build_with_latency(SPACE, OPTIONS, FRAMES, str(table))
    stage = Stage(32, 1, 1, (FeedForward(2.0), Convolution(31)))
    architecture = BlockArchitecture(Conv2dFront(4, 8), stages=(stage,))
    with pytest.raises(ConfigError) as caught:
        costs.of(architecture)
    text = str(caught.value)
    assert "1 pieces of a network are not measured, for example convolution 31, 32 to 32" in text
    assert "nas-encoder bench --operations --space blocks --input-size 16 --frames 160" in text
    assert f"--output {table}" in text and "--also" in text
    with pytest.raises(ConfigError, match="frames: is 160 in the table, the search has 150"):
        SPACE.costs.build_with_latency(SPACE, OPTIONS, 150, str(table))
    with pytest.raises(ConfigError, match=r"needs objective.table.*bench --operations"):
        SPACE.costs.build_with_latency(SPACE, OPTIONS, FRAMES, None)


def test_a_table_of_nothing_whole_is_refused(table: Path, tmp_path: Path) -> None:
    document = read_yaml(table)
    document["pieces"] = [row for row in document["pieces"] if "convolution" not in row["name"]]
    document["pieces"] = [row for row in document["pieces"] if "memory" not in row["name"]]
    write_yaml(tmp_path / "bad.yaml", document)
    costs = SPACE.costs.build_with_latency(SPACE, OPTIONS, FRAMES, str(tmp_path / "bad.yaml"))
    with pytest.raises(ConfigError, match="of no network of the space all pieces are measured"):
        costs.cheapest("latency_ms")


def test_a_table_is_extended(table: Path, tmp_path: Path, capsys: Any) -> None:
    path, other = tmp_path / "latency.yaml", tmp_path / "other.yaml"
    path.write_bytes(table.read_bytes())
    before = BlockLatencies.load(path)
    stage = Stage(24, 1, 1, (Convolution(5),), final_norm=False)
    own = BlockArchitecture(Conv2dFront(4, 3), stages=(stage,))
    Genotype("own", "blocks", own).save(other)
    only = ["--widths", "32", "64", "--rates", "4", "--modules", "memory -5+5", "--fronts", "stack"]
    command = [*OPTION, *only, "--also", str(other), *QUICK, "--output", str(path), "--json"]
    assert main(command) == 0
    shown = json.loads(capsys.readouterr().out)
    after = BlockLatencies.load(path)
    assert len(shown["pieces"]) == len(after.milliseconds)
    assert before.milliseconds.items() < after.milliseconds.items()
    assert after.checks == before.checks and after.complete
    new = {(p.name, p.width) for p in after.milliseconds.keys() - before.milliseconds.keys()}
    assert {("memory -5+5", 64), ("convolution 5", 24), ("conv2d 3 channels, 4x", 24)} <= new
    costs = SPACE.costs.build_with_latency(SPACE, OPTIONS, FRAMES, str(path))
    assert costs.of(own)["latency_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--widths", "33"], "widths: [33] are not searched"),
        (["--modules", "atention"], "modules: none is 'atention'; known: feed_forward, attention"),
        (["--modules", "feed_forward"], "no mixing is left"),
        (["--fronts", "conv3d"], "fronts: none is 'conv3d'; known: conv2d"),
        (["--rates", "5"], "rates: no encoder has only [5] input frames per frame"),
        (["--channels", "64"], "channels: must be null: the genotypes' own widths are measured"),
        (["--frames", "6"], "frames: must be in 8..1000000, got 6"),
        (["--space", "darts", "--widths", "32"], "widths: is for other spaces"),
        (["--space", "tdnn_chain"], "the operations of 'tdnn_chain' are not measured"),
    ],
)
def test_bad_restrictions(capsys: Any, tmp_path: Path, arguments: list[str], problem: str) -> None:
    assert main([*OPTION, "--output", str(tmp_path / "x.yaml"), *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "x.yaml").exists()


def test_restrictions_go_with_operations(capsys: Any) -> None:
    assert main(["bench", "asrnet_b", "--widths", "32", "--also", "x"]) == 2
    error = capsys.readouterr().err
    assert "--widths: goes with --operations" in error and "--also: goes with" in error


@pytest.mark.slow
def test_the_benchmark_compares_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / "found.json"
    size = "--networks 3 --calibration 2 --parameters 0 3e5 --widths 32 --frames 60".split()
    how = "--rounds 2 --seconds 0 --repeats 3 --json".split()
    script = Path(__file__).parents[2] / "benchmarks" / "latency_blocks.py"
    monkeypatch.setattr("sys.argv", [str(script), *size, *how, str(path)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    shown = json.loads(capsys.readouterr().out)
    assert found.items() >= shown.items() and len(found["networks"]) == 5
    rows = [own for own in found["networks"] if not own["calibration"]]
    predicted = [found["factor"] * own["sum_ms"] for own in rows]
    errors = [
        abs(one / min(own["measured_ms"]) - 1) for one, own in zip(predicted, rows, strict=True)
    ]
    assert sorted(errors)[1] == pytest.approx(found["median_error"], abs=1e-3)


# -- searches --------------------------------------------------------------------------------------


def test_trials_take_their_latencies_from_it(table: Path) -> None:
    def build(genotype: Genotype) -> Any:
        raise AssertionError("no network is needed")

    genotype = restricted().sample(random.Random(0))
    measure = MeasureConfig(seconds=1.6)
    given = (SPACE, OPTIONS, FRAMES, measure, "cpu", 0, build, build, build)
    costs = TrialCosts(*given, str(table))
    predicted = SPACE.costs.build_with_latency(SPACE, OPTIONS, FRAMES, str(table))
    found = costs.of(genotype, ["latency_ms"])
    assert found == predicted.of(genotype.architecture)
    # Of genotypes that something cheaper refuses nothing is looked up.
    wide = Genotype("wide", "blocks", BlockArchitecture(Conv2dFront(4, 8), stages=(Stage(512),)))
    assert costs.of(wide, ["macs"])["macs"] > 0
    with pytest.raises(ConfigError, match="pieces of a network are not measured"):
        costs.of(wide, ["latency_ms"])
    limits = ObjectiveConfig(latency_ms=1e-4)
    assert costs.predicted is not None
    assert "latency_ms: no network" in limits.beyond_reach(costs.predicted)[0]
    with pytest.raises(ConfigError, match="operations of 'tdnn_chain' are not measured"):
        chain = get_space("tdnn_chain")
        TrialCosts(chain, chain.options(input_size=16), *given[2:], str(table))


def test_a_table_of_trainings_has_its_own_latencies() -> None:
    document = {"table": {"source": "t.sqlite"}, "objective": {"table": "latency.yaml"}}
    with pytest.raises(ConfigError, match=r"objective.table: is for networks that are trained"):
        TrialsConfig.from_dict(document)
