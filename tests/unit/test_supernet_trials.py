"""Searches that score trials with shared weights: training, interruption, result, configuration."""

from __future__ import annotations

import copy
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from preloaded import fork, wait_until
from search_samples import two_corpora

from nas_encoder import build_encoder, load_genotype
from nas_encoder.data import Batch
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search import run_search
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials.sandwich import Chosen, SandwichSteps, SharedCtc
from nas_encoder.search.trials.subspace import Subspace
from nas_encoder.search.trials.supernet import SupernetEvaluator
from nas_encoder.spaces import get_space
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.training.steps import WeightSteps

SPACE = get_space("blocks")
CHOICES: dict[str, Any] = {
    "front end": "depthwise 16 channels, 4x",
    "schedule": "1 2 1",
    "stream": "False none",
    "width": [32, 48],
    "depth": [1, 2],
    "first feed-forward": "none",
    "mixing": ["memory -5+5", "convolution 7"],
    "second mixing": "none",
    "last feed-forward": ["none", "feed-forward 2"],
}
QUICK: dict[str, Any] = {
    "name": "quick",
    "strategy": "evolution",
    "space": "blocks",
    "features": {"num_mel_bins": 16},
    "training": {"epochs": 2, "lr": 0.003},
    "batch": {"max_utterances": 3},
    "trainer": {"accelerator": "cpu", "checkpoint_minutes": 0},
    "trials": {"count": 4},
    "evolution": {"population": 2, "sample": 2},
    "supernet": {"drawn": 1, "recalibration": 2},
    "choices": CHOICES,
}


def config(**changes: Any) -> TrialsConfig:
    return TrialsConfig.from_dict({**QUICK, **changes})


def names(config: TrialsConfig) -> dict[str, tuple[str, ...]]:
    return dict(config.choices)


def search(data: tuple[str, str], output: Path, **changes: Any) -> Any:
    return run_search(config(**changes), data[0], output, valid=data[1], seed=3, resume=True)


@pytest.fixture(scope="module")
def data(shared_folder: Callable[..., Path]) -> tuple[str, str]:
    folder = shared_folder("supernet-data", lambda path: two_corpora(path))
    return str(folder / "train"), str(folder / "valid")


@pytest.fixture(scope="module")
def whole(shared_folder: Callable[..., Path], data: tuple[str, str]) -> Path:
    """The folder of a search that nothing interrupted."""
    return shared_folder("supernet-search", lambda path: search(data, path / "run")) / "run"


