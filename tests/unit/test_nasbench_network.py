"""The NAS-Bench-ASR network: published sizes, options, taps, cost."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_encoder import build_encoder, load_genotype
from nas_encoder.errors import ConfigError, InputError, UtteranceTooShortError
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.spaces import get_space
from nas_encoder.spaces.nasbench_asr.architecture import SkipArchitecture
from nas_encoder.spaces.nasbench_asr.config import PUBLISHED, NasBenchConfig
from nas_encoder.spaces.nasbench_asr.layers import padding
from nas_encoder.spaces.nasbench_asr.network import receptive_field, tensorflow_parameters
from nas_encoder.spaces.nasbench_asr.space import NASBENCH_ASR as SPACE

EXAMPLE = [[1, 0], [1, 0, 0], [1, 0, 0, 0]]
SMALL: dict[str, Any] = {"input_size": 8, "channels": 12, "block_cells": (1, 1, 1, 3)}


def test_parameters_are_the_published_ones() -> None:
    with torch.device("meta"):
        encoder = build_encoder(SPACE.from_vector(EXAMPLE), **PUBLISHED)
        classifier = nn.Sequential(encoder, nn.Linear(500, 48 + 1))
    assert count_parameters(classifier) == 26_341_349
    assert tensorflow_parameters(encoder, 48) == 26_338_848


def test_filters_and_groups_of_the_paper_follow_from_its_channels() -> None:
    config = NasBenchConfig(channels=600)
    assert (config.filters, config.groups) == ((600, 800, 1000, 1200), 100)
    assert NasBenchConfig(channels=24).filters == (24, 32, 40, 48)
    assert NasBenchConfig(channels=24).groups == 4
    assert NasBenchConfig(channels=2).filters == (2, 3, 4, 4)
    assert NasBenchConfig(channels=90, conv_groups=30).filters == (90, 120, 150, 180)
    assert NasBenchConfig(block_filters=(6, 6, 12, 18), conv_groups=6).filters == (6, 6, 12, 18)


def test_padding_of_the_published_convolutions() -> None:
    """Frames before and after: kernel, dilation, stride."""
    assert padding(8) == (3, 4)
    assert padding(8, stride=2) == (5, 2)
    assert padding(5) == (0, 4)
    assert padding(5, 2) == (4, 4)
    assert padding(7) == (2, 4)
    assert padding(7, 2) == (8, 4)


@pytest.mark.parametrize("frames", range(4, 14))
def test_shapes_and_lengths(frames: int) -> None:
    encoder: Any = build_encoder(SPACE.sample(random.Random(frames)), **SMALL, output_size=7)
    lengths = torch.tensor([frames, 4])
    y, out = encoder(torch.randn(2, frames, 8), lengths)
    assert y.shape == (2, -(-frames // 4), 7)
    assert out.tolist() == [-(-frames // 4), 1]
    assert (encoder.output_size, encoder.subsampling_factor, encoder.min_length) == (7, 4, 4)
    assert (y[1, 1:] == 0).all()


def test_the_output_is_the_lstms_or_the_last_blocks_without_a_layer_where_the_width_is_theirs() -> (
    None
):
    genotype = SPACE.from_vector(EXAMPLE)
    x, lengths = torch.randn(1, 9, 8), torch.tensor([9])
    for options, layer in (
        ({"output_size": 24}, False),
        ({"output_size": 5, "lstm_size": 5}, False),
        ({"output_size": 24, "lstm_size": 5}, True),
    ):
        encoder: Any = build_encoder(genotype, **SMALL, **options)
        assert bool(list(encoder.head.parameters())) == layer
        assert encoder(x, lengths)[0].shape[2] == options["output_size"]
        assert (encoder(x, lengths)[0].min() >= 0) == layer  # only that layer ends in a ReLU


def test_no_parameter_is_without_use() -> None:
    """Also where the document has operations that lead nowhere, or nothing leads anywhere."""
    rng = random.Random(2)
    vectors = [[[0, 1], [5, 0, 0], [3, 1, 0, 0]], [[5, 0], [1, 0, 0], [2, 0, 0, 0]]]
    genotypes = [SPACE.sample(rng) for _ in range(12)] + [SPACE.from_vector(v) for v in vectors]
    for genotype in genotypes:
        encoder = build_encoder(genotype, **SMALL, lstm_size=4, output_size=3)
        y, _ = encoder(torch.randn(2, 12, 8), torch.tensor([12, 9]))
        y.square().sum().backward()
        assert all(p.grad is not None for p in encoder.parameters()), genotype.name


def test_genotypes_of_one_hash_are_one_network() -> None:
    """conv5 beside linear, written down in either order."""
    one, other = [[1, 0], [5, 1, 0], [0, 0, 1, 0]], [[0, 0], [5, 1, 0], [1, 0, 1, 0]]
    networks = []
    for vector in (one, other):
        torch.manual_seed(0)
        networks.append(build_encoder(SPACE.from_vector(vector), **SMALL).eval())
    x, lengths = torch.randn(1, 20, 8), torch.tensor([20])
    assert torch.equal(networks[0](x, lengths)[0], networks[1](x, lengths)[0])


def test_dropout_is_behind_every_operation_and_in_training_only() -> None:
    genotype = SPACE.from_vector([[0, 1], [1, 0, 0], [4, 0, 0, 1]])
    encoder = build_encoder(genotype, **SMALL, dropout=0.5, lstm_size=4)
    x, lengths = torch.randn(1, 20, 8), torch.tensor([20])
    first, second = encoder(x, lengths)[0], encoder(x, lengths)[0]
    assert not torch.equal(first, second)
    encoder.eval()
    assert torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])


def test_taps_come_from_the_last_block() -> None:
    encoder: Any = build_encoder(SPACE.from_vector(EXAMPLE), **SMALL, output_size=5).eval()
    assert encoder.possible_taps == (4, 5)
    assert build_encoder(SPACE.from_vector(EXAMPLE), channels=6).possible_taps == tuple(
        range(13, 18)
    )
    x, lengths = torch.randn(2, 22, 8), torch.tensor([22, 13])
    y, out, taps = encoder.forward_taps(x, lengths, taps=[4, 5])
    assert [number for number, _ in taps] == [4, 5]
    assert all(tap.shape == y.shape for _, tap in taps)
    assert not torch.equal(taps[0][1], taps[1][1])
    assert (taps[0][1][1, 4:] == 0).all()


def test_conditioning_changes_what_follows() -> None:
    encoder: Any = build_encoder(
        SPACE.from_vector(EXAMPLE), **SMALL, output_size=5, taps=[4], conditioning=True
    ).eval()
    x, lengths = torch.randn(1, 22, 8), torch.tensor([22])
    plain, _, (tap,) = encoder.forward_taps(x, lengths)
    fed, _, (same,) = encoder.forward_taps(x, lengths, lambda h: h * 3 + 1)
    assert torch.equal(tap[1], same[1])
    assert not torch.equal(plain, fed)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"channels": 0, "dropout": 1.0, "deltas": 1, "lstm_size": -1, "block_cells": (1, 2)},
            ["channels:", "lstm_size:", "dropout:", "deltas:", "block_cells: must have 4"],
        ),
        ({"layer_norm": True}, ["layer_norm: unknown key"]),
        ({"stem_stride": [1, 2]}, ["stem_stride: this network has no such part"]),
        ({"hidden_sizes": [3], "drop_path": 0.1}, ["hidden_sizes:", "drop_path:"]),
        ({"conv_groups": 7, "channels": 12}, ["conv_groups: must divide channels, got 7 for 12"]),
        (
            {"block_filters": [6, 8, 9, 12], "conv_groups": 3},
            ["block_filters[1]: must be a multiple of the 3 groups (conv_groups), got 8"],
        ),
        ({"block_filters": [6, 8]}, ["block_filters: must have 4 entries or none, has 2"]),
        ({"taps": [12]}, ["taps[0]: must be in 13..17, got 12"]),
        ({"taps": [14, 14]}, ["taps: lists a cell twice"]),
        ({"taps": [1], "block_cells": [1, 1, 1, 1]}, ["taps: the last block has no cell before"]),
        ({"conditioning": True}, ["conditioning: needs at least one cell in 'taps'"]),
    ],
)
def test_wrong_options_are_all_named(options: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_encoder(SPACE.from_vector(EXAMPLE), **options)
    found = sorted(caught.value.problems)
    assert len(found) == len(expected)
    for problem, text in zip(found, sorted(expected), strict=True):
        assert problem.startswith(text)


def test_off_values_of_other_networks_options_are_accepted() -> None:
    options = {"stem_stride": [1, 1], "hidden_sizes": [], "drop_path": 0.0, "checkpointing": False}
    build_encoder(SPACE.from_vector(EXAMPLE), channels=6, layers=3, **options)


def test_inputs_are_checked() -> None:
    encoder = build_encoder(SPACE.from_vector(EXAMPLE), **SMALL)
    with pytest.raises(UtteranceTooShortError):
        encoder(torch.randn(1, 9, 8), torch.tensor([3]))
    with pytest.raises(InputError, match="must have 8 frequency bins"):
        encoder(torch.randn(1, 9, 7), torch.tensor([9]))


def test_training_lowers_a_ctc_loss() -> None:
    """On current torch; the published PyTorch code's in-place clip is refused by autograd."""
    torch.manual_seed(0)
    encoder = build_encoder(
        SPACE.from_vector([[0, 1], [2, 1, 0], [3, 0, 0, 1]]), **SMALL, lstm_size=8,
        output_size=8,
    )  # fmt: skip
    head = nn.Linear(8, 4)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 3e-3)
    x, lengths = torch.randn(3, 40, 8), torch.tensor([40, 33, 28])
    targets, sizes = torch.tensor([[1, 2, 3], [3, 1, 0], [2, 2, 0]]), torch.tensor([3, 2, 2])
    losses = []
    for _ in range(30):
        y, out = encoder(x, lengths)
        logits = head(y).log_softmax(2).transpose(0, 1)
        loss = nn.functional.ctc_loss(logits, targets, out, sizes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_the_space_of_the_network_is_registered() -> None:
    assert get_space("nasbench_asr") is SPACE
    assert isinstance(SPACE.sample(random.Random(0)).architecture, SkipArchitecture)
    genotype = SPACE.from_vector(EXAMPLE)
    assert load_genotype(genotype.to_dict()) == genotype


@pytest.mark.parametrize("seed", range(6))
def test_the_claimed_receptive_field_is_the_measured_one(seed: int) -> None:
    """By the gradient of one output frame, where every weight is positive."""
    genotype = SPACE.sample(random.Random(seed))
    encoder: Any = build_encoder(genotype, **SMALL, output_size=5).double().eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            # Steep in every frame: ReLUs neither at 0 nor at 20.
            torch.nn.init.uniform_(parameter, 1e-4, 2e-4) if "norm" not in name else None
    for part in encoder.modules():
        if isinstance(part, nn.LayerNorm):
            part.forward = lambda x: x
    frames, place = 1600, 200
    x = torch.rand(1, frames, 8, dtype=torch.float64, requires_grad=True)
    y, _ = encoder(x, torch.tensor([frames]))
    y[0, place].sum().backward()
    assert x.grad is not None
    touched = x.grad[0].abs().sum(1).nonzero().flatten()
    if genotype.architecture.reduced().vector == ((5, 0), (5, 0, 0), (5, 0, 0, 0)):
        return
    reach = receptive_field(genotype.architecture, encoder.config)
    assert int(touched.min()) == 4 * place - reach.left
    assert int(touched.max()) == 4 * place + reach.right


def test_an_lstm_has_no_finite_receptive_field() -> None:
    genotype = SPACE.from_vector(EXAMPLE)
    encoder: Any = build_encoder(genotype, **SMALL, lstm_size=3)
    with pytest.raises(ConfigError, match="an LSTM reaches back to the beginning"):
        receptive_field(genotype.architecture, encoder.config)


def test_multiply_adds_by_hand_with_the_lstm() -> None:
    options = {**SMALL, "block_cells": (3, 4, 5, 6), "output_size": 5}
    genotype = SPACE.from_vector(EXAMPLE)
    encoder: Any = build_encoder(genotype, **options, lstm_size=20)
    total, before = 0, 8
    for filters, frames, cells in zip(
        encoder.config.filters, (40, 40, 20, 10), (3, 4, 5, 6), strict=True
    ):
        total += frames * filters * (8 * before + cells * 3 * 5 * filters // encoder.config.groups)
        before = filters
    total += 10 * (4 * 20 * (before + 20) + 20 * 5)
    assert count_macs(encoder, 40, 8) == total


def test_show_describes_and_draws_the_cell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from nas_encoder.cli.main import main

    picture = tmp_path / "cell.svg"
    genotype = SPACE.from_vector([[0, 1], [5, 0, 1], [4, 1, 0, 1]])
    genotype.save(tmp_path / "cell.yaml")
    arguments = ["show", str(tmp_path / "cell.yaml"), "--channels", "12", "--input-size", "8"]
    assert main([*arguments, "--plot", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  1 = linear(0) + 0" in lines
    assert "  2 = zero(1) + 1" in lines
    assert "  3 = conv7d2(2) + 0 + 2" in lines
    assert any(line.startswith("  receptive field") for line in lines)
    assert "conv7d2" in picture.read_text(encoding="utf-8")
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    encoder = build_encoder(genotype, 8, 12)
    assert document["parameters"]["encoder"] == count_parameters(encoder)
    assert sum(part["parameters"] for part in document["parts"]) == count_parameters(encoder)
