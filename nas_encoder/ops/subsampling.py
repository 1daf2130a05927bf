"""Two convolutions with a ReLU between them, a strip of an utterance at a time.

The first maps of a front end are its largest by far: 34 MB for four utterances of 6 s at 176
channels, which autograd keeps, and which all steps of a training write to memory and read from it.
Here those of a strip of frames exist at a time, without padding, and the backward pass computes
them again from the features, which is cheap with one channel in. Channels are last, but for the
gradient of many channels' weights, of which PyTorch's is faster with the channels first.
``benchmarks/front_ends.py`` measures front ends.

B batch, T frames, F features, C channels between, D after both; T' and T'' frames, F' and F''
features after the first and the second convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.depthwise import INPUT, WEIGHT
from nas_encoder.ops.fused import has_hooks, trains_on_cpu

_MANY = 64  # channels; with more the gradient of full kernels is faster with the channels first
_MOST = 1 << 21  # elements between the convolutions, so that a core's caches hold most of them


def can_fuse(x: Tensor, first: nn.Module, second: nn.Module) -> bool:
    """Whether :func:`two_convolutions` does what these modules would: in training, on a CPU.

    Not if a module has been replaced or has hooks, which would not run.
    """
    return trains_on_cpu(x) and all(
        type(layer) is nn.Conv2d
        and layer.bias is not None
        and layer.weight.dtype == x.dtype
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not has_hooks(layer)
        for layer in (first, second)
    )


def two_convolutions(
    x: Tensor, first: nn.Conv2d, second: nn.Conv2d, lengths: Tensor | None
) -> Tensor:
    """Convolution, ReLU, convolution.

    Args:
        x: (B, T, F), features as images of one channel.
        first: From 1 to C channels.
        second: From C to D channels.
        lengths: Frames of each utterance (B,), at least as many as both take; None if none is
            padded. Beyond them there are zeros, before both convolutions.

    Returns:
        (B, D, T'', F''), in memory channels last; zero in padding frames.
    """
    layers = _Layer.of(first), _Layer.of(second)
    sizes = [x.size(1)] * x.size(0) if lengths is None else lengths.tolist()
    result: Tensor = _Two.apply(  # type: ignore[no-untyped-call]
        x, first.weight, first.bias, second.weight, second.bias, layers, sizes
    )
    return result


class _Layer(NamedTuple):
    """The geometry of a convolution, as PyTorch's functions take it: over time, over features."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(cls, module: nn.Conv2d) -> _Layer:
        padding: Any = module.padding
        return cls(
            list(module.kernel_size),
            list(module.stride),
            list(padding),
            list(module.dilation),
            module.groups,
        )

    def after(self, size: int, axis: int) -> int:
        """Return how many frames (axis 0) or features (axis 1) it makes of so many."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        return (size + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1

    def needs(self, begin: int, end: int) -> tuple[int, int]:
        """Return what frames it reads for those from ``begin`` to ``end``, beyond borders too."""
        stride, padding = self.stride[0], self.padding[0]
        reach = self.dilation[0] * (self.kernel[0] - 1)
        return begin * stride - padding, (end - 1) * stride - padding + reach + 1

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve frames that have those beside them that they need."""
        padding = (0, self.padding[1])
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def gradient(self, grad: Tensor, x: Tensor, weight: Tensor, wanted: int) -> Tensor:
        """Return the gradient of :meth:`convolve`'s input or weight."""
        found: Tensor = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight,
            None,
            self.stride,
            [0, self.padding[1]],
            self.dilation,
            False,
            [0, 0],
            self.groups,
            [wanted == INPUT, wanted == WEIGHT, False],
        )[wanted]
        return found


