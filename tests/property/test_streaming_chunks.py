"""Chunks of any sizes give what the whole gives: random encoders, cuts, batches and ends."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming_samples import BINS, FRONT_ENDS, MODULES, encoder_of

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


@settings(max_examples=30, deadline=None)
@given(
    architectures(),
    st.lists(st.integers(0, 40) | st.just(1), min_size=1, max_size=12),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
def test_chunks_give_what_the_whole_gives(
    architecture: BlockArchitecture, sizes: list[int], shares: list[float], seed: int
) -> None:
    torch.manual_seed(seed)
    network: Any = encoder_of(architecture)
    least = network.min_length
    sizes = [*sizes, max(0, least - sum(sizes))]
    frames = sum(sizes)
    lengths = [max(least, round(share * frames)) for share in shares]
    chunks_give_the_same(network, sizes, lengths)
    # The next stream of the same encoder knows nothing of the one before.
    x = torch.randn(1, frames, BINS, dtype=torch.float64)
    with torch.no_grad():
        whole, _ = network(x, torch.tensor([frames]))
    found = torch.cat(streamed(network, x, [1] * frames), 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)
