"""Padding and batch mates never change what a cell network makes of an utterance.

Everything in float64, to 1e-9, for the outputs, the intermediate outputs and the gradient of the
input. What stands in padding frames is garbage, NaN or infinite.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from choice_samples import CELL_SPACE_OPERATIONS
from encoder_samples import ZOO, handwritten, one_edge, padded, sampled, small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

TOLERANCE = {"rtol": 0.0, "atol": 1e-9}
GARBAGE = (0.0, 1e30, float("nan"), float("inf"), float("-inf"))

options = st.fixed_dictionaries(
    {
        "input_size": st.integers(4, 11),
        "channels": st.integers(1, 3),
        "layers": st.integers(2, 6),
        "stem_stride": st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)]),
        "deltas": st.booleans(),
        "checkpointing": st.booleans(),
        "hidden_sizes": st.sampled_from([(), (5,)]),
        "seed": st.integers(0, 2**31 - 1),
    }
)
# Frames beyond the fewest that are accepted; the first utterance makes the batch's length.
lengths_beyond = st.lists(st.integers(0, 30), min_size=1, max_size=4)
tails = st.integers(0, 11)
garbage = st.sampled_from(GARBAGE)


def outputs_and_gradient(
    module: nn.Module, x: Tensor, lengths: Tensor, frames: int | None = None, seed: int = 5
) -> tuple[list[Tensor], Tensor]:
    """Return all outputs (B, T', D) and the input gradient of a fixed random projection of them.

    The projection of an utterance depends neither on its place in the batch nor on the padding.
    """
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    y, out_lengths, taps = module.forward_taps(x, lengths, torch.tanh)  # type: ignore[operator]
    factor = module.subsampling_factor
    assert y.shape[1] == -(-x.size(1) // int(factor))  # type: ignore[arg-type]
    assert torch.equal(out_lengths, -(-lengths // factor))
    found = [y, *(h for _, h in taps)]
    loss = torch.zeros((), dtype=x.dtype)
    for number, output in enumerate(found):
        assert torch.isfinite(output).all()
        t = torch.arange(output.size(1), dtype=x.dtype)[:, None]
        d = torch.arange(output.size(2), dtype=x.dtype)[None, :]
        loss = loss + (output * torch.sin(1 + number + 3 * t + 7 * d)).sum()
    loss.backward()
    assert x.grad is not None
    return [output.detach() for output in found], x.grad


def fill_padding(x: Tensor, lengths: Tensor, value: float) -> Tensor:
    """Return features whose padding frames hold ``value`` (zero: random numbers)."""
    padding = torch.arange(x.size(1))[None, :] >= lengths[:, None]
    filling = torch.randn_like(x) if value == 0 else torch.full_like(x, value)
    return torch.where(padding[:, :, None], filling, x)


def check_alone_equals_in_batch(
    module: nn.Module, beyond: list[int], tail: int, value: float, bins: int
) -> None:
    """In evaluation: every utterance, cut to its own length, against its row of the batch."""
    module.eval()
    x, lengths = padded([int(module.min_length) + more for more in beyond], bins, tail)  # type: ignore[arg-type]
    together, gradient = outputs_and_gradient(module, fill_padding(x, lengths, value), lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, own_gradient = outputs_and_gradient(
            module, x[row : row + 1, :length], lengths[row : row + 1]
        )
        for output, own in zip(together, alone, strict=True):
            frames = own.size(1)
            torch.testing.assert_close(output[row, :frames], own[0], **TOLERANCE)
            assert (output[row, frames:] == 0).all()
        torch.testing.assert_close(gradient[row, :length], own_gradient[0], **TOLERANCE)
        assert (gradient[row, length:] == 0).all()


def close_gradients(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Compare to 1e-9 of the largest gradient: batch norm over a handful of values makes some of
    them large, and rounding grows with them.
    """
    largest = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(got, wanted, rtol=0.0, atol=1e-9 * largest)


def check_more_padding_changes_nothing(
    module: nn.Module, beyond: list[int], tail: int, value: float, bins: int
) -> None:
    """In training, where statistics are those of the batch: the same batch, padded further."""
    module.train()
    x, lengths = padded([int(module.min_length) + more for more in beyond], bins)  # type: ignore[arg-type]
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    plain, gradient = outputs_and_gradient(module, fill_padding(x, lengths, 0), lengths)
    moved = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.load_state_dict(before, strict=False)
    wide = torch.cat([x, torch.zeros(x.size(0), tail, bins, dtype=x.dtype)], dim=1)
    more, wide_gradient = outputs_and_gradient(module, fill_padding(wide, lengths, value), lengths)
    for output, other in zip(plain, more, strict=True):
        torch.testing.assert_close(other[:, : output.size(1)], output, **TOLERANCE)
        assert (other[:, output.size(1) :] == 0).all()
    close_gradients(wide_gradient[:, : x.size(1)], gradient)
    assert (wide_gradient[:, x.size(1) :] == 0).all()
    torch.testing.assert_close(dict(module.named_buffers()), moved, **TOLERANCE)


@settings(max_examples=12, deadline=None)
@given(options, lengths_beyond, tails, garbage)
@pytest.mark.parametrize("name", ZOO)
def test_zoo_in_evaluation(
    name: str, options: dict[str, Any], beyond: list[int], tail: int, value: float
) -> None:
    check_alone_equals_in_batch(small(name, **options), beyond, tail, value, options["input_size"])


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(options, lengths_beyond, tails, garbage)
@pytest.mark.parametrize("name", ZOO)
def test_zoo_in_training(
    name: str, options: dict[str, Any], beyond: list[int], tail: int, value: float
) -> None:
    check_more_padding_changes_nothing(
        small(name, drop_path=0.3, **options), beyond, tail, value, options["input_size"]
    )


EVERY_OPERATION = sorted(
    {(op, space) for space, ops in CELL_SPACE_OPERATIONS.items() for op in ops if op != "none"}
)


@settings(max_examples=3, deadline=None)
@given(options, lengths_beyond, tails, garbage, st.integers(0, 1))
@pytest.mark.parametrize(("op", "space"), EVERY_OPERATION)
def test_networks_of_a_single_operation(
    op: str,
    space: str,
    options: dict[str, Any],
    beyond: list[int],
    tail: int,
    value: float,
    source: int,
) -> None:
    module = small(one_edge(op, source, space), **options)
    check_alone_equals_in_batch(module, beyond, tail, value, options["input_size"])
    check_more_padding_changes_nothing(module, beyond, tail, value, options["input_size"])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), options, lengths_beyond, tails, garbage)
