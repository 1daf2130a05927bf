"""Trials of networks with different frame rates: the same data for all, no infinite loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from report_checks import check_page
from report_pages import page_of
from search_samples import tone_corpus
from torch import nn

from nas_encoder import build_encoder
from nas_encoder.data.selection import ctc_frames_needed
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials import run_trials
from nas_encoder.search.trials.training import TrainingEvaluator
from nas_encoder.spaces import get_space
from nas_encoder.spaces.base import FrameRates
from nas_encoder.training.steps import WeightSteps

SPACE = get_space("tdnn_chain")
FINE, COARSE = SPACE.decode([0] * 6), SPACE.decode([1] + [0] * 5)


class EveryThird(nn.Module):
    """Every third output frame of an encoder."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.output_size, self.min_length = encoder.output_size, 40
        self.subsampling_factor = 3 * encoder.subsampling_factor

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = -(-self.encoder.output_lengths(lengths) // 3)
        return found

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, frames = self.encoder(x, lengths)
        return y[:, ::3], -(-frames // 3)


class Fewer(EveryThird):
    """An encoder without the last output frames, as convolutions without padding lose some."""

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder)
        self.subsampling_factor = encoder.subsampling_factor

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self.encoder.output_lengths(lengths) - 13).clamp(min=0)
        return found

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(x, lengths)[0][:, :-13], self.output_lengths(lengths)


@pytest.fixture(params=[EveryThird, Fewer])
def coarse(request: pytest.FixtureRequest) -> type[EveryThird]:
    """What makes an encoder whose output has too few frames."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def evaluator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coarse: type[EveryThird]
) -> TrainingEvaluator:
    def build(genotype: Genotype, **options: Any) -> nn.Module:
        encoder = build_encoder(genotype, **options)
        return coarse(encoder) if genotype.architecture.blocks[0] != FIRST else encoder

    FIRST = FINE.architecture.blocks[0]
    monkeypatch.setattr("nas_encoder.search.trials.training.build_encoder", build)
    monkeypatch.setattr(SPACE, "frame_rates", lambda options: FrameRates(3, 9, 40), raising=False)
    document = {
        "strategy": "random",
        "space": "tdnn_chain",
        "features": {"num_mel_bins": 16},
        "network": {"channels": 8, "output_size": 8},
        "training": {"epochs": 2, "lr": 0.01},
        "batch": {"max_utterances": 4, "shortest_utterance": 4},
        "trainer": {"accelerator": "cpu"},
    }
    train = tone_corpus(tmp_path / "train", 12, seed=1, seconds=0.6)
    valid = tone_corpus(tmp_path / "valid", 6, seed=2, seconds=0.6)
    config = TrialsConfig.from_dict(document)
    return TrainingEvaluator(config, train, valid, seed=1)


def test_a_coarse_network_is_trained_on_what_it_can_place_and_scored_on_all(
    evaluator: TrainingEvaluator,
    coarse: type[EveryThird],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing becomes infinite, the log names what is left out, and the data do not differ."""
    few = {EveryThird: lambda n: math.ceil(n / 9), Fewer: lambda n: math.ceil(n / 3) - 13}[coarse]
    seen: list[set[str]] = []
    impossible: set[str] = set()
    losses: list[float] = []
    tokens: list[int] = []
    weight_step, score = WeightSteps.weight_step, WeightSteps.score

    def stepping(self: WeightSteps, batches: Any, lr: float) -> float:
        for batch in batches:
            seen[-1].update(batch.ids)
            for key, frames, ids, size in zip(
                batch.ids,
                batch.feature_lengths.tolist(),
                batch.targets.tolist(),
                batch.target_lengths.tolist(),
                strict=True,
            ):
                if ctc_frames_needed(ids[:size]) > few(frames):
                    impossible.add(key)
        losses.append(weight_step(self, batches, lr))
        return losses[-1]

    def scoring(self: WeightSteps, batches: Any) -> Any:
        found = score(self, batches)
        tokens.append(found.tokens)
        return found

    monkeypatch.setattr(WeightSteps, "weight_step", stepping)
    monkeypatch.setattr(WeightSteps, "score", scoring)
    with caplog.at_level("INFO", "nas_encoder"):
        for genotype in (FINE, COARSE, COARSE):
            seen.append(set())
            errors = list(evaluator.errors(genotype))
            assert len(errors) == 2 and all(0 <= error <= 100 for error in errors)
    assert seen[0] == seen[1] == seen[2] and len(set(tokens)) == 1
    assert len(seen[0]) == evaluator.identity()["utterances"]["train"]
    assert 0 < len(impossible) < len(seen[0])
    assert all(math.isfinite(loss) for loss in losses)
    factor = {EveryThird: 9, Fewer: 3}[coarse]
    said = [record.getMessage() for record in caplog.records]
    (line,) = [text for text in said if "frames per output frame have too few" in text]
    assert f"of {factor} frames per" in line
    assert f"of {len(impossible)} training utterances ('" in line and "validation" in line
    assert any(f"'{key}'" in line for key in impossible)


@pytest.mark.slow
def test_networks_too_coarse_for_the_tokens_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a budget they are not drawn; without one, what could learn nothing is not trained."""
    blocks = get_space("blocks")
    data = (tone_corpus(tmp_path / "train", 6, seed=1, seconds=0.42), tmp_path / "valid")
    tone_corpus(data[1], 2, seed=2, seconds=0.42)
    few: dict[str, Any] = {"width": 32, "depth": 1, "mixing": "memory -5+5"}
    few |= {"first feed-forward": "none", "last feed-forward": "none"}
    few |= {"front end": "stacked frames -4+4, 4x", "schedule": ["1 1 1", "1 1 2", "1 2 2"]}
    few |= {"second mixing": ["none", "convolution 7"]}
    document = {
        "strategy": "random",
        "space": "blocks",
        "features": {"num_mel_bins": 16},
        "training": {"epochs": 1, "lr": 0.01},
        "batch": {"max_utterances": 4, "shortest_utterance": 4},
        "trainer": {"accelerator": "cpu"},
        "choices": few,
        "objective": {"infeasible": 20},
        "trials": {"count": 5},
    }
    run_trials(TrialsConfig.from_dict(document), *data[:1], tmp_path / "run", data[1], seed=1)
    rows = RunFolder(tmp_path / "run").rows()
    chosen = [blocks.chosen(blocks.decode(row["vector"]).architecture) for row in rows]
    assert {own["schedule"][0][1] for own in chosen} == {"1 1 1"}
    assert {row["infeasible"] for row in rows} == {0.0}
    assert sum(row.get("refused", 0) for row in rows) > 0
    check_page(tmp_path / "run", page_of(tmp_path / "run"))

    config = TrialsConfig.from_dict({**document, "objective": {}})
    evaluator = TrainingEvaluator(config, *data, seed=1)
    fine = blocks.decode(rows[0]["vector"])
    choices = list(blocks.kinds).index("schedule")
    coarse = [*rows[0]["vector"]]
    coarse[choices] = blocks.kinds["schedule"].operations.index("1 1 2")
    half = blocks.decode(coarse)
    share = evaluator.costs(half, ["infeasible"])["infeasible"]
    assert 20 < share <= 100 and evaluator.costs(fine, ["infeasible"])["infeasible"] == 0
    monkeypatch.setattr(evaluator, "_infeasible", lambda encoder: 100.0)
    monkeypatch.setattr(WeightSteps, "weight_step", lambda *given: pytest.fail("it is trained"))
    assert list(evaluator.errors(half)) == [100.0]
    assert f"genotype {half.hash} is not trained" in caplog.text
