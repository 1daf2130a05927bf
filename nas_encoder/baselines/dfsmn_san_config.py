"""Options of the DFSMN-SAN baseline and its two published sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nas_encoder.common.fields import Declared, Rule, flag, integer, option, share, tuple_of
from nas_encoder.common.problems import Problems


def _each_block(least: int) -> Rule:
    """Allow a number, or a list of one per block."""
    one, several = integer(least), tuple_of(integer(least), 0, 10**4)

    def check(value: Any, path: str, problems: Problems) -> Any:
        return (several if isinstance(value, (list, tuple)) else one)(value, path, problems)

    return check


@dataclass(frozen=True)
class DFSMNSANConfig(Declared):
    """Options of :class:`~nas_encoder.baselines.dfsmn_san.DFSMNSAN`.

    The four memory options take one number, or one per block. [1] is Zhang et al. 2018 (arXiv
    1803.05030), [2] You et al. 2020 (arXiv 1910.13282).

    Attributes:
        input_size: Features per frame (F).
        output_size: Width of the memories, of the attention and of the output (D).
        hidden_size: Width of the ReLU layer inside each block.
        blocks: Number of DFSMN blocks.
        attention_layers: Number of self-attention layers, evenly spaced, the last one after the
            last block.
        attention_heads: Heads of each attention layer; must divide ``output_size``.
        look_back: Past taps of the memory (N1 in [1]), not counting the current frame.
        look_ahead: Future taps of the memory (N2 in [1]).
        look_back_stride: Distance between past taps, in output frames (s1 in [1]).
        look_ahead_stride: Distance between future taps, in output frames (s2 in [1]).
        subsampling_factor: Input frames per output frame (S).
        context: Input frames that an output frame sees on each side of its own S. 4 is the span
            of second-order deltas with a window of 2, so the first layer can compute deltas.
        persistent_memory: Learned key-value pairs that every attention layer can also attend to
            ([2]); 0 for none.
        dropout: Dropout in the blocks and on the output of the attention layers.
        attention_dropout: Dropout on the attention weights.
        checkpointing: Recompute the blocks in the backward pass instead of storing activations.
        taps: Numbers (from 1) of the blocks whose output ``forward_taps`` returns.
    """

    input_size: int = option(40, integer(1))
    output_size: int = option(512, integer(1))
    hidden_size: int = option(1152, integer(1))
    blocks: int = option(10, integer(1))
    attention_layers: int = option(2, integer(0))
    attention_heads: int = option(8, integer(1))
    look_back: int | Sequence[int] = option(10, _each_block(0))
    look_ahead: int | Sequence[int] = option(10, _each_block(0))
    look_back_stride: int | Sequence[int] = option(1, _each_block(1))
    look_ahead_stride: int | Sequence[int] = option(1, _each_block(1))
    subsampling_factor: int = option(4, integer(1))
    context: int = option(4, integer(0))
    persistent_memory: int = option(0, integer(0))
    dropout: float = option(0.1, share)
    attention_dropout: float = option(0.1, share)
    checkpointing: bool = option(False, flag)
    taps: Sequence[int] = option((), tuple_of(integer(1), 0, 1000))

    def conflicts(self, found: Problems) -> None:
        """Check the options against each other."""
        size, layers, blocks = self.output_size, self.attention_layers, self.blocks
        for name in ("look_back", "look_ahead", "look_back_stride", "look_ahead_stride"):
            value = getattr(self, name)
            if not isinstance(value, int) and len(value) != blocks:
                rule = f"must have one number for each of the {blocks} blocks, got {len(value)}"
                found.conflict(name, rule, "blocks")
        if size % self.attention_heads:
            rule = f"must divide {found.word('output_size')} {size}, got {self.attention_heads}"
            found.conflict("attention_heads", rule, "output_size")
        if layers > blocks:
            rule = f"at most one for each of the {blocks} blocks, got {layers}"
            found.conflict("attention_layers", rule, "blocks")
        if self.persistent_memory and not layers:
            rule = "needs attention_layers of at least 1"
            found.conflict("persistent_memory", rule, "attention_layers")
        for place, tap in enumerate(self.taps):
            if tap >= blocks:
                rule = f"must be a block before the last, 1 to {blocks - 1}, got {tap}"
                found.conflict(f"taps[{place}]", rule, "blocks")
        if list(self.taps) != sorted(set(self.taps)):
            found.conflict("taps", f"must rise without repeats, got {list(self.taps)}")

    def per_block(self, name: str) -> list[int]:
        """Return a memory option as one number for each block."""
        value = getattr(self, name)
        return [value] * self.blocks if isinstance(value, int) else list(value)

    def attention_after(self) -> set[int]:
        """Return the numbers (from 1) of the blocks that are followed by an attention layer."""
        layers = self.attention_layers
        return {round(self.blocks * (index + 1) / layers) for index in range(layers)}


# The two sizes of He, Su and Yu (2020, arXiv 2008.11589), 14.4 M and 36.1 M, matched to 1 % in
# encoder parameters. The paper gives the numbers of layers; all widths are ours.
DFSMN_SAN_CONFIGS: dict[str, DFSMNSANConfig] = {
    "dfsmn_san_14m": DFSMNSANConfig(blocks=10, attention_layers=2, hidden_size=1152),
    "dfsmn_san_36m": DFSMNSANConfig(blocks=30, attention_layers=3, hidden_size=1056),
}
