"""Small encoders that stream: blocks of each kind of module and front end, mixed ones, cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from nas_encoder import build_encoder, load_genotype
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.front_parts import (
    Conv1dFront,
    Conv2dFront,
    DepthwiseFront,
    Front,
    StackFront,
)
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    GatedMlp,
    Memory,
    Parallel,
    SelfAttention,
)

BINS = 12
CHAIN = {
    "schema": 1,
    "name": "chain",
    "space": "tdnn_chain",
    "blocks": ["tdnn_1_1", "tdnn_1_2"],
}
MODULES: tuple[Part, ...] = (
    FeedForward(2.0),
    SelfAttention(2, 3),
    SelfAttention(2, 5, ahead=0),
    SelfAttention(2, 3, "none", ahead=1),
    SelfAttention(2, 6, chunk=4),
    SelfAttention(4, 0, chunk=3),
    SelfAttention(2, 20, "none", chunk=5),
    Convolution(5),
    Convolution(7, glu=False, norm="layer", causal=True),
    GatedMlp(2.0, 5),
    GatedMlp(2.0, 3, causal=True),
    Parallel(2, 4, "relative", 2.0, 5, 3),
    Parallel(2, 4, "relative", 2.0, 5, 3, chunk=5, causal=True),
    Parallel(2, 4, "none", 2.0, 9, 0, ahead=2),
    Memory(3, 1, 2, 2.0),
    Memory(3, 0),
    Memory(0, 2),
)
FRONT_ENDS: tuple[Front, ...] = (
    Conv2dFront(4, 5),
    Conv2dFront(4, 5, padded=False),
    Conv2dFront(8, 6),
    DepthwiseFront(8, 6),
    Conv1dFront(4, 16),
    Conv1dFront(8, 16),
    StackFront(4, 3),
    StackFront(8, 0),
)


def encoder_of(architecture: BlockArchitecture, **options: Any) -> Any:
    """Return an encoder in evaluation mode and float64, without neutral first values."""
    genotype = Genotype("sample", "blocks", architecture)
    network: Any = build_encoder(genotype, input_size=BINS, **options)
    return unlike_new(network).double().eval()


def causal(genotype: Any, after: int | None) -> Genotype:
    """Return the genotype of a document or name of 2-D cells, causal after that many of them."""
    found = genotype if isinstance(genotype, Genotype) else load_genotype(genotype)
    architecture = replace(found.architecture, causal_after=after)
    return Genotype(found.name, found.space, architecture, found.provenance)


def cells_of(genotype: Any, after: int | None = None, **options: Any) -> Any:
    """Return a small network of cells in evaluation mode and float64."""
    sizes = {"input_size": BINS, "channels": 4, "layers": 5, "output_size": 6, **options}
    return unlike_new(build_encoder(causal(genotype, after), **sizes)).double().eval()


def unlike_new(network: nn.Module) -> nn.Module:
    """Change the weights and statistics that are neutral in a new network."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return network


def of_module(part: Part, norm: str = "before") -> BlockArchitecture:
    """Return an architecture of two blocks of one module."""
    return BlockArchitecture(FRONT_ENDS[0], stages=(Stage(8, 1, 2, (part,), norm),))


def mixed() -> BlockArchitecture:
    """Return an architecture with all that can be in one."""
    return BlockArchitecture(
        Conv2dFront(4, 5, padded=False),
        scale=True,
        positions="absolute",
        stages=(
            Stage(8, 1, 1, (Memory(3, 1, 2), FeedForward(2.0, 0.5))),
            Stage(12, 2, 2, (SelfAttention(2, 4, chunk=3), Convolution(5))),
            Stage(8, 4, 1, (Parallel(2, 3, "relative", 2.0, 5, 3, ahead=1, causal=True),)),
            Stage(12, 1, 1, (Convolution(3, causal=True), GatedMlp(2.0, 3)), "after", False),
        ),
        final_norm=True,
    )


def tensors(state: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(state) if isinstance(leaf, Tensor)]


def state_sizes(network: Any, frames: int, steps: int) -> list[int]:
    """Return the bytes of a stream's state after each step, none of which changes the last one."""
    chunk, sizes = torch.randn(1, frames, BINS, dtype=torch.float64), []
    state = network.initial_state(1)
    for number in range(steps):
        before = [leaf.clone() for leaf in tensors(state)]
        _, after = network.step(chunk, state)
        if number < 3:
            assert all(map(torch.equal, before, tensors(state)))
        state = after
        sizes.append(sum(leaf.untyped_storage().nbytes() for leaf in tensors(state)))
    assert state.frames == steps * frames
    return sizes
