"""The front ends of block encoders: features in, at a quarter or an eighth of the rate out.

Padding never changes a valid frame: what a padded convolution reads past an utterance's end is
zero in every layer, as if the utterance ended there. No layer takes statistics. 2-D convolutions
keep their channels last in memory, which benchmarks/front_ends.py measures, and those over time
alone are linear layers over neighbouring frames.

B batch, T input frames, t of a chunk that has arrived, F features, T' output frames, C width of the
first stage.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.errors import ConfigError
from nas_encoder.network.streaming import Chunk, size_of, slide
from nas_encoder.network.tapped import Taps
from nas_encoder.ops.fused import has_hooks
from nas_encoder.ops.masking import frame_mask, padding_frames, reduced_lengths
from nas_encoder.ops.subsampling import can_fuse, two_convolutions
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.front_parts import (
    Conv1dFront,
    Conv2dFront,
    DepthwiseFront,
    SearchedFront,
    StackFront,
)
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.tables import SPACES


class FrontEnd(nn.Module):
    """A front end.

    Attributes:
        factor: Input frames per output frame.
        min_length: The fewest frames that give one.
        reach: Input frames that an output frame sees before and after the first of its own; None
            if there is no bound.
    """

    def __init__(self, factor: int, reach: tuple[int, int] | None, min_length: int = 1) -> None:
        super().__init__()
        self.factor, self.reach, self.min_length = factor, reach, min_length

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Map features to frames.

        Args:
            x: (B, T, F); padding frames may hold anything, also NaN.
            lengths: (B,) of at least ``min_length``, or None if no utterance is padded.

        Returns:
            (B, T', C), where padding frames hold anything finite, and ``reduced(lengths)`` or None.
        """
        if lengths is None:
            return self.frames(x, None), None
        padding = padding_frames(lengths, x.size(1))
        x = self.frames(x.masked_fill(padding.unsqueeze(2), 0.0), lengths)
        return x, self.reduced(lengths)

    def frames(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, T, F), zero in padding frames, to (B, T', C)."""
        raise NotImplementedError

    def reduced(self, lengths: Tensor) -> Tensor:
        """Return the output frames of utterances of (B,) ``lengths`` frames."""
        return reduced_lengths(lengths, self.factor)

    def initial_cache(self, batch: int, like: Tensor) -> Any:
        """Return the cache of B streams; see :mod:`.modules`."""
        raise NotImplementedError

    def step(self, chunk: Chunk, cache: Any) -> tuple[Chunk, Any]:
        """Map a chunk (B, t, F), cleared, to the frames (B, t', C) that are complete."""
        raise NotImplementedError


class Convolutions2d(FrontEnd):
    """3x3 convolutions of stride 2 in time and frequency, with ReLU, then a linear layer.

    ESPnet's ``Conv2dSubsampling`` and ``Conv2dSubsampling8`` (not padded), NeMo's ``striding`` and
    ``dw_striding`` (padded). The linear layer's inputs are ordered by frequency, then by channel;
    in both toolkits it is the other way round.

    Args:
        part: What it is built of.
        input_size: F, at least ``part.least``.
        width: C.
    """

    def __init__(self, part: Conv2dFront | DepthwiseFront, input_size: int, width: int) -> None:
        separable = isinstance(part, DepthwiseFront)
        padded = isinstance(part, DepthwiseFront) or part.padded
        super().__init__(part.factor, part.reach, part.least)
        self.padded = padded
        # Then PyTorch's gradient of the weight is slow in channels last, the rest is fast.
        self.wide = not separable and part.channels > 64
        channels, padding = part.channels, int(padded)
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, 2, padding)]
        for _ in range(part.factor.bit_length() - 2):
            groups = channels if separable else 1
            layer: nn.Module = nn.Conv2d(channels, channels, 3, 2, padding, groups=groups)
            if separable:
                layer = nn.Sequential(layer, nn.Conv2d(channels, channels, 1))
            layers.append(layer)
        self.convolutions = nn.ModuleList(layers)
        bins = -(-input_size // part.factor) if padded else (input_size + 1) // part.factor - 1
        self.bins, self.channels = input_size, channels
        self.output = nn.Linear(bins * channels, width)

    def frames(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, T, F), zero in padding frames, to (B, T', C)."""
        layers: list[Any] = list(self.convolutions)
        separable = isinstance(layers[1], nn.Sequential)
        pair = layers[0], layers[1][0] if separable else layers[1]
        if self.training and can_fuse(x, *pair) and (not separable or _is_pair(layers[1])):
            x = two_convolutions(x, *pair, lengths)
            layers[:2] = [layers[1][1] if separable else nn.Identity()]
            lengths = None if lengths is None else reduced_lengths(lengths, 2)
        elif self.training and self.wide:
            x = x.unsqueeze(1)
        else:
            x = x.unsqueeze(3).permute(0, 3, 1, 2)  # (B, 1, T, F), in memory channels last
        last = len(layers) - 1
        for number, layer in enumerate(layers):
            x = layer(x)
            # Without padding no valid frame reads beyond the end.
            if lengths is not None and self.padded and number < last:
                lengths = reduced_lengths(lengths, 2)
                x = x.mul_(frame_mask(lengths, x.size(2), x.dtype))
            x = F.relu(x, inplace=True)
        y: Tensor = self.output(x.permute(0, 2, 3, 1).flatten(2))
        return y

    def initial_cache(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        """Return the caches of B streams, one of each convolution, (B, n, F', C')."""
        found, bins, channels = [], self.bins, 1
        for _ in self.convolutions:
            found.append(like.new_zeros(batch, int(self.padded), bins, channels))
            bins, channels = (bins + 1) // 2 if self.padded else (bins - 1) // 2, self.channels
        return tuple(found)

    def step(self, chunk: Chunk, cache: tuple[Tensor, ...]) -> tuple[Chunk, tuple[Tensor, ...]]:
        """Map a chunk (B, t, F), cleared, to the frames (B, t', C) that are complete."""
        before, kept = int(self.padded), []
        chunk = chunk.holding(chunk.x.unsqueeze(3))  # (B, t, F, C'), as images channels last
        for number, (layer, own) in enumerate(zip(self.convolutions, cache, strict=True)):
            if number and self.padded:
                mask = chunk.valid(chunk.start, chunk.end)
                x = chunk.x if mask is None else chunk.x * mask[:, :, None, None].to(chunk.x.dtype)
                chunk = chunk.holding(x)
            under, own = slide(chunk, own, 3, 2, before)
            kept.append(own)
            lengths = chunk.lengths
            if lengths is not None:
                lengths = torch.div(lengths + 1, 2, rounding_mode="floor") - 1 + before
            x, start = self._over_time(layer, under.x), (under.start + before) // 2
            chunk = replace(under, x=x, start=start, lengths=lengths, begins=under.begins_after(2))
        return chunk.holding(self.output(chunk.x.flatten(2))), tuple(kept)

    def _over_time(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Map frames (B, n, F, C') under complete windows to (B, n', F', C'')."""
        first: Any = layer[0] if isinstance(layer, nn.Sequential) else layer
        if not size_of(x, 1):
            bins = (x.size(2) + 1) // 2 if self.padded else (x.size(2) - 1) // 2
            return x.new_zeros(x.size(0), 0, bins, self.channels)
        y = F.conv2d(
            x.permute(0, 3, 1, 2),
            first.weight,
            first.bias,
            2,
            (0, int(self.padded)),
            1,
            first.groups,
        )
        if isinstance(layer, nn.Sequential):
            y = layer[1](y)
        return F.relu(y).permute(0, 2, 3, 1)

    def reduced(self, lengths: Tensor) -> Tensor:
        """Return the output frames of utterances of (B,) ``lengths`` frames."""
        if self.padded:
            return super().reduced(lengths)
        # floor((L - 1) / 2) halves L + 1, as often as there are convolutions. Recorded graphs do
        # not refuse what is too short.
        return (torch.div(lengths + 1, self.factor, rounding_mode="floor") - 1).clamp(min=0)


class Convolutions1d(FrontEnd):
    """Convolutions over time of 3 frames and stride 2, with ReLU, then a linear layer.

    Args:
        part: What it is built of.
        input_size: F.
        width: C.
    """

    def __init__(self, part: Conv1dFront, input_size: int, width: int) -> None:
        super().__init__(part.factor, part.reach)
        sizes = [input_size] + [part.channels] * (part.factor.bit_length() - 2)
        self.convolutions = nn.ModuleList(nn.Linear(3 * size, part.channels) for size in sizes)
        self.output = nn.Linear(part.channels, width)

    def frames(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, T, F), zero in padding frames, to (B, T', C)."""
        last = len(self.convolutions) - 1
        for number, layer in enumerate(self.convolutions):
            x = F.relu(layer(stacked(x, 1, 3, 2)))
            if lengths is not None and number < last:
                lengths = reduced_lengths(lengths, 2)
                x = x * frame_mask(lengths, x.size(1), x.dtype).squeeze(1)
        y: Tensor = self.output(x)
        return y

    def initial_cache(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        """Return the caches of B streams, one of each convolution, (B, n, C')."""
        layers: Any = self.convolutions
        return tuple(like.new_zeros(batch, 1, layer.in_features // 3) for layer in layers)

    def step(self, chunk: Chunk, cache: tuple[Tensor, ...]) -> tuple[Chunk, tuple[Tensor, ...]]:
        """Map a chunk (B, t, F), cleared, to the frames (B, t', C) that are complete."""
        kept = []
        for number, (layer, own) in enumerate(zip(self.convolutions, cache, strict=True)):
            chunk = chunk.holding(chunk.cleared()) if number else chunk
            chunk, own = _windows(chunk, own, 3, 2, 1)
            chunk = chunk.holding(F.relu(layer(chunk.x)))
            kept.append(own)
        return chunk.holding(self.output(chunk.x)), tuple(kept)


class Stack(FrontEnd):
    """A linear layer over stacked frames, the earliest first, as in DFSMN-SAN.

    Args:
        part: What it is built of.
        input_size: F.
        width: C.
    """

    def __init__(self, part: StackFront, input_size: int, width: int) -> None:
        super().__init__(part.factor, part.reach)
        self.features = input_size
        self.context, self.size = part.context, part.factor + 2 * part.context
        self.output = nn.Linear(self.size * input_size, width)

    def frames(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, T, F), zero in padding frames, to (B, T', C)."""
        y: Tensor = self.output(stacked(x, self.context, self.size, self.factor))
        return y

    def initial_cache(self, batch: int, like: Tensor) -> Tensor:
        """Return the cache of B streams, (B, n, F)."""
        return like.new_zeros(batch, self.context, self.features)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, F), cleared, to the frames (B, t', C) that are complete."""
        chunk, cache = _windows(chunk, cache, self.size, self.factor, self.context)
        return chunk.holding(self.output(chunk.x)), cache


class Searched(FrontEnd):
    """The network of a genotype of another space, whose inputs were checked before.

    Args:
        part: What it is built of.
        input_size: F.
        width: C, its ``output_size``.
        checkpointing: Whether it recomputes its activations in the backward pass, if it can.

    Raises:
        ConfigError: An option breaks its rule at these sizes.
    """

    def __init__(
        self, part: SearchedFront, input_size: int, width: int, checkpointing: bool = False
    ) -> None:
        genotype = part.genotype
        assert genotype is not None  # by the part's rules
        module = SPACES[genotype.space].network
        options = part.network(input_size, width)
        if checkpointing and hasattr(options, "checkpointing"):
            options = replace(options, checkpointing=True)
        network: Any = module.build(genotype, options)
        try:
            field = module.receptive_field(genotype.architecture, options)
        except ConfigError:  # it has no bound
            reach = None
        else:
            reach = (field.left, field.right)
        super().__init__(network.subsampling_factor, reach, network.min_length)
        self.network = network

    def frames(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map (B, T, F), zero in padding frames, to (B, T', C)."""
        y: Tensor = self.network.encode(x, lengths, Taps())
        return y

    def reduced(self, lengths: Tensor) -> Tensor:
        """Return the output frames of utterances of (B,) ``lengths`` frames."""
        found: Tensor = self.network.output_lengths(lengths)
        return found

    def initial_cache(self, batch: int, like: Tensor) -> Any:
        """Return the cache of B streams, that of the network."""
        return self.network.initial_caches(batch, like)

    def step(self, chunk: Chunk, cache: Any) -> tuple[Chunk, Any]:
        """Map a chunk (B, t, F), cleared, to the frames (B, t', C) that are complete."""
        found: tuple[Chunk, Any] = self.network.stream(chunk, cache, Taps())
        return found


def _is_pair(layer: nn.Sequential) -> bool:
    """Whether it runs two layers and nothing else."""
    return type(layer) is nn.Sequential and len(layer) == 2 and not has_hooks(layer)


def _windows(
    chunk: Chunk, cache: Tensor, size: int, step: int, before: int
) -> tuple[Chunk, Tensor]:
    """Return the complete windows of a chunk (B, t, F), as :func:`stacked` does, and what is kept.

    The result is (B, t', size * F), at the rate of the windows.
    """
    under, cache = slide(chunk, cache, size, step, size - before - 1)
    ends = max(0, under.size - size + 1)
    x = torch.cat([under.x[:, place : place + ends : step] for place in range(size)], 2)
    lengths = None if chunk.lengths is None else reduced_lengths(chunk.lengths, step)
    start, begins = (under.start + before) // step, chunk.begins_after(step)
    return replace(under, x=x, start=start, lengths=lengths, begins=begins), cache


def stacked(x: Tensor, before: int, size: int, step: int) -> Tensor:
    """Return for each ``step`` of (B, T, F) ``size`` frames side by side, (B, T', size * F).

    The first is ``before`` frames before the step's own; T' = ceil(T / step). Beyond the borders
    there are zeros, at most ``size - step - before`` after the end of the last step.
    """
    batch, frames, features = x.shape
    out, groups = (frames + step - 1) // step, -(-size // step)
    total = step * (out + groups - 1)
    x = F.pad(x, (0, 0, before, total - before - frames))
    x = x.reshape(batch, out + groups - 1, step * features)
    pieces = [x[:, group : group + out] for group in range(groups)]
    pieces[-1] = pieces[-1][:, :, : (size - step * (groups - 1)) * features]
    return torch.cat(pieces, dim=2)


_BUILDERS: dict[type[Part], Any] = {
    Conv2dFront: Convolutions2d,
    DepthwiseFront: Convolutions2d,
    Conv1dFront: Convolutions1d,
    StackFront: Stack,
}


def build_front(part: Part, input_size: int, width: int, config: BlocksConfig) -> FrontEnd:
    """Build a front end.

    Args:
        part: What it is built of, one of ``parts.FRONTS``.
        input_size: F.
        width: C.
        config: Checked options of the encoder.

    Raises:
        ConfigError: The options of a searched network do not fit its sizes.
    """
    if isinstance(part, SearchedFront):
        return Searched(part, input_size, width, config.checkpointing)
    front: FrontEnd = _BUILDERS[type(part)](part, input_size, width)
    return front
