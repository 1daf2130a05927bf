"""DFSMN-SAN: deep feed-forward sequential memory blocks with interleaved self-attention.

The hand-designed encoder that He, Su and Yu (2020) compare their searched networks with.

Sources:
    [1] Zhang, Lei, Yan, Dai, "Deep-FSMN for Large Vocabulary Continuous Speech Recognition",
        ICASSP 2018 (arXiv 1803.05030): the block, the memory with strides, the skip connections
        between memories, the low frame rate input.
    [2] You, Su, Chen, Weng, Yu, "DFSMN-SAN with Persistent Memory Model for Automatic Speech
        Recognition", ICASSP 2020 (arXiv 1910.13282): self-attention layers between the blocks,
        optionally with learned (persistent) keys and values.
    [3] He, Su, Yu 2020 (arXiv 2008.11589): the two sizes compared with, 10 blocks and 2
        attention layers at 14.4 M parameters and 30 and 3 at 36.1 M.

Ours, because [3] does not print it or because CTC training with Adam needs it: all widths, heads
and memory orders, evenly spaced attention layers, a layer normalization before each block, each
attention layer and the output, frame stacking instead of input deltas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from nas_encoder.common.fields import Declared, Rule, flag, integer, option, share, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError
from nas_encoder.network.tapped import TappedEncoder, Taps
from nas_encoder.ops.masking import padding_frames, reduced_lengths

_MEMORY = ("look_back", "look_ahead", "look_back_stride", "look_ahead_stride")


def _each_block(least: int) -> Rule:
    """Allow a number, or a list of one per block."""
    one, several = integer(least), tuple_of(integer(least), 0, 10**4)

    def check(value: Any, path: str, problems: Problems) -> Any:
        return (several if isinstance(value, (list, tuple)) else one)(value, path, problems)

    return check


@dataclass(frozen=True)
class DFSMNSANConfig(Declared):
    """Options of :class:`DFSMNSAN`.

    The four memory options take one number, or one per block.

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
        for name in _MEMORY:
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


