"""The toolkits' names of an encoder's weights, and ours.

Between the two, queries, keys and values are stacked, pointwise convolutions are linear layers, and
the inputs of the front end's linear layer are ordered by frequency first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError
from nas_encoder.spaces.blocks.architecture import BlockArchitecture
from nas_encoder.spaces.blocks.front_parts import Conv2dFront, DepthwiseFront
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    GatedMlp,
    Parallel,
    SelfAttention,
)


@dataclass(frozen=True)
class Naming:
    """How a toolkit calls the parts of its encoders.

    Attributes:
        convolutions: Those of the front end, in a row with their activations.
        output: The front end's linear layer.
        blocks: The list of blocks.
        final_norm: A block's last norm.
        after_norm: The encoder's last norm.
        feed_forward: The two linear layers of a feed-forward module.
        inner_norm: The norm within a convolution module.
    """

    convolutions: str
    output: str
    blocks: str
    final_norm: str
    after_norm: str
    feed_forward: tuple[str, str]
    inner_norm: str


ESPNET = Naming(
    "embed.conv", "embed.out.0", "encoders", "norm_final", "after_norm", ("w_1", "w_2"), "norm"
)
NEMO = Naming(
    "pre_encode.conv",
    "pre_encode.out",
    "layers",
    "norm_out",
    "",
    ("linear1", "linear2"),
    "batch_norm",
)


@dataclass(frozen=True)
class Layout:
    """Where the weights of an encoder are in a toolkit.

    Attributes:
        names: The toolkit's.
        slots: Its names of each module of a block and of the module's norm; none for attention
            beside cgMLP, which are two.
        biases: Whether linear layers and convolutions of blocks have biases.
    """

    names: Naming
    slots: Sequence[tuple[str, str]]
    biases: bool = True


@dataclass(frozen=True)
class _Rule:
    """One tensor of ours, of which tensors of theirs it is made, and how."""

    ours: str
    theirs: tuple[str, ...]
    make: Callable[..., Tensor]
    may_lack: bool = False  # zeros then


def renamed(
    architecture: BlockArchitecture, layout: Layout, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of an encoder under our names.

    Args:
        architecture: What it is built of: one stage, and a front end of convolutions.
        layout: Where its weights are.
        state: All its tensors under the toolkit's names.

    Raises:
        CheckpointError: A tensor is missing, left over or of a shape that cannot be ours; all are
            listed.
    """
    left, problems = dict(state), []
    found: dict[str, Tensor] = {}
    for rule in _rules(architecture, layout):
        missing = [name for name in rule.theirs if name not in left]
        if missing and rule.may_lack and len(missing) == len(rule.theirs):
            weight = found.get(rule.ours.replace(".bias", ".weight"))
            if weight is not None:
                found[rule.ours] = weight.new_zeros(weight.size(0))
            continue
        given = [left.pop(name) for name in rule.theirs if name not in missing]
        if missing:
            problems += [f"{name}: is missing" for name in missing]
            continue
        try:
            found[rule.ours] = rule.make(*given)
        except (RuntimeError, IndexError):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given)
            problems.append(f"{rule.theirs[0]}: has shape {shapes}, which cannot be of this layer")
    problems += [f"{name}: is unknown to the encoder of the config" for name in left]
    if problems:
        raise CheckpointError("weights of the encoder", problems)
    return found


def _rules(architecture: BlockArchitecture, layout: Layout) -> Iterator[_Rule]:
    names, (stage,) = layout.names, architecture.stages
    yield from _front(architecture.front, names)
    for number in range(stage.blocks):
        ours, theirs = f"blocks.{number}", f"{names.blocks}.{number}"
        for place, (part, slot) in enumerate(zip(stage.modules, layout.slots, strict=True)):
            own, (module, norm) = f"{ours}.layers.{place}", slot
            before = f"{own}.norm" if stage.norm == "before" else f"{ours}.norms.{place}"
            if norm:
                yield from _layer(before, f"{theirs}.{norm}")
            inside = f"{theirs}.{module}" if module else theirs
            yield from _MODULES[type(part)](own, inside, part, layout)
        if stage.final_norm:
            yield from _layer(f"{ours}.final_norm", f"{theirs}.{names.final_norm}")
    if architecture.final_norm:
        yield from _layer("final_norm", names.after_norm)


def _layer(
    ours: str,
    *theirs: str,
    make: Callable[..., Tensor] | None = None,
    biases: bool = True,
) -> Iterator[_Rule]:
    """Yield the rules of a layer of ours, made of one of theirs or of some stacked."""
    weights = tuple(f"{name}.weight" for name in theirs)
    yield _Rule(f"{ours}.weight", weights, make or _stacked)
    shifts = tuple(f"{name}.bias" for name in theirs)
    yield _Rule(f"{ours}.bias", shifts, _stacked, may_lack=not biases)


