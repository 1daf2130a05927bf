"""Searches under a lookahead: the space of what streams, the bound, whole searches, show."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from search_samples import two_corpora
from supernet_samples import CHOICES, QUICK

from nas_encoder.cli.main import main
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.budgets import TrialBudgets
from nas_encoder.search import run_search
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.sections import MeasureConfig
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.trials.budget import Affordable, Budget
from nas_encoder.search.trials.costs import TrialCosts
from nas_encoder.spaces import get_space
from nas_encoder.testing.streaming import chunks_give_the_same

SPACE = get_space("streaming_blocks")


def costs_in(space: Any, **options: Any) -> Callable[..., dict[str, float]]:
    def unused(_: Any) -> Any:
        raise AssertionError("nothing may be built, measured or trained")

    given = (space.options(input_size=40), 100, MeasureConfig(), "cpu", 0, unused, unused, unused)
    costs = TrialCosts(space, *given, **options)
    costs.counted = None
    return lambda genotype, names: {"lookahead_ms": costs._lookahead(genotype)}


def test_all_of_the_streaming_space_streams() -> None:
    rng = random.Random(0)
    for place, bound in enumerate(SPACE.bounds):
        for value in range(bound):
            vector = SPACE.encode(SPACE.sample(rng))
            vector[place] = value
            genotype = SPACE.decode(vector)
            field = SPACE.network.receptive_field(genotype.architecture, SPACE.options())
            assert 3 <= field.right < 2000
    drawn = SPACE.sample(rng)
    network: Any = build_encoder(drawn, input_size=16, channels=16, layers=3)
    chunks_give_the_same(network.double().eval(), [60, 1, 35], [96, 50])


def test_a_genotype_of_the_space_is_one_of_blocks() -> None:
    drawn = SPACE.sample(random.Random(1))
    blocks = Genotype.from_dict({**drawn.to_dict(), "space": "blocks"})
    assert blocks.hash == drawn.hash
    assert blocks.architecture == drawn.architecture


@pytest.mark.parametrize("name", ["streaming_blocks", "streaming_cells"])
@pytest.mark.parametrize("bound", [190, 550])
def test_what_is_drawn_and_mutated_is_within(bound: float, name: str) -> None:
    space = get_space(name)
    within = Affordable(space, Budget(TrialBudgets(lookahead_ms=bound), costs_in(space)))
    rng = random.Random(2)
    for _ in range(3):
        found = within.sample(rng)
        for genotype in (found, within.mutate(found, rng)):
            options = space.options(input_size=40)
            field = space.network.receptive_field(genotype.architecture, options)
            assert 10 * field.right <= bound


def test_a_space_without_such_networks_is_told() -> None:
    space = get_space("blocks")  # whose modules see at least three frames ahead
    budget = Budget(TrialBudgets(lookahead_ms=190.0), costs_in(space))
    with pytest.raises(ConfigError, match=r"lookahead_ms: the budget is at most 190 ms"):
        Affordable(space, budget).require_one(0)


def test_the_bound_is_in_milliseconds_and_nothing_is_built() -> None:
    genotype = Genotype.from_dict(
        {
            **load_genotype("transformer").to_dict(),
            "front": {"kind": "conv2d", "channels": 8},
            "stages": [{"width": 32, "modules": [{"kind": "attention", "chunk": 4}]}],
        }
    )
    space = get_space("blocks")
    assert costs_in(space)(genotype, ["lookahead_ms"]) == {"lookahead_ms": 150.0}
    assert costs_in(space, frame_ms=12.5)(genotype, []) == {"lookahead_ms": 187.5}
    whole = load_genotype("conformer")
    assert costs_in(space)(whole, []) == {"lookahead_ms": math.inf}
    for limit, excess in ((150.0, {}), (75.0, {"lookahead_ms": pytest.approx(math.log(2))})):
        budget = Budget(TrialBudgets(lookahead_ms=limit), costs_in(space))
        assert budget.excess(genotype) == excess
        assert budget.excess(whole) == {"lookahead_ms": 100.0}
    assert TrialBudgets(lookahead_ms=190.0).told("lookahead_ms") == "at most 190 ms"


def test_configurations_under_a_lookahead() -> None:
    for bound in (190, 550):
        config = load_any_search_config(f"streaming_{bound}ms")
        assert isinstance(config, TrialsConfig)
        assert config.objective.lookahead_ms == bound and config.space == SPACE.name
        assert config.costs == ["lookahead_ms", "parameters"] or "lookahead_ms" in config.costs
    cells = load_any_search_config("streaming_cells")
    assert isinstance(cells, TrialsConfig)
    assert cells.objective.lookahead_ms == 550 and "lookahead_ms" in cells.costs
    with pytest.raises(ConfigError, match="unknown search space .streaming_cells.; known: darts"):
        load_any_search_config("small", ["space=streaming_cells"])
    with pytest.raises(ConfigError, match=r"objective\.lookahead_ms: must be a number"):
        TrialsConfig.from_dict({"objective": {"lookahead_ms": -1}})


@pytest.mark.slow
@torch.no_grad()
def test_shared_weights_give_what_each_encoder_gives() -> None:
    """The taps of causal kernels and memories are those around the frame."""
    choices = {**load_any_search_config("streaming_550ms").choices, "width": ("32", "48")}
    shared: Any = SPACE.oneshot.build(SPACE, choices, SPACE.options(input_size=16))
    for parameter in shared.double().eval().parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    x, lengths, rng = torch.randn(2, 70, 16).double(), torch.tensor([70, 41]), random.Random(0)
    for genotype in (*shared.draws(rng, 2), *shared.draws(rng, 2)):
        alone: Any = build_encoder(genotype, input_size=16).double().eval()
        alone.load_state_dict(shared.inherit(genotype))
        expected, _ = alone(x, lengths)
        found, _ = shared(x, lengths, genotype)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_search_trains_only_what_is_within(
    tmp_path: Path, shared_folder: Callable[..., Path]
) -> None:
    folder = shared_folder("streaming-data", lambda path: two_corpora(path))
    mixing = ["memory -5+0", "memory -5+2", "attention 4 heads chunk 4 window -32"]
    mixing += [
        "attention 4 heads chunk 12 window -32",
        "convolution 7 causal",
        "convolution 15 causal",
    ]
    document = {
        **QUICK,
        "space": "streaming_blocks",
        "choices": {**CHOICES, "schedule": "1 1 1", "mixing": mixing},
        "objective": {"lookahead_ms": 190},
        "trials": {"count": 6},
    }
    config = TrialsConfig.from_dict(document)
    run_search(config, str(folder / "train"), tmp_path, valid=str(folder / "valid"), seed=1)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trials = [row for row in rows if "trial" in row]
    assert len(trials) == 6
    assert all(row["lookahead_ms"] <= 190 for row in trials)
    assert sum(row.get("refused") or 0 for row in trials) > 0
    found = load_genotype(str(tmp_path / "genotype.yaml"))
    network: Any = build_encoder(found, input_size=16)
    assert 10 * network.lookahead() <= 190
    weights = torch.load(tmp_path / "inherited.pt")
    own = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    network.load_state_dict({name.removeprefix("encoder."): own[name] for name in own})
    # With statistics that a training has left, too.
    chunks_give_the_same(network.double().eval(), [50, 1, 29], [80, 61])


@pytest.mark.slow
def test_a_search_of_cells_under_a_lookahead(
    tmp_path: Path, shared_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_folder("streaming-data", lambda path: two_corpora(path))
    given = {name: str(folder / name) for name in ("train", "valid")}
    changes = {
        "network": "{layers: 3, channels: 2, output_size: 8, stem_stride: [1, 2]}",
        "features": "{num_mel_bins: 16}",
        "trainer": "{accelerator: cpu, checkpoint_minutes: 0}",
        "training.epochs": "1",
        "objective.lookahead_ms": "100",
        "evolution": "{population: 2, sample: 2}",
        "trials.count": "4",
    }
    words = ["search", "--config", "streaming_cells", "--output", str(tmp_path), "--seed", "1"]
    words += [word for name, value in given.items() for word in (f"--{name}", value)]
    words += [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    assert main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trials = [row for row in rows if "trial" in row]
    assert len(trials) == 4
    assert all(row["lookahead_ms"] <= 100 for row in trials)
    found = load_genotype(str(tmp_path / "genotype.yaml"))
    assert found.space == "streaming_cells" and found.architecture.causal_after is not None
    capsys.readouterr()
    words = ["--layers", "3", "--channels", "2", "--stem-stride", "1", "2", "--seconds", "1"]
    assert main(["show", str(tmp_path / "genotype.yaml"), *words]) == 0
    text = capsys.readouterr().out
    assert f"stem and cells after the first {found.architecture.causal_after}: causal" in text
    network: Any = build_encoder(found, 40, 2, 3, 8, stem_stride=(1, 2))
    ahead = network.lookahead()
    assert f"streams          with a lookahead of {10 * ahead} ms ({ahead} frames)" in text


def test_show_tells_the_lookahead_or_why_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "asrnet_b", "--json", "--layers", "5", "--channels", "4"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["streaming"]["streams"]
    assert shown["streaming"]["lookahead_ms"] == shown["receptive_field"]["right_ms"]
    assert main(["show", "fast_conformer", "--channels", "16", "--layers", "1"]) == 0
    text = capsys.readouterr().out
    assert "streams          no: stages[0].modules[1]: attention 4 heads sees the whole" in text