class MemoryBlock(nn.Module):
    """One DFSMN block: ReLU layer, linear projection, memory, skip from the previous memory.

    With m the previous block's memory, h = ReLU(U norm(m)) and p = V h, the new memory is
    m_t + p_t + sum_{i=0..N1} a_i * p_{t - s1 i} + sum_{j=1..N2} c_j * p_{t + s2 j}, the products
    taken channel by channel ([1], equation 8; the norm is ours).

    Args:
        config: The network's options.
        block: Which block it is, from 0.
    """

    def __init__(self, config: DFSMNSANConfig, block: int) -> None:
        super().__init__()
        size, hidden_size = config.output_size, config.hidden_size
        look_back, look_ahead, *strides = (config.per_block(name)[block] for name in _MEMORY)
        self.reach = (look_back * strides[0], look_ahead * strides[1])
        self.strides = tuple(strides)
        self.norm = nn.LayerNorm(size)
        self.hidden = nn.Linear(size, hidden_size)
        self.project = nn.Linear(hidden_size, size)
        # Depthwise convolution weights (D, 1, taps), the earliest frame first.
        bound = (1 + look_back + look_ahead) ** -0.5
        self.past = nn.Parameter(torch.empty(size, 1, look_back + 1).uniform_(-bound, bound))
        self.future: nn.Parameter | None = None
        if look_ahead:
            self.future = nn.Parameter(torch.empty(size, 1, look_ahead).uniform_(-bound, bound))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, m: Tensor, padding: Tensor | None) -> Tensor:
        """Add this block to m (B, T, D); ``padding`` (B, T), true in padding frames, or None."""
        p = self.project(self.dropout(torch.relu(self.hidden(self.norm(m)))))
        if padding is not None:
            p = p.masked_fill(padding.unsqueeze(-1), 0.0)
        out: Tensor = m + self.dropout(p + self._memory(p))
        return out

    def _memory(self, p: Tensor) -> Tensor:
        back, ahead = self.reach
        size = p.size(-1)
        signal = F.pad(p.transpose(1, 2), (back, ahead))  # (B, D, back + T + ahead)
        if self.future is None:
            out = F.conv1d(signal, self.past, dilation=self.strides[0], groups=size)
        elif self.strides[0] == self.strides[1]:
            taps = torch.cat((self.past, self.future), dim=-1)
            out = F.conv1d(signal, taps, dilation=self.strides[0], groups=size)
        else:
            past = signal[..., : signal.size(-1) - ahead]
            future = signal[..., back + self.strides[1] :]
            out = F.conv1d(past, self.past, dilation=self.strides[0], groups=size)
            out = out + F.conv1d(future, self.future, dilation=self.strides[1], groups=size)
        return out.transpose(1, 2)  # (B, T, D)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the whole utterance, with a skip connection.

    There is no positional encoding: the preceding memories, whose taps differ by time, already
    carry order, as convolutions do in Mohamed, Okhonko and Zettlemoyer (2019, arXiv 1904.11660).
    """

    def __init__(self, config: DFSMNSANConfig) -> None:
        super().__init__()
        size, heads = config.output_size, config.attention_heads
        persistent = config.persistent_memory
        self.heads = heads
        self.attention_dropout = config.attention_dropout
        self.norm = nn.LayerNorm(size)
        self.inputs = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.dropout = nn.Dropout(config.dropout)
        self.persistent: nn.Parameter | None = None
        if persistent:
            # Scaled like keys and values of normalized frames, so that they compete from the start.
            self.persistent = nn.Parameter(torch.randn(2, heads, persistent, size // heads) * 0.5)

    def forward(self, m: Tensor, padding: Tensor | None) -> Tensor:
        """Attend over m (B, T, D); ``padding`` (B, T), true in padding frames, or None."""
        batch, frames, size = m.shape
        # (B, T, 3 D) -> (3, B, heads, T, D / heads)
        packed = self.inputs(self.norm(m)).view(batch, frames, 3, self.heads, size // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if padding is None else ~padding[:, None, None, :]  # (B, 1, 1, T)
        if self.persistent is not None:
            learned = self.persistent.to(key.dtype).unsqueeze(1).expand(-1, batch, -1, -1, -1)
            key = torch.cat((learned[0], key), dim=2)
            value = torch.cat((learned[1], value), dim=2)
            if mask is not None:
                mask = F.pad(mask, (learned.size(3), 0), value=True)
        context = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        context = context.transpose(1, 2).reshape(batch, frames, size)
        out: Tensor = m + self.dropout(self.output(context))
        return out


class DFSMNSAN(TappedEncoder):
    """DFSMN blocks with interleaved self-attention, over stacked frames at a low frame rate.

    Padding never changes an utterance's output, not even in training (dropout aside): it is
    replaced by zeros at the input, before every memory, and hidden from the attention; no layer
    takes statistics over frames or over the batch. Padding frames of the output are zero.

    Shapes: B batch, T input frames, F features, S ``subsampling_factor``, D ``output_size``.

    Args:
        config: The options.

    Raises:
        ConfigError: An option breaks its rule; all problems are listed.
    """

    Config = DFSMNSANConfig

    def __init__(self, config: DFSMNSANConfig) -> None:
        problems = config.problems()
        if problems:
            raise ConfigError("dfsmn_san", problems)
        super().__init__(config)
        self.possible_taps = tuple(range(1, config.blocks + 1))
        size = config.output_size
        # A linear layer over S + 2 context stacked frames, taken every S frames.
        self.stack = nn.Conv1d(
            config.input_size,
            size,
            config.subsampling_factor + 2 * config.context,
            stride=config.subsampling_factor,
        )
        self.blocks = nn.ModuleList(MemoryBlock(config, block) for block in range(config.blocks))
        self.attention = nn.ModuleDict(
            {str(number): SelfAttention(config) for number in sorted(config.attention_after())}
        )
        self.norm = nn.LayerNorm(size)

    def _stacked(self, x: Tensor) -> Tensor:
        """Map stacked frames, (B, F, T) with context to (B, ceil(T / S), D)."""
        half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        if x.device.type == "cpu" and half:
            # PyTorch 2.13's bf16 convolution of 12 taps and stride 4 gives wrong values on
            # processors with AMX (the error exceeds the float32 values).
            (width,), (step,) = self.stack.kernel_size, self.stack.stride
            frames = x.unfold(2, width, step).transpose(1, 2).flatten(2)  # (B, T', F * taps)
            return F.linear(frames, self.stack.weight.flatten(1), self.stack.bias)
        y: Tensor = self.stack(x).transpose(1, 2)
        return y

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / S), D); taps go through the output's layer norm."""
        frames = x.size(1)
        factor, context = self.subsampling_factor, self.config.context
        out_frames = (frames + factor - 1) // factor
        padding: Tensor | None = None
        if lengths is not None:
            x = x.masked_fill(padding_frames(lengths, frames).unsqueeze(-1), 0.0)
            padding = padding_frames(reduced_lengths(lengths, factor), out_frames)
        x = F.pad(x.transpose(1, 2), (context, context + factor * out_frames - frames))
        m = self._stacked(x)  # (B, ceil(T / S), D)
        for number, block in enumerate(self.blocks, start=1):
            m = self._run(block, m, padding)
            if str(number) in self.attention:
                m = self._run(self.attention[str(number)], m, padding)
            added = taps.take(number, partial(self._output, m, padding))
            m = m if added is None else m + added
        return self._output(m, padding)

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most; refused with attention layers."""
        if self.attention:
            rule = "attention sees the whole utterance; without (0) the encoder streams"
            raise ConfigError("streaming", [f"attention_layers: {len(self.attention)}, {rule}"])
        factor, context = self.subsampling_factor, self.config.context
        found = ReceptiveField(context, factor - 1 + context)
        memories: Any = self.blocks
        for memory in memories:
            found = found.plus(*(factor * frames for frames in memory.reach))
        return found

    def _run(self, layer: nn.Module, m: Tensor, padding: Tensor | None) -> Tensor:
        if self.config.checkpointing and self.training and torch.is_grad_enabled():
            out: Tensor = checkpoint(layer, m, padding, use_reentrant=False)
        else:
            out = layer(m, padding)
        return out

    def _output(self, m: Tensor, padding: Tensor | None) -> Tensor:
        y: Tensor = self.norm(m)
        return y if padding is None else y.masked_fill(padding.unsqueeze(-1), 0.0)


# The two sizes of He, Su and Yu (2020, arXiv 2008.11589), 14.4 M and 36.1 M, matched to 1 % in
# encoder parameters. The paper gives the numbers of layers; all widths are ours.
DFSMN_SAN_CONFIGS: dict[str, DFSMNSANConfig] = {
    "dfsmn_san_14m": DFSMNSANConfig(blocks=10, attention_layers=2, hidden_size=1152),
    "dfsmn_san_36m": DFSMNSANConfig(blocks=30, attention_layers=3, hidden_size=1056),
}