class _Strip(NamedTuple):
    """Some frames of an utterance.

    Attributes:
        place: Of the utterance in the batch.
        rows: Frames after both convolutions.
        inner: The frames between them that these read, beyond the borders too.
        outer: The frames of features that those read, likewise.
        ends: Of the utterance between the convolutions, and of its features.
    """

    place: int
    rows: tuple[int, int]
    inner: tuple[int, int]
    outer: tuple[int, int]
    ends: tuple[int, int]

    def image(self, x: Tensor) -> Tensor:
        """Return its features of (B, T, F), (1, 1, t, F), channels last, with zeros beyond."""
        begin, end = self.outer
        own = x[self.place : self.place + 1, max(begin, 0) : min(end, self.ends[1])]
        own = F.pad(own, (0, 0, max(-begin, 0), max(end - self.ends[1], 0)))
        return own.unsqueeze(3).permute(0, 3, 1, 2)

    def between(self, image: Tensor, layer: _Layer, weight: Tensor, bias: Tensor) -> Tensor:
        """Return what is between the convolutions, (1, C, t, F'), zero beyond the borders."""
        inner = layer.convolve(image, weight, bias).relu_()
        begin, end = self.inner
        if begin < 0:
            inner[:, :, :-begin] = 0.0
        if end > self.ends[0]:
            inner[:, :, self.ends[0] - begin :] = 0.0
        return inner

    def add_to(self, x: Tensor, part: Tensor) -> None:
        """Add (1, 1, t, F), shaped as :meth:`image`, to its place in (B, T, F)."""
        begin, end = max(self.outer[0], 0), min(self.outer[1], self.ends[1])
        x[self.place, begin:end] += part[0, 0, begin - self.outer[0] : end - self.outer[0]]


def _strips(layers: tuple[_Layer, _Layer], sizes: list[int], frame: int) -> Iterator[_Strip]:
    """Cut utterances of so many frames; between the convolutions a frame has ``frame`` elements."""
    first, second = layers
    for place, size in enumerate(sizes):
        between = first.after(size, 0)
        total = second.after(between, 0)
        rows = max(1, -(-total // -(-between * frame // _MOST)))
        for begin in range(0, total, rows):
            own = begin, min(begin + rows, total)
            inner = second.needs(*own)
            yield _Strip(place, own, inner, first.needs(*inner), (between, size))


class _Two(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        first: Tensor,
        first_bias: Tensor,
        second: Tensor,
        second_bias: Tensor,
        layers: tuple[_Layer, _Layer],
        sizes: list[int],
    ) -> Tensor:
        features = layers[0].after(x.size(2), 1)
        shape = (
            second.size(0),
            *(
                layers[1].after(size, axis)
                for axis, size in enumerate((layers[0].after(x.size(1), 0), features))
            ),
        )
        like: Any = {"dtype": x.dtype, "device": x.device}
        result = torch.empty(x.size(0), *shape, **like, memory_format=torch.channels_last)
        strips = list(_strips(layers, sizes, first.size(0) * features))
        kernel = second.contiguous(memory_format=torch.channels_last)
        for strip in strips:
            inner = strip.between(strip.image(x), layers[0], first, first_bias)
            begin, end = strip.rows
            result[strip.place, :, begin:end] = layers[1].convolve(inner, kernel, second_bias)[0]
            if end == layers[1].after(strip.ends[0], 0):
                result[strip.place, :, end:] = 0.0
        ctx.save_for_backward(x, first, first_bias, second)
        ctx.layers, ctx.strips = layers, strips
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, first, first_bias, second = ctx.saved_tensors
        layers: tuple[_Layer, _Layer] = ctx.layers
        like = (x, first, first_bias, second, grad.new_empty(grad.size(1)))
        found = [
            torch.zeros_like(own) if wanted else None
            for own, wanted in zip(like, ctx.needs_input_grad, strict=False)
        ]
        of_x, of_first, of_first_bias, of_second, of_second_bias = found
        wide = layers[1].groups == 1 and second.size(1) > _MANY
        kernel = second.contiguous(memory_format=torch.channels_last)
        for strip in ctx.strips:
            image = strip.image(x)
            inner = strip.between(image, layers[0], first, first_bias)
            own = grad[strip.place : strip.place + 1, :, strip.rows[0] : strip.rows[1]]
            if of_second_bias is not None:
                of_second_bias += own.sum((0, 2, 3))
            if of_second is not None:
                pair = (own.contiguous(), inner.contiguous()) if wide else (own, inner)
                of_second += layers[1].gradient(*pair, second, WEIGHT)
            if of_x is None and of_first is None and of_first_bias is None:
                continue
            slope = layers[1].gradient(own, inner, kernel, INPUT)
            torch.ops.aten.threshold_backward.grad_input(slope, inner, 0, grad_input=slope)
            if of_first_bias is not None:
                of_first_bias += slope.sum((0, 2, 3))
            if of_first is not None:
                of_first += layers[0].gradient(slope, image, first, WEIGHT)
            if of_x is not None:
                strip.add_to(of_x, layers[0].gradient(slope, image, first, INPUT))
        return (*found, None, None)