def history(folder: Path) -> Any:
    rows = json.loads((folder / "supernet.json").read_text())["epochs"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def same(one: Path, other: Path) -> bool:
    texts = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (one, other)]
    rows = [list(map(json.loads, own)) for own in texts]
    for row in (*rows[0], *rows[1]):
        for name in ("seconds", "finished", "number"):
            del row[name]
    weights = [torch.load(folder / "inherited.pt") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    return equal and rows[0] == rows[1] and history(one) == history(other)


# -- a step ---------------------------------------------------------------------------------------


def steps(distillation: float) -> tuple[SandwichSteps, list[Any], Batch]:
    torch.manual_seed(0)
    options = BlocksConfig(input_size=16, dropout=0.0, attention_dropout=0.0)
    shared: Any = SPACE.oneshot.build(SPACE, names(config()), options)
    network = SharedCtc(shared, 5)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    fabric = Fabric(accelerator="cpu", devices=1)
    made = SandwichSteps(fabric, network, optimizer, distillation=distillation)
    drawn = shared.draws(random.Random(1), 2)
    lengths, targets = torch.tensor([60, 44]), torch.tensor([[1, 2, 3], [4, 1, 0]])
    batch = Batch(
        features=torch.randn(2, 60, 16),
        feature_lengths=lengths,
        targets=targets,
        target_lengths=torch.tensor([3, 2]),
        ids=["a", "b"],
        texts=["abc", "da"],
    )
    return made, drawn, batch


@pytest.mark.parametrize("distillation", [0.0, 0.25, 1.0])
def test_a_step_adds_up_the_gradients_of_its_networks(distillation: float) -> None:
    made, drawn, batch = steps(distillation)
    network = copy.deepcopy(made.network).train()
    sums = made.sandwich_step([batch], 1.0, drawn)
    teacher, losses = None, []
    for genotype in drawn:
        log_probs, lengths = network(batch.features, batch.feature_lengths, Chosen(genotype))
        args = (batch.targets, lengths, batch.target_lengths)
        loss = F.ctc_loss(log_probs.transpose(0, 1), *args)
        if teacher is not None:
            soft = []
            for row, wanted, size, tokens in zip(
                log_probs, teacher, lengths, batch.target_lengths, strict=True
            ):
                p, q = wanted[:size], row[:size]
                soft.append((p.exp() * (p - q)).sum() / tokens)
            loss = distillation * torch.stack(soft).mean() + (1 - distillation) * loss
        teacher = log_probs.detach() if teacher is None else teacher
        loss.backward()
        losses.append(float(loss.detach()))
    moved = 0
    for one, other in zip(network.parameters(), made.network.parameters(), strict=True):
        wanted = one.detach() if one.grad is None else one.detach() - one.grad
        torch.testing.assert_close(other.detach(), wanted, rtol=1e-4, atol=1e-6)
        moved += one.grad is not None
    assert moved > 20
    assert sums["loss"] == pytest.approx(losses[0], rel=1e-4)
    assert sums["smallest"] == pytest.approx(losses[1], rel=1e-3, abs=1e-5)
    assert sums["others"] == pytest.approx(sum(losses[2:]) / 2, rel=1e-3, abs=1e-5)


def test_distillation_ignores_padding() -> None:
    made, drawn, batch = steps(1.0)
    longer = copy.copy(batch)
    longer.features = F.pad(batch.features, (0, 0, 0, 40), value=7.0)
    other = copy.deepcopy(made)
    other.optimizer = torch.optim.SGD(other.network.parameters(), 1.0)
    one, two = made.sandwich_step([batch], 1.0, drawn), other.sandwich_step([longer], 1.0, drawn)
    assert one == pytest.approx(two, rel=1e-4)


# -- a search -------------------------------------------------------------------------------------


def test_the_weights_inherited_are_those_that_were_scored(
    whole: Path, data: tuple[str, str]
) -> None:
    genotype = load_genotype(whole / "genotype.yaml")
    wanted = genotype.provenance["validation"]["token_error_rate"]
    assert len(history(whole)) == 2
    evaluator = SupernetEvaluator(config().supernet, config(), *data, 3)  # type: ignore[arg-type]
    fresh = list(evaluator.errors(genotype))
    evaluator.prepare(RunFolder(whole))  # finds it trained
    assert list(evaluator.errors(genotype)) == [wanted]
    assert fresh != [wanted]
    network = CtcNetwork(build_encoder(genotype, input_size=16), len(evaluator.tokens))
    network.load_state_dict(torch.load(whole / "inherited.pt"))
    plain = WeightSteps(evaluator.fabric, network, torch.optim.SGD(network.parameters(), 0.0))
    assert plain.score(evaluator._valid).ter == wanted
    for text in (whole / "metrics.jsonl").read_text().splitlines():
        found = SPACE.decode(json.loads(text)["vector"])
        assert evaluator.nearest(found) is found


@pytest.mark.slow
def test_an_interrupted_training_goes_on(
    whole: Path, data: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, count = SandwichSteps.sandwich_step, 0

    def interrupted(self: SandwichSteps, *given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 7:  # of 8: in the second epoch
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SandwichSteps, "sandwich_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(data, tmp_path / "run")
    assert not (tmp_path / "run" / "supernet.json").exists()
    search(data, tmp_path / "run")
    assert same(whole, tmp_path / "run")

    with pytest.raises(CheckpointError, match="supernet"):
        search(data, tmp_path / "run", supernet={"drawn": 2, "recalibration": 2})
    (tmp_path / "run" / "report.html").read_text().index("Supernet")


@pytest.mark.slow
def test_a_killed_search_goes_on(whole: Path, data: tuple[str, str], tmp_path: Path) -> None:
    process = fork("test_supernet_trials:search", data, tmp_path / "run")
    # two steps are done
    wait_until((tmp_path / "run" / "last.previous.ckpt").exists, process)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run" / "supernet.json").exists()
    search(data, tmp_path / "run")
    assert same(whole, tmp_path / "run")


def test_a_training_can_have_a_time(data: tuple[str, str], tmp_path: Path) -> None:
    search(
        data,
        tmp_path / "run",
        training={"seconds": 0.4, "epochs": None, "lr": 0.003},
        trials={"count": 2},
    )
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["position"]["stopping"]["stopped"] and 0.4 <= state["used"] < 2.0
    assert history(tmp_path / "run")


# -- the configuration ----------------------------------------------------------------------------


def test_a_part_of_the_space_is_searched() -> None:
    part, rng = Subspace(SPACE, names(config())), random.Random(0)
    allowed = {
        kind: set(names(config()).get(kind, own.operations)) for kind, own in SPACE.kinds.items()
    }

    def inside(genotype: Any) -> bool:
        chosen = SPACE.chosen(genotype.architecture)
        return all(value in allowed[kind] for kind, own in chosen.items() for _, value in own)

    for _ in range(30):
        member = part.sample(rng)
        assert inside(member) and part.nearest(member) is member
        mutated = part.mutate(member, rng)
        differ = [a != b for a, b in zip(*map(part.encode, (member, mutated)), strict=True)]
        assert inside(mutated) and sum(differ) == 1
        other = SPACE.sample(rng)
        near = part.nearest(other)
        assert not inside(other) and inside(near)
        assert inside(part.mutate(other, rng))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"space": "tdnn_chain", "choices": {}}, ["supernet: is for spaces", "(blocks)"]),
        ({"space": "asr_revised"}, ["choices: must be empty"]),
        ({"strategy": "hyperband"}, ["pruning: must be null"]),
        ({"pruning": {"kind": "asha"}}, ["pruning: must be null"]),
        ({"table": {"source": "x"}}, ["supernet: must be null", "choices: must be empty"]),
        (
            {"choices": {"widht": [1], "width": [33, 33], "depth": "many", "mixing": [None]}},
            ["choices.widht: unknown key", "width: lists", "'many'", "mixing: must be names"],
        ),
        (
            {"supernet": {"drawn": -1, "distillation": 2, "recalibration": 0}},
            ["supernet.drawn", "supernet.distillation", "supernet.recalibration"],
        ),
    ],
)
def test_problems_of_the_configuration(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    text = "\n".join(caught.value.problems)
    for part in parts:
        assert part in text


def test_what_cannot_share_weights_is_told_before_any_training(
    data: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"choices\.schedule"):
        search(data, tmp_path / "run", choices={**CHOICES, "schedule": ["1 2 1", "1 1 1"]})
    assert not (tmp_path / "run").exists()