def _stacked(*tensors: Tensor) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _linear(kernel: Tensor) -> Tensor:
    """Return a pointwise convolution (C, C', 1) as a linear layer."""
    if kernel.dim() != 3 or kernel.size(2) != 1:
        raise IndexError
    return kernel.squeeze(2)


def _by_frequency(weight: Tensor, channels: int) -> Tensor:
    """Reorder the columns of (C, channels * bins), ordered by channel first."""
    return weight.view(weight.size(0), channels, -1).transpose(1, 2).flatten(1)


def _front(part: Part, names: Naming) -> Iterator[_Rule]:
    if not isinstance(part, (Conv2dFront, DepthwiseFront)):
        raise TypeError(f"no toolkit has the front end {part.kind}")
    separable = isinstance(part, DepthwiseFront)
    place = 0  # among theirs, whose activations are counted
    for number in range(part.factor.bit_length() - 1):
        ours = f"front.convolutions.{number}"
        if separable and number:
            yield from _layer(f"{ours}.0", f"{names.convolutions}.{place}")
            yield from _layer(f"{ours}.1", f"{names.convolutions}.{place + 1}")
            place += 3
        else:
            yield from _layer(ours, f"{names.convolutions}.{place}")
            place += 2
    reorder = partial(_by_frequency, channels=part.channels)
    yield from _layer("front.output", names.output, make=reorder)


def _feed_forward(ours: str, theirs: str, part: Part, layout: Layout) -> Iterator[_Rule]:
    first, second = layout.names.feed_forward
    yield from _layer(f"{ours}.expand", f"{theirs}.{first}", biases=layout.biases)
    yield from _layer(f"{ours}.project", f"{theirs}.{second}", biases=layout.biases)


def _attention(ours: str, theirs: str, part: Any, layout: Layout) -> Iterator[_Rule]:
    three = (f"{theirs}.linear_{name}" for name in "qkv")
    yield from _layer(f"{ours}.inputs", *three, biases=layout.biases)
    yield from _layer(f"{ours}.output", f"{theirs}.linear_out", biases=layout.biases)
    if part.positions == "relative":
        yield _Rule(f"{ours}.position.weight", (f"{theirs}.linear_pos.weight",), _stacked)
        yield _Rule(f"{ours}.content_bias", (f"{theirs}.pos_bias_u",), _stacked)
        yield _Rule(f"{ours}.position_bias", (f"{theirs}.pos_bias_v",), _stacked)


def _convolution(ours: str, theirs: str, part: Any, layout: Layout) -> Iterator[_Rule]:
    for own, name, make in (
        ("expand", "pointwise_conv1", _linear),
        ("depthwise", "depthwise_conv", None),
        ("project", "pointwise_conv2", _linear),
    ):
        yield from _layer(f"{ours}.{own}", f"{theirs}.{name}", make=make, biases=layout.biases)
    norm = f"{theirs}.{layout.names.inner_norm}"
    yield from _layer(f"{ours}.inner_norm", norm)
    if part.norm == "batch":
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            yield _Rule(f"{ours}.inner_norm.{buffer}", (f"{norm}.{buffer}",), _stacked)


def _gated_mlp(ours: str, theirs: str, part: Part, layout: Layout) -> Iterator[_Rule]:
    for own, name in (
        ("expand", "channel_proj1.0"),
        ("gate_norm", "csgu.norm"),
        ("gate", "csgu.conv"),
        ("project", "channel_proj2"),
    ):
        yield from _layer(f"{ours}.{own}", f"{theirs}.{name}")


def _parallel(ours: str, theirs: str, part: Any, layout: Layout) -> Iterator[_Rule]:
    yield from _layer(f"{ours}.attention.norm", f"{theirs}.norm_mha")
    yield from _attention(f"{ours}.attention", f"{theirs}.attn", part, layout)
    yield from _layer(f"{ours}.mlp.norm", f"{theirs}.norm_mlp")
    yield from _gated_mlp(f"{ours}.mlp", f"{theirs}.cgmlp", part, layout)
    if part.merge_kernel:
        yield from _layer(f"{ours}.merge", f"{theirs}.depthwise_conv_fusion")
    yield from _layer(f"{ours}.project", f"{theirs}.merge_proj")


_MODULES: dict[type[Part], Callable[[str, str, Any, Layout], Iterator[_Rule]]] = {
    FeedForward: _feed_forward,
    SelfAttention: _attention,
    Convolution: _convolution,
    GatedMlp: _gated_mlp,
    Parallel: _parallel,
}
