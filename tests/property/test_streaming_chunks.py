"""Chunks of any sizes give what the whole gives: random encoders, cuts, batches and ends."""

from __future__ import annotations

from typing import Any

import torch
from encoder_samples import handwritten, sampled, small
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming_samples import BINS, FRONT_ENDS, MODULES, causal, encoder_of

from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.testing.streaming import chunks_give_the_same, streamed

STAGES = st.builds(
    lambda parts, reduction, width, blocks, norms: Stage(
        width, reduction, blocks, tuple(parts), *norms
    ),
    st.lists(st.sampled_from(MODULES), min_size=1, max_size=2),
    st.sampled_from((1, 2, 4)),
    st.sampled_from((8, 12)),
    st.integers(1, 2),
    st.sampled_from((("before", True), ("before", False), ("after", False))),
)


@st.composite
def architectures(draw: st.DrawFn) -> BlockArchitecture:
    """Draw an encoder; where its rate rises, an earlier stage had that rate."""
    stages: list[Stage] = []
    for stage in draw(st.lists(STAGES, min_size=1, max_size=3)):
        rates = [1, *(own.reduction for own in stages)]
        if stage.reduction >= rates[-1] or stage.reduction in rates:
            stages.append(stage)
    return BlockArchitecture(
        draw(st.sampled_from(FRONT_ENDS)),
        draw(st.booleans()),
        draw(st.sampled_from(("none", "absolute"))),
        tuple(stages),
        draw(st.booleans()),
    )


SIZES = st.lists(st.integers(0, 40) | st.just(1), min_size=1, max_size=12)
SHARES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(architectures(), SIZES, SHARES, st.integers(0, 2**31))
def test_chunks_give_what_the_whole_gives(
    architecture: BlockArchitecture, sizes: list[int], shares: list[float], seed: int
) -> None:
    torch.manual_seed(seed)
    check(encoder_of(architecture), sizes, shares)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(handwritten()) | st.builds(sampled, st.integers(0, 2**31)),
    st.none() | st.integers(0, 6),
    st.fixed_dictionaries(
        {
            "layers": st.integers(2, 6),
            "stem_stride": st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)]),
            "deltas": st.booleans(),
            "input_size": st.just(BINS),
        }
    ),
    SIZES,
    SHARES,
)
def test_chunks_of_cells_give_what_the_whole_gives(
    genotype: Any,
    causal_after: int | None,
    options: dict[str, Any],
    sizes: list[int],
    shares: list[float],
) -> None:
    network: Any = small(causal(genotype, causal_after), **options).eval()
    assert network.streams
    check(network, sizes, shares)


def check(network: Any, sizes: list[int], shares: list[float]) -> None:
    """Compare chunks of a batch, then single frames of another stream, to whole utterances."""
    least = network.min_length
    sizes = [*sizes, max(0, least - sum(sizes))]
    frames = sum(sizes)
    lengths = [max(least, round(share * frames)) for share in shares]
    chunks_give_the_same(network, sizes, lengths)
    # The next stream of the same encoder knows nothing of the one before.
    frames = min(frames, least + 40)
    x = torch.randn(1, frames, BINS, dtype=torch.float64)
    with torch.no_grad():
        whole, _ = network(x, torch.tensor([frames]))
    found = torch.cat(streamed(network, x, [1] * frames), 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)
