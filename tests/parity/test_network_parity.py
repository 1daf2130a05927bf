"""The whole network against the plain DARTS-style one in plain_darts.py, with the same weights.

One utterance at a time, float64: in evaluation, and in training, where the batch norms take the
statistics of that utterance.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encoder_samples import ZOO, handwritten, padded, sampled, small
from parity.plain_darts import PlainNetwork
from torch import Tensor, nn

from nas_encoder import load_genotype
from nas_encoder.ops import fused


@pytest.fixture(autouse=True)
def any_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the functions of nas_encoder/ops/fused.py take these narrow networks."""
    monkeypatch.setattr(fused, "FEWEST_CHANNELS", 1)


# (frames, bins, layers, stem stride, deltas): odd and even sizes, all strides.
SHAPES = [
    (13, 9, 5, (1, 1), True),
    (16, 8, 6, (1, 2), True),
    (17, 11, 4, (2, 1), False),
    (22, 10, 7, (2, 2), True),
    (8, 4, 3, (1, 1), True),
]


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and buffers in the order in which both networks compute with them."""
    ours, theirs = source.state_dict(), target.state_dict()
    assert [tuple(value.shape) for value in ours.values()] == [
        tuple(value.shape) for value in theirs.values()
    ]
    target.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))


def networks(genotype: Any, bins: int, layers: int, stride: Any, deltas: bool) -> Any:
    document = load_genotype(genotype).to_dict()
    ours = small(genotype, input_size=bins, layers=layers, stem_stride=stride, deltas=deltas)
    plain = PlainNetwork(document, bins, 2, layers, 6, stride, deltas).double()
    copy_weights(ours, plain)
    return ours, plain


def gradients(output: Tensor, leaf: Tensor, module: nn.Module) -> list[Tensor]:
    weights = torch.sin(torch.arange(output.numel(), dtype=output.dtype)).view_as(output)
    return list(torch.autograd.grad((output * weights).sum(), [leaf, *module.parameters()]))


GENOTYPES = [*ZOO, *handwritten(), *map(sampled, range(4))]
# Every genotype in two shapes, the zoo in all; the full product is marked slow.
SOME = [(g, SHAPES[(i + j) % 5]) for i, g in enumerate(GENOTYPES) for j in range(2)]
SOME += [(name, shape) for name in ZOO for shape in SHAPES if (name, shape) not in SOME]
REST = [(g, shape) for g in GENOTYPES for shape in SHAPES if (g, shape) not in SOME]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("genotype", "shape"), SOME)
def test_outputs_gradients_and_statistics_are_the_same(
    genotype: Any, shape: Any, training: bool
) -> None:
    check_parity(genotype, shape, training)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("genotype", "shape"), REST)
def test_all_other_shapes(genotype: Any, shape: Any, training: bool) -> None:
    check_parity(genotype, shape, training)


def check_parity(genotype: Any, shape: Any, training: bool) -> None:
    frames, bins, layers, stride, deltas = shape
    ours, plain = networks(genotype, bins, layers, stride, deltas)
    ours.train(training)
    plain.train(training)
    x, lengths = padded([frames], bins)
    x.requires_grad_()
    y, out_lengths = ours(x, lengths)
    expected = plain(x[0])
    assert out_lengths.item() == expected.size(0)
    torch.testing.assert_close(y[0], expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        gradients(y[0], x, ours), gradients(expected, x, plain), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        list(ours.state_dict().values()), list(plain.state_dict().values()), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("genotype", ZOO)
def test_a_padded_batch_is_the_plain_network_on_each_utterance(genotype: str) -> None:
    ours, plain = networks(genotype, 9, 6, (1, 2), True)
    ours.eval()
    plain.eval()
    x, lengths = padded([19, 11, 4, 14], 9, extra=3)
    y, out_lengths = ours(x, lengths)
    for row, (length, frames) in enumerate(zip(lengths, out_lengths, strict=True)):
        expected = plain(x[row, :length])
        torch.testing.assert_close(y[row, :frames], expected, rtol=0, atol=1e-10)