def test_sampled_genotypes(
    seed: int, options: dict[str, Any], beyond: list[int], tail: int, value: float
) -> None:
    module = small(sampled(seed), **options)
    check_alone_equals_in_batch(module, beyond, tail, value, options["input_size"])
    check_more_padding_changes_nothing(module, beyond, tail, value, options["input_size"])


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(handwritten()),
    options,
    lengths_beyond,
    tails,
    garbage,
)
def test_unusual_cells(
    document: Any, options: dict[str, Any], beyond: list[int], tail: int, value: float
) -> None:
    module = small(document, **options)
    check_alone_equals_in_batch(module, beyond, tail, value, options["input_size"])
    check_more_padding_changes_nothing(module, beyond, tail, value, options["input_size"])


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(options, lengths_beyond, tails, garbage, st.booleans())
def test_taps_and_conditioning(
    options: dict[str, Any], beyond: list[int], tail: int, value: float, conditioning: bool
) -> None:
    options = {**options, "layers": 6, "taps": (5,), "conditioning": conditioning}
    module = small("asrnet_b", **options)
    check_alone_equals_in_batch(module, beyond, tail, value, options["input_size"])
    check_more_padding_changes_nothing(module, beyond, tail, value, options["input_size"])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), options, lengths_beyond, tails, garbage)
def test_many_sampled_genotypes(
    seed: int, options: dict[str, Any], beyond: list[int], tail: int, value: float
) -> None:
    module = small(sampled(seed), **options)
    check_alone_equals_in_batch(module, beyond, tail, value, options["input_size"])
    check_more_padding_changes_nothing(module, beyond, tail, value, options["input_size"])


def test_the_order_of_a_batch_does_not_matter_in_training() -> None:
    x, lengths = padded([21, 13, 8, 17], 9)
    order = torch.tensor([2, 0, 3, 1])
    outputs = []
    for rows in (torch.arange(4), order):
        module = small("asrnet_b").train()
        outputs.append(module(x[rows], lengths[rows])[0])
    torch.testing.assert_close(outputs[0][order], outputs[1], **TOLERANCE)


def test_these_checks_notice_a_leak() -> None:
    """The checks above must fail for a network whose batch norm counts padding frames."""
    rng = random.Random(0)
    module = small("asrnet_b")
    beyond = [rng.randrange(30) for _ in range(3)]
    original = nn.BatchNorm2d.forward
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.forward = lambda x, mask, own=part: original(own, x)  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        check_alone_equals_in_batch(module, beyond, 0, 0.0, 9)
    with pytest.raises(AssertionError):
        check_more_padding_changes_nothing(module, beyond, 5, 0.0, 9)
