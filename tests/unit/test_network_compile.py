"""Captured graphs in evaluation: torch.compile without breaks, tracing, export; all lengths."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from encoder_samples import MIXED_CELL, document, padded, small

# Every length of the second call onwards differs from those that a graph was captured with.
BATCHES = [([23, 14], 0), ([31, 8, 17], 2), ([26], 0), ([40, 40], 0)]
OPTIONS: dict[str, Any] = {"layers": 3, "channels": 2}

pytestmark = pytest.mark.slow


def check(captured: Any, module: torch.nn.Module, batches: Any = BATCHES) -> None:
    with torch.no_grad():
        for lengths, extra in batches:
            x, sizes = padded(lengths, 9, extra)
            torch.testing.assert_close(captured(x, sizes), module(x, sizes), rtol=0, atol=1e-10)


@pytest.mark.parametrize("source", [document(MIXED_CELL), "darts_v2"])
def test_compiled_without_graph_breaks_and_for_all_lengths(source: Any) -> None:
    """Dynamo alone (backend "eager"): graph breaks and recompilations are its doing."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = small(source, **OPTIONS).eval()
    check(torch.compile(module, fullgraph=True, backend="eager", dynamic=True), module)
    # One graph for all batches, and another one at most for a single utterance.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_compiled_with_padding_of_nan_and_intermediate_outputs() -> None:
    torch._dynamo.reset()
    module = small("asrnet_b", layers=4, channels=2, taps=(3,), conditioning=True).eval()
    compiled = torch.compile(
        lambda x, lengths: module.forward_taps(x, lengths, torch.sigmoid),  # type: ignore[operator]
        fullgraph=True,
        backend="aot_eager",
    )
    x, sizes = padded([23, 14], 9)
    x[1, 14:] = float("nan")
    with torch.no_grad():
        expected = module.forward_taps(x, sizes, torch.sigmoid)  # type: ignore[operator]
        torch.testing.assert_close(compiled(x, sizes), expected, rtol=0, atol=1e-10)


def test_traced_for_all_lengths() -> None:
    module = small(document(MIXED_CELL), **OPTIONS).eval()
    example = padded([23, 14], 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of its own deprecation and of shapes
        traced = torch.jit.trace(module, example, check_trace=False)
    check(traced, module)


def test_exported_for_all_lengths() -> None:
    module = small("asrnet_b", **OPTIONS).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {"x": {0: batch, 1: torch.export.Dim.AUTO}, "lengths": {0: batch}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.export.export(module, padded([23, 14], 9), dynamic_shapes=shapes)
    check(program.module(), module, [batch for batch in BATCHES if len(batch[0]) > 1])


def test_a_compiled_training_step_is_the_same() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = small(document(MIXED_CELL), **OPTIONS).train()
    other = copy.deepcopy(module)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for lengths in ([23, 14], [23, 23]):
        x, sizes = padded(lengths, 9)
        for network, run in ((module, module), (other, compiled)):
            network.zero_grad()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of dynamo's own doing
                run(x, sizes)[0].square().sum().backward()
        for plain, own in zip(module.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(own.grad, plain.grad, rtol=0, atol=1e-9)
        torch.testing.assert_close(other.state_dict(), module.state_dict(), rtol=0, atol=1e-10)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
